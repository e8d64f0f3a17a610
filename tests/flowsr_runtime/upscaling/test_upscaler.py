"""The upscaler against an exact bilinear model: tiles, noise and refusals."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowsr_runtime.backends.session import open_session
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.errors import (
    MemoryBudgetError,
    NonFiniteError,
    ScaleError,
    UsageError,
)
from flowsr_runtime.tiling import memory
from flowsr_runtime.upscaling import upscaler as upscaler_module
from flowsr_runtime.upscaling.upscaler import Upscaler

Bundles = dict[str, Bundle]
Photo = NDArray[np.uint8]

# float32 sums of a few products in another order: some units in the last place of 1.
ROUNDING = 2e-6
SMALL_BUDGET = 20_000
EQUAL_BUDGET = 32_000  # the smallest tiles of one size fit in it: at most 35x35 at scale 1
SCALES = st.sampled_from([1, 1.3, (2.7, 3.6), 3, 4, 12])
SIDES = st.integers(1, 40)


def resized(image: NDArray[Any], target: tuple[int, int]) -> NDArray[np.float64]:
    """Return the bilinear resize with half-pixel centers, in float64."""

    def matrix(source: int, count: int) -> NDArray[np.float64]:
        u = ((2 * np.arange(count) + 1) * source - count) / (2 * count)
        apart = np.clip(u, 0, source - 1)[:, None] - np.arange(source)[None]
        return np.maximum(0.0, 1.0 - np.abs(apart))

    rows = matrix(image.shape[0], target[0])
    columns = matrix(image.shape[1], target[1])
    picture: NDArray[np.float64] = np.einsum("Yy,yxc,Xx->YXc", rows, image * 1.0, columns)
    return picture


def as_float(photo: Photo) -> NDArray[np.float32]:
    pixels: NDArray[np.float32] = photo.astype(np.float32) / np.float32(255)
    return pixels


def test_uint8_is_resized_and_rounded_to_nearest(bundles: Bundles, photo: Photo) -> None:
    with Upscaler.open(bundles["bilinear"]) as upscaler:
        result = upscaler.upscale(photo, 2.7)
    assert result.shape == (62, 84, 3)
    assert result.dtype == np.uint8
    assert np.abs(result - resized(photo, (62, 84))).max() <= 0.5 + 1e-3


def test_halves_are_rounded_up(bundles: Bundles) -> None:
    image = np.array([[[0, 0, 0], [1, 3, 255]]], dtype=np.uint8)
    result = Upscaler.open(bundles["bilinear"]).upscale(image, size=(1, 3))
    np.testing.assert_array_equal(result[0, 1], [1, 2, 128])


def test_float32_gives_float32(bundles: Bundles, photo: Photo) -> None:
    image = as_float(photo)
    result = Upscaler.open(bundles["bilinear"]).upscale(image, size=(50, 31))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, resized(image, (50, 31)), atol=ROUNDING)


@settings(max_examples=40, deadline=None)
@given(st.tuples(SIDES, SIDES), SCALES, st.integers(SMALL_BUDGET, 200_000))
def test_tiled_equals_whole(
    bundles: Bundles,
    source: tuple[int, int],
    scale: float | tuple[float, float],
    budget: int,
) -> None:
    image = np.random.default_rng(1).random((*source, 3), dtype=np.float32)
    whole = Upscaler.open(bundles["bilinear"]).upscale(image, scale)
    tiled = Upscaler.open(bundles["bilinear"], memory_budget=budget).upscale(image, scale)
    np.testing.assert_allclose(tiled, whole, atol=ROUNDING)


class OnGpu:
    """A session of the CPU that says it is a GPU's, and keeps the sizes that it runs."""

    backend, provider, device, limits = "onnxruntime", "cuda", 0, None

    def __init__(self, bundle: Bundle) -> None:
        self._session = open_session(bundle, threads=1)
        self.sizes: set[tuple[int, ...]] = set()
        self.close = self._session.close

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        self.sizes.add((*feeds["input"].shape, *feeds["geometry"][8:]))
        return self._session.run(feeds)


@settings(max_examples=20, deadline=None)
@given(st.tuples(SIDES, SIDES), SCALES, st.integers(EQUAL_BUDGET, 200_000))
def test_on_a_gpu_all_tiles_of_an_image_have_one_size(
    bundles: Bundles,
    source: tuple[int, int],
    scale: float | tuple[float, float],
    budget: int,
) -> None:
    image = np.random.default_rng(1).random((*source, 3), dtype=np.float32)
    whole = Upscaler.open(bundles["bilinear"]).upscale(image, scale)
    session = OnGpu(bundles["bilinear"])
    tiled = Upscaler(bundles["bilinear"], session, memory_budget=budget).upscale(image, scale)
    np.testing.assert_allclose(tiled, whole, atol=ROUNDING)
    assert len(session.sizes) == 1


