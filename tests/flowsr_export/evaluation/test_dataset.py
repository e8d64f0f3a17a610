"""Originals find their partners, and are cut by the published rule."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowsr_export.evaluation.dataset import Pair, find_pairs
from flowsr_export.evaluation.imresize import matlab_bicubic
from flowsr_runtime import write_picture
from flowsr_runtime.errors import PictureError, UsageError
from tests.stand_in import picture


def save(path: Path, height: int = 24, width: int = 36) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(height, width, path.stem)).save(path)
    return path


@pytest.fixture
def hr(tmp_path: Path) -> Path:
    for name in ("b.png", "a.png"):
        save(tmp_path / "Set" / name)
    return tmp_path / "Set"


def test_every_set_scale_and_picture_is_a_pair(hr: Path, tmp_path: Path) -> None:
    save(tmp_path / "Other" / "c.png")
    pairs = find_pairs([hr, tmp_path / "Other"], [], ["2", "2.7"])
    assert list(map(str, pairs)) == [
        *("Set a ×2", "Set b ×2", "Set a ×2.7", "Set b ×2.7"),
        *("Other c ×2", "Other c ×2.7"),
    ]
    assert {pair.lr for pair in pairs} == {None}


@pytest.mark.parametrize(
    "name", ["a", "a_LR", "ax4", "a_x4", "a_LRx4", "a_LR_x4", "a_LRBI_x4", "A_lr_X4"]
)
def test_a_partner_is_found_by_its_name(name: str, hr: Path, tmp_path: Path) -> None:
    (hr / "b.png").unlink()
    low = save(tmp_path / "low" / f"{name}.bmp", 6, 9)
    save(tmp_path / "low" / "ax2.png", 12, 18)
    save(tmp_path / "low" / "aa.png", 6, 9)
    (pair,) = find_pairs([hr], [tmp_path / "low"], ["4"])
    assert pair.lr == low
    assert np.array_equal(pair.read()[1], picture(6, 9, name))


def test_one_folder_may_hold_both_as_hr_and_lr(tmp_path: Path) -> None:
    for kind, size in (("HR", (24, 36)), ("LR", (6, 9))):
        save(tmp_path / "Set5" / "x4" / f"img_001_{kind}.png", *size)
    (pair,) = find_pairs([tmp_path / "Set5"], [tmp_path / "Set5"], ["4"])
    assert (pair.dataset, pair.name) == ("Set5", "img_001")
    assert pair.lr == tmp_path / "Set5" / "x4" / "img_001_LR.png"
    (direct,) = find_pairs([tmp_path / "Set5" / "x4"], [], ["4"])
    assert (direct.dataset, direct.hr) == ("Set5", pair.hr)


def test_scales_may_have_folders_of_their_own(tmp_path: Path) -> None:
    save(tmp_path / "HR" / "0801.png")
    for scale, size in ((2, (12, 18)), (3, (8, 12))):
        save(tmp_path / "LR" / f"X{scale}" / f"0801x{scale}.png", *size)
    pairs = find_pairs([tmp_path / "HR"], [tmp_path / "LR"], ["2", "3"])
    assert [pair.lr.parent.name for pair in pairs if pair.lr] == ["X2", "X3"]


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (("a.png",), r"b\.png .* ×4 .* b_LR or bx4"),
        (("a.png", "ax4.png", "b.png"), r"a\.png, .*ax4\.png"),
    ],
)
def test_each_original_needs_one_partner(
    hr: Path, tmp_path: Path, names: tuple[str, ...], match: str
) -> None:
    for name in names:
        save(tmp_path / "low" / name, 6, 9)
    with pytest.raises(PictureError, match=match):
        find_pairs([hr], [tmp_path / "low"], ["4"])
    with pytest.raises(PictureError, match=r"a\.png has no partner at ×4"):
        find_pairs([hr], [hr], ["4"])


def test_ambiguous_and_missing_folders_are_refused(hr: Path, tmp_path: Path) -> None:
    save(tmp_path / "again" / "Set" / "a.png")
    (tmp_path / "empty").mkdir()
    for folder, rule in (("empty", "contains no image"), ("none", "does not exist")):
        with pytest.raises(PictureError, match=f"{folder} {rule}"):
            find_pairs([tmp_path / folder], [], ["4"])
    with pytest.raises(UsageError, match="got 2 for 1"):
        find_pairs([hr], [hr, hr], ["4"])
    with pytest.raises(UsageError, match="got Set twice"):
        find_pairs([hr, tmp_path / "again" / "Set"], [], ["4"])
    save(hr / "a.bmp")
    with pytest.raises(PictureError, match=r"a\.bmp and .*a\.png"):
        find_pairs([hr], [], ["4"])


@pytest.mark.parametrize(
    ("scale", "size", "low_size"), [("4", (24, 36), (6, 9)), ("2.7", (27, 38), (10, 14))]
)
def test_an_original_is_cut_to_what_the_input_enlarges_to(
    scale: str, size: tuple[int, int], low_size: tuple[int, int], tmp_path: Path
) -> None:
    file = save(tmp_path / "a.png", 27, 38)
    original, low = Pair("Set", "a", scale, file, None).read()
    assert np.array_equal(original, picture(27, 38, "a")[: size[0], : size[1]])
    assert np.array_equal(low, matlab_bicubic(original, low_size))


def test_sizes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file, low = save(tmp_path / "a.png"), save(tmp_path / "low" / "a.png", 7, 9)
    with pytest.raises(PictureError, match=r"low/a\.png must be 9x6 .* 36x24, .* got 9x7"):
        Pair("Set", "a", "4", file, low).read()
    with pytest.raises(PictureError, match=r"a\.png, 36x24, at ×30"):
        Pair("Set", "a", "30", file, None).read()


def test_a_gray_picture_counts_as_a_color_one(tmp_path: Path) -> None:
    Image.fromarray(picture(8, 8)[..., 0]).save(tmp_path / "a.png")
    original, _ = Pair("Set", "a", "2", tmp_path / "a.png", None).read()
    assert original.shape == (8, 8, 3)
    assert np.ptp(original, axis=2).max() == 0


def test_transparent_and_deep_images_are_refused(tmp_path: Path) -> None:
    rgba = np.dstack([picture(8, 8), np.full((8, 8), 255, np.uint8)])
    write_picture(tmp_path / "opaque.png", rgba)
    assert Pair("Set", "a", "2", tmp_path / "opaque.png", None).read()[0].shape == (8, 8, 3)
    rgba[0, 0, 3] = 254
    write_picture(tmp_path / "clear.png", rgba)
    write_picture(tmp_path / "deep.png", np.full((8, 8, 3), 40000, np.uint16))
    for name, match in (("clear.png", "opaque"), ("deep.png", "got 16 bits")):
        with pytest.raises(PictureError, match=match):
            Pair("Set", "a", "2", tmp_path / name, None).read()
