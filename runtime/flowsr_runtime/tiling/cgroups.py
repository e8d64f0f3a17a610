"""Read the limits that a container sets: the cgroups of this process and their ancestors."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

__all__ = ["MEMBERSHIP", "MOUNT", "available_memory", "cgroups", "memory_left", "memory_limit"]

MEMBERSHIP: Final = Path("/proc/self/cgroup")
"""File that lists the cgroups of this process."""

MOUNT: Final = Path("/sys/fs/cgroup")
"""Folder where the cgroup file systems are mounted."""

_MEMINFO: Final = Path("/proc/meminfo")
_NO_LIMIT: Final = 1 << 60  # version 1 writes a number of nearly 2^63 for none

# Limit, usage, and the key of file caches that the kernel drops first, by version.
_FILES: Final = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def cgroups(
    controller: str, membership: Path = MEMBERSHIP, mount: Path = MOUNT
) -> Iterator[Path]:
    """Yield the folders of this process's cgroups of a controller and of their ancestors.

    A container without a cgroup namespace sees its own cgroup at the mount point and its path
    on the host in `membership`; folders that do not exist are yielded, too.

    Args:
        controller: Name of the controller in version 1: "cpu" or "memory".
        membership: File that lists the cgroups of this process.
        mount: Folder where the cgroup file systems are mounted.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        roots = (controllers, controller) if controllers else ("", "unified")
        own = PurePosixPath(path.lstrip("/"))
        for root in roots:
            yield from (mount / root / folder for folder in (own, *own.parents))


def memory_left(membership: Path = MEMBERSHIP, mount: Path = MOUNT) -> int | None:
    """Return the bytes that this process may still take by its cgroups, None without a limit.

    Args:
        membership: As for `cgroups`.
        mount: As for `cgroups`.
    """
    limits = _limits(membership, mount)
    return min((max(0, limit - used) for limit, used in limits), default=None)


def memory_limit(membership: Path = MEMBERSHIP, mount: Path = MOUNT) -> int | None:
    """Return the smallest limit of the cgroups of this process in bytes, None without one.

    Args:
        membership: As for `cgroups`.
        mount: As for `cgroups`.
    """
    return min((limit for limit, _ in _limits(membership, mount)), default=None)


def available_memory(
    membership: Path = MEMBERSHIP, mount: Path = MOUNT, meminfo: Path = _MEMINFO
) -> int | None:
    """Return the bytes that this machine and the cgroups can still give, None if unknown.

    Args:
        membership: As for `cgroups`.
        mount: As for `cgroups`.
        meminfo: File of the kernel with the memory of the machine.
    """
    amounts = [memory_left(membership, mount), _free(meminfo)]
    return min((value for value in amounts if value is not None), default=None)


def _limits(membership: Path, mount: Path) -> Iterator[tuple[int, int]]:
    """Yield limits and the bytes used of each."""
    for folder in cgroups("memory", membership, mount):
        yield from _limit_of(folder)


def _limit_of(folder: Path) -> Iterator[tuple[int, int]]:
    for limit_name, usage_name, cache_key in _FILES:
        try:
            limit = int((folder / limit_name).read_text(encoding="ascii"))
            used = int((folder / usage_name).read_text(encoding="ascii"))
        except (OSError, ValueError):  # no such file, or "max"
            continue
        if limit >= _NO_LIMIT:
            continue
        yield limit, max(0, used - _field(folder / "memory.stat", cache_key))
        return


def _free(meminfo: Path) -> int | None:
    kibibytes = _field(meminfo, "MemAvailable:")
    return kibibytes * 1024 or None


def _field(path: Path, key: str) -> int:
    """Return the number after a key at the beginning of a line, 0 without one."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
        return next((int(line.split()[1]) for line in lines if line.split()[:1] == [key]), 0)
    except (OSError, ValueError, IndexError):
        return 0
