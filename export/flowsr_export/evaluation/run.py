"""Evaluate models on image pairs: every image, scale and sample, with every metric."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowsr_export.evaluation.dataset import Pair
from flowsr_export.evaluation.metric_set import OF_SAMPLES, MetricSet
from flowsr_export.evaluation.model import EvaluatedModel
from flowsr_runtime.errors import FlowsrError, PictureError, UsageError
from flowsr_runtime.geometry import size_text

__all__ = ["Result", "Row", "check_pairs", "evaluate"]

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Row:
    """Measurements of one image, scale and model.

    Attributes:
        dataset: Name of the set.
        picture: Name of the image.
        scale: Scale as it was typed.
        method: Name of the model.
        lr: Input size (h, w).
        size: Output size (H, W).
        seconds: Time of one upscaling, mean over the samples.
        figures: Value of each metric, mean over the samples.
        samples: Values of each sample in the order of the seeds, without the metrics that
            compare all samples.
        warnings: One line for each sample with values far out of range.
    """

    dataset: str
    picture: str
    scale: str
    method: str
    lr: tuple[int, int]
    size: tuple[int, int]
    seconds: float
    figures: dict[str, float]
    samples: tuple[dict[str, float], ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """A row and its images.

    Attributes:
        row: The measurements.
        output: The first sample, (H, W, 3) uint8.
        original: The original, (H, W, 3) uint8.
    """

    row: Row
    output: Picture
    original: Picture


def check_pairs(
    pairs: Sequence[Pair],
    metric_set: MetricSet,
    advance: Callable[[str], None] = lambda note: None,
    patch: int | None = None,
) -> None:
    """Read every image once, before a bad one can end a long run.

    Args:
        pairs: Image pairs.
        metric_set: Metrics.
        advance: Called with the name of each pair after it.
        patch: Side of the models' patches in output pixels, None if they have none.

    Raises:
        PictureError: If a file cannot be read, the sizes of a pair do not fit, or an original
            is too small for a metric.
    """
    for pair in pairs:
        original, _ = pair.read()
        least = metric_set.smallest(pair.scale, patch)
        size = original.shape[0], original.shape[1]
        if min(size) < least:
            raise PictureError(
                f"{pair.hr} must have at least {least} pixels a side at ×{pair.scale} for "
                f"{', '.join(metric_set.metrics)}, got {size_text(size)}"
            )
        advance(str(pair))


def evaluate(
    pairs: Sequence[Pair],
    models: Sequence[EvaluatedModel],
    metric_set: MetricSet,
    *,
    samples: int = 1,
    seed: int = 0,
    advance: Callable[[str], None] = lambda note: None,
) -> Iterator[Result]:
    """Upscale every image with every model and compare it with its original.

    Args:
        pairs: Image pairs.
        models: Models.
        metric_set: Metrics.
        samples: Samples of each model with noise.
        seed: Random seed of the first sample; each further sample adds one.
        advance: Called with the name of each pair after each model.

    Yields:
        One result for each pair and model.

    Raises:
        UsageError: If several samples are requested and no model has noise, or diversity is
            requested with one sample.
        FlowsrError: If an upscaling or a metric fails; the message names the pair.
    """
    _check_samples(models, metric_set, samples)
    _check_range(models, metric_set)
    patch = next((model.patch for model in models if model.patch is not None), None)
    for pair in pairs:
        original, low = pair.read()
        for model in models:
            try:
                result = _result(pair, model, metric_set, original, low, samples, seed, patch)
            except FlowsrError as error:
                raise type(error)(f"{pair}, {model.name}: {error}") from error
            advance(str(pair))
            yield result


def _check_samples(
    models: Sequence[EvaluatedModel], metric_set: MetricSet, samples: int
) -> None:
    if samples < 1:
        raise UsageError(f"samples must be at least 1, got {samples}", option="samples")
    if samples > 1 and not any(model.is_random for model in models):
        raise UsageError(
            f"samples must be 1 without noise, got {samples}; noise needs a bundle without a "
            "learned prior and a temperature above 0",
            option="samples",
        )
    diversity = [name for name in OF_SAMPLES if name in metric_set.metrics]
    if diversity and samples < 2:
        wrong = f"samples must be at least 2 for {diversity[0]}, got {samples}"
        raise UsageError(wrong, option="samples")


def _check_range(models: Sequence[EvaluatedModel], metric_set: MetricSet) -> None:
    if not any(model.eight_bit for model in models):
        return
    why = "a graph of float32 images, this one clamps and rounds its values"
    if "out-of-range" in metric_set.metrics:
        raise UsageError(f"out-of-range needs {why}", option="metrics")
    if metric_set.protocol.values == "float":
        raise UsageError(f"values float need {why}", option="values")


def _result(
    pair: Pair,
    model: EvaluatedModel,
    metric_set: MetricSet,
    original: Picture,
    low: Picture,
    samples: int,
    seed: int,
    patch: int | None,
) -> Result:
    size = original.shape[0], original.shape[1]
    count = samples if model.is_random else 1
    began = time.perf_counter()
    if model.find is not None:
        outputs = [model.find(pair, size)]
    else:
        outputs = [model.upscale(low, size, seed + number) for number in range(count)]
    seconds = (time.perf_counter() - began) / count
    figures, per_sample = metric_set.measure(
        [output.levels(metric_set.protocol.values) for output in outputs],
        original,
        low,
        pair.scale,
        patch=patch,
        out_of_range=[output.out_of_range for output in outputs],
    )
    row = Row(
        dataset=pair.dataset,
        picture=pair.name,
        scale=pair.scale,
        method=model.name,
        lr=(low.shape[0], low.shape[1]),
        size=size,
        seconds=seconds,
        figures=figures,
        samples=per_sample,
        warnings=tuple(o.warning for o in outputs if o.warning is not None),
    )
    return Result(row, outputs[0].picture, original)
