"""The double of the runtime loads what TensorRT loads, and runs what is wholly set."""

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.doubles.builds import GEOMETRY, INPUT, build, changed, recorder
from tests.doubles.cuda_runtime import FakeCuda, Gpu
from tests.doubles.trt_module import fake_tensorrt
from tests.flowsr_runtime.conftest import MODELS

ALL = ["tensorrt-10", "tensorrt-11", "tensorrt-rtx"]
WINDOW = np.array([4, 5, 8, 10, 0, 0, 0, 0, 8, 10], dtype=np.int64)
PICTURE = np.linspace(0, 1, 60, dtype=np.float32).reshape(1, 3, 4, 5)
PROFILE = {"input": INPUT, "geometry": GEOMETRY}
H2D, D2H = 1, 2


@pytest.fixture(params=ALL)
def bench(request: pytest.FixtureRequest) -> "Bench":
    """An engine and a context of each version."""
    return Bench(request.param)


class Bench:
    """A program without our runtime: it sets everything by hand."""

    def __init__(self, variant: str, *, model: str = "bilinear", **facts: Any) -> None:
        self.cuda = FakeCuda(Gpu())
        self.module = fake_tensorrt(variant, self.cuda)
        plan, _ = build(self.module, MODELS[model], PROFILE)
        self.logger, self.heard = recorder(self.module)
        self.runtime = self.module.Runtime(self.logger)
        self.plan = changed(plan or b"", **facts)
        self.engine = self.runtime.deserialize_cuda_engine(self.plan)
        self.stream = self.cuda.cudaStreamCreateWithFlags(1)[1] or 0

    def context(self) -> Any:
        return self.engine.create_execution_context()

    def pinned(self, values: NDArray[Any]) -> int:
        address = self.cuda.cudaHostAlloc(values.nbytes, 0)[1] or 0
        view = self.cuda.host_view(address, values.nbytes)
        assert view is not None
        view[:] = values.tobytes()
        return address

    def ready(self, out: int = 960) -> tuple[Any, int]:
        """Return a context on which everything is set, and where its output goes."""
        context = self.context()
        source, given, target = (
            self.pinned(PICTURE),
            self.cuda.cudaMalloc(PICTURE.nbytes)[1] or 0,
            self.cuda.cudaMalloc(out)[1] or 0,
        )
        self.cuda.cudaMemcpyAsync(given, source, PICTURE.nbytes, H2D, self.stream)  # type: ignore[arg-type]  # the bindings take numbers too
        assert context.set_input_shape("input", PICTURE.shape)
        assert context.set_tensor_address("input", given)
        assert context.set_tensor_address("geometry", self.pinned(WINDOW))
        assert context.set_tensor_address("output", target)
        return context, target

    def refused(self, call: bool, message: str) -> bool:
        return call is False and message in self.heard.said()


def test_what_is_wholly_set_runs(bench: Bench) -> None:
    context, target = bench.ready()
    assert context.infer_shapes() == []
    assert context.get_tensor_shape("output") == (1, 3, 8, 10)
    assert context.execute_async_v3(bench.stream)
    assert set(bench.cuda.view(target, 960)) == {0xFF}  # not yet: it waits on the stream
    bench.cuda.cudaStreamSynchronize(bench.stream)
    output = np.frombuffer(bench.cuda.view(target, 960), dtype=np.float32)
    assert 0 < output.mean() < 1


def test_the_engine_says_what_it_takes(bench: Bench) -> None:
    engine, module = bench.engine, bench.module
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    assert names == ["input", "geometry", "output"]
    assert engine.get_tensor_mode("output") == module.TensorIOMode.OUTPUT
    assert engine.get_tensor_dtype("geometry") == module.DataType.INT64
    assert engine.get_tensor_location("geometry") == module.TensorLocation.HOST
    assert engine.is_shape_inference_io("geometry")
    assert not engine.is_shape_inference_io("input")
    assert engine.get_tensor_profile_shape("input", 0) == [*INPUT]
    assert module.nptype(engine.get_tensor_dtype("input")) == np.float32


