from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.quality import Figures, bicubic, luma, markdown, measure, model_method, psnr
from flowsr_lp.perceptual import LPIPS
from tests import stand_in


class MeanDifference(torch.nn.Module):
    """Stands in for LPIPS: no weights to load."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().mean((1, 2, 3))


LPIPS_STAND_IN = cast("LPIPS", MeanDifference())


def gray(value: int, side: int = 12) -> NDArray[np.uint8]:
    return np.full((side, side, 3), value, np.uint8)


def test_luma_is_studio_swing() -> None:
    assert luma(gray(0))[0, 0] == 16
    assert luma(gray(255))[0, 0] == pytest.approx(235)
    green = np.array([[[0, 255, 0]]], np.uint8)
    assert luma(green)[0, 0] == pytest.approx(16 + 128.553)


def test_psnr_counts_the_error_of_luma_against_255() -> None:
    step = 219 / 255  # one step of gray in luma
    assert psnr(gray(100), gray(101), 0) == pytest.approx(20 * np.log10(255 / step))
    assert psnr(gray(7), gray(7), 0) == float("inf")


def test_psnr_leaves_the_border_out() -> None:
    framed = gray(100)
    framed[:3], framed[-3:], framed[:, :3], framed[:, -3:] = 0, 0, 0, 0
    assert psnr(framed, gray(100), 3) == float("inf")
    assert psnr(framed, gray(100), 2) < 30


def test_pictures_are_compared_at_their_common_size(tmp_path: Path) -> None:
    for name in ("a", "b"):
        high = stand_in.picture(22, 25, name)
        Image.fromarray(high).save(tmp_path / f"{name}_HR.png")
        Image.fromarray(high[::4, ::4]).save(tmp_path / f"{name}_LR.png")
    steps: list[None] = []
    count, decibels, distance = measure(
        bicubic, tmp_path, 4, LPIPS_STAND_IN, lambda: steps.append(None)
    )
    assert count == len(steps) == 2
    assert 5 < decibels < 60
    assert 0 < distance < 1


def test_a_gray_picture_counts_as_a_colour_one(tmp_path: Path) -> None:
    Image.fromarray(gray(90, 16)[..., 0]).save(tmp_path / "a_HR.png")
    Image.fromarray(gray(90, 4)[..., 0]).save(tmp_path / "a_LR.png")
    assert measure(bicubic, tmp_path, 4, LPIPS_STAND_IN, lambda: None) == (1, np.inf, 0)


def test_the_model_gives_eight_bit_pictures_with_and_without_prior() -> None:
    encoder = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 8}}
    sizes = {"flow_layers": 2, "num_layer": 1, "hidden_dim": 8}
    model = {"name": "linf-patch", "args": {"encoder_spec": encoder, **sizes}}
    prior = {"name": "unet", "args": {"in_chans": 27, "depth": 1, "dim": 4}}
    for network in (stand_in.network(model, prior), stand_in.network(model, None)):
        output = model_method(network)(stand_in.picture(5, 6), (13, 20))
        assert output.shape == (13, 20, 3)
        assert output.dtype == np.uint8


def test_the_table_has_a_line_for_each_set_and_scale() -> None:
    figures = [
        Figures("Set5", scale, method, 5, psnr, lpips)
        for scale in (2, 4)
        for method, psnr, lpips in (("bicubic", 28.43, 0.34), ("ours", 30, 0.1))
    ]
    assert markdown(figures).splitlines() == [
        "| set | scale | bicubic | ours |",
        "|---|---|---|---|",
        "| Set5 | ×2 | 28.43 / 0.340 | 30.00 / 0.100 |",
        "| Set5 | ×4 | 28.43 / 0.340 | 30.00 / 0.100 |",
    ]
