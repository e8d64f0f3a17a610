"""ONNX Runtime runs on exactly the requested provider."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from flowsr_runtime.backends import onnxruntime_session
from flowsr_runtime.backends.cores import usable_cores
from flowsr_runtime.backends.cuda_provider import CudaOptions
from flowsr_runtime.backends.engine_cache import remove_unrecorded
from flowsr_runtime.backends.onnxruntime_session import (
    PROVIDERS,
    OnnxRuntimeSession,
)
from flowsr_runtime.backends.session import SessionSettings
from flowsr_runtime.bundle.directory import Bundle, write_bundle
from flowsr_runtime.cuda.graph_cache import GraphCounters
from flowsr_runtime.errors import (
    BundleError,
    IntegrityError,
    MemoryBudgetError,
    ProviderError,
    UsageError,
)
from flowsr_runtime.geometry import Window
from flowsr_runtime.installation import pip_command
from tests.doubles.rig import feeds_of
from tests.flowsr_runtime.conftest import BILINEAR

Feeds = dict[str, Any]


@pytest.fixture
def feeds() -> Feeds:
    picture = np.linspace(0, 1, 2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    return {"input": picture, "geometry": Window.whole((4, 5), (4, 5)).geometry()}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes ONNX Runtime claim a provider that it does not have."""

    def claim(provider: str) -> None:
        names = [PROVIDERS[provider], PROVIDERS["cpu"]]
        monkeypatch.setattr(ort, "get_available_providers", lambda: names)

    return claim


def test_a_batch_is_run(bundle: Bundle, feeds: Feeds) -> None:
    session = OnnxRuntimeSession.open(bundle)
    output = session.run(feeds)
    assert session.graph_counters == GraphCounters()
    assert output.dtype == np.float32
    np.testing.assert_allclose(output, feeds["input"], atol=1e-6)


def test_a_flipped_byte_never_reaches_the_runtime(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle.path / "model.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    monkeypatch.setattr(ort, "InferenceSession", None)
    with pytest.raises(IntegrityError, match=r"model\.fp32\.onnx is damaged"):
        OnnxRuntimeSession.open(bundle)


def test_what_is_no_model_is_refused(tmp_path: Path, manifest: dict[str, Any]) -> None:
    bundle = write_bundle(tmp_path / "b", manifest, {"model.fp32.onnx": b"no model"})
    with pytest.raises(BundleError, match=r"^onnxruntime cannot load .*fp32\.onnx: [^\n]*$"):
        OnnxRuntimeSession.open(bundle)


def test_a_model_with_other_inputs_is_refused(
    tmp_path: Path, manifest: dict[str, Any], bundle: Bundle
) -> None:
    manifest["latents"] = [{"name": "latent", "channels": 27, "patch": 3}]
    other = write_bundle(tmp_path / "b", manifest, {"model.fp32.onnx": bundle.path_of()})
    message = (
        r"takes \['geometry', 'input'\], bundle\.json says \['geometry', 'input', 'latent'"
    )
    with pytest.raises(BundleError, match=message):
        OnnxRuntimeSession.open(other)


@pytest.mark.parametrize(
    ("provider", "remedy"),
    [
        ("cuda", re.escape(pip_command("gpu"))),
        ("tensorrt", "TensorRT 10"),
        ("openvino", "pip install onnxruntime-openvino"),
    ],
)
def test_a_missing_provider_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, provider: str, remedy: str
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [PROVIDERS["cpu"]])
    message = f"provider {provider} is not in the installed onnxruntime; .*{remedy}"
    with pytest.raises(ProviderError, match=message):
        OnnxRuntimeSession.open(bundle, provider=provider)
    assert not (bundle.path / "engines").exists()


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "openvino"])
def test_a_provider_that_does_not_start_is_refused(
    bundle: Bundle,
    install: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
) -> None:
    install(provider)
    real = ort.InferenceSession

    def fall_back(model: bytes, *, providers: list[Any], **options: Any) -> Any:
        return real(model, providers=[PROVIDERS["cpu"]], **options)

    monkeypatch.setattr(ort, "InferenceSession", fall_back)
    with pytest.raises(ProviderError, match=f"provider {provider} did not start on device 0"):
        OnnxRuntimeSession.open(bundle, provider=provider)