def test_a_shape_outside_of_the_profile_is_refused(bench: Bench) -> None:
    context = bench.context()
    assert bench.refused(context.set_input_shape("input", (1, 3, 65, 5)), "exceed min ~ max")
    assert bench.refused(context.set_input_shape("other", (1,)), "no input other")


def test_values_outside_of_the_profile_are_refused(bench: Bench) -> None:
    context, _ = bench.ready()
    context.set_tensor_address("geometry", bench.pinned(WINDOW * 1000))
    with pytest.raises(RuntimeError, match="values of geometry are outside of the profile"):
        context.infer_shapes()


@pytest.mark.parametrize("name", ["input", "geometry", "output"])
def test_an_address_that_is_not_set_is_refused(bench: Bench, name: str) -> None:
    context, _ = bench.ready()
    context.set_tensor_address(name, 0)
    assert bench.refused(context.execute_async_v3(bench.stream), name)


def test_memory_that_is_too_small_is_an_illegal_address(bench: Bench) -> None:
    context, _ = bench.ready(out=959)
    assert context.execute_async_v3(bench.stream)
    assert int(bench.cuda.cudaStreamSynchronize(bench.stream)[0]) == 700


def test_memory_that_the_user_manages_has_to_be_given(bench: Bench) -> None:
    strategy = bench.module.ExecutionContextAllocationStrategy.USER_MANAGED
    managed = bench.engine.create_execution_context(strategy)
    managed.set_input_shape("input", PICTURE.shape)
    for name in ("input", "output"):
        managed.set_tensor_address(name, bench.cuda.cudaMalloc(960)[1])
    managed.set_tensor_address("geometry", bench.pinned(WINDOW))
    assert bench.refused(managed.execute_async_v3(bench.stream), "device memory is not set")
    needed = managed.update_device_memory_size_for_shapes()
    managed.set_device_memory(bench.cuda.cudaMalloc(needed)[1], needed)
    assert managed.execute_async_v3(bench.stream)


def test_a_context_that_does_not_fit_is_none() -> None:
    bench = Bench("tensorrt-11", scratch=[2 << 30])
    assert bench.context() is None
    assert "OutOfMemory" in bench.heard.said()


def test_an_output_of_unknown_shape_needs_an_allocator(bench: Bench) -> None:
    class Allocator(bench.module.IOutputAllocator):  # type: ignore[misc, name-defined]  # of the module
        def __init__(self) -> None:
            bench.module.IOutputAllocator.__init__(self)
            self.shape: Any = None
            self.given = 0

        def reallocate_output_async(self, *arguments: Any) -> int:
            self.given = bench.cuda.cudaMalloc(arguments[2])[1] or 0
            return self.given

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.shape = tuple(shape)

    bench = Bench("tensorrt-11", data_dependent=True)
    context, _ = bench.ready()
    assert context.get_tensor_shape("output") == (-1, -1, -1, -1)
    allocator = Allocator()
    assert context.set_output_allocator("output", allocator)
    assert context.execute_async_v3(bench.stream)
    assert allocator.shape == (1, 3, 8, 10)
    assert context.get_tensor_address("output") == allocator.given


def capture(bench: Bench, context: Any) -> tuple[bool, Any]:
    """Return what a captured run said, and the graph that came of it."""
    bench.cuda.cudaStreamBeginCapture(bench.stream, 1)
    said = context.execute_async_v3(bench.stream)
    return said, bench.cuda.cudaStreamEndCapture(bench.stream)[1]


def test_the_first_run_of_a_shape_cannot_be_captured(bench: Bench) -> None:
    context, _ = bench.ready()
    said, graph = capture(bench, context)
    assert bench.refused(said, "operation not permitted when stream is capturing")
    assert graph is None


