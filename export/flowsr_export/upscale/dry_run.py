"""How pictures would be cut and what memory that takes, without computing anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowsr_export.upscale.jobs import Failure, Job, Request, failure_of
from flowsr_export.upscale.pipeline import ONE_PICTURE
from flowsr_runtime import Upscaler, check_output, read_picture

__all__ = ["PlannedUpscale", "plan_all"]


@dataclass(frozen=True)
class PlannedUpscale:
    """What enlarging one picture would be.

    Attributes:
        source: Picture file.
        target: File that would be written.
        height: Its rows.
        width: Its columns.
        tiles: Runs of the model.
        largest: Output pixels of the largest tile without its halo, rows by columns.
        run_bytes: Estimated activations of one run.
        peak_bytes: Estimated memory of the process; on a GPU the same as `run_bytes`.
    """

    source: Path
    target: Path
    height: int
    width: int
    tiles: int
    largest: str
    run_bytes: int
    peak_bytes: int


def plan_all(
    jobs: Sequence[Job], upscaler: Upscaler, request: Request
) -> tuple[list[PlannedUpscale], list[Failure]]:
    """Read every picture and plan it; write nothing.

    Args:
        jobs: What to enlarge, from `batch.plan`.
        upscaler: The open model.
        request: What is asked for every picture.

    Returns:
        What would be done, and what could not be.

    Raises:
        FlowsrError: What no single picture is the reason of, such as no engine that takes it.
    """
    planned: list[PlannedUpscale] = []
    failures: list[Failure] = []
    for job in jobs:
        try:
            planned.append(_plan(job, upscaler, request))
        except ONE_PICTURE as error:
            failures.append(failure_of(job, error))
    return planned, failures


def _plan(job: Job, upscaler: Upscaler, request: Request) -> PlannedUpscale:
    there = job.target.parent.is_dir()  # else it would be made
    if there:
        check_output(job.target, request.force)
    picture = request.prepared(read_picture(job.source))
    source = (picture.rgb.shape[0], picture.rgb.shape[1])
    height, width = upscaler.target(
        source, request.scale, size=request.size, resample=request.resample
    )
    if there:
        size = (height, width)
        check_output(job.target, request.force, like=picture, size=size, depth=request.depth)
    plan = upscaler.plan(
        source,
        request.scale,
        size=request.size,
        resample=request.resample,
        pixel_bytes=picture.rgb.itemsize * len(picture.mode),  # a letter for each channel
    )
    return PlannedUpscale(
        job.source,
        job.target,
        height,
        width,
        len(plan),
        plan.largest,
        plan.run_bytes,
        plan.peak_bytes,
    )
