"""Backend, provider and precision are chosen from the bundle and the machine, or named."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from flowsr_runtime.backends.session import SessionSettings, preferred_precision
from flowsr_runtime.bundle.directory import Bundle, write_bundle
from flowsr_runtime.errors import BundleError, IntegrityError, ProviderError, UsageError
from flowsr_runtime.upscaling.upscaler import Upscaler
from tests.doubles.rig import Rig
from tests.flowsr_runtime.conftest import BILINEAR

MakeBundle = Callable[..., Bundle]


@pytest.fixture
def holding(tmp_path: Path, manifest: dict[str, Any]) -> MakeBundle:
    """Write a bundle with a graph of each of some precisions; all of them compute the same."""

    def write(*precisions: str) -> Bundle:
        files = {f"model.{name}.onnx": {"precision": name} for name in precisions}
        contents = dict.fromkeys(files, BILINEAR)
        return write_bundle(tmp_path / "several", {**manifest, "files": files}, contents)

    return write


def present(monkeypatch: pytest.MonkeyPatch, *providers: str) -> None:
    """Give the installed ONNX Runtime some providers; none but the CPU's starts."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(providers))


def labels(bundle: Bundle, **options: Any) -> list[str]:
    """Return the candidates in words."""
    candidates = SessionSettings(**options).candidates(bundle)
    return [f"{one.backend} {one.provider}:{one.device} {one.precision}" for one in candidates]


@pytest.mark.parametrize(
    ("precisions", "on_gpu", "on_cpu"),
    [
        (("fp32",), "fp32", "fp32"),
        (("fp16",), "fp16", "fp16"),
        (("int8",), "int8", "int8"),
        (("fp32", "fp16"), "fp16", "fp32"),
        (("int8", "fp16", "fp32"), "fp16", "fp32"),
        (("fp32", "int8"), "fp32", "fp32"),
        (("fp16", "int8"), "fp16", "fp16"),
    ],
)
def test_the_precision_is_what_the_bundle_has(
    holding: MakeBundle, precisions: tuple[str, ...], on_gpu: str, on_cpu: str
) -> None:
    bundle = holding(*precisions)
    assert preferred_precision(bundle, on_gpu=True) == on_gpu
    assert preferred_precision(bundle, on_gpu=False) == on_cpu


def test_a_bundle_without_a_graph_has_no_precision(holding: MakeBundle) -> None:
    with pytest.raises(BundleError, match="several holds no model at all"):
        preferred_precision(holding(), on_gpu=False)


CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("options", "candidates"),
    [
        ({}, ["onnxruntime cuda:0 fp16", "onnxruntime cpu:0 fp32"]),
        ({"precision": "fp32"}, ["onnxruntime cuda:0 fp32", "onnxruntime cpu:0 fp32"]),
        ({"device": "cpu"}, ["onnxruntime cpu:0 fp32"]),
        ({"device": "cuda"}, ["onnxruntime cuda:0 fp16"]),
        ({"device": "cuda:1"}, ["onnxruntime cuda:1 fp16"]),
        ({"device": 1}, ["onnxruntime cuda:1 fp16"]),
        ({"provider": "cpu"}, ["onnxruntime cpu:0 fp32"]),
        ({"provider": "tensorrt", "device": "cuda:2"}, ["onnxruntime tensorrt:2 fp16"]),
        ({"backend": "onnxruntime"}, ["onnxruntime cpu:0 fp32"]),
        ({"backend": "onnxruntime", "device": "cuda"}, ["onnxruntime cuda:0 fp16"]),
        ({"backend": "tensorrt"}, ["tensorrt cuda:0 fp16"]),
        ({"backend": "tensorrt_rtx", "precision": "fp32"}, ["tensorrt_rtx cuda:0 fp32"]),
    ],
)
def test_what_is_named_is_taken_strictly(
    holding: MakeBundle,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    candidates: list[str],
) -> None:
    present(monkeypatch, CUDA, CPU)
    assert labels(holding("fp32", "fp16"), **options) == candidates


def test_an_engine_that_fits_the_device_is_taken_first(rig: Rig) -> None:
    rig.add()
    session, choice = SessionSettings().choose(rig.bundle)
    with closing(session):
        assert (session.backend, session.provider) == (rig.backend, "cuda")
    assert str(choice) == f"{rig.backend} cuda:0, fp32"
    assert choice.passed_over == {}


