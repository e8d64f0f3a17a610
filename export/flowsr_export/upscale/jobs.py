"""Enlarge many picture files: which goes where, what is asked of each, and how it went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowsr_runtime.errors import (
    FlowsrError,
    MemoryBudgetError,
    OutputError,
    PictureError,
    UsageError,
)
from flowsr_runtime.pictures.depth import Depth
from flowsr_runtime.pictures.files import SUFFIXES, Picture

__all__ = ["Done", "Failure", "Job", "Report", "Request", "failure_of", "plan"]

FAILURE = 1

MEGA = 1_000_000


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
        depth: Depth to write with, None for that of each picture.
    """

    scale: str | tuple[str, str] | None
    size: tuple[int, int] | None
    resample: bool = False
    truncate: bool = False
    seed: int = 0
    temperature: float | None = None
    force: bool = False
    depth: Depth | None = None

    def prepared(self, picture: Picture) -> Picture:
        """Return a picture as it goes into the model: at the depth to write, if it is finer."""
        return picture if self.depth is None else picture.promote_depth(self.depth)


@dataclass(frozen=True)
class Done:
    """One picture that was enlarged.

    Attributes:
        source: Picture file.
        target: File that was written.
        height: Its rows.
        width: Its columns.
        seconds: Time of the enlargement, without reading and writing.
        warning: One line if values lay far out of range or memory ran out, else None.
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
        skipped: Files that were there already and were left.
        seconds: Time of the whole batch, reading and writing included.
        peak_bytes: Largest resident size of this process so far, None if it is not told.
    """

    done: tuple[Done, ...]
    failures: tuple[Failure, ...]
    skipped: tuple[Path, ...] = ()
    seconds: float = 0.0
    peak_bytes: int | None = None

    @property
    def exit_code(self) -> int:
        """0 without failures; their code if all have the same; else 1."""
        codes = {failure.exit_code for failure in self.failures}
        if not codes:
            return 0
        return codes.pop() if len(codes) == 1 else FAILURE

    @property
    def megapixels(self) -> float:
        """Pixels of the pictures that were made, in millions."""
        return sum(done.height * done.width for done in self.done) / MEGA

    @property
    def megapixels_per_second(self) -> float:
        """The same by the time of the whole batch."""
        return self.megapixels / self.seconds if self.seconds else 0.0


def plan(inputs: Sequence[Path], output: Path, *, make: bool = True) -> list[Job]:
    """Decide which file each picture goes to, and make the folder, before anything is read.

    The pictures of a folder are those directly in it. The output is a folder, where each
    picture keeps its name and becomes a PNG, if there are several inputs, if an input is a
    folder, or if it is an existing folder; otherwise it is the file to write.

    Args:
        inputs: Picture files and folders.
        output: File or folder.
        make: Make the folder if it is not there.

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
        if make:
            output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder {output} cannot be made: {error.strerror}") from error
    return jobs


def failure_of(job: Job, error: FlowsrError | MemoryError) -> Failure:
    """Return the failure, with the picture's name in its line."""
    if not isinstance(error, FlowsrError):  # of an array outside the tiles
        error = MemoryBudgetError(f"out of memory: {error}")
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
