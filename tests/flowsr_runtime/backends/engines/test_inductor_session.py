"""Sessions of Inductor's engines: settings, refusals, and PyTorch imported when one opens."""

import subprocess
import sys

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
