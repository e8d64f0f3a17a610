"""Jobs of a batch: input and output files, the request, prepared images, the report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from flowsr_export.upscale.folders import Found, images_of, is_same_folder
from flowsr_export.upscale.inputs import STREAM, Sides, output_beside
from flowsr_export.upscale.outputs import (
    check_target,
    format_of,
    read_source,
    with_background,
    with_fitting_metadata,
)
from flowsr_runtime import Upscaler, check_output, read_picture
from flowsr_runtime.errors import FlowsrError, MemoryBudgetError, OutputError, UsageError
from flowsr_runtime.geometry import Fit, fitted_size
from flowsr_runtime.pictures.animation import Animation
from flowsr_runtime.pictures.depth import Depth
from flowsr_runtime.pictures.files import SUFFIXES
from flowsr_runtime.pictures.formats import format_named
from flowsr_runtime.tiling.memory import check_available

__all__ = [
    "DEFAULT_SCALE",
    "Done",
    "Failure",
    "Job",
    "Report",
    "Request",
    "Scale",
    "failure_of",
    "plan",
    "prepare",
    "split_existing",
]

FAILURE = 1

DEFAULT_SCALE = "4"
"""Scale of a bundle of any scale if neither a scale nor a size is given."""

Scale = str | tuple[str, str]
"""A scale, or one each for rows and columns, as text."""

MEGA = 1_000_000
TIFF_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class Job:
    """One image to upscale.

    Attributes:
        source: Input file.
        target: Output file.
        scale: Scale of this output if the request has several, else None.
        seed: Seed of this output if the request has several samples, else None.
    """

    source: Path
    target: Path
    scale: Scale | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Request:
    """Parameters for all images of a batch.

    Attributes:
        scale: Output pixels per input pixel, or (vertical, horizontal); None with a size, or
            for the scale of a fixed-scale bundle.
        size: Output (H, W), instead of a scale; a side that is None follows from the other.
        width: Output columns, instead of a size; the command makes a size of it.
        height: Output rows, likewise.
        fit: How the result fits a size of two sides; None for exact.
        resample: Resize the result of a fixed-scale bundle to any other size.
        truncate: Truncate eight-bit values instead of rounding them.
        seed: Random seed for the noise.
        temperature: Standard deviation of the noise, None without any.
        force: Overwrite existing files.
        depth: Depth of the outputs, None for the depth of each input.
        skip_existing: Keep existing outputs, without an error.
        format: Format of the outputs as a suffix without its dot; None for PNG, TIFF beside
            TIFF, and what an output file's name says.
        quality: As for `encode_picture`.
        background: Color behind alpha for a format without, red, green and blue to 255.
        recursive: Search the folders in folders too.
        all_frames: Upscale all frames of an animation instead of the first.
        scales: Several scales of each image, instead of one.
        prior_mix: Factor of the prior's latent, as for `Upscaler.upscale`.
        temperature_map: Gray picture file that scales the temperature.
        samples: Number of images to sample of each, with seeds from `seed` on.
    """

    scale: Scale | None
    size: Sides | None
    width: int | None = None
    height: int | None = None
    fit: Fit | None = None
    resample: bool = False
    truncate: bool = False
    seed: int = 0
    temperature: float | None = None
    force: bool = False
    depth: Depth | None = None
    skip_existing: bool = False
    format: str | None = None
    quality: int | None = None
    background: tuple[int, int, int] | None = None
    recursive: bool = False
    all_frames: bool = False
    scales: tuple[Scale, ...] = ()
    prior_mix: float | None = None
    temperature_map: Path | None = None
    samples: int = 1

    def of(self, job: Job) -> Request:
        """Return the parameters of one output."""
        request = self
        if job.scale is not None:
            request = replace(request, scale=job.scale, scales=())
        return request if job.seed is None else replace(request, seed=job.seed, samples=1)

    def strength(self) -> NDArray[Any] | None:
        """Read the map of the temperature, (rows, columns), None without one.

        Raises:
            PictureError: If the file cannot be read.
            UsageError: If it is not gray.
        """
        if self.temperature_map is None:
            return None
        picture = read_picture(self.temperature_map)
        if not picture.gray:
            raise UsageError(
                f"temperature_map must be gray, got {picture.mode} in {self.temperature_map}",
                option="temperature_map",
            )
        return picture.pixels if picture.pixels.ndim == 2 else picture.pixels[..., 0]

    def size_for(self, source: tuple[int, int]) -> tuple[int, int] | None:
        """Return the output size (H, W) of an image of a size (h, w), None with a scale."""
        if self.size is None:
            return None
        return fitted_size(source, self.size, self.fit or "exact")

    def format_of(self, target: Path) -> str:
        """Return the suffix of an output's format."""
        return format_of(target, self.format, self.depth)


@dataclass(frozen=True)
class Done:
    """One upscaled image.

    Attributes:
        source: Input file.
        target: Output file.
        height: Rows of the output.
        width: Columns of the output.
        seconds: Time of the upscale, without reading and writing.
        warning: One line if values were far out of range or memory ran out, else None.
        frames: Number of frames.
    """

    source: Path
    target: Path
    height: int
    width: int
    seconds: float
    warning: str | None = None
    frames: int = 1


