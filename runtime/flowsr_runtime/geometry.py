"""Output sizes, and the LR pixels that an output window needs, in exact integers."""

import math
import numbers
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.errors import ScaleError

__all__ = [
    "MAX_SIDE",
    "Extent",
    "FITS",
    "Fit",
    "Halo",
    "Number",
    "Window",
    "exact_scale",
    "fitted_size",
    "output_size",
    "parse_scale",
    "parse_sides",
    "parse_size",
    "size_for",
    "size_text",
    "tile_multiple",
]

MAX_SIDE = 2**20
"""Largest output side in pixels; keeps every product of the graph's geometry in int64."""

# Fraction itself also reads underscores and digits of other scripts.
_NUMBER: Final = re.compile(
    r"\s*[-+]?(\d+/\d+|(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?)\s*", re.ASCII | re.IGNORECASE
)
_LONGEST: Final = 1000  # characters of a scale, whose exact value takes time to compute
_SHOWN: Final = 60  # characters of a value in a message

# An exponent of three digits: its exact value could fill the memory.
_POWER: Final = re.compile(r"e[-+]?0*[1-9]\d\d", re.ASCII | re.IGNORECASE)
_SIZE: Final = re.compile(r"(-?[0-9]{1,18})x(-?[0-9]{1,18})")
_SIDES: Final = re.compile(r"([0-9]{1,18})x|x([0-9]{1,18})")

Number = float | str | Fraction

Fit = Literal["inside", "cover", "exact"]
"""How a result fits a size: not larger or not smaller, in the image's shape; or stretched."""

FITS: Final[tuple[Fit, ...]] = ("inside", "cover", "exact")


def size_text(size: tuple[int, int]) -> str:
    """Return a size (height, width) with the width first, as in "1920x1080"."""
    return f"{size[1]}x{size[0]}"


def parse_scale(text: str) -> str | tuple[str, str]:
    """Parse a scale, or a horizontal and a vertical scale such as "2.7x3.6".

    The digits are kept as text: 2.7 means 27/10.

    Args:
        text: Text to parse.

    Returns:
        The scale, or (vertical, horizontal) scales, for `exact_scale`.

    Raises:
        ScaleError: If there are more than two factors, or one is empty.
    """
    factors = text.strip().lower().split("x")
    if len(factors) > 2 or not all(factors):
        found = repr(text[:_SHOWN])
        raise ScaleError(f"scale must be such as 4 or 2.7x3.6, got {found}", option="scale")
    return factors[0] if len(factors) == 1 else (factors[1], factors[0])


