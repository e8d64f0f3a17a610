"""Upscale images on a Ray cluster, with one model per worker."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from flowsr_export.upscale.devices import is_on_host
from flowsr_export.upscale.jobs import (
    Done,
    Failure,
    Job,
    Report,
    Request,
    Scale,
    failure_of,
)
from flowsr_export.upscale.pipeline import IMAGE_ERRORS, upscale_file
from flowsr_runtime import Bundle, SessionSettings, Upscaler
from flowsr_runtime.backends.session import AUTO
from flowsr_runtime.errors import BackendError, ProviderError, UsageError
from flowsr_runtime.geometry import parse_scale
from flowsr_runtime.installation import pip_command

__all__ = ["Cluster", "PictureMapper", "WorkerConfig", "upscale_on_ray"]

Row = dict[str, Any]

CONNECT_SECONDS = 10


@dataclass(frozen=True)
class WorkerConfig:
    """Configuration that is sent to every worker.

    Attributes:
        bundle: Folder of the bundle, with the same path on every machine.
        settings: Settings of the sessions; without threads each worker uses one core.
        request: Parameters of the upscales.
        max_memory: Memory limit of a worker in bytes, as for `Upscaler.open`.
        halo: As for `Upscaler.open`.
    """

    bundle: Path
    settings: SessionSettings
    request: Request
    max_memory: int | None = None
    halo: Literal["default", "exact"] = "default"

    @property
    def resources(self) -> dict[str, float]:
        """Resources of a worker, as arguments of Ray."""
        if is_on_host(self.settings):
            return {"num_cpus": self.settings.threads or 1}
        return {"num_cpus": 1, "num_gpus": 1}

    def on_cluster(self, resources: Mapping[str, float]) -> WorkerConfig:
        """Return the configuration for a cluster: without a GPU, backend auto is the CPU.

        Args:
            resources: Resources of the cluster.
        """
        settings = self.settings
        is_open = settings.backend == AUTO and settings.provider is None
        if is_open and not isinstance(settings.device, str) and not resources.get("GPU"):
            settings = replace(settings, device="cpu")
        return replace(self, settings=settings)


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster.

    Attributes:
        address: Address of the cluster; None for that of RAY_ADDRESS or of this machine, or
            for a temporary one on this machine.
        workers: Number of worker processes, None for as many as the resources allow.
    """

    address: str | None = None
    workers: int | None = None


class PictureMapper:
    """A stateful map class for Ray Data that opens a bundle once and upscales row by row.

    A row has `source` and `target`, paths that are valid on every machine. Unless the request
    has `force`, an existing target is skipped, so a row can be repeated after a worker was
    killed. The returned row has `height`, `width`, `seconds` and `warning` of the result,
    `skipped`, and `reason` and `exit_code` of a failure.
    """

    def __init__(self, config: WorkerConfig) -> None:
        """Open the model.

        Args:
            config: Configuration of the worker.
        """
        bundle = Bundle.open(config.bundle)
        settings = config.settings
        if settings.threads is None and is_on_host(settings):
            settings = replace(settings, threads=1)
        settings = replace(settings, gpu_memory=config.max_memory)
        self.request = config.request
        self.upscaler = Upscaler(
            bundle,
            settings.open(bundle),
            max_memory=config.max_memory,
            halo=config.halo,
            feature_cache=int(bool(config.request.scales)),
        )

    def __call__(self, row: Row) -> Row:
        """Upscale the image of one row.

        Args:
            row: Row with `index`, `source` and `target`; of several scales with `scale`, of
                several samples with `seed`.

        Returns:
            The row with its outcome; see the class.
        """
        scale = parse_scale(row["scale"]) if row.get("scale") else None
        seed = int(row["seed"]) if row.get("seed") else None
        job = Job(Path(row["source"]), Path(row["target"]), scale, seed)
        answer = {**row, "height": 0, "width": 0, "seconds": 0.0, "warning": ""}
        answer |= {"skipped": False, "reason": "", "exit_code": 0}
        if not self.request.force and os.path.lexists(job.target):
            return answer | {"skipped": True}
        try:
            done = upscale_file(job, self.upscaler, self.request)
        except IMAGE_ERRORS as error:
            failure = failure_of(job, error)
            return answer | {"reason": failure.reason, "exit_code": failure.exit_code}
        size = {"height": done.height, "width": done.width}
        return answer | size | {"seconds": done.seconds, "warning": done.warning or ""}