@pytest.mark.parametrize(
    ("options", "backend"),
    [({"threads": 1}, "onnxruntime"), ({"workers": 1}, "tensorrt")],
)
def test_a_setting_of_one_backend_alone_chooses_that_backend(
    eleven: Rig, options: dict[str, Any], backend: str
) -> None:
    eleven.add()
    candidates = SessionSettings(**options).candidates(eleven.bundle)
    assert {one.backend for one in candidates} == {backend}


def test_settings_of_two_backends_are_refused(eleven: Rig) -> None:
    eleven.add()
    with pytest.raises(UsageError, match="threads is for onnxruntime and openvino, got 2"):
        SessionSettings(threads=2, workers=2).candidates(eleven.bundle)


def test_an_engine_for_another_device_is_passed_over_with_the_reason(eleven: Rig) -> None:
    eleven.add(eleven.key(compute_capability=("12.0",)))
    session, choice = SessionSettings().choose(eleven.bundle)
    assert (session.backend, session.provider) == ("onnxruntime", "cpu")
    assert "compute_capability is 12.0" in choice.passed_over["tensorrt cuda:0, fp32"]
    with pytest.raises(BundleError, match=r"no engine of .*compute_capability is 12\.0"):
        SessionSettings("tensorrt").open(eleven.bundle)


def test_a_damaged_engine_is_not_hidden_by_another_backend(eleven: Rig) -> None:
    entry = eleven.add()
    (eleven.bundle.path / entry.name).write_bytes(b"no plan")
    with pytest.raises(IntegrityError, match="is damaged: 7 bytes"):
        SessionSettings().choose(eleven.bundle)


def test_a_provider_that_does_not_start_is_passed_over_and_stated(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    present(monkeypatch, CUDA, CPU)
    monkeypatch.setattr("flowsr_runtime.backends.session.count_gpus", lambda: 1)
    monkeypatch.setattr(onnxruntime, "InferenceSession", _without(CUDA))
    session, choice = SessionSettings().choose(bundle)
    assert session.provider == "cpu"
    assert "cuda did not start" in choice.passed_over["onnxruntime cuda:0, fp32"]
    with pytest.raises(ProviderError, match="cuda did not start on device 0"):
        SessionSettings(device="cuda").choose(bundle)


def test_cuda_is_not_tried_where_the_driver_shows_no_gpu(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    present(monkeypatch, CUDA, CPU)
    monkeypatch.setattr("flowsr_runtime.backends.session.count_gpus", lambda: 0)
    session, choice = SessionSettings().choose(bundle)
    assert session.provider == "cpu"
    reason = "the NVIDIA driver shows no GPU, or is not installed"
    assert choice.passed_over == {"onnxruntime cuda:0, fp32": reason}


def test_a_gpu_that_is_named_is_not_replaced_by_the_processor(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    present(monkeypatch, CPU)
    for device in ("cuda", "cuda:1", 1):
        with pytest.raises(ProviderError, match="provider cuda is not in the installed"):
            Upscaler.open(bundle, device=device)


def test_an_upscaler_says_how_it_runs(bundle: Bundle, photo: NDArray[np.uint8]) -> None:
    with Upscaler.open(bundle, device="cpu") as chosen, Upscaler.open(bundle) as usual:
        assert repr(chosen) == "<Upscaler own: onnxruntime cpu, fp32>"
        assert chosen.choice is not None
        assert chosen.choice.as_dict() == {
            "backend": "onnxruntime",
            "provider": "cpu",
            "device": 0,
            "precision": "fp32",
            "passed_over": {},
            "self_test": "not tested: the bundle holds no golden pair",
        }
        np.testing.assert_array_equal(chosen.upscale(photo, 2), usual.upscale(photo, 2))


def _without(provider: str) -> Any:
    """Return a class of sessions that refuse one provider."""
    original = onnxruntime.InferenceSession

    def make(model: bytes, *, providers: list[Any], **options: Any) -> Any:
        if any(provider in item for item in providers):
            raise RuntimeError("no CUDA-capable device is detected")
        return original(model, providers=providers, **options)

    return make
