"""Figures of quality: the definitions written out, and figures of other libraries."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flowsr_export.evaluation.imresize import matlab_bicubic
from flowsr_export.evaluation.metrics import (
    diversity,
    diversity_score,
    lr_psnr,
    luma,
    psnr,
    psnr_y,
    ssim,
    ssim_y,
)
from flowsr_export.inputs.cases import PICTURES
from flowsr_runtime.errors import ShapeError
from tests.stand_in import picture

ROUNDING = 1e-12  # float64, sums in another order


def gray(value: int, side: int = 12) -> NDArray[np.uint8]:
    return np.full((side, side, 3), value, np.uint8)


def pair() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture and what bicubic makes of it, 40 columns and 32 rows."""
    original = picture(32, 40, "metrics")
    return original, matlab_bicubic(matlab_bicubic(original, (8, 10)), (32, 40))


def test_luma_is_studio_swing() -> None:
    assert luma(gray(0))[0, 0] == 16
    assert luma(gray(255))[0, 0] == pytest.approx(235)
    green = np.array([[[0, 255, 0]]], np.uint8)
    assert luma(green)[0, 0] == pytest.approx(16 + 128.553)


def test_psnr_counts_every_value_against_255() -> None:
    assert psnr(gray(100), gray(101), 0) == pytest.approx(20 * math.log10(255))
    one_channel = gray(100)
    one_channel[..., 1] = 101
    assert psnr(gray(100), one_channel, 0) == pytest.approx(10 * math.log10(3 * 255**2))
    assert psnr(gray(7), gray(7), 0) == math.inf


def test_psnr_of_luma_counts_the_error_of_luma_against_255() -> None:
    step = 219 / 255  # one step of gray in luma
    assert psnr_y(gray(100), gray(101), 0) == pytest.approx(20 * math.log10(255 / step))


@pytest.mark.parametrize("figure", [psnr, psnr_y])
def test_psnr_leaves_the_border_out(figure: object) -> None:
    assert callable(figure)
    framed = gray(100)
    framed[:3], framed[-3:], framed[:, :3], framed[:, -3:] = 0, 0, 0, 0
    assert figure(framed, gray(100), 3) == math.inf
    assert figure(framed, gray(100), 2) < 30


