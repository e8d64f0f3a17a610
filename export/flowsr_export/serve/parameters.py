"""What a request asks for: its parameters, checked before anything is decoded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from flowsr_export.serve.responses import HttpError
from flowsr_runtime.errors import ScaleError
from flowsr_runtime.geometry import exact_scale, parse_scale, parse_size
from flowsr_runtime.pictures.depth import Depth

__all__ = ["FORMATS", "PARAMETERS", "UpscaleParameters", "parse_parameters"]

FORMATS = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp", "tiff": "image/tiff"}
"""Formats of a result, and their media types."""

DEPTHS: dict[str, Depth] = {"8": 8, "16": 16, "float": "float"}

PARAMETERS = {
    "scale": "Times larger, at least 1, as in 4; 2.7x3.6 is for width and height apart.",
    "size": "Width and height of the result in pixels, as in 1920x1080; in place of a scale.",
    "format": f"Format of the result: {', '.join(FORMATS)}; png without one.",
    "depth": "Bits of a channel of the result: 8, 16 or float; the picture's own without one.",
    "resample": "1 lets a model of one scale reach any other, by a Lanczos filter after it.",
    "temperature": "Of the noise, for a model without a learned prior.",
    "seed": "Of the noise, 0 without one.",
}
"""What a request may say, in its query or in the fields of its form."""

MAX_LENGTH = 64
"""Characters of a value; a longer number would cost time to be read exactly."""


@dataclass(frozen=True)
class UpscaleParameters:
    """What is asked for a picture.

    Attributes:
        scale: As `Upscaler.upscale` takes it; None with a size or a model of one scale.
        size: (H, W), None with a scale.
        format: A key of `FORMATS`.
        depth: Of the result, None for the picture's own.
        resample: Let a model of one scale reach any other size.
        temperature: Of the noise, None with a learned prior.
        seed: Of the noise.
    """

    scale: str | tuple[str, str] | None = None
    size: tuple[int, int] | None = None
    format: str = "png"
    depth: Depth | None = None
    resample: bool = False
    temperature: float | None = None
    seed: int = 0


def parse_parameters(texts: Mapping[str, str], *, fixed: bool = False) -> UpscaleParameters:
    """Read the parameters of a request.

    Args:
        texts: Values by name.
        fixed: Whether the model has a scale of its own.

    Returns:
        The parameters.

    Raises:
        HttpError: 422 if a name is unknown or a value makes no sense.
    """
    for name, text in texts.items():
        if name not in PARAMETERS:
            raise _refused(f"no parameter {name[:40]!r}; there are {', '.join(PARAMETERS)}")
        if len(text) > MAX_LENGTH:
            raise _refused(f"{name} must be at most {MAX_LENGTH} characters, got {len(text)}")
    given = [name for name in ("scale", "size") if name in texts]
    if len(given) > 1 or not (given or fixed):
        raise _refused("give exactly one of scale and size")
    kind = texts.get("format", "png").lower().replace("jpg", "jpeg")
    if kind not in FORMATS:
        raise _refused(f"format must be one of {', '.join(FORMATS)}, got {kind!r}")
    return UpscaleParameters(
        scale=_scale(texts["scale"]) if "scale" in texts else None,
        size=_size(texts["size"]) if "size" in texts else None,
        format=kind,
        depth=_depth(texts.get("depth")),
        resample=_flag("resample", texts.get("resample", "0")),
        temperature=_real("temperature", texts.get("temperature")),
        seed=_whole("seed", texts.get("seed", "0")),
    )


def _scale(text: str) -> str | tuple[str, str]:
    try:
        scale = parse_scale(text)
        for factor in (scale,) if isinstance(scale, str) else scale:
            exact_scale(factor)
    except ScaleError as error:
        raise _refused(str(error)) from error
    return scale


def _size(text: str) -> tuple[int, int]:
    try:
        return parse_size(text)
    except ScaleError as error:
        raise _refused(str(error)) from error


def _depth(text: str | None) -> Depth | None:
    if text is None:
        return None
    if text not in DEPTHS:
        raise _refused(f"depth must be one of {', '.join(DEPTHS)}, got {text!r}")
    return DEPTHS[text]


def _flag(name: str, text: str) -> bool:
    if text.lower() not in ("0", "1", "false", "true"):
        raise _refused(f"{name} must be 0 or 1, got {text!r}")
    return text.lower() in ("1", "true")


def _real(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise _refused(f"{name} must be a number, got {text!r}") from error
    if not math.isfinite(value):
        raise _refused(f"{name} must be a finite number, got {text!r}")
    return value


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise _refused(f"{name} must be a whole number of at least 0, got {text!r}")
    return int(text)


def _refused(message: str) -> HttpError:
    return HttpError(422, message)
