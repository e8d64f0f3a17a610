"""Fixed-scale models: odd sides, tiles, latents, and memory that runs out."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowsr_runtime.backends.contract import Session
from flowsr_runtime.backends.session import open_session
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.bundle.profile_limits import ProfileLimits
from flowsr_runtime.errors import (
    MemoryBudgetError,
    NonFiniteError,
)
from flowsr_runtime.pictures.pixels import resampled
from flowsr_runtime.upscaling.upscaler import Upscaler

Bundles = dict[str, Bundle]

# float32 sums of a few products in another order: some units in the last place of 1.
ROUNDING = 2e-6
# 64x64 low-resolution pixels of 100 bytes: the smallest tile, which keeps and fades 16 pixels
# and has a halo of 16 on each side.
SMALL_BUDGET = 411_000
MODELS = st.sampled_from(["fourfold", "fourfold-geometry"])


class Recorder:
    """Gives what the model would, and keeps what it is fed."""

    backend, provider, device = "none", "none", 0
    limits: ProfileLimits | None = None

    def __init__(self, value: float = 0.5) -> None:
        self.value = value
        self.fed: list[Mapping[str, NDArray[Any]]] = []

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        self.fed.append(feeds)
        _, _, h, w = feeds["input"].shape
        return np.full((1, 3, 4 * h, 4 * w), self.value, dtype=np.float32)

    def close(self) -> None:
        pass


def model_session(model: Bundle) -> Session:
    return open_session(model, threads=1)


def picture(*size: int) -> NDArray[np.float32]:
    return np.random.default_rng(11).random((*size, 3), dtype=np.float32)


def even(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the picture with its last row and column reflected, as the model is to see it."""
    rows, columns = (
        [i if i < n else max(0, n - 2) for i in range(n + n % 2)] for n in image.shape[:2]
    )
    return image[rows][:, columns]


@settings(max_examples=40, deadline=None)
@given(MODELS, st.integers(1, 9), st.integers(1, 9))
def test_odd_sides_are_padded_and_cropped(bundles: Bundles, name: str, h: int, w: int) -> None:
    image, model = picture(h, w), bundles[name]
    result = Upscaler.open(model, threads=1).upscale(image)
    assert result.shape == (4 * h, 4 * w, 3)
    due = Upscaler.open(model, threads=1).upscale(even(image))[: 4 * h, : 4 * w]
    np.testing.assert_array_equal(result, due)


@settings(max_examples=20, deadline=None)
@given(MODELS, st.integers(65, 130), st.integers(65, 99), st.sampled_from(["default", "exact"]))
def test_tiled_equals_whole(bundles: Bundles, name: str, h: int, w: int, halo: Any) -> None:
    image, model = picture(h, w), bundles[name]
    whole = Upscaler.open(model, threads=1).upscale(image)
    tiles = Upscaler.open(model, threads=1, memory_budget=SMALL_BUDGET, halo=halo)
    np.testing.assert_allclose(tiles.upscale(image), whole, atol=ROUNDING)
    assert len(tiles.plan((h, w))) > 1


def test_tiles_see_the_noise_of_the_whole(bundles: Bundles) -> None:
    image = picture(75, 99)
    options: dict[str, Any] = {"seed": 5, "temperature": 0.9, "clamp": False}
    whole = Upscaler.open(bundles["sampled"]).upscale(image, **options)
    tiles = Upscaler.open(bundles["sampled"], memory_budget=SMALL_BUDGET)
    np.testing.assert_allclose(tiles.upscale(image, **options), whole, atol=ROUNDING)
    assert len(tiles.plan((75, 99))) > 2
    plain = Upscaler.open(bundles["fourfold"]).upscale(image)
    assert np.abs(whole - plain).max() > 0.5


def test_each_latent_has_its_grid_and_noise(bundles: Bundles) -> None:
    session = Recorder()
    Upscaler(bundles["sampled"], session).upscale(picture(15, 20), temperature=1)
    (fed,) = session.fed
    assert set(fed) == {"input", "latent0", "latent1"}
    assert fed["latent0"].shape == (1, 6, 32, 40)
    assert fed["latent1"].shape == (1, 96, 8, 10)
    assert (fed["latent0"][0, :6, :8, :10] != fed["latent1"][0, :6]).all()


