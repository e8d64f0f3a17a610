"""Device memory, streams and graphs, on a double with CUDA's rules and on a GPU."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cuda.bindings import runtime as real

from flowsr_runtime.cuda import device as device_module
from flowsr_runtime.cuda.device import Buffer, Device, Staging, Stream
from flowsr_runtime.errors import MemoryBudgetError, ProviderError, UsageError
from tests.doubles.cuda_runtime import CaptureMode, CudaError, FakeCuda, Gpu, MemcpyKind

PICTURE = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A machine with one GPU of 1 GiB."""
    machine = FakeCuda(Gpu(name="NVIDIA L4"))
    monkeypatch.setattr(device_module, "cudart", machine)
    return machine


Parts = tuple[Stream, Staging, Buffer, Staging]


@pytest.fixture
def parts(cuda: FakeCuda) -> Iterator[Parts]:
    """A stream, memory to send from, memory of the device, and memory to receive in."""
    made = Stream(), Staging(), Buffer(), Staging()
    for memory in made[1:]:
        memory.reserve(PICTURE.nbytes)
    yield made
    close(*made)
    assert cuda.leaks() == {}


def there_and_back(stream: Stream, up: Staging, buffer: Buffer, down: Staging) -> Any:
    """Queue a copy of `PICTURE` to the device and back, and return where it will be."""
    for memory in (up, buffer, down):
        memory.reserve(PICTURE.nbytes)
    up.array(PICTURE.shape, PICTURE.dtype)[...] = PICTURE
    buffer.upload(up, PICTURE.nbytes, stream)
    buffer.download(down, PICTURE.nbytes, stream)
    return down.array(PICTURE.shape, PICTURE.dtype)


def close(*things: Any) -> None:
    for thing in things:
        thing.close()


def test_a_device_says_what_it_is(cuda: FakeCuda) -> None:
    device = Device.open(0)
    assert (device.index, device.name, device.compute_capability) == (0, "NVIDIA L4", "8.9")
    assert device.driver == "13.0"


def test_a_device_that_is_not_there_is_refused(cuda: FakeCuda) -> None:
    with pytest.raises(
        ProviderError, match="device must be below 1, the number of GPUs, got 1"
    ):
        Device.open(1)


@pytest.mark.parametrize("machine", [FakeCuda(driver=False), FakeCuda()])
def test_a_machine_without_driver_or_gpu_is_refused(
    monkeypatch: pytest.MonkeyPatch, machine: FakeCuda
) -> None:
    monkeypatch.setattr(device_module, "cudart", machine)
    with pytest.raises(ProviderError, match=r"no usable NVIDIA driver: .*; install or update"):
        Device.open(0)


def test_a_driver_that_is_too_old_names_the_bindings_that_take_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = FakeCuda(driver=False)
    monkeypatch.setattr(machine, "cudaDriverGetVersion", lambda: (CudaError.cudaSuccess, 12080))
    monkeypatch.setattr(device_module, "cudart", machine)
    message = "CUDA 12, cuda-bindings needs 13: .* pip install 'cuda-bindings<13'"
    with pytest.raises(ProviderError, match=message):
        Device.open(0)


def test_data_goes_there_and_back(parts: Parts) -> None:
    result = there_and_back(*parts)
    assert np.isnan(result).any()  # not yet: the copies only wait on the stream
    parts[0].synchronize()
    np.testing.assert_array_equal(result, PICTURE)


def test_memory_is_reused_and_grows(cuda: FakeCuda) -> None:
    buffer = Buffer()
    assert buffer.reserve(1000)
    first = buffer.address
    assert not buffer.reserve(10)
    assert not buffer.reserve(1000)
    assert buffer.address == first
    assert buffer.reserve(1001)
    assert cuda.calls.count("cudaMalloc") == 2
    assert cuda.used == cuda.most_used == 1001  # the old was freed before the new was taken
    buffer.close()
    buffer.close()
    assert cuda.leaks() == {}


@pytest.mark.parametrize("kind", [Buffer, Staging])
def test_nothing_can_be_reserved(cuda: FakeCuda, kind: Any) -> None:
    memory = kind()
    assert memory.reserve(0)
    assert not memory.reserve(0)
    memory.close()
    assert cuda.leaks() == {}


