"""The resumable training loop: optimizer steps, schedule, averaged weights, saves."""

__all__ = [
    "Alternating",
    "Held",
    "Objective",
    "Report",
    "Settings",
    "Snapshot",
    "best_weights",
    "steps_done",
    "train",
]

import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from flowsr_lp.training.crops import Crops, batches
from flowsr_lp.training.processes import ALONE, Processes
from flowsr_runtime.errors import CheckpointError, FlowsrError, OutputError, UsageError

logger = logging.getLogger(__name__)

WARM_UP_STEPS = 100
VALIDATION_BATCHES = 4
GRADIENT_NORM = 1.0
Report = Callable[[int, int, dict[str, float]], None]
Snapshot = Callable[[int, dict[str, Tensor]], None]


@dataclass(frozen=True)
class Settings:
    """Length and rate of a training run.

    Attributes:
        steps: Optimizer steps in all.
        learning_rate: Peak of the schedule: linear warm-up, then a cosine to zero.
        halve_at: Shares of the steps at which the rate is halved, in place of that schedule.
        ema_decay: Decay per step of the averaged weights that are kept; 0 keeps the last.
        save_every: Steps between checkpoints.
        seed: Seed of the noise; the crops have their own.

    Raises:
        UsageError: If a number makes no sense.
    """

    steps: int = 10_000
    learning_rate: float = 4e-4
    ema_decay: float = 0.999
    save_every: int = 200
    seed: int = 0
    halve_at: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Check every number; NaN passes none of these."""
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(
                f"learning_rate must be above 0 and finite, got {self.learning_rate}"
            )
        if not 0 <= self.ema_decay < 1:
            raise UsageError(f"ema_decay must be from 0 to below 1, got {self.ema_decay}")
        if not all(0 < share < 1 for share in self.halve_at or ()):
            raise UsageError(
                f"halve_at must be shares between 0 and 1, got {self.halve_at}",
                option="halve_at",
            )
        if min(self.steps, self.save_every) < 1 or self.seed < 0:
            raise UsageError(
                "steps and save_every must be at least 1 and seed at least 0, got "
                f"{self.steps}, {self.save_every} and {self.seed}"
            )


class Objective(Protocol):
    """A loss on one batch, with the figures to report."""

    @property
    def trained(self) -> nn.Module:
        """Module with the parameters to train."""
        ...

    def to(self, device: torch.device) -> None:
        """Move everything that the loss reads to the device of the batches."""
        ...

    def __call__(self, low: Tensor, high: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch (B, 3, h, w), (B, 3, H, W), RGB in [0, 1]."""
        ...


