"""Destinations of an output: growing memory, memory of the caller, and allocators."""

from typing import Any

import numpy as np
import pytest
import tensorrt_rtx

from flowsr_runtime.backends.engines.tensorrt_request import (
    Destination,
    Request,
    output_allocator,
)
from flowsr_runtime.cuda import device as device_module
from flowsr_runtime.cuda.device import Buffer
from flowsr_runtime.cuda.device_array import DeviceView
from flowsr_runtime.errors import MemoryBudgetError, ShapeError
from tests.doubles.cuda_runtime import FakeCuda, Gpu
from tests.doubles.trt_module import fake_tensorrt

FLOAT = np.dtype(np.float32)
VIEW = DeviceView(4096, (1, 3, 8, 8), FLOAT, lambda: None)
MODULES = [tensorrt_rtx, fake_tensorrt("tensorrt-10"), fake_tensorrt("tensorrt-11")]


@pytest.fixture
def buffer(monkeypatch: pytest.MonkeyPatch) -> Buffer:
    """Memory of a GPU of one KiB."""
    monkeypatch.setattr(device_module, "cudart", FakeCuda(Gpu(memory=1024)))
    return Buffer()


def test_a_buffer_makes_room(buffer: Buffer) -> None:
    place = Destination(buffer)
    assert place.place((1, 3, 8, 8), FLOAT)
    assert not place.place((1, 3, 4, 4), FLOAT)
    assert buffer.size == 768
    assert not place.is_fixed


def test_memory_of_somebody_else_is_taken_as_it_is() -> None:
    place = Destination(VIEW)
    assert not place.place((1, 3, 8, 8), FLOAT)
    assert place.is_fixed


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 3, 8, 9), np.float32), ((1, 3, 8, 8), np.float16)]
)
def test_memory_of_somebody_else_that_does_not_fit_is_refused(
    shape: tuple[int, ...], dtype: Any
) -> None:
    with pytest.raises(ShapeError, match=r"out must be float\d\d of shape .*, got float32 of"):
        Destination(VIEW).place(shape, np.dtype(dtype))


def test_memory_of_somebody_else_cannot_grow_in_the_run() -> None:
    with pytest.raises(ShapeError, match="out cannot be given: the output's shape is known"):
        Destination(VIEW).allocator(MODULES[0])


@pytest.mark.parametrize("module", MODULES)
def test_an_allocator_gives_memory_and_hears_the_shape(module: Any, buffer: Buffer) -> None:
    allocator = output_allocator(module, buffer)
    assert isinstance(allocator, module.IOutputAllocator)
    assert allocator.reallocate_output_async("output", 0, 512, 256, 7) == buffer.address
    assert allocator.reallocate_output("output", 0, 100, 256) == buffer.address
    allocator.notify_shape("output", module.Dims((1, 3, 4, 4)))
    assert allocator.shape == (1, 3, 4, 4)


def test_an_allocator_keeps_what_it_cannot_raise(buffer: Buffer) -> None:
    request = Request(0, "output", allocators={"output": output_allocator(MODULES[0], buffer)})
    request.check_allocators()
    assert request.allocators["output"].reallocate_output_async("output", 0, 2048, 256, 7) == 0
    with pytest.raises(MemoryBudgetError, match=r"out of memory for 0\.0 MiB more"):
        request.check_allocators()


def test_the_shape_of_a_result_is_known_before_or_after_the_run(buffer: Buffer) -> None:
    request = Request(0, "output", results={"output": (1, 3, 8, 8)})
    assert request.result == (1, 3, 8, 8)
    allocator = output_allocator(MODULES[0], buffer)
    allocator.notify_shape("output", (1, 3, 9, 9))
    assert Request(0, "output", allocators={"output": allocator}).result == (1, 3, 9, 9)


def test_the_key_tells_runs_apart_that_need_other_graphs() -> None:
    one, two, three = Request(0, "output"), Request(0, "output"), Request(1, "output")
    one.add("input", (1, 3, 8, 8), 4096, None)
    two.add("input", (1, 3, 8, 8), 8192, None)
    three.add("input", (1, 3, 8, 8), 4096, None)
    assert one.key == two.key
    assert one.key != three.key