def test_a_device_that_would_not_be_taken_is_refused(
    bundle: Bundle, install: Callable[[str], None]
) -> None:
    install("openvino")
    with pytest.raises(UsageError, match="device must be 0 with provider openvino, got 1"):
        OnnxRuntimeSession.open(bundle, provider="openvino", device=1)


def test_a_provider_that_fails_to_start_is_refused(
    bundle: Bundle, install: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise onnxruntime_session._STATE.Fail("CUDA failure 35:\n driver too old")

    install("cuda")
    monkeypatch.setattr(ort, "InferenceSession", fail)
    message = "cuda did not start on device 0: CUDA failure 35: driver too old"
    with pytest.raises(ProviderError, match=message):
        OnnxRuntimeSession.open(bundle, provider="cuda")


def test_the_options_are_those_of_a_quiet_frugal_session(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, Any]] = []
    real = ort.InferenceSession

    def spy(model: bytes, **options: Any) -> Any:
        seen.append((options["sess_options"], options["enable_fallback"]))
        return real(model, **options)

    monkeypatch.setattr(ort, "InferenceSession", spy)
    OnnxRuntimeSession.open(bundle)
    OnnxRuntimeSession.open(bundle, threads=3)
    assert [options.intra_op_num_threads for options, _ in seen] == [usable_cores(), 3]
    assert seen[0][0].inter_op_num_threads == 1
    assert seen[0][0].log_severity_level == 4
    assert not seen[0][0].enable_mem_pattern
    assert seen[0][1] == 0


def options_of(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, **wanted: Any
) -> dict[str, dict[str, str]]:
    """Return the options that each provider would get; none of them starts."""
    seen: dict[str, dict[str, str]] = {}

    def spy(model: bytes, *, providers: list[Any], **options: Any) -> Any:
        seen.update(each for each in providers if isinstance(each, tuple))
        raise onnxruntime_session._STATE.Fail("no GPU")

    monkeypatch.setattr(ort, "InferenceSession", spy)
    with pytest.raises(ProviderError, match="did not start on device 0: no GPU"):
        OnnxRuntimeSession.open(bundle, **wanted)
    return seen


@pytest.mark.parametrize(
    ("precision", "options", "due"),
    [
        ("fp32", {}, {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}),
        ("fp32", {"tf32": True}, {"use_tf32": "1"}),
        ("int8", {}, {"use_tf32": "0", "prefer_nhwc": None}),
        ("fp16", {}, {"use_tf32": "1", "prefer_nhwc": "1"}),
        ("bf16", {}, {"use_tf32": "1", "prefer_nhwc": None}),
        ("fp32", {"search": "exhaustive"}, {"cudnn_conv_algo_search": "EXHAUSTIVE"}),
        ("fp32", {"memory": 2**30}, {"gpu_mem_limit": "1073741824", "prefer_nhwc": None}),
        ("fp32", {}, {"gpu_mem_limit": None, "enable_cuda_graph": None, "device_id": "0"}),
    ],
)
def test_cuda_gets_the_options_of_the_precision(
    tmp_path: Path,
    manifest: dict[str, Any],
    install: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    options: dict[str, Any],
    due: dict[str, str | None],
) -> None:
    name = f"model.{precision}.onnx"
    manifest["files"] = {name: {"precision": precision}}
    bundle = write_bundle(tmp_path / "b", manifest, {name: BILINEAR})
    install("cuda")
    wanted = {"provider": "cuda", "precision": precision, "cuda": CudaOptions(**options)}
    found = options_of(bundle, monkeypatch, **wanted)[PROVIDERS["cuda"]]
    assert {key: found.get(key) for key in due} == due
    assert all(isinstance(value, str) for value in found.values())


