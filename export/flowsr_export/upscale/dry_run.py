"""Dry run: tiles and memory that each image would need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowsr_export.upscale.jobs import Failure, Job, Request, failure_of, prepare
from flowsr_export.upscale.pipeline import IMAGE_ERRORS
from flowsr_runtime import Upscaler

__all__ = ["PlannedUpscale", "plan_all"]


@dataclass(frozen=True)
class PlannedUpscale:
    """The upscale of one image, as planned.

    Attributes:
        source: Input file.
        target: Output file.
        height: Rows of the output.
        width: Columns of the output.
        tiles: Number of tiles, each a run of the model.
        largest: Size of the largest tile without its halo, in output pixels.
        run_bytes: Estimated activation memory of one run.
        peak_bytes: Estimated memory of the process; on a GPU equal to `run_bytes`.
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
    """Read and plan every image; write nothing.

    Args:
        jobs: Jobs made by `jobs.plan`.
        upscaler: Open model.
        request: Parameters.

    Returns:
        The planned upscales, and the failures.

    Raises:
        FlowsrError: If an error does not concern a single image, such as a missing engine.
    """
    planned: list[PlannedUpscale] = []
    failures: list[Failure] = []
    for job in jobs:
        try:
            planned.append(_plan(job, upscaler, request))
        except IMAGE_ERRORS as error:
            failures.append(failure_of(job, error))
    return planned, failures


def _plan(job: Job, upscaler: Upscaler, request: Request) -> PlannedUpscale:
    """Plan one image; the output is checked unless its folder would be created."""
    request = request.of(job)
    animation, target = prepare(job, upscaler, request, check=job.target.parent.is_dir())
    picture = animation.frames[0]
    plan = upscaler.plan(
        picture.size,
        request.scale,
        size=request.size_for(picture.size),
        resample=request.resample,
        pixel_bytes=picture.rgb.itemsize * len(picture.mode),
    )
    tiles = len(plan) * len(animation.frames)
    memory = plan.run_bytes, plan.peak_bytes
    return PlannedUpscale(job.source, job.target, *target, tiles, plan.largest, *memory)