def parse_size(text: str) -> tuple[int, int]:
    """Parse a width and a height in pixels, such as "1920x1080".

    Args:
        text: Text to parse.

    Returns:
        (height, width).

    Raises:
        ScaleError: If the text is of another form.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        found = repr(text[:_SHOWN])
        raise ScaleError(f"size must be such as 1920x1080, got {found}", option="size")
    return int(match[2]), int(match[1])


def parse_sides(text: str) -> tuple[int | None, int | None]:
    """Parse a size such as "1920x1080", or one side of it: "1920x" or "x1080".

    Args:
        text: Text to parse.

    Returns:
        (height, width); None for a side that is not given.

    Raises:
        ScaleError: If the text is of another form.
    """
    match = _SIDES.fullmatch(text.strip().lower())
    if match is None:
        return parse_size(text)
    width, height = match.groups()
    return (int(height), None) if width is None else (None, int(width))


def fitted_size(
    source: tuple[int, int], size: tuple[int | None, int | None], fit: Fit = "exact"
) -> tuple[int, int]:
    """Return the output size of an image for a size that other images share.

    Args:
        source: Input size (h, w).
        size: Output size (H, W); a side that is None follows from the image's shape.
        fit: How the result fits a size of two sides.

    Returns:
        Output size (H, W), the side that follows rounded to the nearest.

    Raises:
        ScaleError: If no side is given.
    """
    rows, columns = size
    if rows is not None and columns is not None and fit == "exact":
        return rows, columns
    ratios = [
        Fraction(int(side), int(own))
        for side, own in zip(size, source, strict=True)
        if side is not None
    ]
    if not ratios:
        raise ScaleError("size must have a width or a height, got neither")
    ratio = max(ratios) if fit == "cover" else min(ratios)
    height, width = (max(1, math.floor(own * ratio + Fraction(1, 2))) for own in source)
    return height, width


def exact_scale(scale: Number) -> Fraction:
    """Return the exact value of a scale in decimal notation.

    Args:
        scale: Output pixels per input pixel, a real from 1 to `MAX_SIDE`. The float 1.3 means
            13/10, not the nearest binary fraction.

    Returns:
        The scale, exact.

    Raises:
        ScaleError: If `scale` is not such a number.
    """
    if not isinstance(scale, (str, numbers.Real)) or isinstance(scale, (bool, np.bool_)):
        raise ScaleError(f"scale must be a number, got {scale!r}")
    if isinstance(scale, numbers.Rational):
        exact = Fraction(scale.numerator, scale.denominator)
    else:
        exact = _parsed(str(scale))
    if exact < 1:
        raise ScaleError(f"scale must be at least 1, got {_shown(scale)}")
    if exact > MAX_SIDE:
        raise ScaleError(f"scale must be from 1 to {MAX_SIDE}, got {_shown(scale)}")
    return exact


def output_size(pixels: int, scale: Number) -> int:
    """Return floor(pixels * scale + 1/2), exactly, and at least 1.

    Args:
        pixels: Input rows or columns, at least 1.
        scale: Output pixels per input pixel, a finite real of at least 1.

    Returns:
        Output rows or columns.

    Raises:
        ScaleError: If `scale` is not a finite real of at least 1.
    """
    return max(1, math.floor(pixels * exact_scale(scale) + Fraction(1, 2)))


def size_for(
    source: tuple[int, int],
    *,
    scale: Number | tuple[Number, Number] | None,
    size: tuple[int, int] | None,
) -> tuple[int, int]:
    """Return the output size for a scale or a requested size.

    Args:
        source: Input size (h, w).
        scale: Output pixels per input pixel, one for both axes or (row, column), or None.
        size: Output size (H, W), or None. Exactly one of `scale` and `size` is given.

    Returns:
        Output size (H, W).

    Raises:
        ScaleError: If both or neither are given, or the size is not possible.
    """
    if (scale is None) == (size is None):
        raise ScaleError("give exactly one of scale and size")
    if size is not None:
        target = _checked_size(source, size)
    else:
        rows, columns = _per_axis(scale)
        target = output_size(source[0], rows), output_size(source[1], columns)
    if max(target) > MAX_SIDE:
        found = size_text(target)
        raise ScaleError(f"output sides must be at most {MAX_SIDE} pixels, got {found}")
    return target


def tile_multiple(scale: Fraction, align: int) -> int:
    """Return the LR pixels whose multiples are multiples of the alignment in the output.

    A tile that is run without its geometry, as if it were a whole image, must begin there.

    Args:
        scale: Output pixels per LR pixel.
        align: Output pixels whose multiples windows begin at.

    Returns:
        The smallest such number: 3 at x4, 4 at x3 and 6 at x2 for an alignment of 12.
    """
    step = align * scale.denominator
    return step // math.gcd(scale.numerator, step)


@dataclass(frozen=True)
class Halo:
    """Surroundings that an output window needs to match the whole image.

    Attributes:
        patch: Output pixels along one side of a patch, p.
        align: Output pixels whose multiples windows begin at.
        lr_align: LR pixels whose multiples tiles begin at.
        patches: Patches added on each side of the output window; 0 with a ratio.
        pixels: LR pixels added on each side of the LR pixels that those patches read.
        ratio: Output pixels per LR pixel of a graph whose window is its whole tile upscaled,
            a divisor of `align`; None for a graph with the window as an input.
    """

    patch: int
    align: int
    lr_align: int
    patches: int
    pixels: int
    ratio: int | None = None


@dataclass(frozen=True)
class Extent:
    """One axis of a window: half-open ranges in the whole image.

    Attributes:
        source: LR pixels of the whole axis.
        target: Output pixels of the whole axis.
        lr_begin: First LR pixel of the tile.
        lr_end: End of the tile.
        out_begin: First output pixel of the window.
        out_end: End of the window.
    """

    source: int
    target: int
    lr_begin: int
    lr_end: int
    out_begin: int
    out_end: int

    @classmethod
    def whole(cls, source: int, target: int) -> "Extent":
        """Return the extent that covers a whole axis."""
        return cls(source, target, 0, source, 0, target)

    @classmethod
    def around(cls, begin: int, end: int, source: int, target: int, halo: Halo) -> "Extent":
        """Return the window and the tile that output pixels [begin, end) depend on.

        The neighbor of output row Y is floor(((2Y + 1) h - H) / 2H) and the one after it
        (spec/linf.md, "Query geometry"). With a ratio, the window is the tile times the ratio,
        and both ends are aligned.

        Args:
            begin: First output pixel.
            end: End of the output pixels.
            source: LR pixels of the whole axis.
            target: Output pixels of the whole axis.
            halo: Halo of the window.

        Returns:
            The window grown by the halo and clipped to the image, and its LR pixels.
        """
        if halo.ratio is not None:
            return cls._with_ratio(begin, end, source, target, halo, halo.ratio)
        margin = halo.patches * halo.patch
        out_begin = _floor_to(max(0, begin - margin), halo.align)
        return cls.window(out_begin, min(target, end + margin), source, target, halo)

    @classmethod
    def window(
        cls, out_begin: int, out_end: int, source: int, target: int, halo: Halo
    ) -> "Extent":
        """Return a window of output pixels with the LR pixels that it depends on.

        Args:
            out_begin: First output pixel of the window, aligned.
            out_end: End of the window.
            source: LR pixels of the whole axis.
            target: Output pixels of the whole axis.
            halo: Halo of the window, without a ratio; its patches are in the window.
        """
        first = _neighbor(out_begin, source, target) - halo.pixels
        last = _neighbor(out_end - 1, source, target) + 1 + halo.pixels
        lr_begin = _floor_to(max(0, first), halo.lr_align)
        return cls(source, target, lr_begin, min(source, last + 1), out_begin, out_end)

    @classmethod
    def _with_ratio(
        cls, begin: int, end: int, source: int, target: int, halo: Halo, ratio: int
    ) -> "Extent":
        assert target == source * ratio
        margin = halo.pixels * ratio
        out_begin = _floor_to(max(0, begin - margin), halo.align)
        out_end = min(target, -_floor_to(-(end + margin), halo.align))
        lr_begin, lr_end = out_begin // ratio, out_end // ratio
        return cls(source, target, lr_begin, lr_end, out_begin, out_end)

    @property
    def lr_size(self) -> int:
        """LR pixels of the tile."""
        return self.lr_end - self.lr_begin

    @property
    def out_size(self) -> int:
        """Output pixels of the window."""
        return self.out_end - self.out_begin


@dataclass(frozen=True)
class Window:
    """Window of the output that one run of the deployed graph computes.

    Attributes:
        rows: Rows of the window.
        columns: Columns of the window.
    """

    rows: Extent
    columns: Extent

    @classmethod
    def whole(cls, source: tuple[int, int], target: tuple[int, int]) -> "Window":
        """Return the window of a whole image.

        Args:
            source: LR size (h, w).
            target: Output size (H, W).

        Returns:
            The window.
        """
        return cls(Extent.whole(source[0], target[0]), Extent.whole(source[1], target[1]))

    def geometry(self) -> NDArray[np.int64]:
        """Return the graph's `geometry` input.

        Returns:
            [h, w, H, W, lr_top, lr_left, out_top, out_left, out_h, out_w], (10,) int64.
        """
        rows, columns = self.rows, self.columns
        return np.array(
            [
                *(rows.source, columns.source, rows.target, columns.target),
                *(rows.lr_begin, columns.lr_begin, rows.out_begin, columns.out_begin),
                *(rows.out_size, columns.out_size),
            ],
            dtype=np.int64,
        )


def _parsed(text: str) -> Fraction:
    """Return the exact value of a number in ASCII; the C++ runtime has the same grammar."""
    if _POWER.search(text):
        raise ScaleError(f"scale must be from 1 to {MAX_SIDE}, got {_shown(text)}")
    finite = f"scale must be a finite number, got {_shown(text)}"
    if len(text) > _LONGEST or _NUMBER.fullmatch(text) is None:
        raise ScaleError(finite)
    try:
        return Fraction(text)
    except ZeroDivisionError as error:
        raise ScaleError(finite) from error


def _shown(value: object) -> str:
    """Return a value on one line, cut if it is long."""
    try:
        text = " ".join(str(value).split())
    except ValueError:  # more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _neighbor(row: int, source: int, target: int) -> int:
    return ((2 * row + 1) * source - target) // (2 * target)


def _floor_to(value: int, step: int) -> int:
    return value // step * step


def _per_axis(scale: object) -> tuple[Number, Number]:
    if not isinstance(scale, (tuple, list)):
        return scale, scale  # type: ignore[return-value]  # exact_scale checks it
    if len(scale) != 2:
        raise ScaleError(f"scale must be one number or (row, column), got {scale!r}")
    return scale[0], scale[1]


def _checked_size(source: tuple[int, int], size: Any) -> tuple[int, int]:
    try:
        rows, columns = size
    except (TypeError, ValueError) as error:
        raise ScaleError(f"size must be (H, W), got {size!r}") from error
    whole = (int, np.integer)
    if not (isinstance(rows, whole) and isinstance(columns, whole)):
        raise ScaleError(f"size must be two whole numbers, got {rows!r} and {columns!r}")
    if rows < source[0] or columns < source[1]:
        least = size_text(source)
        raise ScaleError(f"size must be at least the image's {least}, got {columns}x{rows}")
    return int(rows), int(columns)