def test_the_settings_of_a_session_reach_cuda(
    bundle: Bundle, install: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("cuda")
    seen: list[CudaOptions] = []
    monkeypatch.setattr(
        OnnxRuntimeSession, "open", lambda bundle, **options: seen.append(options["cuda"])
    )
    settings: dict[str, Any] = {
        "tf32": True,
        "convolution_search": "exhaustive",
        "gpu_memory": 3 << 30,
    }
    SessionSettings("onnxruntime", "cuda", precision="fp32", **settings).start(bundle)
    assert seen == [CudaOptions(tf32=True, search="exhaustive", memory=3 << 30)]


@pytest.mark.parametrize(
    "message",
    [
        "NOT_IMPLEMENTED : Could not find an implementation for Conv(11) node",
        "libcudnn.so.9: cannot open shared object file: No such file or directory",
    ],
)
def test_a_missing_cudnn_ends_with_the_remedy(
    bundle: Bundle,
    install: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    message: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise onnxruntime_session._STATE.NotImplemented(message)

    install("cuda")
    monkeypatch.setattr(ort, "InferenceSession", fail)
    words = "cuda did not start on device 0: cuDNN 9 is missing .* nvidia-cudnn-cu13"
    with pytest.raises(ProviderError, match=words) as error:
        OnnxRuntimeSession.open(bundle, provider="cuda")
    assert error.value.exit_code == 4


def test_a_cudnn_that_is_missed_during_a_run_ends_with_the_remedy(bundle: Bundle) -> None:
    def fail(*_: object) -> None:
        raise onnxruntime_session._STATE.NotImplemented("Conv: cuDNN is not available")

    session = OnnxRuntimeSession.open(bundle)
    session.provider, session._session = "cuda", SimpleNamespace(run=fail)
    with pytest.raises(ProviderError, match="cuda failed: cuDNN 9 is missing"):
        session.run({})


def test_the_lines_of_the_library_itself_are_kept_off_while_it_loads(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int | str] = []
    real = ort.InferenceSession

    def load(*arguments: Any, **options: Any) -> Any:
        heard.append("load")
        return real(*arguments, **options)

    monkeypatch.setattr(ort, "set_default_logger_severity", heard.append)
    monkeypatch.setattr(ort, "InferenceSession", load)
    OnnxRuntimeSession.open(bundle)
    assert heard == [4, "load", 2]


def test_tensorrt_keeps_its_engines_in_the_bundle(
    bundle: Bundle, install: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("tensorrt")
    found = options_of(bundle, monkeypatch, provider="tensorrt")[PROVIDERS["tensorrt"]]
    digest = bundle.manifest.files["model.fp32.onnx"].sha256
    folder = bundle.path / "engines" / "ort-tensorrt" / f"{digest[:12]}-{ort.__version__}"
    assert folder.is_dir()
    assert found["trt_engine_cache_enable"] == found["trt_timing_cache_enable"] == "1"
    assert found["trt_engine_cache_path"] == found["trt_timing_cache_path"] == str(folder)
    assert "trt_cuda_graph_enable" not in found


def test_an_engine_that_was_changed_never_reaches_onnx_runtime(
    bundle: Bundle, install: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("tensorrt")
    found = options_of(bundle, monkeypatch, provider="tensorrt")[PROVIDERS["tensorrt"]]
    engine = Path(found["trt_engine_cache_path"]) / "kernel_sm89.engine"
    engine.write_bytes(b"nobody saw this")
    options_of(bundle, monkeypatch, provider="tensorrt")
    assert not engine.exists()


def test_closing_seals_the_engines(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "kernel.engine").write_bytes(b"engine")
    session = OnnxRuntimeSession(
        bundle.model_bytes(),
        provider="cpu",
        device=0,
        threads=None,
        name="model",
        engine_cache=tmp_path,
    )
    session.close()
    assert remove_unrecorded(tmp_path) == []
    assert (tmp_path / "kernel.engine").read_bytes() == b"engine"


def test_engines_that_cannot_be_kept_are_said_so(
    bundle: Bundle,
    install: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (bundle.path / "engines").write_bytes(b"no folder")
    install("tensorrt")
    found = options_of(bundle, monkeypatch, provider="tensorrt")[PROVIDERS["tensorrt"]]
    assert found == {"device_id": "0"}
    assert "engines are not cached: " in caplog.text


@pytest.mark.parametrize(
    ("provider", "option"),
    [("cuda", "enable_cuda_graph"), ("tensorrt", "trt_cuda_graph_enable")],
)
def test_cuda_graphs_are_enabled_where_they_were_asked_for(
    bundles: dict[str, Bundle],
    install: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
    option: str,
) -> None:
    monkeypatch.setattr(onnxruntime_session, "_engine_cache", lambda *_: None)
    install(provider)
    fixed = bundles["fixed"]
    found = options_of(fixed, monkeypatch, provider=provider, cuda_graphs=2)
    assert found[PROVIDERS[provider]][option] == "1"
    assert option not in options_of(fixed, monkeypatch, provider=provider)[PROVIDERS[provider]]


@pytest.mark.parametrize(
    ("name", "provider", "message"),
    [
        ("bilinear", "cuda", "cuda_graphs needs size-fixed graphs with onnxruntime"),
        ("fixed", "cpu", "cuda_graphs is for cuda and tensorrt, got 2 with provider cpu"),
    ],
)
def test_cuda_graphs_that_cannot_be_captured_are_refused(
    bundles: dict[str, Bundle],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    provider: str,
    message: str,
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [*PROVIDERS.values()])
    with pytest.raises(UsageError, match=message):
        OnnxRuntimeSession.open(bundles[name], provider=provider, cuda_graphs=2)


def test_memory_that_runs_out_is_a_budget_error(bundles: dict[str, Bundle]) -> None:
    session = OnnxRuntimeSession.open(bundles["huge"])
    with pytest.raises(MemoryBudgetError, match="cpu ran out of memory; give a smaller"):
        session.run(feeds_of(1, 1, 1))


@pytest.mark.parametrize(
    "words",
    [
        "Failed to allocate memory for requested buffer of size 12",
        "CUDA error 2: out of memory",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "Available memory of 3 is smaller than requested bytes of 4",
        "std::bad_alloc",
    ],
)
def test_every_wording_of_a_failed_allocation_is_known(bundle: Bundle, words: str) -> None:
    def fail(*_: object) -> None:
        raise onnxruntime_session._STATE.RuntimeException(words)

    session = OnnxRuntimeSession.open(bundle)
    session._session = SimpleNamespace(run=fail)
    with pytest.raises(MemoryBudgetError, match="ran out of memory"):
        session.run({})


def test_another_failure_is_one_line_and_a_closed_session_refused(
    bundle: Bundle, feeds: Feeds
) -> None:
    session = OnnxRuntimeSession.open(bundle)
    with pytest.raises(ProviderError, match=r"^cpu failed: [^\n]*rank[^\n]*$"):
        session.run({**feeds, "input": feeds["input"][0]})
    session.close()
    with pytest.raises(UsageError, match="the session is closed"):
        session.run(feeds)


def test_a_system_without_more_threads_is_named(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise onnxruntime_session._STATE.RuntimeException(
            "pthread_create failed, error code: 11 error msg: Resource temporarily unavailable"
        )

    monkeypatch.setattr(ort, "InferenceSession", fail)
    with pytest.raises(MemoryBudgetError, match="the system allows no more threads"):
        OnnxRuntimeSession.open(bundle)
