"""Sessions check their settings, and name missing libraries."""

import re
import sys
from typing import Any

import pytest
from cuda.bindings import runtime as cudart

from flowsr_runtime.backends.session import open_session
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.errors import BackendError, ProviderError, UsageError
from flowsr_runtime.installation import pip_command
from tests.doubles.rig import Rig


def test_a_session_says_what_it_runs_on(bundle: Bundle) -> None:
    session = open_session(bundle)
    assert (session.backend, session.provider, session.device) == ("onnxruntime", "cpu", 0)


def test_an_unknown_backend_is_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=r"backend must be one of auto, onnx.* got 'caffe'"):
        open_session(bundle, backend="caffe")


def test_each_flavour_of_tensorrt_is_opened(rig: Rig) -> None:
    rig.add()
    session = open_session(rig.bundle, backend=rig.backend, workers=2, cuda_graphs=3)
    assert (session.backend, session.provider, session.device) == (rig.backend, "cuda", 0)
    session.close()


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx"])
def test_tensorrt_without_cuda_bindings_names_the_remedy(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    for name in (
        "backends.engines.tensorrt_session",
        "backends.engines.tensorrt_engine",
        "cuda.device",
        "cuda.device_array",
    ):
        monkeypatch.delitem(sys.modules, f"flowsr_runtime.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    remedy = f"cuda-bindings is not installed; {pip_command(backend.replace('_', '-'))}"
    with pytest.raises(BackendError, match=re.escape(remedy)):
        open_session(bundle, backend=backend)


def test_tensorrt_that_is_not_installed_names_the_remedy(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match="tensorrt is not installed; pip install"):
        open_session(bundle, backend="tensorrt")


def test_a_missing_library_names_the_remedy(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(
        sys.modules, "flowsr_runtime.backends.onnxruntime_session", raising=False
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    remedy = f"onnxruntime is not installed; {pip_command('cpu')}"
    with pytest.raises(BackendError, match=re.escape(remedy)):
        open_session(bundle)


def test_a_missing_openvino_names_the_remedy(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "flowsr_runtime.backends.openvino_session"
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    remedy = f"openvino is not installed; {pip_command('openvino')}"
    with pytest.raises(BackendError, match=re.escape(remedy)) as error:
        open_session(bundle, backend="openvino")
    assert error.value.exit_code == 4


def test_a_broken_library_says_why(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flowsr_runtime.backends.onnxruntime_session", None)
    with pytest.raises(BackendError, match="onnxruntime cannot be loaded: import of flowsr_"):
        open_session(bundle)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"threads": 1.5}, r"threads must be a whole number, got 1\.5"),
        ({"device": -1}, "device must be at least 0, got -1"),
        ({"device": 0.5}, r"device must be a whole number, got 0\.5"),
        ({"device": "gpu"}, "device must be cpu, cuda, cuda:N or a GPU index, got 'gpu'"),
        ({"device": "cuda:x"}, "device must be cpu, cuda, cuda:N .*, got 'cuda:x'"),
        ({"device": "cpu", "provider": "cuda"}, "a GPU with provider cuda, got 'cpu'"),
        ({"device": "cpu", "backend": "tensorrt"}, "a GPU with backend tensorrt, got 'cpu'"),
        ({"device": "cuda:1", "provider": "cpu"}, "cpu with provider cpu, got 'cuda:1'"),
        ({"device": 1, "provider": "cpu"}, "device must be 0 with provider cpu, got 1"),
        ({"cuda_graphs": -1}, "cuda_graphs must be at least 0, got -1"),
        ({"cuda_graphs": 2}, "cuda_graphs is for cuda and tensorrt, got 2"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"workers": 2}, "workers is for tensorrt, got 2"),
        ({"backend": "tensorrt", "provider": "cpu"}, "cuda with backend tensorrt, got 'cpu'"),
        (
            {"backend": "tensorrt", "threads": 2},
            "threads is for .* openvino, got 2",
        ),
        ({"convolution_search": "fast"}, "one of heuristic, exhaustive, got 'fast'"),
        ({"provider": "cpu", "tf32": True}, "tf32 is for provider cuda, got cpu"),
        ({"backend": "openvino", "tf32": True}, "tf32 is for provider cuda, got openvino"),
        ({"provider": "rocm"}, "provider must be one of cpu, cuda, .* got 'rocm'"),
    ],
)
def test_a_bad_argument_is_refused(
    bundle: Bundle, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_session(bundle, **options)


@pytest.mark.skipif(int(cudart.cudaGetDeviceCount()[0]) == 0, reason="there is a GPU")
def test_the_real_library_without_a_gpu_says_that_there_is_none(bundle: Bundle) -> None:
    with pytest.raises(
        ProviderError, match=r"no usable NVIDIA driver: .*; install or update it"
    ):
        open_session(bundle, backend="tensorrt_rtx")
