"""Tests for a real GPU skip, with the reason, where there is nothing to run on."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from flowsr_runtime import Bundle, embedded_bundle
from flowsr_runtime.cuda.device import Device
from tests.doubles.rig import real_session

ROOT = Path(__file__).parents[2]
H100 = Device(0, "NVIDIA H100", "9.0", "13.0")
# What pytest is started by: a finder that hides libraries.
WITHOUT = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"tensorrt_rtx", "fastapi", "uvicorn", "httpx", "ray"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_gpu_tests_are_collected_without_the_libraries_of_extras() -> None:
    words = ["-q", "-m", "gpu", "--collect-only", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "test_a_real_engine_gives_what_onnx_runtime_gives" in done.stdout


def test_a_gpu_that_tensorrt_for_rtx_does_not_have_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rtx = SimpleNamespace(__version__="1.7", ComputeCapability=SimpleNamespace(SM89=0))
    bundle = Bundle.open(embedded_bundle())  # which imports on its way
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: name == "tensorrt_rtx" or None
    )
    monkeypatch.setattr(importlib, "import_module", lambda name: rtx)
    with pytest.raises(pytest.skip.Exception, match=r"tensorrt_rtx 1\.7 .* for SM90"):
        real_session(bundle, H100)


def test_without_any_tensorrt_it_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(pytest.skip.Exception, match="needs tensorrt or tensorrt_rtx"):
        real_session(Bundle.open(embedded_bundle()), H100)
