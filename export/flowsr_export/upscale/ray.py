"""Enlarge a folder that is too large for one machine: Ray Data, a model in each worker."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flowsr_export.upscale.devices import is_on_host
from flowsr_export.upscale.jobs import Done, Failure, Job, Report, Request, failure_of
from flowsr_export.upscale.pipeline import ONE_PICTURE, enlarge
from flowsr_runtime import Bundle, SessionSettings, Upscaler
from flowsr_runtime.errors import BackendError, ProviderError, UsageError

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["Cluster", "PictureMapper", "WorkerConfig", "enlarge_on_ray", "enlarged_rows"]

Row = dict[str, Any]

SECONDS = 10  # in which somebody at an address has to answer


@dataclass(frozen=True)
class WorkerConfig:
    """What every worker does; it travels to them.

    Attributes:
        bundle: Folder of the bundle, at the same place on every machine.
        settings: Of every session; without threads each takes one core.
        request: What is asked for every picture.
        max_memory: Bytes that each worker may take, as for `Upscaler.open`.
        halo: As for `Upscaler.open`.
    """

    bundle: Path
    settings: SessionSettings
    request: Request
    max_memory: int | None = None
    halo: Literal["default", "exact"] = "default"

    @property
    def resources(self) -> dict[str, float]:
        """What a worker takes of a cluster, in Ray's words."""
        if is_on_host(self.settings):
            return {"num_cpus": self.settings.threads or 1}
        return {"num_cpus": 1, "num_gpus": 1}


@dataclass(frozen=True)
class Cluster:
    """Where the workers are.

    Attributes:
        address: Of a Ray cluster, None for the one of RAY_ADDRESS or of this machine, or a
            new one on it that ends with the work.
        workers: Processes, None for as many as the cluster has room for.
    """

    address: str | None = None
    workers: int | None = None


class PictureMapper:
    """A stateful map class for Ray Data: opens a bundle once, then enlarges picture by picture.

    A row has `source` and `target`, paths that are the same on every machine; a target that
    is there is left, so that a row may come again after a worker was killed, unless the
    request says force. The row that comes back has `height`, `width` and `seconds` of what
    was made, `warning`, `skipped`, and `reason` and `exit_code` of what failed.
    """

    def __init__(self, config: WorkerConfig) -> None:
        """Open the model.

        Args:
            config: What is done with every picture.
        """
        bundle = Bundle.open(config.bundle)
        settings = config.settings
        if settings.threads is None and is_on_host(settings):
            settings = replace(settings, threads=1)
        self.request = config.request
        self.upscaler = Upscaler(
            bundle, settings.open(bundle), max_memory=config.max_memory, halo=config.halo
        )

    def __call__(self, row: Row) -> Row:
        """Enlarge the picture of one row.

        Args:
            row: `index`, `source` and `target`.

        Returns:
            The same with what came of it; see the class.
        """
        job = Job(Path(row["source"]), Path(row["target"]))
        answer = {**row, "height": 0, "width": 0, "seconds": 0.0, "warning": ""}
        answer |= {"skipped": False, "reason": "", "exit_code": 0}
        if not self.request.force and os.path.lexists(job.target):
            return answer | {"skipped": True}
        try:
            done = enlarge(job, self.upscaler, self.request)
        except ONE_PICTURE as error:
            failure = failure_of(job, error)
            return answer | {"reason": failure.reason, "exit_code": failure.exit_code}
        made = {"height": done.height, "width": done.width, "seconds": done.seconds}
        return answer | made | {"warning": done.warning or ""}


