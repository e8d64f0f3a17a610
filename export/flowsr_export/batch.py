"""Enlarge many picture files: one bad picture does not stop the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowsr_runtime import Upscaler, check_output, read_picture, write_picture
from flowsr_runtime.errors import (
    FlowsrError,
    MemoryBudgetError,
    NonFiniteError,
    OutputError,
    PictureError,
    ScaleError,
    ShapeError,
    UsageError,
)
from flowsr_runtime.image import SUFFIXES

__all__ = ["Done", "Failure", "Job", "STEPS", "Report", "Request", "enlarge_all", "plan"]

# What one picture can be the reason of; every other error would meet all of them.
ONE_PICTURE = (
    MemoryBudgetError,
    NonFiniteError,
    OutputError,
    PictureError,
    ScaleError,
    ShapeError,
)

FAILURE = 1

STEPS = 1000
"""Steps of a progress bar for one picture, whatever its number of tiles."""

Tell = Callable[[int, str], None]


@dataclass(frozen=True)
class Job:
    """One picture to enlarge.

    Attributes:
        source: Picture file.
        target: File to write.
    """

    source: Path
    target: Path


@dataclass(frozen=True)
class Request:
    """What is asked for every picture.

    Attributes:
        scale: Output pixels per input pixel, or (vertical, horizontal); None with a size, or
            for the scale of a bundle that has one.
        size: Output (H, W), in place of a scale.
        resample: Let a bundle of one scale reach any other size.
        truncate: Cut eight-bit values off in place of rounding them.
        seed: Of the noise, for a bundle without a learned prior.
        temperature: Of the noise, for a bundle without a learned prior.
        force: Overwrite files that are there.
    """

    scale: str | tuple[str, str] | None
    size: tuple[int, int] | None
    resample: bool = False
    truncate: bool = False
    seed: int = 0
    temperature: float | None = None
    force: bool = False


@dataclass(frozen=True)
class Done:
    """One picture that was enlarged.

    Attributes:
        source: Picture file.
        target: File that was written.
        height: Its rows.
        width: Its columns.
        seconds: Time of the enlargement, without reading and writing.
        warning: One line if values lay far out of range, else None.
    """

    source: Path
    target: Path
    height: int
    width: int
    seconds: float
    warning: str | None = None


@dataclass(frozen=True)
class Failure:
    """One picture that was not enlarged.

    Attributes:
        source: Picture file.
        reason: One line.
        exit_code: What the error would end a process with.
    """

    source: Path
    reason: str
    exit_code: int


@dataclass(frozen=True)
class Report:
    """How a batch went.

    Attributes:
        done: Pictures that were enlarged.
        failures: Pictures that were not.
    """

    done: tuple[Done, ...]
    failures: tuple[Failure, ...]

    @property
    def exit_code(self) -> int:
        """0 without failures; their code if all have the same; else 1."""
        codes = {failure.exit_code for failure in self.failures}
        if not codes:
            return 0
        return codes.pop() if len(codes) == 1 else FAILURE


def plan(inputs: Sequence[Path], output: Path) -> list[Job]:
    """Decide which file each picture goes to, and make the folder, before anything is read.

    The pictures of a folder are those directly in it. The output is a folder, where each
    picture keeps its name and becomes a PNG, if there are several inputs, if an input is a
    folder, or if it is an existing folder; otherwise it is the file to write.

    Args:
        inputs: Picture files and folders.
        output: File or folder.

    Returns:
        One job per picture, in order.

    Raises:
        PictureError: If a folder holds no picture.
        OutputError: If the output folder cannot be made.
        UsageError: If two pictures would go to one file.
    """
    if len(inputs) == 1 and not inputs[0].is_dir() and not output.is_dir():
        return [Job(inputs[0], output)]
    sources = [picture for path in inputs for picture in _pictures_of(path)]
    jobs = [Job(source, output / f"{source.stem}.png") for source in sources]
    taken: dict[Path, Path] = {}
    for job in jobs:
        if job.target in taken:
            raise UsageError(
                f"{taken[job.target]} and {job.source} would both become {job.target}"
            )
        taken[job.target] = job.source
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder {output} cannot be made: {error.strerror}") from error
    return jobs


def enlarge_all(
    jobs: Sequence[Job], upscaler: Upscaler, request: Request, tell: Tell
) -> Report:
    """Enlarge every picture, going on past those that cannot be.

    Args:
        jobs: What to enlarge, from `plan`.
        upscaler: The open model.
        request: What is asked for every picture.
        tell: Called with (steps, file name) after each tile; `STEPS` make a picture.

    Returns:
        What was done and what was not.

    Raises:
        FlowsrError: What no single picture is the reason of, such as a damaged bundle.
    """
    done: list[Done] = []
    failures: list[Failure] = []
    for job in jobs:
        bar = _PictureBar(job.source.name, tell)
        try:
            done.append(_enlarge(job, upscaler, request, bar))
        except ONE_PICTURE as error:
            failures.append(_failure(job, error))
        bar.reach(STEPS)
    return Report(tuple(done), tuple(failures))


class _PictureBar:
    """One picture's share of the bar."""

    def __init__(self, name: str, tell: Tell) -> None:
        self._name = name
        self._tell = tell
        self._steps = 0
        tell(0, name)

    def reach(self, steps: int) -> None:
        self._tell(steps - self._steps, self._name)
        self._steps = steps

    def after_tile(self, done: int, tiles: int) -> None:
        self.reach(STEPS * done // tiles)


def _enlarge(job: Job, upscaler: Upscaler, request: Request, bar: _PictureBar) -> Done:
    check_output(job.target, request.force)
    picture = read_picture(job.source)
    source = (picture.rgb.shape[0], picture.rgb.shape[1])
    target = upscaler.target(
        source, request.scale, size=request.size, resample=request.resample
    )
    check_output(job.target, request.force, like=picture, size=target)
    warnings: list[str] = []
    began = time.perf_counter()
    large = upscaler.upscale(
        picture.rgb,
        scale=request.scale,
        size=request.size,
        resample=request.resample,
        truncate=request.truncate,
        seed=request.seed,
        temperature=request.temperature,
        progress=bar.after_tile,
        warn=warnings.append,
    )
    seconds = time.perf_counter() - began
    write_picture(job.target, large, like=picture, force=request.force)
    return Done(job.source, job.target, *target, seconds, "; ".join(warnings) or None)


def _failure(job: Job, error: FlowsrError) -> Failure:
    """Return the failure, with the picture's name in its line."""
    reason = str(error)
    if str(job.source) not in reason:
        reason = f"{job.source}: {reason}"
    return Failure(job.source, reason, error.exit_code)


def _pictures_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        entries = sorted(path.iterdir())
    except OSError as error:
        raise PictureError(f"folder {path} cannot be read: {error.strerror}") from error
    found = [entry for entry in entries if entry.suffix.lower() in SUFFIXES]
    if not found:
        raise PictureError(f"folder {path} holds no picture")
    return found
