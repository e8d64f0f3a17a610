"""Upscale an image with a model written by `flowsr-export serve-bundle triton`.

    pip install '.[triton]'
    python examples/triton_client.py photo.png -o large.png --scale 4
    python examples/triton_client.py photo.png -o large.png --scale 4 --protocol grpc \
        --url 127.0.0.1:8001

The server reports the inputs of the model: the python backend takes eight-bit pixels and a
size, the bare graph float pixels and a geometry.
"""

from __future__ import annotations

import argparse
import importlib
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PORTS = {"http": 8000, "grpc": 8001}


def main() -> None:
    """Upscale one image file."""
    parser = argparse.ArgumentParser(description="Upscale an image with Triton.")
    parser.add_argument("picture", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--scale", type=Fraction, default=Fraction(4))
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--model", default="flowsr")
    parser.add_argument("--protocol", choices=list(PORTS), default="http")
    parser.add_argument("--url", help="host:port, without http://")
    given = parser.parse_args()
    url = given.url or f"127.0.0.1:{PORTS[given.protocol]}"
    with Image.open(given.picture) as image:
        pixels = np.asarray(image.convert("RGB"))
    large = upscale(pixels, given.scale, given.model, given.protocol, url, given.temperature)
    Image.fromarray(large).save(given.output)


def upscale(
    pixels: NDArray[np.uint8],
    scale: Fraction,
    model: str,
    protocol: str,
    url: str,
    temperature: float = 0.0,
) -> NDArray[np.uint8]:
    """Upscale one image.

    Args:
        pixels: RGB image, (h, w, 3) uint8.
        scale: Output pixels per input pixel; ignored by a fixed-scale model.
        model: Name of the model.
        protocol: "http" or "grpc".
        url: Host and port of the server.
        temperature: Standard deviation of the noise, for a model without a learned prior.

    Returns:
        RGB image, (H, W, 3) uint8.
    """
    library = importlib.import_module(f"tritonclient.{protocol}")
    client = library.InferenceServerClient(url)
    as_json = {"as_json": True} if protocol == "grpc" else {}
    metadata = client.get_model_metadata(model, **as_json)
    inputs = {tensor["name"]: tensor for tensor in metadata["inputs"]}
    tensors = []
    for name, values in feeds_of(pixels, scale, inputs, temperature).items():
        tensor = library.InferInput(name, list(values.shape), inputs[name]["datatype"])
        tensor.set_data_from_numpy(values)
        tensors.append(tensor)
    output = client.infer(model, tensors).as_numpy("output")
    client.close()
    return picture_of(output)


def feeds_of(
    pixels: NDArray[np.uint8], scale: Fraction, inputs: dict[str, Any], temperature: float = 0.0
) -> dict[str, NDArray[Any]]:
    """Return the values of a model's inputs.

    Args:
        pixels: RGB image, (h, w, 3) uint8.
        scale: Output pixels per input pixel.
        inputs: Metadata of the inputs by name.
        temperature: Standard deviation of the noise, for the python backend.
    """
    size = (pixels.shape[0], pixels.shape[1])
    target = tuple(math.floor(side * scale + Fraction(1, 2)) for side in size)
    if "size" in inputs:  # the python backend
        feeds: dict[str, NDArray[Any]] = {"input": pixels}
        feeds["size"] = np.array(target, dtype=np.int64)
        if "temperature" in inputs:
            feeds["temperature"] = np.array([temperature], dtype=np.float32)
        return feeds
    planes = pixels.transpose(2, 0, 1)[None]
    if inputs["input"]["datatype"] == "FP32":
        planes = planes.astype(np.float32) / np.float32(255)
    feeds = {"input": np.ascontiguousarray(planes)}
    if "geometry" in inputs:  # the whole image as one tile; see ARCHITECTURE.md for others
        feeds["geometry"] = np.array([*size, *target, 0, 0, 0, 0, *target], dtype=np.int64)
    return feeds


def picture_of(output: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a model's output as (H, W, 3) uint8."""
    if output.ndim == 4:
        output = output[0].transpose(1, 2, 0)
    if output.dtype != np.uint8:
        output = np.clip(output, 0, 1) * np.float32(255) + np.float32(0.5)
    return np.ascontiguousarray(output.astype(np.uint8))


if __name__ == "__main__":
    main()
