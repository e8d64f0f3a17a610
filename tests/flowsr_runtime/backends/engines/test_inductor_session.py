"""Sessions of Inductor's engines: settings, refusals, and PyTorch imported when one opens."""

import subprocess
import sys
from typing import Any

import pytest

from flowsr_runtime import Bundle, BundleError, ProviderError, SessionSettings, UsageError

PROGRAM = """
import sys, flowsr_runtime
from flowsr_runtime import Bundle, SessionSettings, embedded_bundle
SessionSettings().candidates(Bundle.open(embedded_bundle()))
print("torch" in sys.modules)
"""


def test_the_runtime_imports_pytorch_only_when_an_engine_of_it_is_opened() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("provider", ["tensorrt", "openvino"])
def test_providers_of_onnx_runtime_are_refused(provider: str) -> None:
    message = f"provider must be cpu or cuda with inductor, got '{provider}'"
    with pytest.raises(UsageError, match=message):
        SessionSettings("inductor", provider).check()


def test_a_bundle_without_an_engine_tells_what_to_build(bundle: Bundle) -> None:
    pytest.importorskip("torch")
    with pytest.raises(BundleError, match=r"has no engine of .* holds no engine") as caught:
        SessionSettings("inductor").open(bundle)
    assert caught.value.build is not None
    assert caught.value.build["device"] == "cpu"


def test_a_gpu_that_pytorch_does_not_have_is_refused(bundle: Bundle) -> None:
    torch = pytest.importorskip("torch")
    index = torch.cuda.device_count() + 7
    with pytest.raises(ProviderError, match=f"cuda:{index} is not usable: PyTorch"):
        SessionSettings("inductor", "cuda", index, precision="fp32").open(bundle)


@pytest.mark.parametrize("way", ["run", "run_device"])
def test_each_run_has_the_threads_of_its_session(
    way: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from flowsr_runtime.backends.engines import inductor_session

    class Selection:
        """One engine for every run."""

        entries = (None,)

        def __init__(self, *_: Any) -> None:
            pass

        def choose(self, _: Any) -> tuple[None, int]:
            return None, 0

    class Engine:
        """An engine that returns the threads it runs with."""

        def run(self, *_: Any) -> int:
            return int(torch.get_num_threads())

        def run_device(self, *_: Any, out: Any) -> int:
            return int(torch.get_num_threads())

    monkeypatch.setattr(inductor_session, "EngineSelection", Selection)
    monkeypatch.setattr(inductor_session.InductorSession, "_load", lambda self, entry: Engine())
    before = torch.get_num_threads()
    try:
        one, three = (
            inductor_session.InductorSession.open(bundle, threads=threads) for threads in (1, 3)
        )
        found = [getattr(session, way)({}) for session in (one, three, one)]
    finally:
        torch.set_num_threads(before)
    assert found == [1, 3, 1]