class Alternating:
    """Losses of one module that take turns: each has its own optimizer step on every batch."""

    def __init__(self, *parts: Objective) -> None:
        """Join losses in the order of their steps."""
        self.parts = parts
        self.trained = parts[0].trained

    def to(self, device: torch.device) -> None:
        """Move everything that the losses read."""
        for part in self.parts:
            part.to(device)

    def __call__(
        self, low: Tensor, high: Tensor, *places: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Sum of the losses of a batch, as validation compares it."""
        pairs = [part(low, high, *places) for part in self.parts]
        figures = {name: value for _, each in pairs for name, value in each.items()}
        return torch.stack([loss for loss, _ in pairs]).sum(), figures


@dataclass(frozen=True)
class Held:
    """A part of the trained module whose weights do not change at first.

    Attributes:
        module: The part.
        until: Step from which it is trained.
    """

    module: nn.Module
    until: int


def train(
    objective: Objective,
    crops: Crops,
    settings: Settings,
    folder: Path,
    report: Report,
    processes: Processes = ALONE,
    recipe: Mapping[str, Any] | None = None,
    validation: Crops | None = None,
    workers: int = 0,
    snapshot: Snapshot | None = None,
    held: Held | None = None,
) -> dict[str, Tensor]:
    """Train until `settings.steps`, going on from what `folder` holds to the same weights.

    Args:
        objective: The loss and the module it trains.
        crops: Source of the batches.
        settings: Length, rate, seed.
        folder: Gets `last.pt` (for resuming), `log.jsonl` (one line a save) and, with
            held-out batches, `best.pt`; see `best_weights`.
        report: Called as `report(step, steps, figures)` after every step.
        processes: Place of this process among those of the run; only the first one writes.
        recipe: Everything else that defines the run, in JSON's types; recorded and compared.
        validation: Source of held-out batches; the averaged weights' figures are logged.
        workers: Processes that decode and cut the batches; the weights do not depend on it.
        snapshot: Called as `snapshot(step, weights)` after every step, with averaged weights.
        held: A part that is trained from a later step on.

    Returns:
        The trained module's state dict, averaged if `ema_decay` is set, on the CPU.

    Raises:
        CheckpointError: If `folder` holds a damaged run or one with other settings.
        OutputError: If `folder` cannot be written.
        FlowsrError: If the loss stops being finite.
    """
    objective.to(processes.device)
    module = objective.trained.train()
    optimizer = torch.optim.Adam(module.parameters(), lr=settings.learning_rate)
    average = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    run = _Run(folder, settings, dict(recipe or {}), module, optimizer, average)
    steps = range(run.resume(processes), settings.steps)
    parallel = processes.parallel(_Losses(objective))
    for step, batch in zip(steps, batches(crops, steps, workers), strict=True):
        _set_rate(optimizer, settings.learning_rate * _schedule(step, settings))
        figures = {}
        for index in range(len(_parts(objective))):
            loss, found = parallel(index, *(each.to(processes.device) for each in batch))
            _improve(module, optimizer, loss, step, held)
            figures.update(found)
        _average(average, module, min(settings.ema_decay, (1 + step) / (10 + step)))
        if processes.first and snapshot is not None:
            snapshot(step + 1, average)  # before the save, after which it is not repeated
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            checked = _validate(objective, average, validation, processes.device)
            run.save(step + 1, figures, checked, processes)
        report(step + 1, settings.steps, figures)
    return {name: tensor.cpu() for name, tensor in average.items()}


class _Losses(nn.Module):
    """The losses of an objective as one module, whose parameters are the trained ones."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.trained = objective.trained
        self.parts = _parts(objective)

    def forward(self, index: int, *batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Compute one of the losses of a batch, and its figures."""
        return self.parts[index](*batch)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _parts(objective: Objective) -> tuple[Objective, ...]:
    """Return the losses that have an optimizer step each."""
    return objective.parts if isinstance(objective, Alternating) else (objective,)


def _improve(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    step: int,
    held: Held | None,
) -> None:
    """Take one step of the optimizer."""
    if not math.isfinite(loss.item()):
        raise FlowsrError(f"loss is not finite at step {step}; lower the learning rate")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if held is not None and step < held.until:
        held.module.zero_grad(set_to_none=True)  # the optimizer skips what has no gradient
    nn.utils.clip_grad_norm_(module.parameters(), GRADIENT_NORM)
    optimizer.step()


def best_weights(folder: Path) -> dict[str, Tensor]:
    """Return the averaged weights of the save with the lowest loss on held-out batches.

    Args:
        folder: Folder of a run that was validated.

    Raises:
        CheckpointError: If the folder holds none, or they are damaged.
    """
    weights: dict[str, Tensor] = _best(folder, torch.device("cpu"))["average"]
    return weights


def steps_done(folder: Path) -> int:
    """Return the step at which a run in `folder` would resume, 0 if there is none.

    Raises:
        CheckpointError: If the folder holds a damaged run.
    """
    path = folder / "last.pt"
    return int(_load(path, torch.device("cpu"))["step"]) if path.exists() else 0


def _schedule(step: int, settings: Settings) -> float:
    """Return the share of the learning rate at a step."""
    if settings.halve_at is not None:
        return 0.5 ** sum(step >= round(share * settings.steps) for share in settings.halve_at)
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


@torch.no_grad()
def _average(average: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, 1 - decay)
        else:
            average[name].copy_(tensor)


@torch.no_grad()
def _validate(
    objective: Objective, average: dict[str, Tensor], crops: Crops | None, device: torch.device
) -> dict[str, float] | None:
    """Mean loss and figures of the averaged weights on the first batches.

    No generator changes. The loss is under "loss".
    """
    if crops is None:
        return None
    module = objective.trained
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.load_state_dict(average)
    module.eval()
    sums: dict[str, float] = {}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        for step in range(VALIDATION_BATCHES):
            batch = crops.batch_at(step)
            loss, figures = objective(*(each.to(device) for each in batch))
            for name, value in {"loss": loss.item(), **figures}.items():
                sums[name] = sums.get(name, 0.0) + value / VALIDATION_BATCHES
    module.load_state_dict(weights)
    module.train()
    return sums


@dataclass(frozen=True)
class _Run:
    """Everything that `last.pt` keeps of a run."""

    folder: Path
    settings: Settings
    recipe: dict[str, Any]
    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]

    def save(
        self,
        step: int,
        figures: dict[str, float],
        checked: dict[str, float] | None,
        processes: Processes,
    ) -> None:
        """Write `last.pt`, whole or not at all, and a line of `log.jsonl`.

        Args:
            step: Steps done.
            figures: Figures of the last batch.
            checked: Loss and figures of held-out batches; of the lowest loss the weights are
                kept in `best.pt`.
            processes: Place of this process, of which the first one writes.
        """
        noise = processes.gathered(_noise_state(processes))
        if not processes.first:
            return
        line: dict[str, Any] = {"step": step, **figures}
        state = {
            "settings": asdict(self.settings),
            "recipe": self.recipe,
            "step": step,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "noise": noise[0],
            **({"other_noise": list(noise[1:])} if len(noise) > 1 else {}),
        }
        try:
            if checked is not None:
                line["validation"] = {n: checked[n] for n in checked if n != "loss"}
                self._save_best(step, checked["loss"])
            self._write("last.pt", state)
            with (self.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        except (OSError, RuntimeError) as error:  # PyTorch's writer raises the latter
            raise OutputError(f"run in {self.folder} cannot be saved: {error}") from error

    def _save_best(self, step: int, loss: float) -> None:
        """Keep the averaged weights if no earlier save of this run has a lower loss.

        A run that is killed before `last.pt` comes to the same weights and loss again.
        """
        best = self.folder / "best.pt"
        resumable = best.exists() and (self.folder / "last.pt").exists()
        if not resumable or loss < _best(self.folder, torch.device("cpu"))["loss"]:
            self._write("best.pt", {"step": step, "loss": loss, "average": self.average})

    def _write(self, name: str, content: dict[str, Any]) -> None:
        temporary = self.folder / f"{name}.part"
        torch.save(content, temporary)
        os.replace(temporary, self.folder / name)

    def resume(self, processes: Processes) -> int:
        """Take over what `last.pt` holds and return the step that comes next."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make folder {self.folder}: {error.strerror}") from error
        path = self.folder / "last.pt"
        if not path.exists():
            torch.manual_seed(_seed(self.settings.seed, processes.rank))
            return 0
        state = _load(path, processes.device)
        _check_same(path, "settings", state["settings"], asdict(self.settings))
        _check_same(path, "recipe", state.get("recipe", self.recipe), self.recipe)
        try:
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"{path} belongs to a run of another network") from error
        self.average.update(state["average"])
        step = int(state["step"])
        if "noise" in state:
            rank = processes.rank
            noise = state["other_noise"][rank - 1] if rank else state["noise"]
            _set_noise_state(noise, processes)
        else:
            torch.manual_seed(self.settings.seed + step)
        logger.info("resumed %s at step %d", path, step)
        return step


