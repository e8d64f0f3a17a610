"""Synthetic training images: text, line art, halftone, dither, pixel art and gradients."""

__all__ = ["KINDS", "synthetic_image"]

import string
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) / 16
GRAY_SHARE = 0.4  # of the images whose colors are all gray
LETTERS = string.ascii_letters * 4 + string.digits * 2 + string.punctuation


def synthetic_image(
    size: int, rng: Generator, fonts: Sequence[Path] = (), kind: str | None = None
) -> NDArray[np.uint8]:
    """Draw one image.

    Args:
        size: Side in pixels.
        rng: Source of all randomness.
        fonts: TrueType fonts for text; Pillow's own font when empty.
        kind: One of `KINDS`; drawn at random when None.

    Returns:
        RGB image, (size, size, 3) uint8.
    """
    kind = kind or str(rng.choice(list(KINDS)))
    gray = bool(rng.random() < GRAY_SHARE)
    image = KINDS[kind](size, _Palette(rng, gray), fonts)
    return np.asarray(image.convert("RGB"), np.uint8)


class _Palette:
    """Random numbers and the colors of one image."""

    def __init__(self, rng: Generator, gray: bool) -> None:
        self.rng, self.gray = rng, gray

    def color(self) -> Color:
        """Return a color, often black or white."""
        if self.rng.random() < 0.4:
            level = int(self.rng.choice([0, 255]))
            return level, level, level
        values = self.rng.integers(0, 256, 3)
        if self.gray:
            values[:] = values[0]
        return int(values[0]), int(values[1]), int(values[2])

    def pair(self) -> tuple[Color, Color]:
        """Return a foreground and a background that differ visibly."""
        while True:
            first, second = self.color(), self.color()
            if sum(abs(a - b) for a, b in zip(first, second, strict=True)) > 120:
                return first, second

    def whole(self, low: int, high: int) -> int:
        """Return an integer from `low` to `high`."""
        return int(self.rng.integers(low, high + 1))


