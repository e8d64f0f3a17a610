"""A machine with TensorRT and a bundle with engines, simulated by the doubles."""

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_runtime.backends.engines.tensorrt_session import TensorrtSession
from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.bundle.engine_store import (
    FLAVOURS,
    EngineEntry,
    EngineKey,
    EngineStore,
    Range,
)
from flowsr_runtime.cuda import device as device_module
from flowsr_runtime.cuda.device import Device
from flowsr_runtime.geometry import Window
from tests.doubles.builds import build, changed
from tests.doubles.cuda_runtime import FakeCuda, Gpu
from tests.doubles.trt_module import fake_tensorrt

__all__ = [
    "ALL",
    "Rig",
    "SMALL",
    "TOLERANCE",
    "WIDE",
    "expected",
    "feeds_of",
    "profile",
    "real_session",
]

TOLERANCE = 1e-6  # one graph on one library, once by itself and once through the double
ALL = ["tensorrt-10", "tensorrt-11", "tensorrt-rtx"]


def profile(least: int, most: int, batch: int = 2) -> dict[str, Range]:
    """Return a profile for pictures of some sides, any scale up to 64."""
    opt = (least + most) // 2
    return {
        "input": Range((1, 3, least, least), (1, 3, opt, opt), (batch, 3, most, most)),
        "geometry": Range((1,) * 4 + (0,) * 4 + (1,) * 2, (8,) * 10, (4096,) * 10),
    }


SMALL, WIDE = profile(1, 16), profile(2, 64)
RANGES = {name: (each.min, each.opt, each.max) for name, each in WIDE.items()}


def feeds_of(
    height: int, width: int, scale: int = 2, batch: int = 1, salt: int = 0
) -> dict[str, NDArray[Any]]:
    """Return a noise image and the geometry of the whole image."""
    rng = np.random.default_rng(salt)
    picture = rng.random((batch, 3, height, width), dtype=np.float32)
    window = Window.whole((height, width), (height * scale, width * scale))
    return {"input": picture, "geometry": window.geometry()}


def expected(bundle: Bundle, feeds: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return the result of ONNX Runtime."""
    return OnnxRuntimeSession.open(bundle).run(feeds)


class Rig:
    """A version of TensorRT, GPUs, and a bundle to put engines into.

    Attributes:
        module: The double of the library.
        cuda: The double of CUDA's runtime.
        bundle: The bundle.
        store: Its engines.
        backend: Name of the library.
    """

    def __init__(
        self,
        variant: str,
        bundle: Bundle,
        monkeypatch: pytest.MonkeyPatch,
        gpus: Iterable[Gpu] = (Gpu(name="NVIDIA L4"),),
    ) -> None:
        self.cuda = FakeCuda(*gpus)
        self.module = fake_tensorrt(variant, self.cuda)
        self.backend = str(self.module.__name__)
        self.bundle, self.store = bundle, EngineStore(bundle.path)
        monkeypatch.setattr(device_module, "cudart", self.cuda)
        monkeypatch.setitem(sys.modules, self.backend, self.module)

    def key(self, *profiles: Any, **changes: Any) -> EngineKey:
        """Return the key of an engine of the bundle's model for the first GPU."""
        fields: dict[str, Any] = {
            "onnx_sha256": self.bundle.manifest.files["model.fp32.onnx"].sha256,
            "flavour": self.backend,
            "version": self.module.__version__,
            "compute_capability": ("8.9",),
            "gpu_name": None,
            "precision": "fp32",
            "profiles": profiles or (SMALL, WIDE),
            "options": {},
        }
        return EngineKey(**{**fields, **changes})

    def add(self, key: EngineKey | None = None, **facts: Any) -> EngineEntry:
        """Build an engine and put it into the store; facts only change the plan."""
        key = self.key() if key is None else key
        ranges = [
            {name: (each.min, each.opt, each.max) for name, each in item.items()}
            for item in key.profiles
        ]
        plan, heard = build(self.module, self.bundle.model_bytes(), *ranges)
        assert plan is not None, heard.said()
        return self.store.add(key, changed(plan, capabilities=["8.9"], **facts), {})

    def open(self, **options: Any) -> TensorrtSession:
        """Open a session on the bundle."""
        return TensorrtSession.open(self.bundle, backend=self.backend, **options)


def real_session(bundle: Bundle, gpu: Device, **options: Any) -> TensorrtSession:
    """Build an engine with the installed library for the GPU of this machine, and open it.

    The test is skipped where no library is installed that builds for this GPU.
    """
    found = [importlib.util.find_spec(name) for name in FLAVOURS]
    names = [name for name, spec in zip(FLAVOURS, found, strict=True) if spec is not None]
    if not names:
        pytest.skip(f"needs {' or '.join(FLAVOURS)}, none is installed")
    module = importlib.import_module(names[0])
    device = f"SM{gpu.compute_capability.replace('.', '')}"
    if names[0] == "tensorrt_rtx" and not hasattr(module.ComputeCapability, device):
        pytest.skip(f"tensorrt_rtx {module.__version__} does not build for {device}")
    capabilities = {"tensorrt": ()}.get(names[0], (device,))
    plan, heard = build(module, bundle.model_bytes(), RANGES, capabilities=capabilities)
    assert plan is not None, heard.said()
    key = EngineKey(
        onnx_sha256=bundle.manifest.files["model.fp32.onnx"].sha256,
        flavour=names[0],
        version=module.__version__,
        compute_capability=(gpu.compute_capability,),
        gpu_name=None,
        precision="fp32",
        profiles=(WIDE,),
        options={},
    )
    EngineStore(bundle.path).add(key, plan, {})
    return TensorrtSession.open(bundle, backend=names[0], device=gpu.index, **options)
