"""Every target runs: the graph, an image, PyTorch and the published order."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch._dynamo.config as dynamo
from torch.utils._python_dispatch import TorchDispatchMode

from flowsr_export.bench.memory import Memory, measure_memory
from flowsr_export.bench.targets import Measures, ModelTarget, load_model
from flowsr_export.bench.torch_target import run_of
from flowsr_export.inputs.cases import Case
from flowsr_export.inputs.feeds import graph_feeds
from flowsr_export.machine.probes import probes_of
from flowsr_export.onnx_graph.uint8_io import with_uint8_io
from flowsr_export.parity.reference import reference_of
from flowsr_runtime import Bundle, BundleError, SessionSettings, UsageError, write_bundle
from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession
from flowsr_runtime.cuda.device import Device
from tests.flowsr_export.conftest import Exported, resizing_graph, small_manifest

CASE = Case((8, 9), (20, 22), batch=2)


def target(bundle: Path, backend: str = "onnxruntime", precision: str = "fp32") -> ModelTarget:
    return ModelTarget(bundle, None, None, SessionSettings(backend, "cpu", 0, 1, precision))


def torch_target(exported: Exported, backend: str) -> ModelTarget:
    settings = SessionSettings(backend, "cpu", threads=1)
    return ModelTarget(exported.bundle, exported.model, exported.prior, settings)


def test_the_graph_runs(exported: Exported) -> None:
    model = load_model(target(exported.bundle))
    output = model.call(CASE, "graph")()
    assert isinstance(output, np.ndarray)
    assert output.shape == (2, 3, 20, 22)
    model.close()


def test_a_picture_runs_from_end_to_end(fourfold: Path) -> None:
    model = load_model(target(fourfold))
    assert model.call(Case((7, 9), (28, 36)), "end-to-end")() is None
    model.close()


@pytest.fixture
def eight_bit(tmp_path: Path) -> Path:
    """A bundle whose graph takes and gives pictures of eight bits."""
    graph = with_uint8_io(onnx.load_from_string(resizing_graph()))
    picture = {**small_manifest()["picture"], "io": "uint8"}
    files = {"model.fp32.onnx": graph.SerializeToString()}
    return write_bundle(tmp_path / "eight", small_manifest(picture=picture), files).path


@pytest.mark.parametrize("measures", ["graph", "end-to-end"])
def test_a_graph_of_eight_bits_runs(
    measures: Measures, eight_bit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.dtype[Any]] = []
    run = OnnxRuntimeSession.run

    def watched(self: OnnxRuntimeSession, feeds: dict[str, Any]) -> Any:
        seen.append(feeds["input"].dtype)
        return run(self, feeds)

    monkeypatch.setattr(OnnxRuntimeSession, "run", watched)
    model = load_model(target(eight_bit))
    model.call(Case((8, 9), (20, 22)), measures)()
    model.close()
    assert seen == [np.dtype(np.uint8)]


@pytest.mark.parametrize("backend", ["torch", "published", "published-compiled"])
def test_pytorch_computes_the_image_of_the_graph(
    exported: Exported, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda call, **options: call)  # a minute long
    case = Case((8, 9), (20, 22))
    graph = load_model(target(exported.bundle))
    model = load_model(torch_target(exported, backend))
    assert model.measures == ("graph",)
    assert not torch.backends.cudnn.allow_tf32
    output, right = np.asarray(model.call(case, "graph")()), graph.call(case, "graph")()
    assert np.abs(output - np.asarray(right)).max() < 1e-4
    model.close()


@pytest.mark.parametrize("size", [(20, 23), (20, 25)])  # one scale, and one for each axis
def test_half_precision_runs_the_network_as_it_is_exported(
    exported: Exported, size: tuple[int, int]
) -> None:
    case = Case((8, 9), size)
    graph = load_model(target(exported.bundle))
    settings = SessionSettings("torch", "cpu", threads=1, precision="bf16")
    model = load_model(replace(torch_target(exported, "torch"), settings=settings))
    output = model.call(case, "graph")()
    difference = np.abs(np.asarray(output) - graph.call(case, "graph")())
    assert 0 < difference.max() < 0.1
    assert difference.mean() < 0.01


@pytest.mark.parametrize(
    ("backend", "precision"),
    [("torch", "fp32"), ("torch", "fp16"), ("published", "fp32")],
)
def test_no_tensor_is_made_on_the_cpu_while_the_network_is_elsewhere(
    exported: Exported, backend: str, precision: str
) -> None:
    checkpoint = reference_of(Bundle.open(exported.bundle), exported.model, exported.prior)
    run = run_of(checkpoint.network.to("meta"), backend, precision)
    with torch.inference_mode(), _NoCpuTensors():  # type: ignore[no-untyped-call]
        output = run({"input": torch.empty(1, 3, 8, 9, device="meta")}, (16, 18))
    assert isinstance(output, torch.Tensor)
    assert (output.device.type, output.shape) == ("meta", (1, 3, 16, 18))


def test_a_profiler_sees_the_parts_of_the_network(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    @contextmanager
    def watched(name: str) -> Iterator[None]:
        events.append(name)
        yield
        events.append(f"end of {name}")

    monkeypatch.setattr("flowsr_export.bench.torch_target.nvtx_range", watched)
    monkeypatch.setattr("flowsr_export.bench.torch_target.is_profiled", lambda: True)
    model = load_model(torch_target(exported, "torch"))
    model.call(Case((8, 9), (20, 22)), "graph")()
    begins = [event for event in events if not event.startswith("end of ")]
    assert {"linf.encoder", "prior"} <= set(begins)
    assert len(events) == 2 * len(begins)
    assert events.index("end of linf.encoder") > events.index("linf.encoder")


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("backend", "precision", "limit"),
    [
        ("torch", "fp32", 1e-3),
        ("torch", "fp16", 2e-2),
        ("torch-compiled", "fp32", 1e-3),
        ("torch-compiled", "fp16", 2e-2),
        ("published", "fp32", 1e-3),
        ("published-compiled", "autocast-fp16", 0.1),
    ],
)
def test_pytorch_computes_the_image_of_the_graph_on_a_gpu(
    gpu: Device, exported: Exported, backend: str, precision: str, limit: float
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a PyTorch with CUDA")
    case = Case((24, 24), (48, 48))
    right = load_model(target(exported.bundle)).call(case, "graph")()
    settings = SessionSettings(backend, "cuda", gpu.index, threads=1, precision=precision)
    model = load_model(replace(torch_target(exported, backend), settings=settings))
    assert model.measures == ("gpu",)
    output = model.call(case, "gpu")()
    assert isinstance(output, torch.Tensor)
    assert np.abs(output.float().cpu().numpy() - np.asarray(right)).max() < limit


class _NoCpuTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's own
    """Refuse operations that make or take arrays on the CPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            assert output.device.type == "meta" or output.ndim == 0, func
        return output