def _load(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # anything the unpickler meets in another file
        raise CheckpointError(f"{path} is damaged; use another folder") from error
    lacking = {"settings", "step", "module", "optimizer", "average"} - set(state)
    if lacking:
        raise CheckpointError(f"{path} is not a training run: it lacks {min(lacking)}")
    return dict(state)


def _best(folder: Path, device: torch.device) -> dict[str, Any]:
    path = folder / "best.pt"
    try:
        best = torch.load(path, map_location=device, weights_only=True)
        return {"loss": float(best["loss"]), "average": dict(best["average"])}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist: the run was not validated") from error
    except Exception as error:  # anything the unpickler meets in another file
        raise CheckpointError(f"{path} is damaged; remove it") from error


def _check_same(path: Path, what: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            raise CheckpointError(
                f"{path} belongs to a run with other {what}: {key} is {old.get(key)}, "
                f"got {new.get(key)}; use another folder"
            )


def _seed(seed: int, rank: int) -> int:
    """Return the seed of a process; that of the first is the run's own."""
    return int(np.random.SeedSequence((seed, rank)).generate_state(1)[0]) if rank else seed


def _noise_state(processes: Processes) -> list[Tensor]:
    """State of PyTorch's generators, the CPU's and then that of each GPU that is used."""
    gpus = [torch.cuda.get_rng_state(gpu) for gpu in _gpus(processes)]
    return [torch.get_rng_state(), *gpus]


def _set_noise_state(states: list[Tensor], processes: Processes) -> None:
    cpu, *gpus = (state.cpu() for state in states)
    torch.set_rng_state(cpu)
    for gpu, state in zip(_gpus(processes), gpus, strict=False):
        torch.cuda.set_rng_state(state, gpu)


def _gpus(processes: Processes) -> list[int]:
    """Indices of all GPUs, of several processes that of this one."""
    if processes.count == 1:
        return list(range(torch.cuda.device_count()))
    return [processes.device.index] if processes.device.type == "cuda" else []