@dataclass(frozen=True)
class Failure:
    """One failed image.

    Attributes:
        source: Input file.
        reason: One line.
        exit_code: Exit code of the error.
        option: Argument that caused it, as in `FlowsrError`.
        build: Facts about an engine to build, as in `FlowsrError`.
    """

    source: Path
    reason: str
    exit_code: int
    option: str | None = None
    build: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Report:
    """Result of a batch.

    Attributes:
        done: Upscaled images.
        failures: Failed images.
        skipped: Existing outputs, which are kept.
        seconds: Time of the whole batch, reading and writing included.
        peak_bytes: Peak resident size of this process in bytes, None if unknown.
    """

    done: tuple[Done, ...]
    failures: tuple[Failure, ...]
    skipped: tuple[Path, ...] = ()
    seconds: float = 0.0
    peak_bytes: int | None = None

    @property
    def exit_code(self) -> int:
        """0 without failures, the code of the failures if it is the same for all, else 1."""
        codes = {failure.exit_code for failure in self.failures}
        if not codes:
            return 0
        return codes.pop() if len(codes) == 1 else FAILURE

    @property
    def megapixels(self) -> float:
        """Output pixels in millions."""
        return sum(done.height * done.width for done in self.done) / MEGA

    @property
    def megapixels_per_second(self) -> float:
        """Output megapixels divided by the time of the whole batch."""
        return self.megapixels / self.seconds if self.seconds else 0.0


def plan(
    inputs: Sequence[Path],
    output: Path | None,
    request: Request | None = None,
    *,
    make: bool = True,
) -> list[Job]:
    """Choose the output file of each image, and create the output folder.

    Earlier outputs in folders are left out. Without an output each result lies beside its
    image. The output is a folder with the names of the inputs, and with the folders in them if
    those are searched, if there are several inputs, if an input is a folder, or if the output
    is an existing folder; otherwise it is the output file. In an input's own folder an output
    is named as without one. Of several scales each
    one has its own output, whose name ends with the scale, as in photo_x2.7.png; of several
    samples each one, whose name ends with the seed, as in photo_x4_seed7.png.

    Args:
        inputs: Image files and folders; `STREAM` is stdin.
        output: File or folder, None to write beside the inputs; `STREAM` is stdout.
        request: Parameters; the scale or the size names an output beside its input. None for
            the default scale.
        make: Create missing output folders.

    Returns:
        One job per image and scale, in order.

    Raises:
        PictureError: If a folder holds no image.
        OutputError: If the output folder cannot be created.
        UsageError: If two images have the same output, an output is another input, the output
            for several is named like an image, or the format or quality excludes the output.
    """
    request = request or Request(DEFAULT_SCALE, None)
    in_folders = False
    if STREAM in inputs or output == STREAM:
        jobs = _per_scale([_streamed(inputs, output, request)], request)
    elif (
        output is not None
        and len(inputs) == 1
        and not os.path.isdir(inputs[0])
        and not os.path.isdir(output)
    ):
        jobs = _per_scale([Job(inputs[0], output)], request)
    else:
        jobs = _several(inputs, output, request)
        in_folders = output is not None
    jobs = _per_sample(jobs, request)
    _check_distinct(jobs)
    if make and in_folders:
        assert output is not None
        _make_folders(output, jobs)
    _check_formats(jobs, request)
    return jobs


def split_existing(jobs: Sequence[Job], request: Request) -> tuple[list[Job], tuple[Path, ...]]:
    """Return the jobs to do, and the outputs that exist and are kept.

    Args:
        jobs: Jobs made by `plan`.
        request: Parameters.
    """
    if not request.skip_existing:
        return list(jobs), ()
    due = [job for job in jobs if not os.path.lexists(job.target)]
    return due, tuple(job.target for job in jobs if job not in due)


def prepare(
    job: Job, upscaler: Upscaler, request: Request, *, check: bool = True
) -> tuple[Animation, tuple[int, int]]:
    """Read an image, and check its output before slow work.

    Args:
        job: Input and output file.
        upscaler: Open model.
        request: Parameters.
        check: Check the output file.

    Returns:
        Frames for the model, at the depth to write if that is finer, and the output size
        (H, W).

    Raises:
        FlowsrError: If the image, its size or its output is not valid.
    """
    request = request.of(job)
    if check and job.target != STREAM and (job.source == STREAM or os.path.lexists(job.source)):
        check_output(job.target, request.force)
    format = request.format_of(job.target)
    animation = read_source(job.source, all_frames=request.all_frames)
    animation = with_background(animation, format, request.background)
    if request.depth is not None:
        animation = animation.promoted(request.depth)
    first, resample = animation.frames[0], request.resample
    size = request.size_for(first.size)
    target = upscaler.target(first.size, request.scale, size=size, resample=resample)
    bytes_of_pixel = first.pixels.itemsize * len(first.mode)
    check_available(first.size, target, bytes_of_pixel * len(animation.frames))
    if check:
        force, depth = request.force, request.depth
        check_target(job.target, format, animation, target, force=force, depth=depth)
    return with_fitting_metadata(animation, format, target), target


