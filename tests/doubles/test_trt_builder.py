"""The double of the builder refuses what TensorRT refuses, and has the names that it has."""

from types import ModuleType
from typing import Any

import onnx
import onnx.parser
import pytest
import tensorrt_rtx

from tests.doubles.builds import GEOMETRY, INPUT, Profile, build, recorder
from tests.doubles.cuda_runtime import FakeCuda, Gpu
from tests.doubles.trt_module import fake_tensorrt, tensorrt_stubs
from tests.doubles.trt_plan import Plan
from tests.flowsr_runtime.conftest import MODELS

ALL = ["tensorrt-10", "tensorrt-11", "tensorrt-rtx"]
BILINEAR = MODELS["bilinear"]
GOOD: Profile = {"input": INPUT, "geometry": GEOMETRY}
REAL_AND_DOUBLE = pytest.mark.parametrize("module", ["real", "double"], indirect=True)


@pytest.fixture
def module(request: pytest.FixtureRequest) -> Any:
    """tensorrt_rtx 1.7 itself, or its double; the tests that take it run on both."""
    return {"real": tensorrt_rtx, "double": fake_tensorrt("tensorrt-rtx")}[request.param]


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda(Gpu())


def graph(text: str) -> bytes:
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 18, "x.y" : 1]> {text}'
    )
    return bytes(model.SerializeToString())


