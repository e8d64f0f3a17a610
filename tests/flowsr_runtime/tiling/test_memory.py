"""Memory estimates, and the budget that is left for tiles."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flowsr_runtime import write_picture
from flowsr_runtime.tiling.memory import (
    NO_OVERHEAD,
    ROW_BYTES,
    UNKNOWN_PROCESS,
    MemoryBudget,
    peak_bytes,
    picture_bytes,
    process_bytes,
    resident_bytes,
)

MIB = 1 << 20


def test_the_kernel_is_asked_for_the_resident_size_and_its_peak(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t     300 kB\nVmRSS:\t     200 kB\n")
    assert (peak_bytes(status), resident_bytes(status)) == (300 << 10, 200 << 10)
    assert peak_bytes(tmp_path / "absent") is None
    status.write_text("Name:\tpython\n")
    assert resident_bytes(status) is None


def test_a_large_array_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    before = process_bytes()
    held = np.ones(64 * MIB, dtype=np.uint8)
    assert 60 * MIB < process_bytes() - before < 80 * MIB
    assert held.sum() == 64 * MIB


def test_a_system_that_is_silent_is_taken_for_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowsr_runtime.tiling.memory.resident_bytes", lambda: None)
    assert process_bytes() == UNKNOWN_PROCESS


def test_a_picture_takes_so_much_per_pixel_on_either_side() -> None:
    whole = picture_bytes((100, 80), (400, 320))
    assert picture_bytes((200, 80), (800, 320)) == 2 * whole
    assert picture_bytes((100, 80), (400, 320), pixel_bytes=6) > whole > 0


def test_without_a_bound_only_the_run_is_bounded() -> None:
    allowance = MemoryBudget.of(500, None, "cpu")
    budget, beside = allowance.shares((10, 10), (40, 40), (40, 40), 3)
    assert (budget, beside.counts) == (500, False)
    assert beside.held > picture_bytes((10, 10), (40, 40))


def test_the_bound_of_a_process_counts_what_it_holds() -> None:
    allowance = MemoryBudget(run=2**40, most=900 * MIB, process=100 * MIB)
    budget, beside = allowance.shares((100, 80), (400, 320), (400, 320), 3)
    assert budget == 900 * MIB
    assert beside.counts
    assert beside.held == 100 * MIB + picture_bytes((100, 80), (400, 320))
    assert beside.row_bytes == 320 * ROW_BYTES


def test_a_run_is_bounded_by_its_own_budget_too() -> None:
    allowance = MemoryBudget(run=5 * MIB, most=900 * MIB, process=100 * MIB)
    budget, beside = allowance.shares((100, 80), (400, 320), (400, 320), 3)
    assert budget == beside.held + 5 * MIB


def test_resampling_holds_two_pictures_in_floats() -> None:
    allowance = MemoryBudget(run=2**40, most=900 * MIB, process=0)
    _, plain = allowance.shares((100, 80), (400, 320), (400, 320), 3)
    _, beside = allowance.shares((100, 80), (400, 320), (300, 240), 3)
    assert beside.held > plain.held + 12 * 300 * 240


@pytest.mark.parametrize(("most", "due"), [(None, 500), (400, 400), (600, 500)])
def test_on_a_gpu_only_the_run_counts(most: int | None, due: int) -> None:
    allowance = MemoryBudget.of(500, most, "cuda")
    assert allowance.shares((10, 10), (40, 40), (40, 40), 3) == (due, NO_OVERHEAD)


# The process states its own peak: what a parent is told of a child counts the fork too.
PROGRAM = """
import sys
import numpy as np
from flowsr_runtime import Upscaler, read_picture, write_picture
from flowsr_runtime.tiling.memory import peak_bytes
source, target, most, halo = sys.argv[1:]
with Upscaler.open(threads=1, max_memory=int(most), halo=halo) as upscaler:
    picture = read_picture(source)
    plan = upscaler.plan(picture.rgb.shape[:2], 4)
    write_picture(target, upscaler.upscale(picture.pixels, 4), like=picture)
print(len(plan), plan.peak_bytes, peak_bytes())
"""


@pytest.mark.parametrize(("halo", "most"), [("default", 170 * MIB), ("exact", 200 * MIB)])
def test_a_process_stays_within_its_memory(halo: str, most: int, tmp_path: Path) -> None:
    source = tmp_path / "small.png"
    pixels = np.random.default_rng(3).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    write_picture(source, pixels)
    words = [sys.executable, "-c", PROGRAM, source, tmp_path / "large.png", most, halo]
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=True)
    tiles, planned, peak = map(int, done.stdout.split())
    assert tiles > 1
    assert 0.6 * most < peak <= planned <= most
