"""Contact sheet: whole images side by side, and the same details of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

__all__ = ["Panel", "Row", "draw_sheet"]

BACKGROUND = (24, 25, 28)
INK = (236, 237, 240)
FAINT = (150, 154, 162)
MARKS = ((255, 196, 61), (92, 200, 255))

MARGIN = 48
GAP = 16
ROW_GAP = 56
LABEL = 40
PANEL = 512
DETAIL = 248  # two details and a gap are as high as a panel
MARK_WIDTH = 4

TITLE_POINTS = 34
LABEL_POINTS = 22

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Panel:
    """One version of an image.

    Attributes:
        label: Name.
        figure: Measurement below the whole image.
        picture: RGB image; all panels of a row have one size.
        whole: Whether to show the whole image beside its details.
    """

    label: str
    figure: str
    picture: Image.Image
    whole: bool


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        title: Short title.
        note: Sizes and timing.
        panels: Versions of the image.
        details: Two square boxes (left, top, right, bottom), in pixels of the images.
    """

    title: str
    note: str
    panels: Sequence[Panel]
    details: Sequence[Box]


def draw_sheet(rows: Sequence[Row]) -> Image.Image:
    """Draw the rows below each other.

    Args:
        rows: Comparisons with equal numbers of panels.

    Returns:
        RGB sheet.
    """
    height = LABEL + PANEL + LABEL
    sheet = Image.new("RGB", _sheet_size(rows, height), BACKGROUND)
    top = MARGIN
    for row in rows:
        _draw_row(sheet, row, top)
        top += height + ROW_GAP
    return sheet


def _sheet_size(rows: Sequence[Row], height: int) -> tuple[int, int]:
    whole = sum(panel.whole for panel in rows[0].panels)
    columns = len(rows[0].panels)
    width = 2 * MARGIN + whole * (PANEL + GAP) + GAP + columns * (DETAIL + GAP) - GAP
    return width, 2 * MARGIN + len(rows) * (height + ROW_GAP) - ROW_GAP


def _draw_row(sheet: Image.Image, row: Row, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    title = ImageFont.load_default(TITLE_POINTS)
    small = ImageFont.load_default(LABEL_POINTS)
    draw.text((MARGIN, top), row.title, INK, title, anchor="lm")
    after = MARGIN + draw.textlength(row.title, title) + GAP
    draw.text((after, top), row.note, FAINT, small, anchor="lm")
    pictures = top + LABEL
    labels = pictures + PANEL + LABEL // 2
    left = MARGIN
    for panel in row.panels:
        if panel.whole:
            sheet.paste(_marked(panel.picture, row.details), (left, pictures))
            draw.text((left, labels), panel.label, INK, small, anchor="lm")
            after = left + draw.textlength(panel.label, small) + GAP
            draw.text((after, labels), panel.figure, FAINT, small, anchor="lm")
            left += PANEL + GAP
    left += GAP
    for panel in row.panels:
        for place, (box, color) in enumerate(zip(row.details, MARKS, strict=True)):
            detail = _detail(panel.picture, box, color)
            sheet.paste(detail, (left, pictures + place * (DETAIL + GAP)))
        draw.text((left, labels), panel.label, INK, small, anchor="lm")
        left += DETAIL + GAP


def _marked(picture: Image.Image, details: Sequence[Box]) -> Image.Image:
    """Return an image at panel size with a frame around each detail."""
    shown = picture.resize((PANEL, PANEL), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(shown)
    factor = PANEL / picture.width
    for box, color in zip(details, MARKS, strict=True):
        draw.rectangle([round(edge * factor) for edge in box], outline=color, width=MARK_WIDTH)
    return shown


def _detail(picture: Image.Image, box: Box, color: tuple[int, int, int]) -> Image.Image:
    """Return a detail with magnified pixels, in a frame of its mark's color."""
    inner = DETAIL - 2 * MARK_WIDTH
    detail = picture.crop(box).resize((inner, inner), Image.Resampling.NEAREST)
    return ImageOps.expand(detail, MARK_WIDTH, color)
