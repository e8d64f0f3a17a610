"""Usable cores: the affinity mask and the CPU quotas of cgroups, version 1 and 2."""

import os
from pathlib import Path

import pytest

from flowsr_runtime.backends.cores import usable_cores


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def _cores(folder: Path, membership: str, files: dict[str, str]) -> int:
    (folder / "membership").write_text(membership)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return usable_cores(folder / "membership", folder)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "1600000 100000\n"}, 8),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ({"unified/a/b/cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "damaged"}, 8),
    ],
)
def test_version_2_counts_the_smallest_quota_of_all_ancestors(
    tmp_path: Path, files: dict[str, str], cores: int
) -> None:
    assert _cores(tmp_path, "0::/a/b\n", files) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("200000", 2), ("20000", 1)])
def test_version_1_counts_the_quota_of_the_cpu_controller(
    tmp_path: Path, quota: str, cores: int
) -> None:
    files = {"cpu/cpu.cfs_quota_us": f"{quota}\n", "cpu/cpu.cfs_period_us": "100000\n"}
    membership = "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n"
    assert _cores(tmp_path, membership, files) == cores


def test_the_affinity_mask_counts_without_cgroups(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none", tmp_path) == 8
    assert _cores(tmp_path, "0::/\n", {"cpu.max": "100000 100000"}) == 1


def test_every_core_counts_on_a_system_without_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path / "none", tmp_path) == 1
