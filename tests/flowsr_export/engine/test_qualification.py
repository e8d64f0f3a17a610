"""An engine runs on the GPU before it is stored, and says where it never ran."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowsr_export.engine.build import (
    EngineRequest,
    LayerFiles,
    SizeSpec,
    build_engine,
    plan_engine,
)
from flowsr_export.engine.builder import Settings
from flowsr_export.engine.library import Library
from flowsr_export.engine.listing import qualification_text
from flowsr_export.engine.qualification import loads_here
from flowsr_runtime import Bundle
from flowsr_runtime.bundle.engine_store import EngineStore
from flowsr_runtime.cuda import device as device_module
from flowsr_runtime.errors import (
    MemoryBudgetError,
    OutputError,
    ParityError,
    ProviderError,
)
from tests.doubles.cuda_runtime import Gpu
from tests.doubles.trt_context import ExecutionContext
from tests.doubles.trt_module import fake_tensorrt
from tests.flowsr_export.engine.engines import (
    CUDA,
    L4,
    convolving_bundle,
    library,
    make_engine,
    with_golden_pair,
)

SIZES = SizeSpec(pictures=((32, 48), (48, 32)), scales=("2",))
FP32 = EngineRequest("fp32", SIZES, Settings())


@pytest.fixture(autouse=True)
def _double_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "cudart", CUDA)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    plain = Bundle.open(convolving_bundle(tmp_path / "plain", "fp32", "fp16"))
    return with_golden_pair(tmp_path / "golden", plain)


@pytest.mark.parametrize("variant", ["tensorrt-10", "tensorrt-11"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_profile_and_the_golden_pair_run_before_the_engine_is_stored(
    variant: str, precision: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[Any] = []
    execute = ExecutionContext.execute_async_v3

    def watched(self: ExecutionContext, stream: Any) -> bool:
        shapes.append(self._shapes["input"][2:])
        return execute(self, stream)

    monkeypatch.setattr(ExecutionContext, "execute_async_v3", watched)
    result = make_engine(bundle, library(variant), replace(FP32, precision=precision), L4)
    bounds = [
        getattr(profile["input"], name)[2:]
        for profile in result.entry.key.profiles
        for name in ("min", "opt", "max")
    ]
    assert shapes == [*bounds, (16, 20)]
    facts = result.entry.facts
    assert facts["qualified"] is True
    assert facts["qualification"]["runs"] == len(bounds)
    assert facts["qualification"]["golden"]["max_abs"] < 1e-2
    assert qualification_text(result.entry).startswith(f"yes: {len(bounds)} runs, the golden")


def test_without_a_gpu_an_engine_says_that_it_never_ran(bundle: Bundle) -> None:
    result = make_engine(bundle, library("tensorrt-rtx"), FP32)
    assert result.entry.facts["qualified"] is False
    assert qualification_text(result.entry) == "no: no GPU that runs it was there"


def not_a_number(output: Any) -> Any:
    return np.full_like(output, np.nan)


def brighter(output: Any) -> Any:
    return output + np.float32(0.01)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (not_a_number, "NaN or infinity at min of profile 0, input 1x3x16x16"),
        (brighter, "misses the golden pair .* must be at most 0.0001, got .* of 0.01,"),
    ],
)
def test_an_engine_that_computes_something_else_is_not_stored(
    fault: Callable[[Any], Any],
    message: str,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compute = ExecutionContext._compute

    def faulty(self: ExecutionContext, feeds: Any) -> Any:
        return {name: fault(array) for name, array in compute(self, feeds).items()}

    monkeypatch.setattr(ExecutionContext, "_compute", faulty)
    with pytest.raises(ParityError, match=message):
        make_engine(bundle, library("tensorrt-11"), FP32, L4)
    assert EngineStore(bundle.path).entries() == []


def test_an_engine_that_fails_at_a_size_is_not_stored(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = ExecutionContext.execute_async_v3

    def failing(self: ExecutionContext, stream: Any) -> bool:
        return self._shapes["input"][2:] == (16, 16) and execute(self, stream)

    monkeypatch.setattr(ExecutionContext, "execute_async_v3", failing)
    with pytest.raises(ParityError, match=r"fails at opt of profile 0, input 1x3x"):
        make_engine(bundle, library("tensorrt-11"), FP32, L4)
    assert EngineStore(bundle.path).entries() == []


def test_a_gpu_without_the_memory_for_the_largest_size_keeps_no_engine(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CUDA, "gpus", [Gpu(memory=200_000)])
    with pytest.raises(MemoryBudgetError, match="memory"):
        make_engine(bundle, library("tensorrt-11"), FP32, L4)
    assert EngineStore(bundle.path).entries() == []


def test_a_wrong_golden_pair_of_the_bundle_is_a_miss(tmp_path: Path) -> None:
    plain = Bundle.open(convolving_bundle(tmp_path / "plain", "fp32"))
    wrong = with_golden_pair(tmp_path / "wrong", plain, error=0.5)
    with pytest.raises(ParityError, match="misses the golden pair"):
        make_engine(wrong, library("tensorrt-10"), FP32, L4)


def test_a_golden_pair_that_no_profile_takes_is_left_out(bundle: Bundle) -> None:
    large = SizeSpec(pictures=((32, 48),), scales=("2",), exact=True)
    result = make_engine(bundle, library("tensorrt-11"), replace(FP32, sizes=large), L4)
    assert result.entry.facts["qualification"] == {"runs": 3, "golden": None}
    assert qualification_text(result.entry) == "yes: 3 runs, no golden pair of its sizes"


def test_an_engine_that_never_ran_is_built_again_where_it_runs(bundle: Bundle) -> None:
    module = fake_tensorrt("tensorrt-rtx", CUDA)
    rtx = Library(module, "tensorrt_rtx", module.__version__)
    assert make_engine(bundle, rtx, FP32).entry.facts["qualified"] is False
    assert make_engine(bundle, rtx, FP32).built is None
    again = make_engine(bundle, rtx, FP32, L4)
    assert again.built is not None
    assert again.entry.facts["qualified"] is True
    assert make_engine(bundle, rtx, FP32, L4).built is None


def test_an_engine_for_another_gpu_does_not_run_here(bundle: Bundle) -> None:
    chosen = library("tensorrt-11")
    key = plan_engine(bundle.manifest, bundle, chosen, FP32, L4).key
    assert key is not None
    assert loads_here(key, chosen, L4)
    assert not loads_here(key, chosen, None)
    assert not loads_here(replace(key, compute_capability=("12.0",)), chosen, L4)


def test_layers_and_their_times_are_written_as_trtexec_does(
    bundle: Bundle, tmp_path: Path
) -> None:
    chosen = library("tensorrt-11")
    files = LayerFiles(tmp_path / "layers.json", tmp_path / "profile.json")
    plan = plan_engine(bundle.manifest, bundle, chosen, FP32, L4)
    build_engine(bundle, plan, files=files)
    layers = json.loads((tmp_path / "layers.json").read_text())["Layers"]
    assert [layer["LayerType"] for layer in layers][:2] == ["Cast", "Conv"]
    count, *times = json.loads((tmp_path / "profile.json").read_text())
    assert count == {"count": 20}
    assert [row["name"] for row in times] == [layer["Name"] for layer in layers]
    assert sum(row["percentage"] for row in times) == pytest.approx(100)
    assert times[0]["timeMs"] == pytest.approx(20 * times[0]["averageMs"])
    here = plan_engine(bundle.manifest, bundle, chosen, FP32, L4)
    with pytest.raises(OutputError, match=r"layers\.json exists"):
        build_engine(bundle, here, files=files)
    again = replace(files, force=True)
    assert build_engine(bundle, here, files=again).built is not None  # there, built again
    assert (tmp_path / "layers.json").is_file()


def test_times_of_layers_need_a_gpu(bundle: Bundle, tmp_path: Path) -> None:
    plan = plan_engine(bundle.manifest, bundle, library("tensorrt-rtx"), FP32)
    with pytest.raises(ProviderError, match="export_profile needs a GPU"):
        build_engine(bundle, plan, files=LayerFiles(profile=tmp_path / "profile.json"))
    assert list(EngineStore(bundle.path).entries()) == []


def test_without_a_gpu_the_layers_are_those_of_the_builders_log(
    bundle: Bundle, tmp_path: Path
) -> None:
    plan = plan_engine(bundle.manifest, bundle, library("tensorrt-rtx"), FP32)
    built = build_engine(bundle, plan, files=LayerFiles(tmp_path / "layers.json")).built
    assert built is not None
    content = json.loads((tmp_path / "layers.json").read_text())
    assert content["Bindings"] == ["input", "geometry", "output"]
    tensors = [
        tensor
        for layer in content["Layers"]
        for kind in ("Inputs", "Outputs", "Constants")
        for tensor in layer.get(kind, [])
    ]
    assert len(tensors) == built.layers.count("{ Name:") > 0
    assert any("[ONNX Layer: mix]" in layer["Metadata"] for layer in content["Layers"])
    assert any(tensor["Format/Datatype"].endswith("FP32 format") for tensor in tensors)