def enlarge_on_ray(
    jobs: Sequence[Job],
    config: WorkerConfig,
    cluster: Cluster,
    tell: Callable[[int, str], None],
    *,
    mapper: type[PictureMapper] = PictureMapper,
) -> Report:
    """Enlarge every picture whose target is not there, going on past those that cannot be.

    A worker that dies is started again, and the picture that it had is given out again. The
    same call after an interruption goes on where that one ended.

    Args:
        jobs: What to enlarge, from `batch.plan`; the paths are those of every machine.
        config: What is done with every picture.
        cluster: Where.
        tell: Called with (1, file name) after each picture.
        mapper: What each worker runs.

    Returns:
        What was done, what was not and what was there, in the order of the jobs.

    Raises:
        BackendError: If Ray is not installed.
        UsageError: If the address is none.
        ProviderError: If there is no cluster at the address, or it fails.
    """
    began = time.perf_counter()
    waiting = [job for job in jobs if config.request.force or not os.path.lexists(job.target)]
    answers: list[Row] = []
    if waiting:
        with _connected(cluster):
            for answer in enlarged_rows(waiting, config, cluster.workers, mapper):
                answers.append(answer)
                tell(1, Path(answer["source"]).name)
    tell(len(jobs) - len(waiting), "")
    made = {Path(answer["target"]): answer for answer in answers}
    return _report(jobs, made, time.perf_counter() - began)


def enlarged_rows(
    jobs: Sequence[Job],
    config: WorkerConfig,
    workers: int | None = None,
    mapper: type[PictureMapper] = PictureMapper,
) -> Iterator[Row]:
    """Run the jobs on the cluster that Ray is connected to.

    Args:
        jobs: What to enlarge.
        config: What is done with every picture.
        workers: Processes, None for as many as there is room for.
        mapper: What each worker runs.

    Yields:
        What the mapper gave for each job, in any order.

    Raises:
        ProviderError: If Ray fails.
    """
    import ray

    count = min(len(jobs), workers or _room(config.resources))
    try:
        yield from _dataset(jobs, config, count, mapper).iter_rows()
    except ray.exceptions.RayError as error:
        raise ProviderError(f"ray failed: {' '.join(str(error).split())}") from error


def _dataset(
    jobs: Sequence[Job], config: WorkerConfig, workers: int, mapper: type[PictureMapper]
) -> Dataset:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [
        {"index": i, "source": str(job.source.absolute()), "target": str(job.target.absolute())}
        for i, job in enumerate(jobs)
    ]
    # A row to a block: what is lost with a worker is the picture that it had.
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        mapper,
        fn_constructor_args=(replace(config, bundle=config.bundle.absolute()),),
        compute=ray.data.ActorPoolStrategy(size=workers),
        **config.resources,
    )


def _room(resources: dict[str, float]) -> int:
    """Return how many workers the cluster has room for, at least one."""
    import ray

    there = ray.cluster_resources()
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    return max(1, min(int(there.get(names[k], 0) // n) for k, n in resources.items()))


@contextmanager
def _connected(cluster: Cluster) -> Iterator[None]:
    """Use the connection that is there, else make one for the time of the work."""
    try:
        import ray
    except ImportError as error:
        raise BackendError(
            f"ray cannot be used: {error}; pip install 'flowsr-lp[ray]'"
        ) from error
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
            raise ProviderError(
                f"the Ray cluster at {address} cannot be joined: {error}"
            ) from error
        ray.init(address="local", include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Refuse an address at which nobody listens; Ray would try it for minutes."""
    match = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)
    if match is None:
        raise UsageError(f"Ray's address must be as in HOST:PORT, got {address!r}")
    try:
        socket.create_connection((match[1], int(match[2])), timeout=SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ProviderError(f"there is no Ray cluster at {address}: {error}") from error


def _report(jobs: Sequence[Job], made: dict[Path, Row], seconds: float) -> Report:
    """Sort the answers by kind, in the order of the jobs."""
    done: list[Done] = []
    failures: list[Failure] = []
    skipped: list[Path] = []
    for job in jobs:
        answer = made.get(job.target.absolute())
        if answer is None or answer["skipped"]:
            skipped.append(job.target)
        elif answer["reason"]:
            failures.append(Failure(job.source, answer["reason"], answer["exit_code"]))
        else:
            size = answer["height"], answer["width"]
            warning = answer["warning"] or None
            done.append(Done(job.source, job.target, *size, answer["seconds"], warning))
    return Report(tuple(done), tuple(failures), tuple(skipped), seconds)