def test_an_exact_halo_holds_the_receptive_field(bundles: Bundles, photo: Photo) -> None:
    image = as_float(photo)
    blurred = bundles["blurred"]
    whole = Upscaler.open(blurred).upscale(image, 4)
    short = Upscaler.open(blurred, memory_budget=SMALL_BUDGET).upscale(image, 4)
    exact = Upscaler.open(blurred, memory_budget=SMALL_BUDGET, halo="exact").upscale(image, 4)
    np.testing.assert_allclose(exact, whole, atol=ROUNDING)
    assert np.abs(short - whole).max() > 1e-3


def test_tiles_see_the_same_noise_as_the_whole(bundles: Bundles, photo: Photo) -> None:
    latent, image = bundles["latent"], as_float(photo)
    options: dict[str, Any] = {"clamp": False, "seed": 5, "temperature": 0.8}
    whole = Upscaler.open(latent).upscale(image, (2.7, 3.6), **options)
    tiles = Upscaler.open(latent, memory_budget=SMALL_BUDGET)
    tiled = tiles.upscale(image, (2.7, 3.6), **options)
    np.testing.assert_allclose(tiled, whole, atol=ROUNDING)
    assert whole.max() > 1.5


def test_temperature_zero_gives_the_mode(bundles: Bundles, photo: Photo) -> None:
    mode = Upscaler.open(bundles["latent"]).upscale(photo, 2, temperature=0)
    plain = Upscaler.open(bundles["bilinear"]).upscale(photo, 2)
    np.testing.assert_array_equal(mode, plain)


def test_the_seed_decides_the_noise(bundles: Bundles, photo: Photo) -> None:
    upscaler = Upscaler.open(bundles["latent"])
    first, again, other = (
        upscaler.upscale(photo, 2, seed=seed, temperature=0.1) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_clamp_keeps_the_result_in_range(bundles: Bundles, photo: Photo) -> None:
    result = Upscaler.open(bundles["latent"]).upscale(as_float(photo), 2, temperature=1)
    assert (result.min(), result.max()) == (0, 1)


def test_a_fixed_bundle_takes_its_scale_alone(bundles: Bundles, photo: Photo) -> None:
    upscaler = Upscaler.open(bundles["fixed"])
    doubled = photo.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(upscaler.upscale(photo, 2), doubled)
    np.testing.assert_array_equal(upscaler.upscale(photo, size=(46, 62)), doubled)
    np.testing.assert_array_equal(upscaler.upscale(photo), doubled)


def test_a_fixed_bundle_is_not_cut_into_tiles(bundles: Bundles, photo: Photo) -> None:
    upscaler = Upscaler.open(bundles["fixed"], memory_budget=SMALL_BUDGET)
    with pytest.raises(MemoryBudgetError, match=r"at least 45\d\d\d bytes.*whole pictures"):
        upscaler.upscale(photo, 2)


def test_progress_counts_the_tiles(bundles: Bundles, photo: Photo) -> None:
    upscaler = Upscaler.open(bundles["bilinear"], memory_budget=SMALL_BUDGET)
    seen: list[tuple[int, int]] = []
    upscaler.upscale(photo, 4, progress=lambda done, total: seen.append((done, total)))
    total = len(upscaler.plan((23, 31), 4))
    assert seen == [(done, total) for done in range(1, total + 1)]
    assert total > 1


def test_threads_share_one_upscaler(bundles: Bundles, photo: Photo) -> None:
    upscaler = Upscaler.open(bundles["bilinear"], threads=1, memory_budget=SMALL_BUDGET)
    scales = [1.3, 2, 2.7, 3] * 4
    expected = [upscaler.upscale(photo, scale) for scale in scales]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda scale: upscaler.upscale(photo, scale), scales))
    for result, due in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, due)


def test_views_and_read_only_pictures_are_taken(bundles: Bundles, photo: Photo) -> None:
    view = photo[::-1, ::2]
    view.flags.writeable = False  # a write to it would raise
    result = Upscaler.open(bundles["bilinear"]).upscale(view, 1)
    np.testing.assert_array_equal(result, view)


