"""The comparison sheet: every picture and detail is where it should be."""

import numpy as np
from PIL import Image

from flowsr_export.reports.contact_sheet import BACKGROUND, MARKS, Panel, Row, draw_sheet


def make_row(side: int) -> Row:
    colours = ((200, 30, 30), (30, 200, 30), (30, 30, 200))
    pictures = [Image.new("RGB", (side, side), colour) for colour in colours]
    panels = [Panel(str(i), "25.00 dB", picture, i < 2) for i, picture in enumerate(pictures)]
    return Row("x4", "64x64", panels, [(0, 0, 60, 60), (60, 60, 120, 120)])


def share_of(sheet: Image.Image, colour: tuple[int, int, int]) -> float:
    return float((np.asarray(sheet) == colour).all(axis=2).mean())


def test_each_picture_has_the_same_room() -> None:
    sheet = draw_sheet([make_row(256)])
    first, second, third = (
        share_of(sheet, colour) for colour in ((200, 30, 30), (30, 200, 30), (30, 30, 200))
    )
    assert first == second
    assert 0 < third < first / 2  # details alone


def test_rows_of_any_picture_size_fit_under_one_another() -> None:
    one, two = draw_sheet([make_row(256)]), draw_sheet([make_row(256), make_row(243)])
    assert two.width == one.width
    assert one.height < two.height < 2 * one.height


def test_the_details_have_their_marks() -> None:
    sheet = draw_sheet([make_row(256)])
    assert share_of(sheet, MARKS[0]) > 0
    assert share_of(sheet, MARKS[1]) > 0
    assert sheet.getpixel((0, 0)) == BACKGROUND


def test_a_detail_keeps_its_pixels() -> None:
    row = make_row(256)
    row.panels[2].picture.putpixel((30, 30), (255, 255, 255))
    marked = (np.asarray(draw_sheet([row])) == 255).all(axis=2)
    assert 12 <= marked.sum() <= 25  # one pixel, four times larger each way