def _text(size: int, palette: _Palette, fonts: Sequence[Path]) -> Image.Image:
    ink, paper = palette.pair()
    image = Image.new("RGB", (size, size), paper)
    draw = ImageDraw.Draw(image)
    top = -palette.whole(0, 12)
    while top < size:
        height = palette.whole(9, 44)
        font: ImageFont.FreeTypeFont | ImageFont.ImageFont = ImageFont.load_default(height)
        if fonts:
            font = ImageFont.truetype(str(fonts[palette.whole(0, len(fonts) - 1)]), height)
        words = []
        for _ in range(2 + 3 * size // (height * 4)):
            letters = palette.rng.choice(list(LETTERS), palette.whole(1, 9))
            words.append("".join(letters))
        draw.text((-palette.whole(0, 20), top), " ".join(words), ink, font)
        top += round(height * 1.25)
        if palette.rng.random() < 0.1:
            ink = palette.pair()[0]
    return image


def _lines(size: int, palette: _Palette, fonts: Sequence[Path]) -> Image.Image:
    ink, paper = palette.pair()
    image = Image.new("RGB", (2 * size, 2 * size), paper)  # reduced: antialiased lines
    draw = ImageDraw.Draw(image)
    for _ in range(palette.whole(6, 30)):
        box = (
            sorted(palette.rng.integers(0, 2 * size, 2)),
            sorted(palette.rng.integers(0, 2 * size, 2)),
        )
        corners = [int(box[0][0]), int(box[1][0]), int(box[0][1]), int(box[1][1])]
        width = palette.whole(1, 6)
        shape = palette.whole(0, 3)
        if shape == 0:
            draw.line(corners, ink, width)
        elif shape == 1:
            draw.ellipse(corners, outline=ink, width=width)
        elif shape == 2:
            draw.arc(corners, palette.whole(0, 180), palette.whole(181, 360), ink, width)
        else:
            draw.line(
                [(int(x), int(y)) for x, y in palette.rng.integers(0, 2 * size, (4, 2))],
                ink,
                width,
                joint="curve",
            )
    if palette.rng.random() < 0.5:
        return image.resize((size, size), Image.Resampling.BOX)
    return image.crop((0, 0, size, size))


def _flat(size: int, palette: _Palette, fonts: Sequence[Path]) -> Image.Image:
    image = Image.new("RGB", (size, size), palette.color())
    draw = ImageDraw.Draw(image)
    for _ in range(palette.whole(4, 25)):
        points = palette.rng.integers(-size // 4, size * 5 // 4, (palette.whole(2, 5), 2))
        corners = [(int(x), int(y)) for x, y in points]
        if len(corners) == 2:
            xs, ys = sorted(x for x, _ in corners), sorted(y for _, y in corners)
            box = [xs[0], ys[0], xs[1], ys[1]]
            (draw.ellipse if palette.rng.random() < 0.5 else draw.rectangle)(
                box, palette.color()
            )
        else:
            draw.polygon(corners, palette.color())
    return image


def _gradient(size: int, palette: _Palette, fonts: Sequence[Path] = ()) -> Image.Image:
    y, x = np.mgrid[:size, :size] / size
    angle = palette.rng.uniform(0, 2 * np.pi)
    ramp = x * np.cos(angle) + y * np.sin(angle)
    if palette.rng.random() < 0.4:
        ramp = np.hypot(x - palette.rng.random(), y - palette.rng.random())
    ramp = (ramp - ramp.min()) / max(np.ptp(ramp), 1e-9)
    if palette.rng.random() < 0.4:
        ramp = 0.5 + 0.5 * np.sin(ramp * palette.rng.uniform(4, 60))
    first, second = (np.array(color, float) for color in palette.pair())
    rgb = first + (second - first) * ramp[..., None]
    return Image.fromarray(np.rint(rgb).astype(np.uint8))


def _halftone(size: int, palette: _Palette, fonts: Sequence[Path]) -> Image.Image:
    """Dots on a rotated grid whose radius follows a gradient, or is constant."""
    ink, paper = (np.array(color, float) for color in palette.pair())
    pitch = palette.rng.uniform(3.0, 36.0)
    angle = palette.rng.uniform(0, np.pi / 2)
    y, x = np.mgrid[:size, :size].astype(float)
    u = (x * np.cos(angle) + y * np.sin(angle)) / pitch
    v = (y * np.cos(angle) - x * np.sin(angle)) / pitch
    distance = np.hypot(u - np.round(u), v - np.round(v))
    tone = np.full((size, size), palette.rng.uniform(0.15, 0.6))
    if palette.rng.random() < 0.5:
        tone = tone * np.asarray(_gradient(size, palette).convert("L"), float) / 255
    edge = palette.rng.uniform(0.05, 0.5)
    coverage = np.clip((tone - distance) * pitch / (edge * 2) + 0.5, 0, 1)
    if palette.rng.random() < 0.25:
        coverage = coverage > 0.5
    rgb = paper + (ink - paper) * coverage[..., None]
    return Image.fromarray(np.rint(rgb).astype(np.uint8))


def _dither(size: int, palette: _Palette, fonts: Sequence[Path]) -> Image.Image:
    """A gradient dithered by error diffusion or a Bayer matrix, enlarged by an integer."""
    factor = palette.whole(1, 8)
    side = -(-size // factor)
    tone = _gradient(side, palette).convert("L")
    if palette.rng.random() < 0.5:
        bits = np.asarray(tone.convert("1"))
    else:
        matrix = np.tile(BAYER, (side // 4 + 1, side // 4 + 1))[:side, :side]
        bits = np.asarray(tone, float) / 255 > matrix
    return _two_tone(bits, factor, size, palette)


def _checkerboard(size: int, palette: _Palette, fonts: Sequence[Path]) -> Image.Image:
    """Checkerboards and stripes with cells from 1 to 24 pixels."""
    y, x = np.mgrid[:size, :size]
    cell = palette.whole(1, 24) if palette.rng.random() < 0.7 else palette.whole(1, 4)
    bits = (x // cell + y // cell * palette.whole(0, 1)) % 2 == 1
    if palette.rng.random() < 0.5:
        bits = bits.T
    return _two_tone(bits, 1, size, palette)


def _pixel_art(size: int, palette: _Palette, fonts: Sequence[Path]) -> Image.Image:
    """Symmetric sprites of few colors, enlarged by an integer."""
    factor = palette.whole(2, 12)
    side = -(-size // factor)
    colors = np.array([palette.color() for _ in range(palette.whole(3, 8))], np.uint8)
    half = palette.rng.integers(0, len(colors), (side, -(-side // 2)))
    half[palette.rng.random(half.shape) < 0.5] = 0
    pixels = colors[np.concatenate((half, half[:, ::-1]), axis=1)[:, :side]]
    return Image.fromarray(np.kron(pixels, np.ones((factor, factor, 1), np.uint8))).crop(
        (0, 0, size, size)
    )


def _two_tone(
    bits: NDArray[np.bool_], factor: int, size: int, palette: _Palette
) -> Image.Image:
    colors = np.array(palette.pair(), np.uint8)
    rgb = colors[np.kron(bits.astype(np.intp), np.ones((factor, factor), np.intp))]
    return Image.fromarray(np.ascontiguousarray(rgb[:size, :size]))


KINDS: dict[str, Callable[[int, _Palette, Sequence[Path]], Image.Image]] = {
    "text": _text,
    "lines": _lines,
    "flat": _flat,
    "gradient": _gradient,
    "halftone": _halftone,
    "dither": _dither,
    "checkerboard": _checkerboard,
    "pixel-art": _pixel_art,
}
"""Drawing functions by the kind of image."""
