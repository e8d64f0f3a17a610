"""Count the CPU cores that this process may use."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

__all__ = ["usable_cores"]

_MEMBERSHIP: Final = Path("/proc/self/cgroup")
_MOUNT: Final = Path("/sys/fs/cgroup")


def usable_cores(membership: Path = _MEMBERSHIP, mount: Path = _MOUNT) -> int:
    """Return the CPU cores of the affinity mask, or fewer where a cgroup has a CPU quota.

    Args:
        membership: File that lists the cgroups of this process.
        mount: Folder where the cgroup file systems are mounted.

    Returns:
        Whole cores, at least 1. The smallest quota of a cgroup and its ancestors counts, in
        version 1 and version 2.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quotas = (_quota(folder) for folder in _cgroups(membership, mount))
    return max(1, min([cores, *(quota for quota in quotas if quota is not None)]))


def _cgroups(membership: Path, mount: Path) -> Iterator[Path]:
    """Yield the folders of this process's CPU cgroups and of their ancestors.

    A container without a cgroup namespace sees its own cgroup at the mount point and its path
    on the host in `membership`; the folders that do not exist are skipped by `_quota`.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        roots = (controllers, "cpu") if controllers else ("", "unified")
        own = PurePosixPath(path.lstrip("/"))
        for root in roots:
            yield from (mount / root / folder for folder in (own, *own.parents))


def _quota(folder: Path) -> int | None:
    """Return the whole cores that a cgroup's quota amounts to, None without a quota."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        microseconds = int(quota)  # "max" in version 2, -1 in version 1: no quota
        return microseconds // int(period) if microseconds > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