def upscale_on_ray(
    jobs: Sequence[Job],
    config: WorkerConfig,
    cluster: Cluster,
    tell: Callable[[int, str], None],
    *,
    mapper: type[PictureMapper] = PictureMapper,
) -> Report:
    """Upscale every image whose output does not exist; failures do not stop the others.

    A worker that dies is restarted, and its image is processed again. The same call resumes
    after an interruption.

    Args:
        jobs: Jobs made by `jobs.plan`, with paths that are valid on every machine.
        config: Configuration of the workers.
        cluster: The cluster.
        tell: Called with (1, file name) after each image.
        mapper: Class that each worker runs.

    Returns:
        Upscaled images, failures and existing outputs, in the order of the jobs.

    Raises:
        BackendError: If Ray is not installed.
        KeyboardInterrupt: If the user stops the batch, with the number of images made.
        UsageError: If the address is malformed.
        ProviderError: If no cluster answers at the address, or the cluster fails.
    """
    began = time.perf_counter()
    waiting = [job for job in jobs if config.request.force or not os.path.lexists(job.target)]
    answers: list[Row] = []
    if waiting:
        with _connected(cluster):
            try:
                for answer in _rows(waiting, config, cluster.workers, mapper):
                    answers.append(answer)
                    tell(1, Path(answer["source"]).name)
            except KeyboardInterrupt as error:
                done = sum(not answer["reason"] for answer in answers)
                count = f"{done} of {len(waiting)} images are done"
                raise KeyboardInterrupt(count) from error
    tell(len(jobs) - len(waiting), "")
    by_target = {Path(answer["target"]): answer for answer in answers}
    return _report(jobs, by_target, time.perf_counter() - began)


def _rows(
    jobs: Sequence[Job], config: WorkerConfig, workers: int | None, mapper: type[PictureMapper]
) -> Iterator[Row]:
    """Yield the mapper's row for each job, in any order."""
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [
        {
            "index": i,
            "source": str(job.source.absolute()),
            "target": str(job.target.absolute()),
            "scale": _scale_text(job.scale),
            "seed": "" if job.seed is None else str(job.seed),
        }
        for i, job in enumerate(jobs)
    ]
    config = config.on_cluster(ray.cluster_resources())
    size = min(len(jobs), workers or _room(config.resources))
    # One row per block, so that a dying worker loses one image only.
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        mapper,
        fn_constructor_args=(replace(config, bundle=config.bundle.absolute()),),
        compute=ray.data.ActorPoolStrategy(size=size),
        **config.resources,
    )
    try:
        yield from data.iter_rows()
    except ray.exceptions.RayError as error:
        raise ProviderError(f"ray failed: {' '.join(str(error).split())}") from error


def _scale_text(scale: Scale | None) -> str:
    """Return a scale as text for `parse_scale`, "" for None."""
    return f"{scale[1]}x{scale[0]}" if isinstance(scale, tuple) else scale or ""


def _room(resources: dict[str, float]) -> int:
    """Return the number of workers that the resources of the cluster allow, at least 1."""
    import ray

    available = ray.cluster_resources()
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    return max(1, min(int(available.get(names[k], 0) // n) for k, n in resources.items()))


@contextmanager
def _connected(cluster: Cluster) -> Iterator[None]:
    """Use the existing connection to Ray, or connect for the duration of the block."""
    try:
        import ray
    except ImportError as error:
        message = f"ray cannot be used: {error}; {pip_command('ray')}"
        raise BackendError(message) from error
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    if address not in (None, "auto", "local"):
        _check_reachable(address)
    try:
        ray.init(address=address or "auto", **quiet)
    except ConnectionError as error:
        if address is not None:
            message = f"the Ray cluster at {address} cannot be joined: {error}"
            raise ProviderError(message) from error
        ray.init(address="local", include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Refuse an address without a listener, which Ray would retry for minutes."""
    match = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)
    if match is None:
        message = f"ray_address must be HOST:PORT, got {address!r}"
        raise UsageError(message, option="ray_address")
    try:
        socket.create_connection((match[1], int(match[2])), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ProviderError(f"no Ray cluster answers at {address}: {error}") from error


def _report(jobs: Sequence[Job], by_target: dict[Path, Row], seconds: float) -> Report:
    """Sort the rows by outcome, in the order of the jobs."""
    done: list[Done] = []
    failures: list[Failure] = []
    skipped: list[Path] = []
    for job in jobs:
        answer = by_target.get(job.target.absolute())
        if answer is None or answer["skipped"]:
            skipped.append(job.target)
        elif answer["reason"]:
            failures.append(Failure(job.source, answer["reason"], answer["exit_code"]))
        else:
            size = answer["height"], answer["width"]
            warning = answer["warning"] or None
            done.append(Done(job.source, job.target, *size, answer["seconds"], warning))
    return Report(tuple(done), tuple(failures), tuple(skipped), seconds)
