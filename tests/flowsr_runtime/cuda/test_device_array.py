"""Arrays of a GPU are handed over without a copy, in both protocols and both directions."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from flowsr_runtime.cuda import device as device_module
from flowsr_runtime.cuda.device import Buffer, Device, Staging, Stream
from flowsr_runtime.cuda.device_array import DeviceArray, is_device_array, view_of
from flowsr_runtime.cuda.dlpack import CUDA, borrow, lend
from flowsr_runtime.errors import ShapeError
from tests.doubles.cuda_runtime import FakeCuda, Gpu

PICTURE = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
FACTS: dict[str, Any] = {"shape": (2, 3), "typestr": "<f4", "data": (4096, False), "version": 3}


class Interface:
    """An array of another library that has the interface alone."""

    def __init__(self, **changes: Any) -> None:
        self.__cuda_array_interface__ = {**FACTS, **changes}


class Lender:
    """An array of another library that has DLPack alone."""

    def __init__(self, index: int = 0) -> None:
        self.index, self.streams, self.kept = index, [0], object()

    def __dlpack__(self, *, stream: int) -> object:
        self.streams.append(stream)
        device, dtype = (CUDA, self.index), np.dtype(np.float16)
        return lend(4096, (2, 3), dtype, device=device, owner=self.kept)

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.index


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    machine = FakeCuda(Gpu())
    monkeypatch.setattr(device_module, "cudart", machine)
    return machine


@pytest.fixture
def device(cuda: FakeCuda) -> Device:
    return Device.open(0)


@pytest.fixture
def stream(device: Device, cuda: FakeCuda) -> Iterator[Stream]:
    made = Stream()
    yield made
    made.close()
    assert cuda.leaks() == {}


def on_device(device: Device) -> DeviceArray:
    """Return `PICTURE` on the device."""
    stream, staging, buffer = Stream(), Staging(), Buffer()
    buffer.reserve(PICTURE.nbytes)
    staging.reserve(PICTURE.nbytes)
    staging.array(PICTURE.shape, PICTURE.dtype)[...] = PICTURE
    buffer.upload(staging, PICTURE.nbytes, stream)
    stream.synchronize()
    stream.close()
    staging.close()
    return DeviceArray(buffer, PICTURE.shape, PICTURE.dtype, device)


def test_an_array_comes_back_to_the_host(device: Device, cuda: FakeCuda) -> None:
    array = on_device(device)
    np.testing.assert_array_equal(array.numpy(), PICTURE)
    del array
    assert cuda.leaks() == {}


def test_the_interface_says_where_the_array_is(device: Device) -> None:
    array = on_device(device)
    facts = array.__cuda_array_interface__
    assert facts["data"] == (array.address, False)
    assert (facts["shape"], facts["typestr"], facts["stream"]) == ((2, 3, 4), "<f4", None)


def test_a_capsule_says_where_the_array_is(device: Device) -> None:
    array = on_device(device)
    taken = borrow(array.__dlpack__(stream=7, max_version=(1, 0)))
    assert (taken.address, taken.shape) == (array.address, array.shape)
    assert taken.device == array.__dlpack_device__() == (CUDA, 0)
    taken.release()


def test_memory_lives_as_long_as_what_was_made_of_it(device: Device, cuda: FakeCuda) -> None:
    array = on_device(device)
    taken = borrow(array.__dlpack__())
    del array
    assert cuda.leaks() == {"memory": 1}
    taken.release()
    assert cuda.leaks() == {}


def test_our_own_array_is_taken_without_a_copy(device: Device, stream: Stream) -> None:
    array = on_device(device)
    view = view_of("input", array, device, stream)
    assert (view.address, view.shape, view.dtype) == (array.address, (2, 3, 4), array.dtype)
    view.release()


def test_dlpack_is_told_the_stream_that_will_read(device: Device, stream: Stream) -> None:
    lender = Lender()
    view = view_of("input", lender, device, stream)
    assert (view.address, view.shape, view.dtype) == (4096, (2, 3), np.dtype(np.float16))
    assert lender.streams[-1] == stream.handle
    view.release()


def test_an_interface_is_taken(device: Device, stream: Stream) -> None:
    view = view_of("input", Interface(strides=(12, 4)), device, stream)
    assert (view.address, view.shape, view.dtype) == (4096, (2, 3), np.dtype(np.float32))
    view.release()


@pytest.mark.parametrize("other", [1, 2, "own"])
def test_the_stream_of_an_interface_is_waited_for(
    device: Device, stream: Stream, cuda: FakeCuda, other: Any
) -> None:
    theirs = Stream()
    done: list[str] = []
    handle = {"own": theirs.handle}.get(other, other)
    queue = cuda.stream(handle)
    assert queue is not None
    queue.push(lambda: done.append("theirs"))
    view_of("input", Interface(stream=handle), device, stream)
    stream.synchronize()
    assert done == ["theirs"]
    theirs.close()


def test_an_array_of_another_device_is_refused(device: Device, stream: Stream) -> None:
    message = "input must be on CUDA device 0, got DLPack device 2:1"
    with pytest.raises(ShapeError, match=message):
        view_of("input", Lender(index=1), device, stream)


def test_a_scattered_array_is_refused(device: Device, stream: Stream) -> None:
    with pytest.raises(ShapeError, match=r"input must be contiguous, got strides \(4, 8\)"):
        view_of("input", Interface(strides=(4, 8)), device, stream)


def test_an_array_of_the_host_is_none_of_the_device() -> None:
    assert not is_device_array(PICTURE)
    assert not is_device_array([1, 2])
    assert is_device_array(Interface())
    assert is_device_array(Lender())


@pytest.mark.gpu
def test_a_real_gpu_gives_and_takes(gpu: Device) -> None:
    array, stream = on_device(gpu), Stream()
    view = view_of("input", array, gpu, stream)
    assert view.address == array.address
    np.testing.assert_array_equal(array.numpy(), PICTURE)
    view.release()
    stream.close()