def failure_of(job: Job, error: FlowsrError | MemoryError) -> Failure:
    """Return the failure of an image, with its name in the reason."""
    if not isinstance(error, FlowsrError):  # from an array outside the tiles
        error = MemoryBudgetError(f"out of memory: {error}")
    reason = str(error)
    if str(job.source) not in reason:
        reason = f"{job.source}: {reason}"
    return Failure(job.source, reason, error.exit_code, error.option, error.build)


def _beside(source: Path, request: Request) -> Path:
    """Return the output beside an image: PNG, or TIFF for TIFF and for float."""
    suffix = source.suffix if source.suffix.lower() in TIFF_SUFFIXES else ".png"
    if request.depth == "float":
        suffix = ".tif"
    if request.format is not None:
        suffix = f".{request.format}"
    return output_beside(source, request.scale, request.size, suffix)


def _streamed(inputs: Sequence[Path], output: Path | None, request: Request) -> Job:
    """Return the job that reads stdin, writes stdout, or both."""
    source, *rest = inputs
    if rest or os.path.isdir(source):
        given = "- is stdin" if STREAM in inputs else "-o - is stdout"
        raise UsageError(f"{given}, for one image alone; give files and folders without it")
    target = STREAM if output is None else output
    if os.path.isdir(target):
        target /= f"stdin.{request.format or 'png'}"
    return Job(source, target)


def _several(inputs: Sequence[Path], output: Path | None, request: Request) -> list[Job]:
    """Return the jobs of folders, several images, or outputs beside their images."""
    if output is not None and output.suffix.lower() in SUFFIXES and not os.path.isdir(output):
        raise UsageError(f"output {output} is one image; give a folder for several")
    found = [
        each
        for path in inputs
        for each in images_of(path, recursive=request.recursive, output=output)
    ]
    return [
        Job(each.path, _target_of(each, output, request, scale), scale)
        for each in found
        for scale in request.scales or (None,)
    ]


def _target_of(
    found: Found, output: Path | None, request: Request, scale: Scale | None
) -> Path:
    beside = _beside(found.path, replace(request, scale=scale or request.scale))
    if output is None:
        return beside
    folder = output / found.below
    if is_same_folder(folder, found.path.parent):
        return folder / beside.name
    target = folder / f"{found.path.stem}.{request.format or 'png'}"
    return target if scale is None else _named(target, scale)


def _make_folders(output: Path, jobs: Sequence[Job]) -> None:
    for folder in dict.fromkeys([output, *(job.target.parent for job in jobs)]):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"folder {folder} cannot be created: {error.strerror}") from error


def _check_formats(jobs: Sequence[Job], request: Request) -> None:
    """Refuse a format that is not the output's, and a quality that its format lacks."""
    for suffix in dict.fromkeys(request.format_of(job.target).lower() for job in jobs):
        if suffix not in SUFFIXES:
            continue
        if request.format is not None and SUFFIXES[suffix] != SUFFIXES[f".{request.format}"]:
            raise UsageError(
                f"format must be that of the output, got {request.format} for {suffix}",
                option="format",
            )
        try:
            format_named(suffix).options_at(request.quality)
        except OutputError as error:
            raise UsageError(str(error), option=error.option) from error


def _per_scale(jobs: Sequence[Job], request: Request) -> list[Job]:
    """Return a job for every scale of a request with several, `jobs` for any other."""
    if not request.scales:
        return list(jobs)
    return [
        Job(job.source, _named(job.target, scale), scale)
        for job in jobs
        for scale in request.scales
    ]


def _named(target: Path, scale: Scale) -> Path:
    """Return the name of one of several outputs; stdout has none."""
    if target == STREAM:
        return target
    return output_beside(target, scale, None, target.suffix)


def _per_sample(jobs: Sequence[Job], request: Request) -> list[Job]:
    """Return a job for every sample of a request with several, `jobs` for any other."""
    if request.samples == 1:
        return list(jobs)
    return [
        replace(job, target=_seeded(job.target, seed), seed=seed)
        for job in jobs
        for seed in range(request.seed, request.seed + request.samples)
    ]


def _seeded(target: Path, seed: int) -> Path:
    """Return the name of one of several samples; stdout has none."""
    return target if target == STREAM else target.with_stem(f"{target.stem}_seed{seed}")


def _check_distinct(jobs: Sequence[Job]) -> None:
    taken: dict[Path, Job] = {}
    for job in jobs:
        first = taken.setdefault(job.target, job)
        if first is job:
            continue
        if job.target == STREAM:
            raise UsageError("-o - is stdout, for one image alone; give a folder for several")
        if job.scale is not None and first.source == job.source:
            message = f"scale must be given once each, got {job.target} twice"
            raise UsageError(message, option="scale")
        both = f"{first.source} and {job.source}"
        raise UsageError(f"{both} have the same output {job.target}")
    sources = {job.source for job in jobs}
    for job in jobs:
        if job.target in sources and job.target != job.source:
            raise UsageError(f"output {job.target} of {job.source} is an input too")
