"""Made folders of cgroups, and the cores that a process of eight may use in them."""

from pathlib import Path
from typing import Final

__all__ = ["CASES", "CORES", "make"]

CORES: Final = 8
V2: Final = "0::/a/b\n"
V1: Final = "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n0::/\n"
PERIOD: Final = {"cpu/cpu.cfs_period_us": "100000\n"}
CASES: Final[list[tuple[str, dict[str, str], int]]] = [
    (V2, {}, CORES),
    (V2, {"cpu.max": "max 100000\n"}, CORES),
    (V2, {"cpu.max": "250000 100000\n"}, 2),
    (V2, {"cpu.max": "50000 100000\n"}, 1),
    (V2, {"cpu.max": "1600000 100000\n"}, CORES),
    (V2, {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
    (V2, {"unified/a/b/cpu.max": "400000 100000\n", "a/cpu.max": "500000 100000"}, 4),
    (V2, {"cpu.max": "damaged"}, CORES),
    (V2, {"cpu.max": "3x 1"}, CORES),
    (V2, {"cpu.max": "300000 0"}, CORES),
    (V1, {"cpu/cpu.cfs_quota_us": "-1\n", **PERIOD}, CORES),
    (V1, {"cpu/cpu.cfs_quota_us": "200000\n", **PERIOD}, 2),
    (V1, {"cpu/cpu.cfs_quota_us": "20000\n", **PERIOD}, 1),
    (V1, {f"cpu,cpuacct/docker/{name}": "3" for name in ("1/cpu.cfs_quota_us", "x")}, CORES),
    (V1, {"memory/cpu.max": "100000 100000"}, CORES),
    ("0::/../..\n", {"cpu.max": "100000 100000"}, 1),
]


def make(mount: Path, membership: str, files: dict[str, str]) -> Path:
    """Write the folders of cgroups, and return the file that lists those of a process."""
    for name, text in {"membership": membership, **files}.items():
        (mount / name).parent.mkdir(parents=True, exist_ok=True)
        (mount / name).write_text(text)
    return mount / "membership"
