"""Usable cores: the affinity mask and the CPU quotas of cgroups, version 1 and 2."""

import os
from pathlib import Path

import pytest

from flowsr_runtime.backends.cores import usable_cores
from tests.flowsr_runtime.backends.cgroups import CASES, CORES, make


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)), raising=False)


@pytest.mark.parametrize(("membership", "files", "cores"), CASES)
def test_the_smallest_quota_of_all_ancestors_counts(
    tmp_path: Path, membership: str, files: dict[str, str], cores: int
) -> None:
    assert usable_cores(make(tmp_path, membership, files), tmp_path) == cores


def test_the_affinity_mask_counts_without_cgroups(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none", tmp_path) == CORES


def test_every_core_counts_on_a_system_without_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path / "none", tmp_path) == 1