def monitor_of(module: Any, stop_after: int) -> Any:
    """Return a progress monitor that ends the build at a step; it keeps what it was told."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]  # a class of the module
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self.steps = 0
            self.phases: list[tuple[str, str]] = []

        def phase_start(self, phase_name: str, parent_phase: str | None, steps: int) -> None:
            self.phases.append(("start", phase_name))

        def phase_finish(self, phase_name: str) -> None:
            self.phases.append(("finish", phase_name))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.steps += 1
            return self.steps < stop_after

    return Monitor()


def test_every_name_of_the_rtx_double_is_in_the_library() -> None:
    double = fake_tensorrt("tensorrt-rtx")
    names = [name for name in dir(double) if not name.startswith("_")]
    assert [name for name in names if not hasattr(tensorrt_rtx, name)] == []


@pytest.mark.parametrize(
    "name",
    [
        *("Builder", "Runtime", "ICudaEngine", "IExecutionContext", "OnnxParser"),
        *("IOptimizationProfile", "INetworkDefinition", "ParserError", "IHostMemory"),
    ],
)
def test_every_method_of_the_rtx_double_is_in_the_library(name: str) -> None:
    real, double = getattr(tensorrt_rtx, name), getattr(fake_tensorrt("tensorrt-rtx"), name)
    ours = {"fill", "scratch", "missing"} | set(dir(bytes))
    names = {each for each in dir(double) if not each.startswith("_")} - ours
    assert {each for each in names if not hasattr(real, each)} == set()


@pytest.mark.parametrize(
    "name",
    ["DataType", "TensorLocation", "TensorIOMode", "ComputeCapability", "CudaGraphStrategy"],
)
def test_every_member_of_an_enumeration_has_the_value_of_the_library(name: str) -> None:
    real = getattr(tensorrt_rtx, name).__members__
    double = getattr(fake_tensorrt("tensorrt-rtx"), name).__members__
    assert {each: int(real[each]) for each in double} == {
        each: int(value) for each, value in double.items()
    }


@pytest.mark.parametrize("variant", ["tensorrt-11", "tensorrt-rtx"])
def test_what_was_removed_is_absent(variant: str, cuda: FakeCuda) -> None:
    double = fake_tensorrt(variant, cuda)
    builder = double.Builder(recorder(double)[0])
    config = builder.create_builder_config()
    assert not {"FP16", "BF16", "INT8", "FP8"} & set(double.BuilderFlag.__members__)
    assert not hasattr(double.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")
    assert not hasattr(double, "IInt8EntropyCalibrator2")
    assert not hasattr(builder, "platform_has_fast_fp16")
    with pytest.raises(AttributeError, match="no attribute 'int8_calibrator'"):
        config.int8_calibrator = object()


def test_tensorrt_10_still_has_what_was_removed(cuda: FakeCuda) -> None:
    double = fake_tensorrt("tensorrt-10", cuda)
    builder = double.Builder(recorder(double)[0])
    builder.create_builder_config().int8_calibrator = object()
    assert builder.platform_has_fast_fp16
    assert {"FP16", "INT8"} <= set(double.BuilderFlag.__members__)


@pytest.mark.parametrize("variant", ["tensorrt-10", "tensorrt-11"])
def test_tensorrt_sets_no_device_that_is_not_there(variant: str, cuda: FakeCuda) -> None:
    double = fake_tensorrt(variant, cuda)
    config = double.Builder(recorder(double)[0]).create_builder_config()
    assert not hasattr(config, "set_compute_capability")
    assert not hasattr(double, "ComputeCapability")


@pytest.mark.parametrize("variant", ["tensorrt-10", "tensorrt-11"])
def test_tensorrt_needs_a_gpu_to_build(variant: str) -> None:
    double = fake_tensorrt(variant)
    logger, heard = recorder(double)
    with pytest.raises(TypeError, match="factory function returned nullptr"):
        double.Builder(logger)
    assert "CUDA initialization failure" in heard.said()


def test_the_stubs_are_empty() -> None:
    assert not hasattr(tensorrt_stubs(), "Builder")
    assert isinstance(tensorrt_stubs(), ModuleType)


@pytest.mark.parametrize("variant", ALL)
def test_a_plan_is_for_the_device_that_is_there(variant: str, cuda: FakeCuda) -> None:
    double = fake_tensorrt(variant, cuda)
    options: Any = {"capabilities": ("SM89",)} if variant == "tensorrt-rtx" else {}
    plan, heard = build(double, BILINEAR, GOOD, **options)
    assert heard.said() == ""
    unpacked = Plan.unpack(plan or b"")
    assert unpacked is not None
    assert unpacked.capabilities == ["8.9"]
    assert unpacked.version == double.__version__
    assert unpacked.strongly_typed


@REAL_AND_DOUBLE
@pytest.mark.parametrize("capabilities", [(), ("SM89",), ("SM86", "SM120")])
def test_rtx_builds_without_a_gpu(module: Any, capabilities: tuple[str, ...]) -> None:
    plan, heard = build(module, BILINEAR, GOOD, capabilities=capabilities)
    assert plan is not None
    assert "Max Scratch Memory: " in heard.said("INFO")


@REAL_AND_DOUBLE
def test_the_device_that_is_there_needs_a_gpu(module: Any) -> None:
    plan, heard = build(module, BILINEAR, GOOD, capabilities=("CURRENT",))
    assert plan is None
    assert "CUDA driver version is insufficient" in heard.said()


@REAL_AND_DOUBLE
@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ([], "no optimization profile has been defined"),
        ([{"input": INPUT}], "profile 0 is missing values for shape input tensor geometry"),
        ([{"geometry": GEOMETRY}], "Dynamic input tensor input is missing dimensions"),
        (
            [{"input": INPUT, "geometry": ((1,) * 9,) * 3}],
            "provides number of elements in shape tensor geometry to be 9. This doesn't match",
        ),
        (
            [{**GOOD, "input": ((1, 4, 1, 1), (1, 4, 8, 8), (1, 4, 9, 9))}],
            "profile has min=4, opt=4, max=4 but tensor has 3",
        ),
        (
            [{**GOOD, "input": ((1, 3, 9, 9), (1, 3, 8, 8), (1, 3, 9, 9))}],
            "please ensure that the optimization profiles satisfy MIN<=OPT<=MAX",
        ),
    ],
)
def test_a_wrong_profile_is_refused_in_the_same_words(
    module: Any, profiles: list[Profile], message: str
) -> None:
    plan, heard = build(module, BILINEAR, *profiles)
    assert plan is None
    assert message in heard.said()


@REAL_AND_DOUBLE
def test_a_build_can_be_cancelled(module: Any) -> None:
    monitor = monitor_of(module, stop_after=2)
    plan, heard = build(module, BILINEAR, GOOD, monitor=monitor)
    assert plan is None
    assert "Build canceled by user" in heard.said()
    assert monitor.steps == 2
    assert monitor.phases[0] == ("start", "Building engine")
    assert monitor.phases[-1] == ("finish", "Building engine")


@REAL_AND_DOUBLE
def test_a_finished_build_has_finished_every_phase(module: Any) -> None:
    monitor = monitor_of(module, stop_after=10**9)
    plan, _ = build(module, BILINEAR, GOOD, monitor=monitor)
    assert plan is not None
    starts = sorted(name for kind, name in monitor.phases if kind == "start")
    assert starts == sorted(name for kind, name in monitor.phases if kind == "finish")


@REAL_AND_DOUBLE
def test_a_small_workspace_is_refused(module: Any) -> None:
    plan, heard = build(module, BILINEAR, GOOD, workspace=1024)
    assert plan is None
    assert "no tactics to implement the operation within workspace limit" in heard.said()


def test_tensorrt_words_a_small_workspace_in_its_own_way(cuda: FakeCuda) -> None:
    plan, heard = build(fake_tensorrt("tensorrt-11", cuda), BILINEAR, GOOD, workspace=1024)
    assert plan is None
    assert "Could not find any implementation for node" in heard.said()


@REAL_AND_DOUBLE
@pytest.mark.parametrize(
    ("text", "operator"),
    [
        ("g (float[2,h] input) => (int64[2,n] o) { o = NonZero(input) }", "NonZero"),
        ("g (float[2,h] input) => (float[2,h] o) { o = x.y.Foo(input) }", "Foo"),
    ],
)
def test_an_unknown_node_is_named(module: Any, text: str, operator: str) -> None:
    logger, _ = recorder(module)
    builder = module.Builder(logger)  # builder and network are kept: the parser does not
    network = builder.create_network(0)
    parser = module.OnnxParser(network, logger)
    assert not parser.parse(graph(text))
    assert parser.num_errors == 1
    error = parser.get_error(0)
    assert (error.node(), error.node_operator()) == (0, operator)
    assert error.desc() != ""


@REAL_AND_DOUBLE
def test_what_is_no_onnx_is_refused(module: Any) -> None:
    logger, _ = recorder(module)
    builder = module.Builder(logger)
    network = builder.create_network(0)
    parser = module.OnnxParser(network, logger)
    assert not parser.parse(b"garbage")
    assert "Failed to parse the ONNX model" in parser.get_error(0).desc()


@REAL_AND_DOUBLE
def test_the_network_knows_its_inputs(module: Any) -> None:
    logger, _ = recorder(module)
    builder = module.Builder(logger)
    network = builder.create_network(0)
    parser = module.OnnxParser(network, logger)
    assert parser.parse(BILINEAR)
    found = [network.get_input(index) for index in range(network.num_inputs)]
    assert [(each.name, tuple(each.shape), each.is_shape_tensor) for each in found] == [
        ("input", (-1, 3, -1, -1), False),
        ("geometry", (10,), True),
    ]
    assert [each.dtype.name for each in found] == ["FLOAT", "INT64"]


@REAL_AND_DOUBLE
def test_rtx_keeps_no_timing_cache(module: Any) -> None:
    builder = module.Builder(recorder(module)[0])
    config = builder.create_builder_config()
    cache = config.create_timing_cache(b"")
    with pytest.warns(DeprecationWarning, match="no-ops in TensorRT-RTX"):
        config.set_timing_cache(cache, False)


def test_tensorrt_keeps_a_timing_cache(cuda: FakeCuda) -> None:
    double = fake_tensorrt("tensorrt-11", cuda)
    config = double.Builder(recorder(double)[0]).create_builder_config()
    assert config.set_timing_cache(config.create_timing_cache(b"old"), ignore_mismatch=False)
    assert bytes(config.get_timing_cache().serialize()) == b"old"


@REAL_AND_DOUBLE
def test_a_logger_has_to_call_its_base(module: Any) -> None:
    class Silent(module.ILogger):  # type: ignore[misc]  # a class of the module
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match=r"__init__\(\) must be called when overriding"):
        Silent()


@REAL_AND_DOUBLE
@pytest.mark.parametrize("value", ["config.foo = 1", "config.set_flag('x')"])
def test_what_the_config_does_not_know_is_refused(module: Any, value: str) -> None:
    builder = module.Builder(recorder(module)[0])
    config = builder.create_builder_config()
    with pytest.raises((AttributeError, TypeError), match=r"no attribute|incompatible"):
        exec(value, {"config": config})


def test_a_weakly_typed_network_is_possible_on_10_alone(cuda: FakeCuda) -> None:
    typed = {}
    for variant in ALL:
        plan, _ = build(fake_tensorrt(variant, cuda), BILINEAR, GOOD, typed=False)
        unpacked = Plan.unpack(plan or b"")
        assert unpacked is not None
        typed[variant] = unpacked.strongly_typed
    assert typed == {"tensorrt-10": False, "tensorrt-11": True, "tensorrt-rtx": True}
