"""Jobs of a batch: input and output files, the request, prepared images, the report."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from flowsr_export.upscale.inputs import is_earlier_output, is_image_name, output_beside
from flowsr_runtime import Upscaler, check_output, read_picture
from flowsr_runtime.errors import (
    FlowsrError,
    MemoryBudgetError,
    OutputError,
    PictureError,
    UsageError,
)
from flowsr_runtime.pictures.depth import Depth
from flowsr_runtime.pictures.files import SUFFIXES, Picture
from flowsr_runtime.tiling.memory import check_available

__all__ = [
    "DEFAULT_SCALE",
    "Done",
    "Failure",
    "Job",
    "Report",
    "Request",
    "Scale",
    "earlier_outputs",
    "failure_of",
    "other_files",
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
        size: Output (H, W), instead of a scale.
        resample: Resize the result of a fixed-scale bundle to any other size.
        truncate: Truncate eight-bit values instead of rounding them.
        seed: Random seed for the noise.
        temperature: Standard deviation of the noise, None without any.
        force: Overwrite existing files.
        depth: Depth of the outputs, None for the depth of each input.
        skip_existing: Keep existing outputs, without an error.
        scales: Several scales of each image, instead of one.
        prior_mix: Factor of the prior's latent, as for `Upscaler.upscale`.
        temperature_map: Gray picture file that scales the temperature.
        samples: Number of images to sample of each, with seeds from `seed` on.
    """

    scale: Scale | None
    size: tuple[int, int] | None
    resample: bool = False
    truncate: bool = False
    seed: int = 0
    temperature: float | None = None
    force: bool = False
    depth: Depth | None = None
    skip_existing: bool = False
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
    """

    source: Path
    target: Path
    height: int
    width: int
    seconds: float
    warning: str | None = None


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

    Folders are not searched recursively, and `earlier_outputs` in them are left out. Without
    an output each result lies beside its image. The output is a folder of PNG files with the
    names of the inputs if there are several inputs, if an input is a folder, or if the output
    is an existing folder; otherwise it is the output file. Of several scales each one has its
    own output, whose name ends with the scale, as in photo_x2.7.png; of several samples each
    one, whose name ends with the seed, as in photo_x4_seed7.png.

    Args:
        inputs: Image files and folders.
        output: File or folder, None to write beside the inputs.
        request: Parameters; the scale or the size names an output beside its input. None for
            the default scale.
        make: Create a missing output folder.

    Returns:
        One job per image and scale, in order.

    Raises:
        PictureError: If a folder holds no image.
        OutputError: If the output folder cannot be created.
        UsageError: If two images have the same output file, or the output for several is
            named like an image.
    """
    if (
        output is not None
        and len(inputs) == 1
        and not os.path.isdir(inputs[0])
        and not os.path.isdir(output)
    ):
        jobs = _per_sample(_per_scale([Job(inputs[0], output)], request), request)
        _check_distinct(jobs)
        return jobs
    if output is not None and output.suffix.lower() in SUFFIXES and not os.path.isdir(output):
        raise UsageError(f"output {output} is one image; give a folder for several")
    sources = [picture for path in inputs for picture in _pictures_of(path)]
    if output is None:
        asked = request or Request(DEFAULT_SCALE, None)
        jobs = [
            Job(source, _beside(source, replace(asked, scale=scale or asked.scale)), scale)
            for source in sources
            for scale in asked.scales or (None,)
        ]
    else:
        jobs = [Job(source, output / f"{source.stem}.png") for source in sources]
        jobs = _per_scale(jobs, request)
    jobs = _per_sample(jobs, request)
    _check_distinct(jobs)
    try:
        if make and output is not None:
            output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder {output} cannot be created: {error.strerror}") from error
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


def earlier_outputs(inputs: Sequence[Path]) -> list[Path]:
    """Return the images in folders that `plan` leaves out.

    They are named like the output of another image in their folder: photo_x4.png or
    photo_1920x1080.png beside photo.jpg. An image that is named itself is never left out.

    Args:
        inputs: Image files and folders.
    """
    named = {path for path in inputs if not os.path.isdir(path)}
    return [
        entry
        for path in inputs
        if os.path.isdir(path)
        for entry in _earlier_outputs_in(_images_in(path) or [])
        if entry not in named
    ]


