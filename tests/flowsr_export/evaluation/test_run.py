"""Every image, scale, model and sample is upscaled and compared once."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_export.evaluation.dataset import Pair, find_pairs
from flowsr_export.evaluation.metric_set import MetricSet
from flowsr_export.evaluation.metrics import psnr_y
from flowsr_export.evaluation.model import BICUBIC, EvaluatedModel, Upscaled, bundle_model
from flowsr_export.evaluation.run import check_pairs, evaluate
from flowsr_runtime import Upscaler
from flowsr_runtime.errors import MetricError, NonFiniteError, PictureError, UsageError
from tests.flowsr_export.evaluation.evaluations import folder_of, noisy_bundle

METRIC_SET = MetricSet.open(["psnr-y", "lr-psnr"])


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    """Two pictures at two scales."""
    return find_pairs([folder_of(tmp_path / "Set", "a", "b")], [], ["2", "2.7"])


@pytest.fixture
def ours(bundle: Path) -> Iterator[EvaluatedModel]:
    with Upscaler.open(bundle, threads=1) as upscaler:
        yield bundle_model(upscaler)


@pytest.fixture
def noisy(tmp_path: Path) -> Iterator[EvaluatedModel]:
    with Upscaler.open(noisy_bundle(tmp_path / "noisy"), threads=1) as upscaler:
        yield bundle_model(upscaler, 0.1)


def test_every_pair_and_method_has_a_row(pairs: list[Pair], ours: EvaluatedModel) -> None:
    notes: list[str] = []
    results = list(evaluate(pairs, [BICUBIC, ours], METRIC_SET, advance=notes.append))
    rows = [result.row for result in results]
    assert [(row.picture, row.scale, row.method) for row in rows] == [
        (picture, scale, method)
        for scale in ("2", "2.7")
        for picture in ("a", "b")
        for method in ("bicubic", "flowsr-lp")
    ]
    assert (rows[-1].lr, rows[-1].size) == ((23, 26), (62, 70))
    assert notes == [str(pair) for pair in pairs for _ in range(2)]


def test_figures_are_those_of_the_pictures(pairs: list[Pair], ours: EvaluatedModel) -> None:
    for result in evaluate(pairs, [ours], METRIC_SET):
        border = 2 if result.row.scale == "2" else 3
        assert result.row.figures["psnr-y"] == psnr_y(result.output, result.original, border)
        assert result.row.samples == (result.row.figures,)
        assert result.row.seconds > 0


def test_samples_follow_the_seed_and_bicubic_has_one(
    pairs: list[Pair], noisy: EvaluatedModel
) -> None:
    metric_set = MetricSet.open(["psnr-y", "diversity"])
    bicubic, ours = evaluate(pairs[:1], [BICUBIC, noisy], metric_set, samples=3, seed=7)
    assert (len(bicubic.row.samples), bicubic.row.figures["diversity"]) == (1, 0)
    each = [one["psnr-y"] for one in ours.row.samples]
    assert len(set(each)) == 3
    assert ours.row.figures["psnr-y"] == pytest.approx(np.mean(each))
    # A tenth of the range at temperature 0.1, less what is cut off at black and white.
    assert 15 < ours.row.figures["diversity"] < 25.5
    (alone,) = evaluate(pairs[:1], [noisy], MetricSet.open(["psnr-y"]), seed=8)
    assert alone.row.figures["psnr-y"] == each[1]


def test_samples_and_noise_go_together(
    pairs: list[Pair], ours: EvaluatedModel, noisy: EvaluatedModel
) -> None:
    with pytest.raises(UsageError, match=r"samples must be 1 .* got 2"):
        next(evaluate(pairs, [ours], METRIC_SET, samples=2))
    with pytest.raises(UsageError, match="2 for diversity, got 1"):
        next(evaluate(pairs, [noisy], MetricSet.open(["diversity"])))
    with pytest.raises(UsageError, match="1, got 0"):
        next(evaluate(pairs, [noisy], METRIC_SET, samples=0))


def test_warnings_are_kept(exploding: Path, tmp_path: Path) -> None:
    pairs = find_pairs([folder_of(tmp_path / "Set", "a")], [], ["4"])
    with Upscaler.open(exploding, threads=1) as upscaler:
        (result,) = evaluate(pairs, [bundle_model(upscaler)], METRIC_SET)
    (line,) = result.row.warnings
    assert "exploded" in line


def test_an_error_names_the_picture_and_the_method(pairs: list[Pair]) -> None:
    def upscale(low: NDArray[np.uint8], size: tuple[int, int], seed: int) -> Upscaled:
        raise NonFiniteError("the model gives NaN or infinity")

    with pytest.raises(NonFiniteError, match=r"^Set a ×2, broken: the model gives NaN"):
        next(evaluate(pairs, [EvaluatedModel("broken", upscale)], METRIC_SET))


def test_a_figure_that_cannot_be_computed_names_them_too(tmp_path: Path) -> None:
    pairs = find_pairs([folder_of(tmp_path / "Set", "a")], [], ["1"])
    with pytest.raises(MetricError, match=r"^Set a ×1, bicubic: psnr-y .* inf"):
        next(evaluate(pairs, [BICUBIC], METRIC_SET))


def test_pictures_are_checked_before_any_is_enlarged(tmp_path: Path) -> None:
    folder = folder_of(folder_of(tmp_path / "Set", "a"), "b", height=18, width=30)
    notes: list[str] = []
    with pytest.raises(
        PictureError,
        match=r"b\.png .* 19 pixels a side at ×4 for psnr-y, ssim-y, got 28x16",
    ):
        check_pairs(
            find_pairs([folder], [], ["4"]), MetricSet.open(["psnr-y", "ssim-y"]), notes.append
        )
    assert notes == ["Set a ×4"]