def test_a_graph_is_valid_until_its_context_is_changed(bench: Bench) -> None:
    context, _ = bench.ready()
    assert context.execute_async_v3(bench.stream)
    said, graph = capture(bench, context)
    assert said
    executable = bench.cuda.cudaGraphInstantiate(graph, 0)[1]
    bench.cuda.cudaGraphLaunch(executable, bench.stream)
    assert int(bench.cuda.cudaStreamSynchronize(bench.stream)[0]) == 0
    context.set_input_shape("input", (1, 3, 3, 3))
    bench.cuda.cudaGraphLaunch(executable, bench.stream)
    with pytest.raises(AssertionError, match="was changed after a graph was captured from it"):
        bench.cuda.cudaStreamSynchronize(bench.stream)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"flavour": "other"}, "Magic tag does not match"),
        ({"version": "1.0.0"}, "Version tag does not match"),
        (
            {"capabilities": ["8.6"]},
            "incompatible device, expecting compute 8.6 got compute 8.9",
        ),
        ({"version_compatible": True}, "contains host code, which is not allowed"),
    ],
)
@pytest.mark.parametrize("variant", ALL)
def test_a_plan_for_something_else_does_not_load(
    variant: str, facts: dict[str, Any], message: str
) -> None:
    bench = Bench(variant)
    assert bench.runtime.deserialize_cuda_engine(changed(bench.plan, **facts)) is None
    assert message in bench.heard.said()


def test_a_plan_that_does_not_fit_does_not_load(bench: Bench) -> None:
    bench.cuda.gpus[0] = Gpu(memory=100)
    assert bench.runtime.deserialize_cuda_engine(bench.plan) is None
    assert "OutOfMemory" in bench.heard.said()


def test_a_version_compatible_plan_loads_where_its_code_is_allowed(bench: Bench) -> None:
    bench.runtime.engine_host_code_allowed = True
    plan = changed(bench.plan, version_compatible=True, version="1.0")
    assert bench.runtime.deserialize_cuda_engine(plan) is not None


def test_what_is_no_plan_does_not_load(bench: Bench) -> None:
    assert bench.runtime.deserialize_cuda_engine(b"no plan at all") is None


def test_damaged_bytes_must_never_come_here(bench: Bench) -> None:
    damaged = bytearray(bench.plan)
    damaged[200] ^= 1
    with pytest.raises(AssertionError, match="damaged bytes were deserialised"):
        bench.runtime.deserialize_cuda_engine(bytes(damaged))


def test_the_inspector_speaks_the_json_of_its_version(bench: Bench) -> None:
    text = bench.engine.create_engine_inspector().get_engine_information(
        bench.module.LayerInformationFormat.JSON
    )
    keys = {"tensorrt-10": "Bindings"}
    key = keys.get(f"{bench.module.__name__}-{bench.module.__version__[:2]}", "I/O Tensors")
    assert json.loads(text)[key] == ["input", "geometry", "output"]


def test_rtx_keeps_kernels_for_the_same_device() -> None:
    bench = Bench("tensorrt-rtx")
    config = bench.engine.create_runtime_config()
    cache = config.create_runtime_cache()
    cache.kernels.add("3x3")
    assert config.set_runtime_cache(cache)
    again = bench.engine.create_runtime_config().create_runtime_cache()
    assert again.deserialize(cache.serialize())
    assert again.kernels == {"3x3"}
    bench.cuda.gpus[0] = Gpu(name="another")
    assert (
        not bench.engine.create_runtime_config()
        .create_runtime_cache()
        .deserialize(cache.serialize())
    )


@pytest.mark.parametrize("variant", ["tensorrt-10", "tensorrt-11"])
def test_tensorrt_keeps_no_kernels(variant: str) -> None:
    bench = Bench(variant)
    assert not hasattr(bench.engine.create_runtime_config(), "create_runtime_cache")
    assert not hasattr(bench.module, "CudaGraphStrategy")