def test_memory_that_runs_out_says_how_much_was_asked_for(cuda: FakeCuda) -> None:
    buffer = Buffer()
    with pytest.raises(MemoryBudgetError, match=r"out of memory for 2048\.0 MiB more \(cudaM"):
        buffer.reserve(2 << 30)
    assert (buffer.address, buffer.size) == (0, 0)
    assert buffer.reserve(1000)
    buffer.close()


def test_an_array_that_does_not_fit_is_refused(cuda: FakeCuda) -> None:
    staging = Staging()
    staging.reserve(95)
    with pytest.raises(UsageError, match="an array of 96 bytes does not fit in 95"):
        staging.array(PICTURE.shape, np.float32)
    staging.close()


def test_memory_that_was_freed_too_early_is_caught(cuda: FakeCuda) -> None:
    stream, up, buffer, down = Stream(), Staging(), Buffer(), Staging()
    there_and_back(stream, up, buffer, down)
    buffer.close()
    with pytest.raises(ProviderError, match=r"cudaStreamSynchronize failed: .*CUDA error 700"):
        stream.synchronize()


def test_a_graph_repeats_what_was_captured(parts: Parts) -> None:
    stream, up, _, _ = parts
    stream.begin_capture()
    result = there_and_back(*parts)
    graph = stream.end_capture()
    stream.synchronize()
    assert np.isnan(result).any()  # capturing does nothing
    graph.launch(stream)
    stream.synchronize()
    np.testing.assert_array_equal(result, PICTURE)
    up.array(PICTURE.shape, PICTURE.dtype)[...] = 2 * PICTURE
    graph.launch(stream)
    stream.synchronize()
    np.testing.assert_array_equal(result, 2 * PICTURE)
    graph.close()


def test_what_cannot_be_captured_is_an_error(cuda: FakeCuda) -> None:
    stream, buffer = Stream(), Buffer()
    stream.begin_capture()
    with pytest.raises(ProviderError, match=r"cudaMalloc failed: .*CUDA error 900"):
        buffer.reserve(10)
    with pytest.raises(ProviderError, match=r"cudaStreamEndCapture failed: .*CUDA error 901"):
        stream.end_capture()
    stream.close()
    assert cuda.leaks() == {}


def test_a_stream_waits_for_another(parts: Parts) -> None:
    (first, up, buffer, down), second = parts, Stream()
    up.array(PICTURE.shape, PICTURE.dtype)[...] = PICTURE
    buffer.upload(up, PICTURE.nbytes, first)
    second.wait_for(first.handle)
    buffer.download(down, PICTURE.nbytes, second)
    second.synchronize()
    np.testing.assert_array_equal(down.array(PICTURE.shape, PICTURE.dtype), PICTURE)
    second.close()


@pytest.mark.skipif(int(real.cudaGetDeviceCount()[0]) == 0, reason="there is a GPU")
def test_a_machine_without_a_gpu_is_told_by_the_real_library() -> None:
    with pytest.raises(ProviderError, match="no usable NVIDIA driver"):
        Device.open(0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (CudaError, real.cudaError_t),
        (MemcpyKind, real.cudaMemcpyKind),
        (CaptureMode, real.cudaStreamCaptureMode),
    ],
)
def test_the_values_of_the_stand_in_are_those_of_the_library(ours: Any, theirs: Any) -> None:
    assert {each.name: int(each) for each in ours} == {
        each.name: int(getattr(theirs, each.name)) for each in ours
    }


def test_every_call_of_the_stand_in_is_in_the_library() -> None:
    names = [name for name in dir(FakeCuda) if name.startswith("cuda")]
    assert [name for name in names if not hasattr(real, name)] == []


@pytest.mark.gpu
def test_a_real_gpu_copies_there_and_back_and_repeats_a_graph(gpu: Device) -> None:
    stream, up, buffer, down = Stream(), Staging(), Buffer(), Staging()
    result = there_and_back(stream, up, buffer, down)
    stream.synchronize()
    np.testing.assert_array_equal(result, PICTURE)
    stream.begin_capture()
    result = there_and_back(stream, up, buffer, down)
    graph = stream.end_capture()
    result[...] = 0
    graph.launch(stream)
    stream.synchronize()
    np.testing.assert_array_equal(result, PICTURE)
    close(graph, stream, up, buffer, down)
