"""A run of training: its settings, pictures and folder, and the files that it writes."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from flowsr_lp import LINF, SRFlow
from flowsr_lp.perceptual import VggLoss
from flowsr_lp.srflow.encoder import RRDBNet
from flowsr_lp.training.crops import Augmentation, Crops
from flowsr_lp.training.loop import (
    Held,
    Objective,
    Report,
    Settings,
    best_weights,
    steps_done,
    train,
)
from flowsr_lp.training.penalties import Penalties
from flowsr_lp.training.pictures import MEMORY, load_pictures
from flowsr_lp.training.processes import Processes, joined
from flowsr_lp.training.windows import WindowCrops
from flowsr_runtime.errors import OutputError, PictureError, UsageError

__all__ = [
    "Loop",
    "Started",
    "at_own_scale",
    "begun_run",
    "carry_out",
    "check_linf_only",
    "check_windows",
    "cut_crops",
    "held_out_crops",
    "opened",
    "vgg_loss",
]

ANY_SCALE = (1.0, 4.0)  # default for LINF
Network = LINF | SRFlow | RRDBNet
Started = Callable[[int], Report]
Write = Callable[[Path, dict[str, Tensor]], None]


@dataclass(frozen=True)
class Loop:
    """Settings shared by the training of a flow and of a prior.

    Attributes:
        pictures: Folder of pictures.
        output: Folder of the run.
        settings: Length, rate, averaging, seed.
        batch: Crops per step, of all processes together.
        lr_size: Side of the low-resolution crops in pixels.
        scales: Range of the scale, one drawn per step; None is 1 to 4 for LINF and the
            one that it has for SRFlow.
        threads: CPU threads; PyTorch's choice when None.
        device: Device to train on.
        augmentation: Changes to the crops beyond flips (LINF).
        validation: Folder of held-out pictures, None for no validation; with it the weights
            of the lowest loss on them are written into the folder `best` of the run.
        start: Weights to begin with, of the same architecture, or for a flow on an RRDB trunk
            an RRDB network of its size; new ones when None.
        scale_per: Whether a scale is drawn for each step or for each picture; the latter with
            losses on windows of the output, as LINF-LP was trained (LINF).
        workers: Processes that decode pictures and cut crops, for each one that trains; 0
            does it in that one.
        picture_memory: Bytes of decoded pictures to keep.
        snapshot_every: Steps between weights that are kept in folders of their own, None for
            none.
    """

    pictures: Path
    output: Path
    settings: Settings
    batch: int
    lr_size: int
    scales: tuple[float, float] | None
    threads: int | None
    device: Literal["cpu", "cuda"]
    augmentation: Augmentation
    validation: Path | None = None
    start: Path | None = None
    scale_per: Literal["step", "image"] = "step"
    workers: int = 0
    picture_memory: int = MEMORY
    snapshot_every: int | None = None

    @property
    def range(self) -> tuple[float, float]:
        """Range of the scale."""
        return self.scales or ANY_SCALE

    @property
    def memory_share(self) -> int:
        """Bytes of decoded pictures to keep of each folder."""
        return self.picture_memory // (1 if self.validation is None else 2)

    @property
    def largest_crop(self) -> int:
        """Side in pixels of a high-resolution crop at the largest scale."""
        return round(self.lr_size * self.range[1])

    @property
    def smallest_crop(self) -> int:
        """Side in pixels of a high-resolution crop at the smallest scale."""
        return round(self.lr_size * (self.range[0] if self.scale_per == "step" else 1))


@contextmanager
def opened(loop: Loop) -> Iterator[Processes]:
    """Join the processes of a run, and check what can be checked at once.

    Raises:
        FlowsrError: If the request makes no sense, or there are no such pictures or device.
    """
    with joined(loop.device) as processes:
        if not 1 <= loop.range[0] <= loop.range[1]:
            raise UsageError(
                f"scales must be a range from 1 up, got {loop.range[0]:g},{loop.range[1]:g}",
                option="scales",
            )
        processes.share(loop.batch)
        if loop.threads is not None:
            torch.set_num_threads(loop.threads)
        if not loop.pictures.is_dir():
            rule = "is not a folder" if loop.pictures.exists() else "does not exist"
            raise PictureError(f"folder of images {loop.pictures} {rule}")
        yield processes


def carry_out(
    objective: Objective,
    crops: Crops,
    held_out: Crops | None,
    loop: Loop,
    processes: Processes,
    recipe: dict[str, Any],
    started: Started,
    write: Write,
    held: Held | None = None,
) -> None:
    """Train, and write the last weights, those of the snapshots and the best ones.

    Args:
        objective: The loss and the module it trains.
        crops: Source of the batches.
        held_out: Source of held-out batches, None for no validation.
        loop: Settings of the run.
        processes: Place of this process among those of the run.
        recipe: Everything else that defines the run, in JSON's types.
        started: Called with the first step; returns the callback for every step.
        write: Called as `write(folder, weights)` to write files that can be used.
        held: A part that is trained from a later step on.
    """
    recipe = {**recipe, **_described(loop, crops, processes)}

    def snapshot(step: int, weights: dict[str, Tensor]) -> None:
        if loop.snapshot_every is not None and step % loop.snapshot_every == 0:
            write(loop.output / f"step-{step}", weights)

    with begun_run(loop, processes, started) as report:
        weights = train(
            *(objective, crops, loop.settings, loop.output, report),
            processes=processes,
            recipe=recipe,
            validation=held_out,
            workers=loop.workers,
            snapshot=snapshot,
            held=held,
        )
        if processes.first:
            write(loop.output, weights)
            # A run that was finished by a version without best.pt has none.
            if held_out is not None and (loop.output / "best.pt").exists():
                write(loop.output / "best", best_weights(loop.output))


@contextmanager
def begun_run(loop: Loop, processes: Processes, started: Started) -> Iterator[Report]:
    """Make the folder of the run, and keep other runs out; all other inputs are checked."""
    first = steps_done(loop.output)
    folder = None
    try:
        if processes.first:
            folder = _locked(loop.output)
        processes.agree(None)
        yield started(first)
    finally:
        if folder is not None:
            os.close(folder)


def _locked(path: Path) -> int:
    """Make a folder and lock it; return its descriptor, whose end is that of the lock."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        folder = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"cannot make folder {path}: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(folder)
        raise OutputError(f"another run is training in {path}") from error
    return folder


