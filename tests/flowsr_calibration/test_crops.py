from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowsr_calibration.crops import Crop, CropPlan, feeds_of, find_pictures, scales_for
from flowsr_runtime import Bundle, embedded_bundle, write_picture
from flowsr_runtime.bundle.manifest import Latent
from flowsr_runtime.errors import PictureError, UsageError
from tests.flowsr_calibration.graphs import photograph

CROP = Crop(3, Path("a.png"), Fraction(2), photograph(0, 12), photograph(0, 24), 5.0)
PLAN = CropPlan(12, 12, (Fraction(2), Fraction(3)))


def test_some_pictures_are_held_out_and_none_is_both(folder: Path) -> None:
    found = find_pictures(folder, PLAN)
    assert len(found.held_out) == 1
    assert {*found.calibration, *found.held_out} == set(folder.iterdir())
    assert set(found.calibration).isdisjoint(found.held_out)


def test_the_seed_decides_which_are_held_out(folder: Path) -> None:
    held = {find_pictures(folder, CropPlan(1, 12, PLAN.scales, i)).held_out for i in range(8)}
    assert len(held) > 1
    assert find_pictures(folder, PLAN).held_out == find_pictures(folder, PLAN).held_out


def test_crops_have_their_scale_and_the_low_one_is_the_high_one_shrunk(folder: Path) -> None:
    for crop in PLAN.crops(sorted(folder.iterdir())):
        side = int(12 * crop.scale)
        assert (crop.low.shape, crop.high.shape) == ((12, 12, 3), (side, side, 3))
        shrunk = Image.fromarray(crop.high).resize((12, 12), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(crop.low, np.asarray(shrunk))


def test_a_plan_goes_on_with_the_same_crops(folder: Path) -> None:
    paths = sorted(folder.iterdir())
    whole = list(PLAN.crops(paths))
    rest = list(PLAN.crops(paths, begin=7))
    assert [crop.index for crop in rest] == [7, 8, 9, 10, 11]
    for a, b in zip(whole[7:], rest, strict=True):
        np.testing.assert_array_equal(a.high, b.high)


def test_crops_lie_where_there_is_texture(tmp_path: Path) -> None:
    picture = np.full((96, 192, 3), 90, np.uint8)
    picture[:, :96] = photograph(0, 96)
    Image.fromarray(picture).save(tmp_path / "half.png")
    crops = list(CropPlan(40, 12, (Fraction(2),)).crops([tmp_path / "half.png"]))
    assert sum(crop.texture > 1 for crop in crops) == 40


def test_folders_without_usable_images_are_refused(tmp_path: Path) -> None:
    for folder, match in ((tmp_path, "must contain images"), (tmp_path / "none", "/none")):
        with pytest.raises(PictureError, match=match):
            find_pictures(folder, PLAN)
    Image.new("RGB", (64, 64), (128, 128, 128)).save(tmp_path / "gray.png")
    with pytest.raises(PictureError, match=r"at least 4 .* got 0 .*gray\.png"):
        find_pictures(tmp_path, PLAN)


def test_too_few_pictures_are_refused(folder: Path) -> None:
    for path in sorted(folder.iterdir())[3:]:
        path.unlink()
    with pytest.raises(PictureError, match=r"at least 4 .* got 3 in .*photos$"):
        find_pictures(folder, PLAN)


def test_damaged_and_small_files_among_good_ones_are_left_out_and_named(folder: Path) -> None:
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:200])
    (folder / "empty.jpg").touch()
    Image.fromarray(photograph(9, 20)).save(folder / "small.png")
    found = find_pictures(folder, PLAN)
    assert len(found.calibration) + len(found.held_out) == 6
    assert len(found.skipped) == 3
    assert ["broken" in line for line in found.skipped] == [True, False, False]
    assert found.skipped[2].endswith("is 20x20, smaller than 36 pixels a side")


def test_pictures_of_sixteen_bits_are_rounded_to_eight(tmp_path: Path) -> None:
    for seed in range(4):
        write_picture(tmp_path / f"{seed}.png", photograph(seed).astype(np.uint16) * 257)
    found = find_pictures(tmp_path, PLAN)
    crop = next(PLAN.crops(found.calibration))
    assert (len(found.digests), len(found.skipped)) == (4, 0)
    assert crop.high.dtype == np.uint8
    original = photograph(int(crop.picture.stem))
    windows = np.lib.stride_tricks.sliding_window_view(original, crop.high.shape)
    assert (windows == crop.high).all(axis=(-1, -2, -3)).any()


@pytest.mark.parametrize(("samples", "side"), [(0, 12), (4, 0)])
def test_a_plan_without_crops_is_refused(samples: int, side: int) -> None:
    with pytest.raises(UsageError, match="samples and side must be at least 1"):
        CropPlan(samples, side, (Fraction(2),))


def test_a_graph_of_one_scale_takes_the_picture_alone(bundle: Bundle) -> None:
    feeds = feeds_of(bundle.manifest, CROP)
    assert (list(feeds), scales_for(bundle.manifest)) == (["input"], (Fraction(2),))
    np.testing.assert_allclose(feeds["input"][0, 1], CROP.low[..., 1] / 255, rtol=1e-6)


def test_a_graph_of_any_scale_takes_the_geometry_of_the_whole_crop() -> None:
    manifest = Bundle.open(embedded_bundle()).manifest
    geometry = feeds_of(manifest, CROP)["geometry"]
    assert geometry.tolist() == [12, 12, 24, 24, 0, 0, 0, 0, 24, 24]
    assert geometry.dtype == np.int64
    assert len(scales_for(manifest)) == 3


def test_eight_bit_pictures_stay_eight_bits(bundle: Bundle) -> None:
    manifest = replace(bundle.manifest, io="uint8")
    assert feeds_of(manifest, CROP)["input"].dtype == np.uint8


def test_latents_are_drawn_from_the_number_of_the_crop(bundle: Bundle) -> None:
    manifest = replace(bundle.manifest, latents=(Latent("latent", 12, 2),))
    first, again = (feeds_of(manifest, CROP)["latent"] for _ in range(2))
    other = feeds_of(manifest, replace(CROP, index=4))["latent"]
    assert first.shape == (1, 12, 12, 12)
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
