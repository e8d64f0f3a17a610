"""Evaluate methods on pictures: every picture, scale and sample, figure by figure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowsr_export.evaluation.dataset import Pair
from flowsr_export.evaluation.methods import Enlarged, Method
from flowsr_export.evaluation.metric_set import OF_SAMPLES, MetricSet
from flowsr_runtime.errors import FlowsrError, PictureError, UsageError

__all__ = ["Result", "Row", "check_pairs", "evaluate"]

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Row:
    """One picture, scale and method.

    Attributes:
        dataset: Name of the set.
        picture: Name of the picture.
        scale: Output pixels per input pixel, as it was typed.
        method: What enlarged it.
        lr: Input size (h, w).
        size: Output size (H, W).
        seconds: Time of one enlargement, mean over the samples.
        figures: Each figure, mean over the samples.
        samples: The figures of each sample, in the order of the seeds; without those that
            are of all samples together.
        warnings: One line for each sample whose values lay far out of range.
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
    """A row and the pictures that it is about.

    Attributes:
        row: The figures.
        output: The first sample, (H, W, 3) uint8.
        original: What it was compared with, (H, W, 3) uint8.
    """

    row: Row
    output: Picture
    original: Picture


def check_pairs(
    pairs: Sequence[Pair],
    metric_set: MetricSet,
    advance: Callable[[str], None] = lambda note: None,
) -> None:
    """Read every picture once, so that a bad one does not end a long run.

    Args:
        pairs: What is to be evaluated.
        metric_set: With which figures.
        advance: Called with each pair's name when it was read.

    Raises:
        PictureError: If a file cannot be read, sizes do not go together, or an original is
            too small for a figure.
    """
    for pair in pairs:
        original, _ = pair.read()
        least = metric_set.smallest(pair.scale)
        if min(original.shape[:2]) < least:
            raise PictureError(
                f"{pair.hr} at ×{pair.scale} is {original.shape[1]}x{original.shape[0]}; "
                f"for {', '.join(metric_set.metrics)} {least} pixels a side are needed"
            )
        advance(str(pair))


def evaluate(
    pairs: Sequence[Pair],
    methods: Sequence[Method],
    metric_set: MetricSet,
    *,
    samples: int = 1,
    seed: int = 0,
    advance: Callable[[str], None] = lambda note: None,
) -> Iterator[Result]:
    """Enlarge every picture with every method and compare it with its original.

    Args:
        pairs: Originals and inputs.
        methods: What enlarges them.
        metric_set: With which figures they are compared.
        samples: Pictures of each method that has noise.
        seed: Of the first sample; the others follow it by one.
        advance: Called with each pair's name after each method.

    Yields:
        One result for each pair and method.

    Raises:
        UsageError: If a method has no noise and more than one sample is asked of all, or
            diversity of one sample.
        FlowsrError: What a picture's enlargement or a figure fails with, the pair named.
    """
    _check_samples(methods, metric_set, samples)
    for pair in pairs:
        original, low = pair.read()
        for method in methods:
            try:
                result = _result(pair, method, metric_set, original, low, samples, seed)
            except FlowsrError as error:
                raise type(error)(f"{pair}, {method.name}: {error}") from error
            advance(str(pair))
            yield result


def _check_samples(methods: Sequence[Method], metric_set: MetricSet, samples: int) -> None:
    if samples < 1:
        raise UsageError(f"samples must be at least 1, got {samples}")
    noisy = any(method.samples for method in methods)
    if samples > 1 and not noisy:
        raise UsageError(
            "samples need noise: a bundle without a learned prior and a temperature above 0"
        )
    wanted = [name for name in OF_SAMPLES if name in metric_set.metrics]
    if wanted and samples < 2:
        raise UsageError(f"{wanted[0]} needs two samples or more (--samples), got {samples}")


def _result(
    pair: Pair,
    method: Method,
    metric_set: MetricSet,
    original: Picture,
    low: Picture,
    samples: int,
    seed: int,
) -> Result:
    size = original.shape[0], original.shape[1]
    done: list[Enlarged] = []
    began = time.perf_counter()
    for number in range(samples if method.samples else 1):
        done.append(method.enlarge(low, size, seed + number))
    seconds = (time.perf_counter() - began) / len(done)
    figures, each = metric_set.measure([one.picture for one in done], original, low, pair.scale)
    warnings = tuple(one.warning for one in done if one.warning is not None)
    row = Row(
        dataset=pair.dataset,
        picture=pair.name,
        scale=pair.scale,
        method=method.name,
        lr=(low.shape[0], low.shape[1]),
        size=size,
        seconds=seconds,
        figures=figures,
        samples=each,
        warnings=warnings,
    )
    return Result(row, done[0].picture, original)
