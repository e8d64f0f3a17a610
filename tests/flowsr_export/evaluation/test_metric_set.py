"""Metrics, their borders, and refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch

from flowsr_export.evaluation import metrics
from flowsr_export.evaluation.imresize import matlab_bicubic
from flowsr_export.evaluation.mesh import mesh_pattern, mesh_ratio
from flowsr_export.evaluation.metric_set import DEFAULT_METRICS, MetricSet
from flowsr_export.evaluation.protocol import OWN, PROTOCOLS
from flowsr_lp.perceptual import DISTS
from flowsr_runtime.errors import CheckpointError, MetricError, UsageError
from flowsr_runtime.pictures.pixels import full_range
from tests.flowsr_export.evaluation.evaluations import dists_weights, lpips_weights
from tests.stand_in import picture

PLAIN = ("psnr", "psnr-y", "ssim", "ssim-y", "lr-psnr")
ORIGINAL = picture(64, 72, "metric_set")
LOW = matlab_bicubic(ORIGINAL, (32, 36))
OUTPUT = matlab_bicubic(LOW, (64, 72))


def test_the_published_borders_are_left_out() -> None:
    figures, _ = MetricSet.open(PLAIN).measure([OUTPUT], ORIGINAL, LOW, "2")
    assert figures == {
        "psnr": metrics.psnr(OUTPUT, ORIGINAL, 2),
        "psnr-y": metrics.psnr_y(OUTPUT, ORIGINAL, 2),
        "ssim": metrics.ssim(OUTPUT, ORIGINAL, 0),
        "ssim-y": metrics.ssim_y(OUTPUT, ORIGINAL, 2),
        "lr-psnr": metrics.lr_psnr(OUTPUT, LOW),
    }


@pytest.mark.parametrize(
    ("protocol", "scale", "psnr", "psnr_y", "ssim", "low"),
    [
        (None, "4", 4, 4, 0, 0),
        (None, "2.7", 3, 3, 0, 0),  # a real scale counts rounded up
        ("linf-lp", "4", 4, 4, 0, 4),
        ("linf-lp-arbitrary", "2.7", 3, 3, 0, 0),
        ("linf", "3", 9, 9, 0, 0),
        ("srflow", "4", 0, 0, 0, 0),
    ],
)
def test_every_protocol_has_its_borders(
    protocol: str | None, scale: str, psnr: int, psnr_y: int, ssim: int, low: int
) -> None:
    metric_set = MetricSet(PLAIN, protocol=PROTOCOLS.get(protocol or "", OWN))
    got = {name: metric_set.shaved(name, scale) for name in ("psnr", "psnr-y", "ssim")}
    assert got == {"psnr": psnr, "psnr-y": psnr_y, "ssim": ssim}
    assert metric_set.shaved("lr-psnr", scale) == low


def test_a_protocol_compares_values_that_were_not_rounded() -> None:
    levels = OUTPUT.astype(np.float32) * np.float32(0.998)
    figures, _ = MetricSet(PLAIN, protocol=PROTOCOLS["linf-lp"]).measure(
        [levels], ORIGINAL, LOW, "2"
    )
    assert figures["psnr"] == metrics.psnr(levels, ORIGINAL, 2)
    assert figures["psnr"] != metrics.psnr(metrics.eight_bit(levels), ORIGINAL, 2)
    assert figures["lr-psnr"] == metrics.lr_psnr(levels, LOW, 2, rounded=False)


def test_srflows_protocol_has_another_ssim() -> None:
    figures, _ = MetricSet(PLAIN, protocol=PROTOCOLS["srflow"]).measure(
        [OUTPUT], ORIGINAL, LOW, "2"
    )
    assert figures["ssim"] == metrics.ssim(OUTPUT, ORIGINAL, 0, "uniform")
    assert figures["ssim"] != metrics.ssim(OUTPUT, ORIGINAL, 0)


def test_one_border_can_be_asked_for() -> None:
    figures, _ = MetricSet.open(PLAIN, shave=1).measure([OUTPUT], ORIGINAL, LOW, "2")
    assert figures["psnr"] == metrics.psnr(OUTPUT, ORIGINAL, 1)
    assert figures["ssim"] == metrics.ssim(OUTPUT, ORIGINAL, 1)
    assert figures["ssim-y"] == metrics.ssim_y(OUTPUT, ORIGINAL, 1)


@pytest.mark.parametrize(
    ("names", "least"), [(("psnr",), 9), (("ssim-y",), 19), (("ssim",), 11), (("lr-psnr",), 4)]
)
def test_the_smallest_original_follows_from_the_borders(
    names: tuple[str, ...], least: int
) -> None:
    assert MetricSet(names).smallest("4") == least


def test_lpips_compares_whole_pictures(tmp_path: Path) -> None:
    alexnet, linear = lpips_weights(tmp_path)
    names = [name for name in DEFAULT_METRICS if name != "dists"]
    metric_set = MetricSet.open(names, alexnet=alexnet, linear=linear)
    figures, _ = metric_set.measure([OUTPUT], ORIGINAL, LOW, "2")
    assert list(figures) == ["psnr", "psnr-y", "ssim", "ssim-y", "lpips", "lr-psnr"]
    assert figures["lpips"] > 0
    assert (
        metric_set.measure([ORIGINAL + 1], ORIGINAL, LOW, "2")[0]["lpips"] != figures["lpips"]
    )
    assert metric_set.smallest("1") == 31


def test_dists_compares_whole_pictures(tmp_path: Path) -> None:
    vgg, own = dists_weights(tmp_path)
    metric_set = MetricSet.open(["dists", "psnr-y"], vgg16=vgg, dists_weights=own)
    figures, _ = metric_set.measure([OUTPUT], ORIGINAL, LOW, "2")
    a, b = (
        torch.from_numpy(full_range(image).transpose(2, 0, 1)[None].copy())
        for image in (OUTPUT, ORIGINAL)
    )
    assert list(figures) == ["psnr-y", "dists"]
    assert figures["dists"] == pytest.approx(DISTS(vgg, own)(a, b).item(), abs=1e-6)
    assert metric_set.measure([ORIGINAL], OUTPUT, LOW, "2")[0] == pytest.approx(
        figures, abs=1e-6
    )
    assert metric_set.smallest("1") == 3


def test_figures_are_means_over_the_samples_and_diversity_is_of_all(tmp_path: Path) -> None:
    alexnet, linear = lpips_weights(tmp_path)
    names = ("psnr-y", "diversity", "diversity-score")
    metric_set = MetricSet.open(names, alexnet=alexnet, linear=linear)
    samples = [OUTPUT, np.roll(OUTPUT, 1, 0)]
    figures, each = metric_set.measure(samples, ORIGINAL, LOW, "2")
    assert figures["psnr-y"] == pytest.approx(sum(one["psnr-y"] for one in each) / 2)
    assert figures["diversity"] == metrics.diversity(samples)
    assert 0 < figures["diversity-score"] < 100
    assert [list(one) for one in each] == [["psnr-y"], ["psnr-y"]]


def test_one_picture_has_no_diversity() -> None:
    assert MetricSet(("diversity",)).measure([OUTPUT], ORIGINAL, LOW, "2")[0] == {
        "diversity": 0
    }


def test_a_figure_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(MetricError, match="psnr-y must be finite, got inf"):
        MetricSet(("psnr-y",)).measure([ORIGINAL], ORIGINAL, LOW, "2")


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (DEFAULT_METRICS, r"lpips needs alexnet .* and lpips_weights"),
        (["diversity-score"], "diversity-score needs alexnet"),
        (["dists"], r"dists needs vgg16 \(vgg16-397923af.pth\) and dists_weights \(dists.pt\)"),
        (["psnr", "niqe"], "got psnr, niqe"),
        ([], "got no"),
    ],
)
def test_unknown_metrics_and_missing_weights_are_refused(names: list[str], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        MetricSet.open(names)


def test_swapped_weights_are_refused(tmp_path: Path) -> None:
    alexnet, linear = lpips_weights(tmp_path)
    with pytest.raises(CheckpointError, match=r"lpips\.safetensors lack features\.0\.weight"):
        MetricSet.open(["lpips"], alexnet=linear, linear=alexnet)


def test_mesh_is_a_ratio_and_a_pattern() -> None:
    large = picture(96, 96, "mesh")
    low = matlab_bicubic(large, (48, 48))
    metric_set = MetricSet.open(["mesh", "psnr"])
    figures, (sample,) = metric_set.measure([large], large + 1, low, "2", patch=3)
    bicubic = matlab_bicubic(low, (96, 96))
    assert list(figures) == ["psnr", "mesh", "mesh-pattern"]
    assert sample["mesh"] == mesh_ratio(large, bicubic, 3)
    assert sample["mesh-pattern"] == mesh_pattern(large, bicubic, 3)
    assert metric_set.smallest("2", 3) == 72


def test_mesh_without_patches_is_refused() -> None:
    with pytest.raises(UsageError, match=r"mesh .* patches"):
        MetricSet.open(["mesh"]).measure([OUTPUT], ORIGINAL, LOW, "2")


def test_values_out_of_range_are_averaged_over_the_samples() -> None:
    metric_set = MetricSet.open(["out-of-range"])
    figures, each = metric_set.measure(
        [OUTPUT, OUTPUT], ORIGINAL, LOW, "2", out_of_range=[0.5, 1.5]
    )
    assert figures == {"out-of-range": 1.0}
    assert [sample["out-of-range"] for sample in each] == [0.5, 1.5]
