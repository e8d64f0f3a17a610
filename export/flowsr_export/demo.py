"""Upscale reduced photographs and compare the results with bicubic and the original."""

from __future__ import annotations

import importlib.resources
import io
import json
import math
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowsr_export.reports.contact_sheet import Box, Panel, Row, draw_sheet
from flowsr_export.reports.files import prepare_files, write_files
from flowsr_runtime import Upscaler, encode_picture
from flowsr_runtime.errors import PictureError

__all__ = ["PICTURES", "Comparison", "demonstrate"]


# Centers of two details of each photograph, as shares of its width and height.
PICTURES = {
    "bridge": ((0.72, 0.42), (0.30, 0.62)),
    "chelsea": ((0.32, 0.37), (0.66, 0.88)),
    "citrus": ((0.68, 0.32), (0.24, 0.52)),
    "coffee": ((0.80, 0.82), (0.52, 0.40)),
    "honeybee": ((0.76, 0.16), (0.42, 0.66)),
    "picos": ((0.40, 0.22), (0.84, 0.46)),
    "stream": ((0.68, 0.42), (0.76, 0.70)),
}

DETAIL_PIXELS = 60
TIMED_RUNS = 3

# Scale, and the largest side of the original that the low-resolution side fits exactly.
SCALES = (("4", 256, 64), ("2.7", 243, 90))


@dataclass(frozen=True)
class Comparison:
    """One photograph at one scale.

    Attributes:
        picture: Name of the photograph.
        scale: Output pixels per input pixel.
        input: Input width and height.
        output: Output width and height.
        seconds: Median time of a timed run.
        runs: Number of timed runs, after one warm-up run.
        psnr_bicubic: PSNR in dB of bicubic against the original, RGB.
        psnr_flowsr: PSNR in dB of the model against the original, RGB.
    """

    picture: str
    scale: str
    input: tuple[int, int]
    output: tuple[int, int]
    seconds: float
    runs: int
    psnr_bicubic: float
    psnr_flowsr: float


def demonstrate(
    upscaler: Upscaler, directory: Path, pictures: tuple[str, str], *, force: bool = False
) -> list[Comparison]:
    """Upscale one photograph by 4 and one by 2.7; write demo.png and demo.json.

    Args:
        upscaler: The open model.
        directory: Folder for the two files, created if it is missing.
        pictures: Keys of `PICTURES` for scale 4 and for scale 2.7.
        force: Overwrite the two files.

    Returns:
        Timings and PSNR for each scale.

    Raises:
        OutputError: If a file exists and `force` is not set, or cannot be written.
    """
    sheet_path, json_path = directory / "demo.png", directory / "demo.json"
    prepare_files([sheet_path, json_path], force=force)
    compared = [
        _compare(upscaler, name, scale, original, small)
        for name, (scale, original, small) in zip(pictures, SCALES, strict=True)
    ]
    sheet = draw_sheet([row for _, row in compared])
    comparisons = [comparison for comparison, _ in compared]
    document = {
        "bundle": str(upscaler.bundle.path),
        "comparisons": [asdict(comparison) for comparison in comparisons],
    }
    content = encode_picture(np.asarray(sheet), "PNG")
    write_files({sheet_path: content, json_path: json.dumps(document, indent=2) + "\n"})
    return comparisons


def _compare(
    upscaler: Upscaler, name: str, scale: str, side: int, small: int
) -> tuple[Comparison, Row]:
    original = _original(name, side)
    low = original.resize((small, small), Image.Resampling.BICUBIC)
    bicubic = low.resize((side, side), Image.Resampling.BICUBIC)
    large, seconds = _timed(upscaler, np.asarray(low), scale)
    ours = Image.fromarray(large)
    comparison = Comparison(
        picture=name,
        scale=scale,
        input=low.size,
        output=ours.size,
        seconds=seconds,
        runs=TIMED_RUNS,
        psnr_bicubic=_psnr(bicubic, original),
        psnr_flowsr=_psnr(ours, original),
    )
    row = Row(
        # The letter x: Pillow's default font has no multiplication sign.
        title=f"x{scale}",
        note=f"{small}x{small} to {side}x{side} pixels in {seconds * 1000:.0f} ms",
        panels=[
            Panel("bicubic", f"{comparison.psnr_bicubic:.2f} dB", bicubic, whole=True),
            Panel("flowsr-lp", f"{comparison.psnr_flowsr:.2f} dB", ours, whole=True),
            Panel("original", "", original, whole=False),
        ],
        details=[_box(center, side) for center in PICTURES[name]],
    )
    return comparison, row


def _original(name: str, side: int) -> Image.Image:
    """Return the central (side, side) crop of a photograph."""
    resource = (
        importlib.resources.files("flowsr_export.inputs") / "pictures" / f"{name}_256.png"
    )
    try:
        data = resource.read_bytes()
    except FileNotFoundError as error:
        raise PictureError(f"the photograph {name} is not in this installation") from error
    with Image.open(io.BytesIO(data)) as picture:
        edge = (picture.width - side) // 2
        cut: Image.Image = picture.crop((edge, edge, edge + side, edge + side))
        return cut.convert("RGB")


def _timed(
    upscaler: Upscaler, low: NDArray[np.uint8], scale: str
) -> tuple[NDArray[np.uint8], float]:
    """Return the result and the median seconds, after one warm-up run."""
    large = upscaler.upscale(low, scale=scale)
    seconds = []
    for _ in range(TIMED_RUNS):
        began = time.perf_counter()
        upscaler.upscale(low, scale=scale)
        seconds.append(time.perf_counter() - began)
    return large, statistics.median(seconds)


def _psnr(picture: Image.Image, original: Image.Image) -> float:
    difference = np.asarray(picture, np.float64) - np.asarray(original, np.float64)
    error = float(np.mean(difference**2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def _box(center: tuple[float, float], side: int) -> Box:
    """Return the square around a center, moved inside the image."""
    edge = side - DETAIL_PIXELS
    left, top = (
        min(max(round(share * side) - DETAIL_PIXELS // 2, 0), edge) for share in center
    )
    return left, top, left + DETAIL_PIXELS, top + DETAIL_PIXELS
