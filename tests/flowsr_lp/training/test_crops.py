from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from flowsr_lp.training.crops import Augmentation, Crops, batches
from flowsr_lp.training.pictures import load_pictures
from flowsr_runtime.errors import PictureError, UsageError
from tests import stand_in

PICTURES = [stand_in.picture(40, 50, salt) for salt in "ab"]


def crops(**changes: object) -> Crops:
    settings: dict[str, object] = {"batch": 3, "lr_size": 8, "scales": (1.0, 4.0), "seed": 5}
    return Crops(PICTURES, **(settings | changes))  # type: ignore[arg-type]


def as_tensor(picture: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255


def test_a_step_always_gives_the_same_batch() -> None:
    first, again = crops().batch_at(7), crops().batch_at(7)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_steps_and_seeds_give_different_batches() -> None:
    lows = [crops().batch_at(0)[0], crops().batch_at(1)[0], crops(seed=6).batch_at(0)[0]]
    assert not torch.equal(lows[0], lows[1])
    assert not torch.equal(lows[0], lows[2])


def test_every_scale_of_the_range_is_drawn() -> None:
    sides = {crops().batch_at(step)[1].shape[-1] for step in range(200)}
    assert min(sides) == 8
    assert max(sides) == 32
    assert len(sides) == 25


def test_shapes_and_range_are_as_stated() -> None:
    low, high = crops(scales=(2.5, 2.5)).batch_at(0)
    assert low.shape == (3, 3, 8, 8)
    assert high.shape == (3, 3, 20, 20)
    assert min(low.min(), high.min()) >= 0
    assert max(low.max(), high.max()) <= 1


def test_at_scale_one_low_and_high_resolution_are_the_same() -> None:
    low, high = crops(scales=(1.0, 1.0)).batch_at(0)
    assert torch.equal(low, high)


def test_a_crop_of_a_whole_picture_is_one_of_its_eight_poses() -> None:
    picture = stand_in.picture(16, 16)
    high = Crops([picture], 40, 4, (4.0, 4.0)).batch_at(0)[1]
    turned = [np.rot90(picture, k) for k in range(4)]
    poses = [as_tensor(p) for one in turned for p in (one, one[::-1])]
    seen = {next(i for i, p in enumerate(poses) if torch.equal(p, crop)) for crop in high}
    assert seen == set(range(8))


def test_low_resolution_is_pillows_bicubic() -> None:
    low, high = crops(scales=(2.0, 2.0)).batch_at(3)
    first = (high[0].permute(1, 2, 0) * 255).round().to(torch.uint8)
    small = Image.fromarray(np.asarray(first)).resize((8, 8), Image.Resampling.BICUBIC)
    assert torch.equal(low[0], as_tensor(np.asarray(small)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch and lr_size must be at least 1, got 0 and 8"),
        ({"lr_size": 0}, "batch and lr_size must be at least 1, got 3 and 0"),
        ({"scales": (0.5, 2.0)}, "scales must be a range from 1 up, got 0.5,2.0"),
        ({"scales": (3.0, 2.0)}, "scales must be a range from 1 up, got 3.0,2.0"),
        ({"scales": (1.0, float("nan"))}, "scales must be a range from 1 up, got 1.0,nan"),
        ({"lr_size": 11}, "pictures must be at least 44 pixels a side"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        crops(**changes)


def test_crops_are_drawn_gray_and_recolored_as_asked() -> None:
    photo = [stand_in.picture(40, 40, "a")]
    gray = Crops(photo, 2, 8, augmentation=Augmentation(gray=1.0)).batch_at(0)[1]
    torch.testing.assert_close(gray[:, 0], gray[:, 1])
    plain = Crops(photo, 2, 8).batch_at(0)[1]
    for augmentation in (Augmentation(synthetic=1.0), Augmentation(color=1.0)):
        changed = Crops(photo, 2, 8, augmentation=augmentation).batch_at(0)[1]
        assert changed.shape == plain.shape
        assert not torch.equal(changed, plain)


def test_a_share_above_1_is_refused() -> None:
    with pytest.raises(UsageError, match=r"1\.5"):
        Augmentation(synthetic=1.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abcd":
        Image.fromarray(stand_in.picture(40, 40, name)).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_cut_the_same_batches_in_order_and_draw_no_noise(
    folder: Path, workers: int
) -> None:
    source = Crops(load_pictures(folder, 32, memory=0), 2, 8, seed=3)
    torch.manual_seed(4)
    before = torch.get_rng_state()
    got = list(batches(source, range(2, 6), workers))
    assert torch.equal(torch.get_rng_state(), before)
    wanted = [source.batch_at(step) for step in range(2, 6)]
    pairs = [
        pair for batch in zip(got, wanted, strict=True) for pair in zip(*batch, strict=True)
    ]
    assert len(pairs) == 8
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_picture_that_a_worker_cannot_read_is_named(folder: Path) -> None:
    path = folder / "b.png"
    path.write_bytes(path.read_bytes()[:1000])
    source = Crops(load_pictures(folder, 32, memory=0), 8, 8)
    with pytest.raises(PictureError, match=r"^cannot read picture .*b\.png: "):
        list(batches(source, range(4), 1))
