"""Draw a comparison sheet: whole pictures side by side, and the same details of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

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
    """One rendition of a picture.

    Attributes:
        label: What it is.
        figure: What was measured of it, shown under the whole picture.
        picture: RGB picture; all panels of a row have one size.
        whole: Whether to show all of it, beside its details.
    """

    label: str
    figure: str
    picture: Image.Image
    whole: bool


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        title: What was done, in a few words.
        note: Sizes and timing.
        panels: The renditions.
        details: Two boxes (left, top, right, bottom), square, in pixels of the pictures.
    """

    title: str
    note: str
    panels: Sequence[Panel]
    details: Sequence[Box]


def draw_sheet(rows: Sequence[Row]) -> Image.Image:
    """Draw the rows under one another.

    Args:
        rows: What to compare; each with the same number of panels.

    Returns:
        The sheet, RGB.
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
        for place, (box, colour) in enumerate(zip(row.details, MARKS, strict=True)):
            detail = _detail(panel.picture, box, colour)
            sheet.paste(detail, (left, pictures + place * (DETAIL + GAP)))
        draw.text((left, labels), panel.label, INK, small, anchor="lm")
        left += DETAIL + GAP


def _marked(picture: Image.Image, details: Sequence[Box]) -> Image.Image:
    """Return the picture at panel size with a frame around each detail."""
    shown = picture.resize((PANEL, PANEL), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(shown)
    factor = PANEL / picture.width
    for box, colour in zip(details, MARKS, strict=True):
        draw.rectangle([round(edge * factor) for edge in box], outline=colour, width=MARK_WIDTH)
    return shown


def _detail(picture: Image.Image, box: Box, colour: tuple[int, int, int]) -> Image.Image:
    """Return a detail, its pixels enlarged as they are, in a frame of its mark's colour."""
    inner = DETAIL - 2 * MARK_WIDTH
    framed = Image.new("RGB", (DETAIL, DETAIL), colour)
    detail = picture.crop(box).resize((inner, inner), Image.Resampling.NEAREST)
    framed.paste(detail, (MARK_WIDTH, MARK_WIDTH))
    return framed