def ssim_written_out(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Wang et al. 2004, equations 13 to 17, window by window, with the window in 2-D."""
    rows, columns = np.mgrid[-5:6, -5:6]
    w = np.exp(-(rows**2 + columns**2) / (2 * 1.5**2))
    w /= w.sum()
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = (plane[top : top + 11, left : left + 11] for plane in (x, y))
            mean_a, mean_b = (w * a).sum(), (w * b).sum()
            var_a, var_b = (w * (a - mean_a) ** 2).sum(), (w * (b - mean_b) ** 2).sum()
            both = (w * (a - mean_a) * (b - mean_b)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            values.append(
                ((2 * mean_a * mean_b + c1) * (2 * both + c2))
                / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return float(np.mean(values))


def test_ssim_is_the_definition() -> None:
    original, enlarged = pair()
    inner = np.s_[4:-4, 4:-4]
    by_hand = ssim_written_out(luma(original)[inner], luma(enlarged)[inner])
    assert ssim_y(original, enlarged, 4) == pytest.approx(by_hand, abs=ROUNDING)
    channels = [
        ssim_written_out(*(p[..., c].astype(np.float64) for p in (original, enlarged)))
        for c in range(3)
    ]
    assert ssim(original, enlarged, 0) == pytest.approx(np.mean(channels), abs=ROUNDING)


def test_ssim_and_psnr_are_those_of_scikit_image() -> None:
    # scikit-image 0.26.0: structural_similarity(gaussian_weights=True, sigma=1.5,
    # use_sample_covariance=False, data_range=255) and peak_signal_noise_ratio.
    with Image.open(PICTURES / "chelsea_256.png") as image:
        original = np.asarray(image.convert("RGB"))
    enlarged = matlab_bicubic(matlab_bicubic(original, (64, 64)), (256, 256))
    assert ssim(original, enlarged, 0) == pytest.approx(0.6701297589177532, abs=ROUNDING)
    assert ssim_y(original, enlarged, 4) == pytest.approx(0.7004309360615518, abs=ROUNDING)
    assert psnr(original, enlarged, 0) == pytest.approx(27.86912574428921, abs=ROUNDING)


def flat_ssim_written_out(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The same with a flat window of 7 and the covariance of a sample, as scikit-image's."""
    values = []
    for top in range(x.shape[0] - 6):
        for left in range(x.shape[1] - 6):
            a, b = (plane[top : top + 7, left : left + 7] for plane in (x, y))
            both = np.cov(a.ravel(), b.ravel())  # divided by 48
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            values.append(
                ((2 * a.mean() * b.mean() + c1) * (2 * both[0, 1] + c2))
                / ((a.mean() ** 2 + b.mean() ** 2 + c1) * (both[0, 0] + both[1, 1] + c2))
            )
    return float(np.mean(values))


def test_uniform_ssim_is_that_of_scikit_image_without_options() -> None:
    original, enlarged = pair()
    by_hand = flat_ssim_written_out(luma(original), luma(enlarged))
    assert ssim_y(original, enlarged, 0, "uniform") == pytest.approx(by_hand, abs=ROUNDING)
    channels = [
        flat_ssim_written_out(*(p[..., c].astype(np.float64) for p in (original, enlarged)))
        for c in range(3)
    ]
    got = ssim(original, enlarged, 0, "uniform")
    assert got == pytest.approx(np.mean(channels), abs=ROUNDING)


def test_ssim_is_one_of_equal_pictures_alone() -> None:
    original, enlarged = pair()
    assert ssim(original, original, 0) == pytest.approx(1, abs=ROUNDING)
    assert ssim_y(enlarged, original, 0) == ssim_y(original, enlarged, 0) < 1


def test_ssim_needs_a_window_between_the_borders() -> None:
    original, enlarged = pair()
    assert 0 < ssim(original, enlarged, 10) < 1  # 12 rows are left
    with pytest.raises(ShapeError, match=r"11 pixels a side between borders of 11, got 40x32"):
        ssim(original, enlarged, 11)
    with pytest.raises(ShapeError, match="1 pixels a side between borders of 16"):
        psnr(original, enlarged, 16)
    with pytest.raises(ShapeError, match=r"one size, got \(12, 12, 3\) and \(13"):
        psnr_y(gray(0), gray(0, 13), 0)


def test_lr_psnr_shrinks_the_output_in_eight_bits() -> None:
    _, enlarged = pair()
    low = matlab_bicubic(enlarged, (8, 10))
    assert lr_psnr(enlarged, low) == math.inf
    brighter = np.minimum(low, 254) + 1
    moved = int((brighter != low).sum())
    expected = 10 * math.log10(255**2 * low.size / moved)
    assert lr_psnr(enlarged, brighter.astype(np.uint8)) == pytest.approx(expected)


def test_lr_psnr_of_values_is_not_rounded() -> None:
    low = np.full((4, 4, 3), 100, np.uint8)
    output = np.full((8, 8, 3), 100.25, np.float32)
    expected = 10 * math.log10(255**2 / 0.25**2)
    assert lr_psnr(output, low, 1, rounded=False) == pytest.approx(expected)
    assert lr_psnr(output, low, 1) == math.inf  # in eight bits both are 100
    low[0, 0] = 0  # within the border
    assert lr_psnr(output, low, 1, rounded=False) == pytest.approx(expected)
    assert lr_psnr(output, low, 0, rounded=False) < 30


def test_diversity_is_the_unbiased_deviation() -> None:
    samples = [picture(9, 7, salt) for salt in "abcde"]
    expected = np.stack(samples).astype(np.float64).std(0, ddof=1).mean()
    assert diversity(samples) == pytest.approx(expected, abs=ROUNDING)
    assert diversity([samples[0]] * 3) == 0
    assert diversity([gray(10), gray(12)]) == pytest.approx(math.sqrt(2))


def test_the_score_is_what_the_best_of_each_pixel_gains() -> None:
    left, right = (
        np.array([[1, 3]], np.float32),
        np.array([[5, 1]], np.float32),
    )  # means 2 and 3
    assert diversity_score([left, right]) == pytest.approx(100 * (2 - 1) / 2)
    assert diversity_score([left, left]) == 0
    assert math.isnan(diversity_score([0 * left, right]))


@pytest.mark.parametrize("samples", [[gray(1)], [gray(1), gray(1, 13)]])
def test_diversity_needs_samples_of_one_size(samples: list[NDArray[np.uint8]]) -> None:
    with pytest.raises(ShapeError, match="samples must be at least two"):
        diversity(samples)
    with pytest.raises(ShapeError, match="samples must be at least two"):
        diversity_score([sample.astype(np.float32) for sample in samples])