def test_compiled_pytorch_never_runs_uncompiled(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamo, "fail_on_recompile_limit_hit", False)
    monkeypatch.setattr(dynamo, "recompile_limit", 8)
    monkeypatch.setattr("torch.nn.Module.compile", lambda self, **options: None)
    load_model(torch_target(exported, "torch-compiled"))
    assert dynamo.fail_on_recompile_limit_hit
    assert dynamo.recompile_limit > 100


def test_pytorch_refuses_a_precision_that_it_does_not_have(exported: Exported) -> None:
    with pytest.raises(UsageError, match="fp32 with published, got fp16"):
        load_model(target(exported.bundle, "published", "fp16"))
    with pytest.raises(UsageError, match="fp32 or fp16 or bf16 with torch, got int8"):
        load_model(target(exported.bundle, "torch", "int8"))


def test_a_graph_that_the_bundle_lacks_is_refused(bundle: Path) -> None:
    with pytest.raises(BundleError, match="int8"):
        load_model(target(bundle, precision="int8"))


def test_on_a_gpu_arrays_can_stay_there(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []
    session = SimpleNamespace(
        run_device=seen.append, limits=None, provider="tensorrt", close=lambda: None
    )
    module = "flowsr_export.bench.targets"
    monkeypatch.setattr(SessionSettings, "start", lambda settings, bundle: session)
    monkeypatch.setattr(f"{module}._torch_has_gpu", lambda: True)
    monkeypatch.setattr(f"{module}._on_gpu", lambda array, place: f"{array.shape} on {place}")
    on_gpu = ModelTarget(bundle, None, None, SessionSettings("tensorrt", "cuda", 1))
    model = load_model(on_gpu)
    assert model.measures == ("gpu", "graph", "end-to-end")
    model.call(Case((8, 9), (16, 18)), "gpu")()
    assert seen[0]["input"] == "(1, 3, 8, 9) on cuda:1"
    assert isinstance(seen[0]["geometry"], np.ndarray)


def test_on_the_cpu_there_is_no_gpu_to_measure(exported: Exported) -> None:
    assert load_model(target(exported.bundle)).measures == ("graph", "end-to-end")
    assert load_model(torch_target(exported, "torch")).measures == ("graph",)


def test_odd_sides_are_padded_as_the_graph_wants(fourfold: Path) -> None:
    manifest = Bundle.open(fourfold).manifest
    case = Case((7, 9), (28, 36))
    assert graph_feeds(manifest, case)["input"].shape == (1, 3, 8, 10)


def test_memory_is_that_of_a_process_of_its_own(bundle: Path) -> None:
    memory = measure_memory(target(bundle), Case((8, 8), (16, 16)), "graph")
    assert memory.trouble is None
    assert memory.host_bytes is not None
    assert memory.libraries_bytes is not None
    assert memory.host_bytes > memory.libraries_bytes > 0


def test_a_model_that_does_not_load_has_no_memory(bundle: Path) -> None:
    broken = target(bundle, precision="int8")
    memory = measure_memory(broken, Case((8, 8), (16, 16)), "graph")
    assert (memory.host_bytes, memory.device_bytes) == (None, None)
    assert "int8" in str(memory.trouble)
    assert memory != Memory()


def test_the_machines_probes_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowsr_export.machine.probes.GEMM_SIDE", 16)
    monkeypatch.setattr("flowsr_export.machine.probes.COPIED_BYTES", 1 << 10)
    probes = probes_of(1, {"cpu"}, 0, "fp32")
    assert [probe.kind for probe in probes] == ["matmul", "matmul", "copy"]
    assert all(probe.run() is not None for probe in probes)
