"""Builds with doubles of TensorRT 10 and 11, and with the real tensorrt_rtx."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import onnx.parser
import pytest

from flowsr_export.engine.build_log import BuildProgress
from flowsr_export.engine.builder import Settings, build_plan
from flowsr_export.engine.layers import layers_from_log
from flowsr_export.engine.library import Library
from flowsr_export.engine.profiles import profile_of
from flowsr_export.inputs.run_sizes import RunSize
from flowsr_runtime.bundle.engine_store import Profile
from flowsr_runtime.cuda.device import Device
from flowsr_runtime.errors import (
    LintError,
    MemoryBudgetError,
    OutputError,
    ProviderError,
    UsageError,
)
from tests.doubles.trt_module import fake_tensorrt
from tests.doubles.trt_plan import Plan
from tests.flowsr_export.conftest import resizing_graph
from tests.flowsr_export.engine.engines import library
from tests.flowsr_export.manifests import linf_manifest

HEADER = 64  # bytes of a plan that hold its compute capabilities
DOUBLES = ["tensorrt-10", "tensorrt-11"]
VARIANTS = [*DOUBLES, "tensorrt-rtx"]
RUNS = [RunSize((8, 8), (8, 8)), RunSize((32, 48), (64, 96))]
MODEL = resizing_graph()
UNSUPPORTED = """<ir_version: 9, opset_import: ["" : 18]>
    graph (float[1, 3, h, w] input) => (int64[4, n] output) {
        output = NonZero(input)
    }"""

# As SRFlow's: the geometry decides values, and no shape.
VALUES_ALONE = """<ir_version: 9, opset_import: ["" : 18]>
    graph (float[1, 3, h, w] input, int64[10] geometry) => (float[1, 3, h, w] output)
    <int64[1] first = {0}> {
        row = Gather(geometry, first)
        offset = Cast<to = 1>(row)
        output = Add(input, offset)
    }"""


@pytest.fixture
def profile() -> Profile:
    return profile_of(linf_manifest(), RUNS)


def plan_of(variant: str, settings: Settings, profile: Profile, **options: Any) -> Plan:
    """Build with a double and open the plan."""
    built = build_plan(library(variant), MODEL, [profile], settings, **options)
    plan = Plan.unpack(built.plan)
    assert plan is not None
    return plan


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_version_builds_and_says_what_it_needs(variant: str, profile: Profile) -> None:
    built = build_plan(library(variant), MODEL, [profile, profile], Settings())
    assert len(built.plan) > 100
    assert len(built.scratch) == 2
    assert built.seconds > 0
    assert [(t["name"], t["input"], t["dtype"]) for t in built.tensors] == [
        ("input", True, "FLOAT"),
        ("geometry", True, "INT64"),
        ("output", False, "FLOAT"),
    ]


@pytest.mark.parametrize("variant", DOUBLES)
def test_the_plan_is_typed_as_the_file_and_detailed(variant: str, profile: Profile) -> None:
    plan = plan_of(variant, Settings(), profile)
    assert plan.strongly_typed
    assert plan.detailed
    assert plan.shape_inputs == ["geometry"]
    assert plan.profiles[0]["geometry"][0] == list(profile["geometry"].min)


def test_rtx_builds_for_what_is_asked_for(profile: Profile) -> None:
    first, same, both = (
        build_plan(library("tensorrt-rtx"), MODEL, [profile], settings).plan[:HEADER]
        for settings in (
            Settings(compute_capabilities=("8.9",)),
            Settings(compute_capabilities=("8.9",)),
            Settings(compute_capabilities=("8.9", "12.0")),
        )
    )
    assert first == same != both


def test_tensorrt_can_serve_later_versions_and_newer_gpus(profile: Profile) -> None:
    wide = Settings(version_compatible=True, hardware_compatibility="ampere-plus")
    plan = plan_of("tensorrt-11", wide, profile)
    assert plan.version_compatible
    assert plan.capabilities == []


def test_the_real_builder_lists_its_layers_without_a_gpu(profile: Profile) -> None:
    built = build_plan(library("tensorrt-rtx"), MODEL, [profile], Settings())
    layers = layers_from_log(built.layers)
    assert {layer.type for layer in layers if layer.type} == {"fp32"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_log_is_a_file(variant: str, profile: Profile, tmp_path: Path) -> None:
    path = tmp_path / "build.log"
    build_plan(library(variant), MODEL, [profile], Settings(), log=path)
    assert "Max Scratch Memory" in path.read_text()


@pytest.mark.parametrize("variant", DOUBLES)
def test_a_workspace_that_is_too_small_is_out_of_memory(
    variant: str, profile: Profile, tmp_path: Path
) -> None:
    log = tmp_path / "build.log"
    with pytest.raises(MemoryBudgetError, match=r"0 MiB.* 5 MiB\); log: "):
        build_plan(
            *(library(variant), MODEL, [profile], Settings(workspace=1024)),
            log=log,
            estimates=[5 << 20],
        )
    assert log.exists()


def test_a_node_that_is_not_supported_is_named(profile: Profile) -> None:
    model = onnx.parser.parse_model(UNSUPPORTED)
    model.graph.node[0].name = "find_them"
    with pytest.raises(LintError, match=r"cannot import .*find_them"):
        build_plan(library("tensorrt-rtx"), model.SerializeToString(), [profile], Settings())


def test_a_profile_without_the_geometry_is_named(profile: Profile) -> None:
    lacking = {"input": profile["input"]}
    with pytest.raises(UsageError, match="missing values for shape input tensor geometry"):
        build_plan(library("tensorrt-rtx"), MODEL, [lacking], Settings())


def test_a_geometry_that_decides_no_shape_needs_no_profile(profile: Profile) -> None:
    model = onnx.parser.parse_model(VALUES_ALONE).SerializeToString()
    built = build_plan(library("tensorrt-rtx"), model, [profile], Settings())
    assert [tensor["name"] for tensor in built.tensors] == ["input", "geometry", "output"]


def test_tensorrt_without_a_gpu_is_refused(profile: Profile) -> None:
    module: Any = fake_tensorrt("tensorrt-11")
    alone = Library(module, "tensorrt", "11.4.1.5")
    with pytest.raises(ProviderError, match=r"tensorrt 11\.4\.1\.5"):
        build_plan(alone, MODEL, [profile], Settings())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(version_compatible=True), "version_compatible"),
        (Settings(timing_cache=Path("cache")), "timing_cache"),
    ],
)
def test_rtx_refuses_what_it_does_not_have(
    settings: Settings, message: str, profile: Profile
) -> None:
    with pytest.raises(UsageError, match=message):
        build_plan(library("tensorrt-rtx"), MODEL, [profile], settings)


def test_timings_are_read_and_written(profile: Profile, tmp_path: Path) -> None:
    path = tmp_path / "timings"
    path.write_bytes(b"measured before")
    build_plan(library("tensorrt-11"), MODEL, [profile], Settings(timing_cache=path))
    assert path.read_bytes() == b"measured before"


def test_timings_that_cannot_be_kept_are_an_error(profile: Profile, tmp_path: Path) -> None:
    settings = Settings(timing_cache=tmp_path / "missing" / "timings")
    with pytest.raises(OutputError, match=r"timing cache .* cannot be written"):
        build_plan(library("tensorrt-11"), MODEL, [profile], settings)


def test_the_thread_that_builds_uses_the_gpu_that_is_meant(profile: Profile) -> None:
    used: list[str] = []

    class Watched(Device):
        def use(self) -> None:
            used.append(threading.current_thread().name)

    gpu = Watched(1, "Double L4", "8.9", "13.0")
    build_plan(library("tensorrt-11"), MODEL, [profile], Settings(), device=gpu)
    assert used == ["tensorrt-build"]


def test_progress_is_reported_while_it_builds(profile: Profile) -> None:
    slow = library("tensorrt-11")
    build = slow.module.Builder.build_serialized_network

    def build_slowly(self: Any, network: Any, config: Any) -> Any:
        config.progress_monitor.phase_start("Building engine", None, 2)
        config.progress_monitor.step_complete("Building engine", 0)
        time.sleep(0.5)
        return build(self, network, config)

    slow.module.Builder.build_serialized_network = build_slowly
    seen: list[tuple[float, str]] = []
    build_plan(
        *(slow, MODEL, [profile], Settings()),
        report=lambda share, phase: seen.append((share, phase)),
    )
    assert (0.5, "Building engine") in seen


@pytest.mark.parametrize("variant", VARIANTS)
def test_ctrl_c_ends_the_build_at_a_step_and_leaves_nothing(
    variant: str, profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = BuildProgress.start

    def start_and_interrupt(self: BuildProgress, *phase: Any) -> None:
        start(self, *phase)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)  # until the other thread has heard it

    monkeypatch.setattr(BuildProgress, "start", start_and_interrupt)
    # A shell that starts the tests in the background has them ignore SIGINT.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    log, before = tmp_path / "build.log", threading.enumerate()
    try:
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            build_plan(library(variant), MODEL, [profile], Settings(), log=log)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert list(tmp_path.iterdir()) == []
    assert threading.enumerate() == before


def test_a_report_that_fails_ends_the_build(profile: Profile) -> None:
    slow, before = library("tensorrt-11"), threading.enumerate()
    slow.module.Builder.build_serialized_network = lambda self, *parts: time.sleep(0.5)

    def report(share: float, phase: str) -> None:
        raise BrokenPipeError("closed")

    with pytest.raises(BrokenPipeError, match="closed"):
        build_plan(slow, MODEL, [profile], Settings(), report=report)
    assert threading.enumerate() == before