def test_a_tile_knows_where_it_lies_in_the_padded_picture(bundles: Bundles) -> None:
    session = Recorder()
    upscaler = Upscaler(bundles["fourfold-geometry"], session, memory_budget=SMALL_BUDGET)
    upscaler.upscale(picture(145, 31))
    fields = [fed["geometry"].tolist() for fed in session.fed]
    assert len(fields) > 1
    for fed, (h, w, height, width, lr_top, lr_left, top, left, rows, columns) in zip(
        session.fed, fields, strict=True
    ):
        assert (h, w, height, width) == (146, 32, 584, 128)
        assert (top, left) == (4 * lr_top, 4 * lr_left)
        assert fed["input"].shape == (1, 3, rows // 4, columns // 4)
        assert lr_top % 16 == lr_left % 16 == 0


@pytest.mark.parametrize("size", [(7, 10), (20, 31), (28, 41), (99, 10)])
def test_resampling_reaches_any_size_after_the_model(
    bundles: Bundles, size: tuple[int, int]
) -> None:
    upscaler, image = Upscaler.open(bundles["fourfold"]), picture(7, 10)
    result = upscaler.upscale(image, size=size, resample=True)
    due = np.clip(resampled(upscaler.upscale(image, clamp=False), size), 0, 1)
    assert upscaler.target((7, 10), size=size, resample=True) == result.shape[:2] == size
    np.testing.assert_array_equal(result, due)


def test_resampled_eight_bits_are_rounded_once(bundles: Bundles) -> None:
    image = (255 * picture(9, 6)).astype(np.uint8)
    upscaler = Upscaler.open(bundles["fourfold"])
    exact = upscaler.upscale(image.astype(np.float32) / np.float32(255), 3, resample=True)
    result = upscaler.upscale(image, 3, resample=True)
    np.testing.assert_array_equal(result, np.floor(255 * exact + np.float32(0.5)))


def test_truncating_cuts_the_fraction_off(bundles: Bundles) -> None:
    image = (255 * picture(9, 6)).astype(np.uint8)
    upscaler = Upscaler.open(bundles["fourfold"])
    exact = upscaler.upscale(image.astype(np.float32) / np.float32(255))
    cut, rounded = (upscaler.upscale(image, truncate=value) for value in (True, False))
    np.testing.assert_array_equal(cut, np.floor(255 * exact))
    assert (cut != rounded).any()


def bright(rows: slice, columns: slice) -> NDArray[np.uint8]:
    """A dark picture of 60x60 pixels with a white part."""
    image = np.zeros((60, 60, 3), dtype=np.uint8)
    image[rows, columns] = 255
    return image


@pytest.mark.parametrize("budget", [20_000, 10**9])
def test_an_explosion_is_one_warning_with_share_and_place(
    bundles: Bundles, budget: int
) -> None:
    upscaler = Upscaler.open(bundles["exploding"], memory_budget=budget)
    lines: list[str] = []
    image = bright(slice(10, 50), slice(20, 23))
    upscaler.upscale(image // 16, 1, warn=lines.append)
    assert lines == []
    result = upscaler.upscale(image, 1, warn=lines.append)
    np.testing.assert_array_equal(result, image)
    assert lines == [
        "the inverse of the flow may have exploded: 360 of 10800 values (3.33 %) lie outside "
        "[-1, 2], in output rows 10-49, columns 20-22"
    ]


@pytest.mark.parametrize("budget", [20_000, 10**9])
def test_guarded_patches_are_one_warning_with_their_share(
    bundles: Bundles, budget: int
) -> None:
    upscaler = Upscaler.open(bundles["guarded"], memory_budget=budget)
    lines: list[str] = []
    upscaler.upscale(bright(slice(10, 50), slice(20, 23)), 1, warn=lines.append)
    # Rows 10 to 49 of 3-pixel patches, columns 20 to 22.
    assert lines == ["the guard kept 28 of 400 patches (7 %) in [-0.1, 1.1]"]


def test_without_a_listener_the_warning_is_logged(
    bundles: Bundles, caplog: pytest.LogCaptureFixture
) -> None:
    image = bright(slice(0, 60), slice(0, 60))
    Upscaler.open(bundles["exploding"]).upscale(image, 1)
    (record,) = caplog.records
    assert (record.name, record.levelno) == (
        "flowsr_runtime.upscaling.upscaler",
        logging.WARNING,
    )
    assert "10800 of 10800 values (100 %)" in record.message


def test_a_tile_that_is_not_finite_is_named(bundles: Bundles) -> None:
    image = 255 - bright(slice(37, 38), slice(38, 39))
    upscaler = Upscaler.open(bundles["dividing"], memory_budget=30_000)
    count = len(upscaler.plan((60, 60), 1))
    message = rf"infinity in tile \d of {count}: 3 of \d+ values .*rows 37-37, columns 38-38"
    with pytest.raises(NonFiniteError, match=message):
        upscaler.upscale(image, 1)
    assert count > 1


class EdgeRecorder(Recorder):
    """Gives NaN in the last output row, which is padding where the height is odd."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        output = super().run(feeds)
        output[..., -1, :] = np.nan
        return output


def test_what_is_cropped_away_may_be_anything(bundles: Bundles) -> None:
    upscaler = Upscaler(bundles["fourfold"], EdgeRecorder())
    np.testing.assert_array_equal(upscaler.upscale(picture(9, 8)), np.full((36, 32, 3), 0.5))
    with pytest.raises(NonFiniteError, match=r"96 of 3840 values .*rows 39-39, columns 0-31"):
        upscaler.upscale(picture(10, 8))


class Scarce(Recorder):
    """Runs out of memory above a number of LR pixels, as often as it is asked."""

    def __init__(self, inner: Any, most: int, error: Exception) -> None:
        super().__init__()
        self.inner, self.most, self.error = inner, most, error
        self.refused = 0

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        if feeds["input"].size // 3 > self.most:
            self.refused += 1
            raise self.error
        output: NDArray[np.float32] = self.inner.run(feeds)
        return output


ERRORS = [MemoryBudgetError("cpu ran out of memory"), MemoryError("Unable to allocate")]


@pytest.mark.parametrize("error", ERRORS, ids=["session", "numpy"])
@pytest.mark.parametrize("halo", ["default", "exact"])
@pytest.mark.parametrize("name", ["fourfold", "fourfold-geometry"])
def test_halved_tiles_equal_the_whole(
    bundles: Bundles, name: str, halo: Any, error: Exception
) -> None:
    image, model = picture(131, 98), bundles[name]
    whole = Upscaler.open(model, threads=1).upscale(image)
    scarce = Scarce(model_session(model), 80 * 80, error)
    lines: list[str] = []
    shares: list[float] = []
    result = Upscaler(model, scarce, halo=halo).upscale(
        image, progress=lambda done, tiles: shares.append(done / tiles), warn=lines.append
    )
    np.testing.assert_allclose(result, whole, atol=ROUNDING)
    assert len(lines) == scarce.refused > 0
    assert all(line.startswith("out of memory with tiles of ") for line in lines)
    assert lines[0].startswith("out of memory with tiles of 392x528 output pixels")
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_rows_that_were_finished_stay_as_they_are(bundles: Bundles) -> None:
    model = bundles["bilinear"]
    image = picture(60, 60)
    whole = Upscaler.open(model, threads=1).upscale(image, 4)
    inner = model_session(model)
    scarce = Scarce(inner, 10**9, MemoryError())
    tiles = Upscaler(model, scarce, memory_budget=40_000)
    rows = len(tiles.plan((60, 60), 4).rows)
    columns = len(tiles.plan((60, 60), 4).columns)
    assert rows > 2

    def less_after_a_row(done: int, tiles: int) -> None:
        scarce.most = 200 if done >= columns else scarce.most

    lines: list[str] = []
    result = tiles.upscale(image, 4, progress=less_after_a_row, warn=lines.append)
    np.testing.assert_allclose(result, whole, atol=ROUNDING)
    assert not any(line.endswith("from row 0") for line in lines)
    assert len(lines) > 0


def test_only_the_smallest_tile_ends_it(bundles: Bundles) -> None:
    model = bundles["fourfold"]
    scarce = Scarce(None, 0, MemoryBudgetError("cpu ran out of memory"))
    lines: list[str] = []
    message = "out of memory: cpu ran out of memory; there are no tiles smaller than 128x128"
    with pytest.raises(MemoryBudgetError, match=message):
        Upscaler(model, scarce).upscale(picture(131, 98), warn=lines.append)
    assert len(lines) == scarce.refused - 1 > 1
    assert lines[-1].endswith("going on with 128x128 from row 0")


def test_a_model_of_whole_pictures_cannot_go_on(bundles: Bundles) -> None:
    model = bundles["fourfold-whole"]
    scarce = Scarce(None, 0, MemoryBudgetError("cpu ran out of memory"))
    with pytest.raises(MemoryBudgetError, match="there are no tiles smaller than 32x40"):
        Upscaler(model, scarce).upscale(picture(9, 8))
    assert scarce.refused == 1
