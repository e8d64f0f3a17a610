"""Count the CPU cores that this process may use."""

import os
from pathlib import Path

from flowsr_runtime.tiling.cgroups import MEMBERSHIP, MOUNT, cgroups

__all__ = ["usable_cores"]


def usable_cores(membership: Path = MEMBERSHIP, mount: Path = MOUNT) -> int:
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
    quotas = (_quota(folder) for folder in cgroups("cpu", membership, mount))
    return max(1, min([cores, *(quota for quota in quotas if quota is not None)]))


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
