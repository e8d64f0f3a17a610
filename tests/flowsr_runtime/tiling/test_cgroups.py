"""The memory that cgroups of version 1 and 2 and the machine leave to a process."""

from pathlib import Path

import numpy as np
import pytest

from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.errors import MemoryBudgetError
from flowsr_runtime.tiling import memory
from flowsr_runtime.tiling.cgroups import available_memory, memory_left
from flowsr_runtime.upscaling import opening
from flowsr_runtime.upscaling.upscaler import Upscaler
from tests.flowsr_runtime.backends.cgroups import make

V2 = "0::/a/b\n"
V1 = "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n0::/\n"
CASES: list[tuple[str, dict[str, str], int | None]] = [
    (V2, {}, None),
    (V2, {"memory.max": "max\n", "memory.current": "5\n"}, None),
    (V2, {"memory.max": "400\n", "memory.current": "150\n"}, 250),
    (
        V2,
        {
            "memory.max": "400",
            "memory.current": "300",
            "memory.stat": "anon 1\ninactive_file 50\n",
        },
        150,
    ),
    (V2, {"a/memory.max": "400", "a/memory.current": "500"}, 0),
    (
        V2,
        {
            **{"a/b/memory.max": "900", "a/b/memory.current": "100"},
            **{"a/memory.max": "400", "a/memory.current": "100"},
        },
        300,
    ),
    (V2, {"memory.max": "damaged", "memory.current": "150\n"}, None),
    (
        V1,
        {
            "memory/docker/1/memory.limit_in_bytes": "400",
            "memory/docker/1/memory.usage_in_bytes": "150",
            "memory/docker/1/memory.stat": "cache 9\ntotal_inactive_file 50\n",
        },
        300,
    ),
    (
        V1,
        {
            "memory/memory.limit_in_bytes": str(2**63 - 4096),
            "memory/memory.usage_in_bytes": "1",
        },
        None,
    ),
]


@pytest.mark.parametrize(("membership", "files", "left"), CASES)
def test_the_least_that_any_ancestor_leaves_counts(
    tmp_path: Path, membership: str, files: dict[str, str], left: int | None
) -> None:
    assert memory_left(make(tmp_path, membership, files), tmp_path) == left


def test_the_machine_counts_beside_the_container(tmp_path: Path) -> None:
    files = {"memory.max": "9000000", "memory.current": "0", "meminfo": "MemAvailable: 4 kB\n"}
    membership = make(tmp_path, V2, files)
    assert available_memory(membership, tmp_path, tmp_path / "meminfo") == 4096
    assert available_memory(membership, tmp_path, tmp_path / "none") == 9_000_000
    assert available_memory(tmp_path / "none", tmp_path / "none", tmp_path / "none") is None


def test_a_result_that_the_memory_cannot_hold_is_refused_before_the_first_tile(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 30)
    with Upscaler.open(bundle, threads=1) as opened:
        image = np.zeros((40, 60, 3), np.uint8)
        with pytest.raises(MemoryBudgetError, match="60x40 to 60000x40000 needs about 3"):
            opened.upscale(image, 1000, progress=lambda done, tiles: pytest.fail("a tile"))
        assert opened.upscale(image, 2).shape == (80, 120, 3)


def test_the_budget_of_a_run_is_half_of_what_a_container_leaves(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "memory_left", lambda: 1_000_000)
    with Upscaler.open(bundle, threads=1) as opened:
        assert opened.memory_budget == 500_000
    with Upscaler.open(bundle, threads=1, memory_budget=700_000) as opened:
        assert opened.memory_budget == 700_000
