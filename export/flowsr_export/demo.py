"""Show what a bundle does: shipped photographs made small, enlarged, and laid side by side."""

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
from flowsr_runtime import Upscaler, write_picture
from flowsr_runtime.atomic import replace_file
from flowsr_runtime.errors import OutputError, PictureError

__all__ = ["PICTURES", "Comparison", "demonstrate"]


@dataclass(frozen=True)
class _Shown:
    """Where to look in a shipped photograph: two centres, as shares of width and height."""

    first: tuple[float, float]
    second: tuple[float, float]


PICTURES = {
    "bridge": _Shown((0.72, 0.42), (0.30, 0.62)),
    "chelsea": _Shown((0.32, 0.37), (0.66, 0.88)),
    "citrus": _Shown((0.68, 0.32), (0.24, 0.52)),
    "coffee": _Shown((0.80, 0.82), (0.52, 0.40)),
    "honeybee": _Shown((0.76, 0.16), (0.42, 0.66)),
    "picos": _Shown((0.40, 0.22), (0.84, 0.46)),
    "stream": _Shown((0.68, 0.42), (0.76, 0.70)),
}

DETAIL_PIXELS = 60
TIMED_RUNS = 3

# Scale, and the largest side of the original that the low-resolution side fits exactly.
SCALES = (("4", 256, 64), ("2.7", 243, 90))


@dataclass(frozen=True)
class Comparison:
    """One photograph at one scale.

    Attributes:
        picture: Its name.
        scale: Output pixels per input pixel.
        input: Width and height that went in.
        output: Width and height that came out.
        seconds: Median time of the enlargement.
        runs: How many times it was run after a first, untimed run.
        psnr_bicubic: Peak signal-to-noise ratio in dB of bicubic, RGB, against the original.
        psnr_flowsr: The same of this toolkit.
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
    """Enlarge one photograph ×4 and one ×2.7; write demo.png and demo.json.

    Args:
        upscaler: The open model.
        directory: Folder for the two files, made if it is not there.
        pictures: Keys of `PICTURES` for ×4 and for ×2.7.
        force: Overwrite the two files.

    Returns:
        Timings and figures, one for each scale.

    Raises:
        OutputError: If a file is there and `force` is not given, or cannot be written.
    """
    sheet_path, json_path = directory / "demo.png", directory / "demo.json"
    _prepare(directory, (sheet_path, json_path), force)
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
    write_picture(sheet_path, np.asarray(sheet), force=force)
    try:
        replace_file(json_path, (json.dumps(document, indent=2) + "\n").encode())
    except OSError as error:
        raise OutputError(f"{json_path} cannot be written: {error.strerror}") from error
    return comparisons


def _prepare(directory: Path, files: tuple[Path, ...], force: bool) -> None:
    """Make the folder and refuse to overwrite, before slow work."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder {directory} cannot be made: {error.strerror}") from error
    for path in files:
        if path.exists() and not force:
            raise OutputError(f"{path} exists; replace it with force (--force)")


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
        details=[_box(centre, side) for centre in _centres(name)],
    )
    return comparison, row


def _original(name: str, side: int) -> Image.Image:
    """Return a shipped photograph, (side, side), cut from its middle."""
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
    """Return the enlarged picture and the median seconds after one untimed run."""
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


def _centres(name: str) -> tuple[tuple[float, float], tuple[float, float]]:
    return PICTURES[name].first, PICTURES[name].second


def _box(centre: tuple[float, float], side: int) -> Box:
    """Return the square around a centre, moved inside the picture."""
    edge = side - DETAIL_PIXELS
    left, top = (
        min(max(round(share * side) - DETAIL_PIXELS // 2, 0), edge) for share in centre
    )
    return left, top, left + DETAIL_PIXELS, top + DETAIL_PIXELS