def test_nan_is_an_error_that_says_where(bundles: Bundles) -> None:
    image = np.ones((20, 20, 3), dtype=np.uint8)
    image[5:7, 11:15] = 0
    upscaler = Upscaler.open(bundles["dividing"])
    with pytest.raises(NonFiniteError, match=r"24 of 1200 .*2 %.*rows 5-6, columns 11-14"):
        upscaler.upscale(image, 1)


def test_a_budget_that_is_too_small_names_the_smallest(bundles: Bundles, photo: Photo) -> None:
    upscaler = Upscaler.open(bundles["bilinear"], memory_budget=2000)
    with pytest.raises(
        MemoryBudgetError, match=r"\d+ bytes for 31x23 to 124x92, got 2000"
    ) as caught:
        upscaler.upscale(photo, 4)
    least = int(str(caught.value).split()[5])
    Upscaler.open(bundles["bilinear"], memory_budget=least).upscale(photo, 4)
    with pytest.raises(MemoryBudgetError, match=f"at least {least} bytes"):
        Upscaler.open(bundles["bilinear"], memory_budget=least - 1).upscale(photo, 4)


def test_an_output_beyond_memory_is_refused(bundles: Bundles) -> None:
    image = np.zeros((1024, 1024, 3), dtype=np.uint8)
    fixed = Upscaler.open(bundles["bilinear"], memory_budget=2**50)
    with pytest.raises(
        MemoryBudgetError, match="1024x1024 to 1048576x1048576 needs about 16384"
    ):
        fixed.upscale(image, 1024)


def test_sixteen_bits_are_resized_and_rounded_to_nearest(bundles: Bundles) -> None:
    image = np.random.default_rng(2).integers(0, 65536, (9, 7, 3)).astype(np.uint16)
    result = Upscaler.open(bundles["bilinear"]).upscale(image, 2.7)
    assert result.dtype == np.uint16
    # float32 holds 65535 to a 256th, and the weights are float32 as well.
    assert np.abs(result - resized(image, (24, 19))).max() <= 0.5 + 0.05


def test_a_closed_upscaler_is_refused(bundles: Bundles, photo: Photo) -> None:
    upscaler = Upscaler.open(bundles["bilinear"])
    upscaler.close()
    upscaler.close()
    with pytest.raises(UsageError, match="the upscaler is closed"):
        upscaler.upscale(photo, 2)


def test_the_budget_is_the_callers_else_the_bundles_else_a_gibibyte(bundles: Bundles) -> None:
    plain = bundles["bilinear"]
    memory = replace(plain.manifest.memory, budget_bytes=12_345)
    stating = replace(plain, manifest=replace(plain.manifest, memory=memory))
    assert Upscaler.open(plain).memory_budget == 2**30
    assert Upscaler.open(stating).memory_budget == 12_345
    assert Upscaler.open(stating, memory_budget=7).memory_budget == 7


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("bilinear", {"scale": 0.999}, ScaleError, r"at least 1, got 0\.999"),
        ("bilinear", {}, ScaleError, "exactly one of scale and size"),
        ("bilinear", {"scale": 2, "size": (46, 62)}, ScaleError, "exactly one of scale"),
        ("bilinear", {"scale": 2, "clamp": False}, UsageError, "clamp=False .* got uint8"),
        ("bilinear", {"scale": 2, "temperature": 0.5}, UsageError, r"temperature, got 0\.5"),
        ("bilinear", {"scale": 2, "resample": True}, UsageError, "resample"),
        ("latent", {"scale": 2}, UsageError, "temperature"),
        ("fixed", {"scale": 3}, ScaleError, "scale 2, got 93x69 for 31x23; resample=True"),
    ],
)
def test_wrong_arguments_are_refused(
    bundles: Bundles,
    photo: Photo,
    name: str,
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        Upscaler.open(bundles[name]).upscale(photo, **arguments)


@pytest.mark.parametrize(
    ("option", "value"), [("memory_budget", 0), ("max_memory", "1G"), ("halo", "wide")]
)
def test_wrong_settings_are_refused(bundles: Bundles, option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{option} must be .*, got {value!r}") as refused:
        Upscaler.open(bundles["bilinear"], **{option: value})
    assert refused.value.option == option


def test_an_output_is_compared_with_the_memory_before_it_is_allocated(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    allocated: list[object] = []
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    monkeypatch.setattr(upscaler_module, "allocate", lambda *given: allocated.append(given))
    with (
        Upscaler.open(bundles["bilinear"], threads=1) as upscaler,
        pytest.raises(MemoryBudgetError, match="20x20 to 80x80 needs about"),
    ):
        upscaler.upscale(np.zeros((20, 20, 3), np.uint8), 4)
    assert allocated == []