def at_own_scale(loop: Loop, network: Network) -> Loop:
    """Settle the scale of the crops: all networks but LINF have one."""
    if isinstance(network, LINF):
        return loop
    if loop.scales not in (None, (network.scale, network.scale)):
        raise UsageError(
            f"scales must be {network.scale}, the only scale of this network, got "
            f"{loop.range[0]:g},{loop.range[1]:g}",
            option="scales",
        )
    if loop.lr_size % network.multiple:
        rule = f"lr_size must be even for SRFlow, got {loop.lr_size}"
        raise UsageError(rule, option="lr_size")
    return replace(loop, scales=(network.scale, network.scale))


def check_linf_only(
    network: Network, *settings: Penalties | Augmentation | dict[str, float]
) -> None:
    """Refuse settings for another network that only the training of LINF has."""
    fields = (each if isinstance(each, dict) else asdict(each) for each in settings)
    for name, value in (field for each in fields for field in each.items()):
        if value and not isinstance(network, LINF):
            raise UsageError(f"{name} is for LINF, not {_name(network)}", option=name)


def check_windows(
    loop: Loop, network: Network, *settings: Penalties | dict[str, float]
) -> None:
    """Refuse one scale per image where it cannot be had."""
    if loop.scale_per == "step":
        return
    if not isinstance(network, LINF):
        rule = f"scale_per image is for LINF, not {_name(network)}"
        raise UsageError(rule, option="scale_per")
    if loop.lr_size % network.patch_size:
        raise UsageError(
            f"lr_size must be a multiple of {network.patch_size}, the side of a patch, with "
            f"scale_per image, got {loop.lr_size}",
            option="lr_size",
        )
    fields = (each if isinstance(each, dict) else asdict(each) for each in settings)
    for name, value in (field for each in fields for field in each.items()):
        if value:
            raise UsageError(f"{name} needs scale_per step, got image", option=name)


def cut_crops(loop: Loop, network: Network, processes: Processes) -> Crops:
    """Find the pictures, and prepare to cut the crops of this process.

    Raises:
        PictureError: If the pictures cannot be read, or are too small.
    """
    own = replace(loop, picture_memory=loop.picture_memory // processes.count)
    return _crops(own, network, processes.share(loop.batch), processes.rank)


def held_out_crops(loop: Loop, network: Network, processes: Processes) -> Crops | None:
    """Held-out crops, the same in every run; None without a folder, and but in one process."""
    if loop.validation is None or not processes.first:
        return None
    settings = replace(loop.settings, seed=0)
    plain = Augmentation()
    held_out = replace(
        loop, pictures=loop.validation, settings=settings, augmentation=plain, workers=0
    )
    return _crops(held_out, network, loop.batch)


def _crops(loop: Loop, network: Network, batch: int, rank: int = 0) -> Crops:
    pictures = load_pictures(
        loop.pictures, loop.largest_crop, loop.memory_share, decode=not loop.workers
    )
    settings = batch, loop.lr_size, loop.range, loop.settings.seed, loop.augmentation, rank
    if loop.scale_per == "step" or not isinstance(network, LINF):
        return Crops(pictures, *settings)
    return WindowCrops(pictures, *settings, patch=network.patch_size)


def _name(network: SRFlow | RRDBNet) -> str:
    return "SRFlow" if isinstance(network, SRFlow) else "RRDB"


def vgg_loss(vgg: Path, layers: Sequence[str], loop: Loop) -> VggLoss:
    """Load the perceptual loss; the crops must be large enough for its layers.

    Raises:
        UsageError: If they are not, or a layer is unknown.
        CheckpointError: If the file cannot be read.
    """
    perceptual = VggLoss(vgg, layers)
    features = perceptual.features
    if loop.smallest_crop < features.smallest:
        raise UsageError(
            f"crops must be at least {features.smallest} pixels a side for "
            f"{features.layers[-1]}, got {loop.smallest_crop} at scale {loop.range[0]:g}"
        )
    return perceptual


def _described(loop: Loop, crops: Crops, processes: Processes) -> dict[str, Any]:
    return {
        "batch": loop.batch,
        "lr_size": loop.lr_size,
        "scales": list(loop.range),
        "pictures": len(crops.pictures),
        "augmentation": {
            **asdict(loop.augmentation),
            "fonts": [font.name for font in loop.augmentation.fonts],
        },
        **({} if loop.scale_per == "step" else {"scale_per": loop.scale_per}),
        **({} if processes.count == 1 else {"processes": processes.count}),
        **({} if loop.start is None else {"start": _sha256(loop.start)}),
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
