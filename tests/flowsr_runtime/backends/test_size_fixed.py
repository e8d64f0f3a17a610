"""Runs of a size-fixed graph's size are computed by it, and all others by the main graph."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from flowsr_runtime.backends.onnxruntime_session import PROVIDERS, OnnxRuntimeSession
from flowsr_runtime.backends.session import open_session
from flowsr_runtime.bundle.directory import Bundle, write_bundle
from flowsr_runtime.errors import IntegrityError, UsageError
from flowsr_runtime.geometry import Window
from flowsr_runtime.upscaling.upscaler import Upscaler
from tests.flowsr_runtime.conftest import BILINEAR, FIXED, MANIFEST

FILE = "model.fp32.x2.5x4.onnx"
GRAPH = {"file": FILE, "precision": "fp32", "scale": "2", "lr_size": [4, 5], "batch": 1}


@pytest.fixture
def sized(tmp_path: Path) -> Bundle:
    """A bilinear bundle whose graph for 5x4 at x2 takes the nearest pixel instead."""
    manifest = {**MANIFEST, "graphs": [GRAPH]}
    manifest["files"] = {**MANIFEST["files"], FILE: {"opset": 18}}
    files = {"model.fp32.onnx": BILINEAR, FILE: FIXED}
    return write_bundle(tmp_path / "sized", manifest, files)


def feeds(lr: tuple[int, int], size: tuple[int, int], batch: int = 1) -> dict[str, Any]:
    count = batch * 3 * lr[0] * lr[1]
    rgb = np.linspace(0, 1, count, dtype=np.float32).reshape(batch, 3, *lr)
    return {"input": rgb, "geometry": Window.whole(lr, size).geometry()}


def nearest(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    return rgb.repeat(2, axis=2).repeat(2, axis=3)


def test_a_run_of_its_size_takes_the_size_fixed_graph(sized: Bundle) -> None:
    session, run = OnnxRuntimeSession.open(sized), feeds((4, 5), (8, 10))
    assert session.graph_for(run) == FILE
    np.testing.assert_array_equal(session.run(run), nearest(run["input"]))
    session.close()


@pytest.mark.parametrize("size", [(8, 10), (12, 15)])
def test_openvino_takes_it_for_its_size_alone(sized: Bundle, size: tuple[int, int]) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed; extra [openvino]")
    other = open_session(sized, backend="openvino", self_test=False)
    session, run = OnnxRuntimeSession.open(sized), feeds((4, 5), size)
    assert other.graph_for(run) == session.graph_for(run)  # type: ignore[attr-defined]
    np.testing.assert_allclose(other.run(run), session.run(run), atol=1e-6)
    other.close()


OTHERS = {
    "another size": feeds((5, 4), (10, 8)),
    "another scale": feeds((4, 5), (12, 15)),
    "another batch": feeds((4, 5), (8, 10), 2),
    "a tile": {
        **feeds((4, 5), (8, 10)),
        "geometry": np.array([8, 5, 16, 10, 4, 0, 8, 0, 8, 10]),
    },
}


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_run_takes_the_graph_of_any_size(
    sized: Bundle, bundle: Bundle, name: str
) -> None:
    session, plain = OnnxRuntimeSession.open(sized), OnnxRuntimeSession.open(bundle)
    assert session.graph_for(OTHERS[name]) is None
    np.testing.assert_array_equal(session.run(OTHERS[name]), plain.run(OTHERS[name]))


def test_arrays_on_a_device_take_the_size_fixed_graph_too(sized: Bundle) -> None:
    session, run = OnnxRuntimeSession.open(sized), feeds((4, 5), (8, 10))
    lent = {**run, "input": torch.from_numpy(run["input"])}
    result = session.run_device(lent).numpy()
    np.testing.assert_array_equal(result, nearest(run["input"]))


def test_the_model_is_read_when_its_size_first_runs(sized: Bundle) -> None:
    session = OnnxRuntimeSession.open(sized)
    (sized.path / FILE).write_bytes(b"damaged")
    session.run(OTHERS["another size"])
    with pytest.raises(IntegrityError, match=f"{FILE} is damaged"):
        session.run(feeds((4, 5), (8, 10)))


def test_threads_load_the_model_once(sized: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    session, run = OnnxRuntimeSession.open(sized), feeds((4, 5), (8, 10))
    read: list[str] = []
    load = Bundle.read

    def recorded(bundle: Bundle, name: str) -> bytes:
        read.append(name)
        return load(bundle, name)

    monkeypatch.setattr(Bundle, "read", recorded)
    threads = [threading.Thread(target=session.run, args=(run,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [FILE]


def test_a_picture_of_its_size_is_upscaled_by_it(sized: Bundle) -> None:
    rgb = feeds((4, 5), (8, 10))["input"]
    with Upscaler.open(sized, backend="onnxruntime") as upscaler:
        output = upscaler.upscale(np.ascontiguousarray(rgb[0].transpose(1, 2, 0)), 2)
    np.testing.assert_array_equal(output, nearest(rgb)[0].transpose(1, 2, 0))


Opened = list[tuple[bytes, dict[str, Any]]]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Models and CUDA options of sessions, on a double of the CUDA provider on the CPU."""
    sessions: Opened = []
    real = ort.InferenceSession

    def start(model: bytes, providers: list[Any], **options: Any) -> Any:
        sessions.append((model, dict(one for one in providers if isinstance(one, tuple))))
        session = real(model, providers=["CPUExecutionProvider"], **options)
        session.get_providers = lambda: [PROVIDERS["cuda"]]
        return session

    monkeypatch.setattr(ort, "InferenceSession", start)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [*PROVIDERS.values()])
    return sessions


def test_cuda_graphs_are_of_size_fixed_graphs_alone(sized: Bundle, opened: Opened) -> None:
    session = OnnxRuntimeSession.open(sized, provider="cuda", cuda_graphs=2)
    run = feeds((4, 5), (8, 10))
    np.testing.assert_array_equal(session.run(run), nearest(run["input"]))
    session.run(OTHERS["another size"])
    captured = [
        (model, options[PROVIDERS["cuda"]].get("enable_cuda_graph"))
        for model, options in opened
    ]
    assert captured == [(BILINEAR, None), (FIXED, "1")]
    assert session.graph_counters.plain == 1


def test_cuda_graphs_on_a_cpu_are_refused_at_once(sized: Bundle) -> None:
    with pytest.raises(UsageError, match="cuda_graphs is for cuda and tensorrt, got 2"):
        OnnxRuntimeSession.open(sized, cuda_graphs=2)


def test_another_precision_has_no_such_graph(sized: Bundle) -> None:
    assert [graph.file for graph in sized.size_fixed("fp32")] == [FILE]
    assert sized.size_fixed("fp16") == []
