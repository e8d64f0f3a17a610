"""The comparison of two runtimes finds a difference that is there, and no other."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.cpp_parity import SIZES, Case, Figures, cases_of, compare, markdown
from flowsr_runtime import Upscaler
from flowsr_runtime.bundle.directory import Bundle, write_bundle
from tests.flowsr_runtime.conftest import BILINEAR, CHANGES, FOURFOLD, MANIFEST
from tests.flowsr_runtime.cpp.library import CppError, CppLibrary

SMALL = [Case((9, 14), ("3.6", "2.7"), False), Case((48, 64), ("3.6", "2.7"), True)]


class Other:
    """Plays the C++ runtime by Python's, its answers moved by a constant."""

    def __init__(self, moved: float) -> None:
        self.moved = moved

    def plan(self, path: Path, size: tuple[int, int], request: Any, wanted: Any) -> Any:
        scale = (request.scale_rows.decode(), request.scale_columns.decode())
        with Upscaler.open(path, memory_budget=wanted.memory_budget) as upscaler:
            try:
                return [], [], upscaler.plan(size, scale).run_bytes
            except MemoryError as error:
                raise CppError(6, str(error)) from error

    @contextmanager
    def open(self, path: Path, *, memory_budget: int, **_: Any) -> Iterator[Any]:
        def upscale(image: NDArray[Any], **given: Any) -> Any:
            scale = (given["scale_rows"], given["scale_columns"])
            result = upscaler.upscale(image, scale, clamp="unclamped" not in given)
            if image.dtype == np.float32:
                return result + np.float32(self.moved)
            return np.clip(result.astype(int) + round(255 * self.moved), 0, 255)

        with Upscaler.open(path, memory_budget=memory_budget) as upscaler:
            yield SimpleNamespace(upscale=upscale)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "b", MANIFEST, {"model.fp32.onnx": BILINEAR})


@pytest.mark.parametrize("moved", [0.0, 0.25])
def test_the_difference_is_what_it_is(bundle: Bundle, moved: float) -> None:
    library = cast(CppLibrary, Other(moved))
    found = list(compare(library, bundle, SMALL, "onnxruntime"))
    assert [each.tiles > 1 for each in found] == [False, True]
    assert [each.max_abs for each in found] == pytest.approx([moved, moved], abs=1e-7)
    assert [each.max_steps for each in found] == [round(255 * moved)] * 2
    assert [each.unequal > 0 for each in found] == [moved > 0] * 2


def test_every_size_is_compared_whole_and_in_tiles(bundle: Bundle, tmp_path: Path) -> None:
    fixed = write_bundle(
        tmp_path / "four", {**MANIFEST, **CHANGES["fourfold"]}, {"model.fp32.onnx": FOURFOLD}
    )
    assert len(cases_of(bundle)) == len(SIZES) * 4 * 2
    assert [case.scale for case in cases_of(fixed)] == [None] * len(SIZES) * 2


def test_the_table_holds_the_worst_of_each_model() -> None:
    rows = [
        Figures(SMALL[0], 1, 2e-6, 0, 0, 10),
        Figures(SMALL[1], 4, 3e-5, 1, 3, 30),
    ]
    eight = [Figures(SMALL[0], 1, None, 1, 2, 10)]
    table = markdown({"a": rows, "b": eight}).splitlines()
    assert table[2] == "| a | 2 | 4 | 3e-05 | 1 | 3 of 40 |"
    assert table[3] == "| b | 1 | 1 | eight bits | 1 | 2 of 10 |"
