"""Bundles with a golden pair, and providers that compute something else."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession
from flowsr_runtime.bundle.directory import Bundle, write_bundle
from flowsr_runtime.geometry import Window
from flowsr_runtime.pictures.pixels import planes

__all__ = ["Noisy", "golden_bundle"]

SOURCE, TARGET = (16, 20), (40, 50)


def golden_bundle(
    folder: Path,
    manifest: Mapping[str, Any],
    model: bytes,
    **case: Any,
) -> Bundle:
    """Write a bundle whose golden pair is what ONNX Runtime computes.

    Args:
        folder: Folder of the bundle.
        manifest: Manifest of a graph of any scale without latents.
        model: The graph.
        **case: Further keys of case.json.
    """
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 256, (*SOURCE, 3), dtype=np.uint8)
    plain = write_bundle(folder, manifest, {"model.fp32.onnx": model})
    feeds = {
        "input": planes(picture, plain.manifest.io),
        "geometry": Window.whole(SOURCE, TARGET).geometry(),
    }
    output = OnnxRuntimeSession.open(plain).run(feeds)[0]
    png, array = io.BytesIO(), io.BytesIO()
    Image.fromarray(picture).save(png, "PNG")
    np.save(array, output)
    described = {"input": "input.png", "output": "output.npy", "size": list(TARGET), **case}
    files = {
        "model.fp32.onnx": model,
        "golden/input.png": png.getvalue(),
        "golden/output.npy": array.getvalue(),
        "golden/case.json": json.dumps(described).encode(),
    }
    return write_bundle(folder, manifest, files, force=True)


class Noisy(OnnxRuntimeSession):
    """ONNX Runtime with a stand-in for CUDA that starts, runs, and returns noise."""

    def __init__(self, model: bytes, *, provider: str, **options: Any) -> None:
        super().__init__(model, provider="cpu", **options)
        self.provider = provider

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        right = super().run(feeds)
        if self.provider == "cpu":
            return right
        noise = np.random.default_rng(0).normal(0, 0.25, right.shape)
        wrong: NDArray[Any] = right + noise.astype(np.float32)
        return wrong