def prepare(
    job: Job, upscaler: Upscaler, request: Request, *, check: bool = True
) -> tuple[Picture, tuple[int, int]]:
    """Read an image, and check its output before slow work.

    Args:
        job: Input and output file.
        upscaler: Open model.
        request: Parameters.
        check: Check the output file.

    Returns:
        Image for the model, at the depth to write if that is finer, and the output size (H, W).

    Raises:
        FlowsrError: If the image, its size or its output is not valid.
    """
    request = request.of(job)
    _check_source(job.source)
    if check:
        check_output(job.target, request.force)
    picture = read_picture(job.source)
    if request.depth is not None:
        picture = picture.promote_depth(request.depth)
    size, resample = request.size, request.resample
    target = upscaler.target(picture.size, request.scale, size=size, resample=resample)
    check_available(picture.size, target, picture.pixels.itemsize * len(picture.mode))
    if check:
        check_output(job.target, request.force, like=picture, size=target, depth=request.depth)
    return picture, target


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
    return output_beside(source, request.scale, request.size, suffix)


def _per_scale(jobs: Sequence[Job], request: Request | None) -> list[Job]:
    """Return a job for every scale of a request with several, `jobs` for any other."""
    if request is None or not request.scales:
        return list(jobs)
    return [
        Job(job.source, output_beside(job.target, scale, None, job.target.suffix), scale)
        for job in jobs
        for scale in request.scales
    ]


def _per_sample(jobs: Sequence[Job], request: Request | None) -> list[Job]:
    """Return a job for every sample of a request with several, `jobs` for any other."""
    if request is None or request.samples == 1:
        return list(jobs)
    return [
        replace(job, target=job.target.with_stem(f"{job.target.stem}_seed{seed}"), seed=seed)
        for job in jobs
        for seed in range(request.seed, request.seed + request.samples)
    ]


def _check_distinct(jobs: Sequence[Job]) -> None:
    taken: dict[Path, Job] = {}
    for job in jobs:
        first = taken.setdefault(job.target, job)
        if first is job:
            continue
        if job.scale is not None and first.source == job.source:
            message = f"scale must be given once each, got {job.target} twice"
            raise UsageError(message, option="scale")
        both = f"{first.source} and {job.source}"
        raise UsageError(f"{both} have the same output {job.target}")


def _check_source(path: Path) -> None:
    """Check an input before its output, so that a missing one is what is reported."""
    try:
        os.lstat(path)
    except FileNotFoundError as error:
        raise PictureError(f"{path} does not exist") from error
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {error.strerror}") from error


def _pictures_of(path: Path) -> list[Path]:
    """Return the images of an input; a folder that cannot be read fails as an image does."""
    found = _images_in(path) if os.path.isdir(path) else None
    if found is None:
        return [path]
    if not found:
        raise PictureError(f"folder {path} holds no image")
    outputs = set(_earlier_outputs_in(found))
    return [entry for entry in found if entry not in outputs]


def _images_in(folder: Path) -> list[Path] | None:
    """Return the images of a folder in order, None if it cannot be read."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return None
    return [entry for entry in entries if is_image_name(entry)]


def other_files(inputs: Sequence[Path]) -> dict[str, int]:
    """Count the files in folders that are no images by their names, by kind as in "GIF".

    Args:
        inputs: Image files and folders; hidden files are not counted.
    """
    kinds: Counter[str] = Counter()
    for folder in filter(os.path.isdir, inputs):
        with suppress(OSError):
            for entry in folder.iterdir():
                if not (entry.name.startswith(".") or is_image_name(entry) or entry.is_dir()):
                    kinds[entry.suffix[1:].upper() or "without a suffix"] += 1
    return dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0])))


def _earlier_outputs_in(images: Sequence[Path]) -> list[Path]:
    stems = {image.stem for image in images}
    return [image for image in images if is_earlier_output(image, stems)]
