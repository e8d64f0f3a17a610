"""Folders of training pictures: what is read, what is refused, and the memory of it."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowsr_lp.training.crops import Crops
from flowsr_lp.training.pictures import load_pictures
from flowsr_runtime.errors import PictureError
from tests import stand_in


def test_pictures_of_a_folder_come_by_name_as_rgb(tmp_path: Path) -> None:
    Image.new("L", (9, 8), 200).save(tmp_path / "b.png")
    Image.new("RGB", (8, 9), (1, 2, 3)).save(tmp_path / "a.bmp")
    (tmp_path / "notes.txt").write_text("not a picture")
    first, second = load_pictures(tmp_path, smallest=8)
    assert first.shape == (9, 8, 3)
    assert first[0, 0].tolist() == [1, 2, 3]
    assert second[0, 0].tolist() == [200, 200, 200]


def test_small_pictures_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (80, 7)).save(tmp_path / "b.png")
    assert len(load_pictures(tmp_path, smallest=8)) == 1
    assert "left out 1 of 2 pictures: smaller than 8 pixels a side" in caplog.text


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"folder of images .*none does not exist"):
        load_pictures(tmp_path / "none", smallest=8)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no picture of at least 8 pixels a side in"):
        load_pictures(tmp_path, smallest=8)


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(PictureError, match=r"cannot read picture .*a\.png"):
        load_pictures(tmp_path, smallest=8)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp"])
def test_a_truncated_picture_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(stand_in.picture(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(PictureError, match=r"cannot read picture .*a\."):
        load_pictures(tmp_path, smallest=8)


def test_a_folder_larger_than_the_memory_is_read_again_and_again(tmp_path: Path) -> None:
    for index in range(3):
        Image.fromarray(stand_in.picture(20, 30, str(index))).save(tmp_path / f"{index}.png")
    pictures = load_pictures(tmp_path, 8, memory=20 * 30 * 3)
    wanted = [stand_in.picture(20, 30, str(index)) for index in range(3)]
    assert all(np.array_equal(a, b) for a, b in zip(pictures, wanted, strict=True))
    assert pictures[0] is pictures[0]
    assert pictures[1] is not pictures[1]


def test_cutting_crops_of_many_pictures_takes_bounded_memory(tmp_path: Path) -> None:
    Image.fromarray(stand_in.picture(500, 700)).save(tmp_path / "0.png")
    for index in range(1, 60):
        (tmp_path / f"{index}.png").symlink_to(tmp_path / "0.png")
    one, kept = 500 * 700 * 3, 8 * 500 * 700 * 3
    tracemalloc.start()
    try:
        crops = Crops(load_pictures(tmp_path, 64, memory=kept), 4, 16)
        for step in range(20):
            crops.batch_at(step)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert kept < peak < kept + 6 * one


def test_pictures_beyond_the_memory_are_refused_when_they_are_used(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(stand_in.picture(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    Image.fromarray(stand_in.picture(64, 64)).save(tmp_path / "0.png")
    pictures = load_pictures(tmp_path, 8, memory=64)
    with pytest.raises(PictureError, match=r"cannot read picture .*a\.png"):
        pictures[1]
