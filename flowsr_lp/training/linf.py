"""Training: the flow by likelihood, then the learned prior on the frozen flow."""

__all__ = [
    "FlowLoss",
    "PriorLoss",
    "Settings",
    "best_weights",
    "check_prior_weights",
    "check_weights",
    "density_noise",
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

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_lp.linf.model import LINF, Conditioning, LinfLP, low_frequency_residual, resize
from flowsr_lp.linf.prior import Prior
from flowsr_lp.training.crops import Crops, batches
from flowsr_lp.training.penalties import Penalties
from flowsr_runtime.errors import CheckpointError, FlowsrError, OutputError, UsageError

logger = logging.getLogger(__name__)

WARM_UP_STEPS = 100
VALIDATION_BATCHES = 4
GRADIENT_NORM = 1.0
NO_PENALTIES = Penalties()
Report = Callable[[int, int, dict[str, float]], None]


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


class FlowLoss:
    """Negative log-likelihood of the residual, in nats per value (arXiv 2303.05156, eq. 5).

    `pixel_weight` adds L1 between the flow's mode (decode of 0) and the residual, as LINF's
    second stage does; `penalties` apply to the mode too.
    """

    def __init__(
        self, linf: LINF, pixel_weight: float = 0.0, penalties: Penalties = NO_PENALTIES
    ) -> None:
        """Train `linf`.

        Raises:
            UsageError: If the weight is below 0 or not finite.
        """
        check_weights(pixel_weight)
        self.trained = linf
        self.linf = linf
        self.pixel_weight = pixel_weight
        self.penalties = penalties

    def to(self, device: torch.device) -> None:
        """Move the network."""
        self.linf.to(device)

    def __call__(self, low: Tensor, high: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch."""
        size = (high.shape[-2], high.shape[-1])
        x = (low - 0.5) / 0.5
        base = resize(x, size)
        residual = (high - 0.5) / 0.5 - base
        noisy = residual + density_noise(residual)
        features = self.linf.features(x)
        c = self.linf.condition(x, size, "extend", features=features)
        nll = -self.linf.log_likelihood(noisy, c).mean() / self.linf.width
        loss, figures = nll, {"nll": nll.item()}
        if not self.pixel_weight and self.penalties == NO_PENALTIES:
            return loss, figures
        mode = self._mode(x, c, size)
        if self.pixel_weight:
            pixel = F.l1_loss(mode, residual)
            loss = loss + self.pixel_weight * pixel
            figures["l1"] = pixel.item()
        shifted = None
        if self.penalties.shift:
            moved = self.linf.condition(x, size, "extend", _random_origin(self.linf), features)
            shifted = (self._mode(x, moved, size) + base) * 0.5 + 0.5
        output = (mode + base) * 0.5 + 0.5
        terms = self.penalties(
            output, base * 0.5 + 0.5, low, high, self.linf.patch_size, c.scale, shifted
        )
        figures.update({name: term.item() for name, term in terms.items()})
        return loss + sum(terms.values()), figures

    def _mode(self, x: Tensor, c: Conditioning, size: tuple[int, int]) -> Tensor:
        """Decode the zero latent to a residual, (B, 3, H, W)."""
        zero = x.new_zeros(x.shape[0], self.linf.width, c.rows, c.cols)
        return self.linf.decode(zero, c, size)


class PriorLoss:
    """The published recipe of the latent module; spec/linf.md "Training of LP".

    Perceptual loss on the frozen flow's output, optional L1 between the latent and that of
    the true residual, and optional L1 between pixels. With a weight of the likelihood the
    flow is trained too, which the published recipe does not do.
    """

    def __init__(
        self,
        network: LinfLP,
        perceptual: nn.Module,
        perceptual_weight: float = 1.0,
        latent_weight: float = 0.0,
        pixel_weight: float = 0.0,
        penalties: Penalties = NO_PENALTIES,
        likelihood_weight: float = 0.0,
    ) -> None:
        """Train the prior of `network`, and its flow with `likelihood_weight`.

        Args:
            network: A flow with the prior to train.
            perceptual: Distance of two RGB batches in [0, 1], a scalar: `VggLoss`.
            perceptual_weight: Weight of the perceptual loss.
            latent_weight: Weight of the L1 between latents.
            pixel_weight: Weight of the L1 between pixels.
            penalties: Weights of the penalties on artifacts.
            likelihood_weight: Weight of the flow's negative log-likelihood in nats per value;
                0 freezes the flow.

        Raises:
            UsageError: If no weight is above 0, or one is below 0 or not finite.
        """
        assert network.prior is not None
        self.weights = check_prior_weights(perceptual_weight, latent_weight, pixel_weight)
        check_weights(likelihood_weight)
        self.prior: Prior = network.prior
        self.linf = network.linf.requires_grad_(likelihood_weight > 0).eval()
        self.likelihood_weight = likelihood_weight
        self.trained: nn.Module = network if likelihood_weight else network.prior
        self.perceptual = perceptual
        self.penalties = penalties

    def to(self, device: torch.device) -> None:
        """Move both networks and the perceptual one."""
        self.prior.to(device)
        self.linf.to(device)
        self.perceptual.to(device)

    def __call__(self, low: Tensor, high: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch."""
        size = (high.shape[-2], high.shape[-1])
        x, y = (low - 0.5) / 0.5, (high - 0.5) / 0.5
        base = resize(x, size)
        low_frequencies = low_frequency_residual(x, size)
        with torch.set_grad_enabled(bool(self.likelihood_weight) and torch.is_grad_enabled()):
            features = self.linf.features(x)
            c = self.linf.condition(x, size, "extend", features=features)
            encoded = self.linf.encode(low_frequencies, c)
            target = self.linf.encode(y - base, c)
        latent = self.prior(encoded, x)
        output = (self.linf.decode(latent, c, size) + base) * 0.5 + 0.5
        terms = (
            self.perceptual(output, high),
            F.l1_loss(latent, target),
            F.l1_loss(output, high),
        )
        loss = torch.stack([w * t for w, t in zip(self.weights, terms, strict=True) if w]).sum()
        figures = {"perceptual": terms[0], "latent": terms[1], "l1": terms[2]}
        if self.likelihood_weight:
            noisy = y - base + density_noise(y)
            nll = -self.linf.log_likelihood(noisy, c).mean() / self.linf.width
            loss, figures["nll"] = loss + self.likelihood_weight * nll, nll
        shifted = None
        if self.penalties.shift:
            moved = self.linf.condition(x, size, "extend", _random_origin(self.linf), features)
            encoded = self.linf.encode(low_frequencies, moved)
            latent = self.prior(encoded, x)
            shifted = (self.linf.decode(latent, moved, size) + base) * 0.5 + 0.5
        extra = self.penalties(
            output, base * 0.5 + 0.5, low, high, self.linf.patch_size, c.scale, shifted
        )
        figures.update(extra)
        total = loss + sum(extra.values())
        return total, {name: value.item() for name, value in figures.items()}


def train(
    objective: Objective,
    crops: Crops,
    settings: Settings,
    folder: Path,
    report: Report,
    device: torch.device | None = None,
    recipe: Mapping[str, Any] | None = None,
    validation: Crops | None = None,
    workers: int = 0,
) -> dict[str, Tensor]:
    """Train until `settings.steps`, going on from what `folder` holds.

    A run that was interrupted and resumed gives the same weights as one that was not.

    Args:
        objective: The loss and the module it trains.
        crops: Source of the batches.
        settings: Length, rate, seed.
        folder: Gets `last.pt` (for resuming), `log.jsonl` (one line a save) and, with
            held-out batches, `best.pt`; see `best_weights`.
        report: Called as `report(step, steps, figures)` after every step.
        device: Device to train on; the CPU when None.
        recipe: Everything else that defines the run, in JSON's types; a resumed run must have
            the same, unless `folder` does not record it.
        validation: Source of held-out batches; `log.jsonl` gets the averaged weights' figures
            on the first of them at each save.
        workers: Processes that decode and cut the batches; the weights do not depend on it.

    Returns:
        The trained module's state dict, averaged if `ema_decay` is set, on the CPU.

    Raises:
        CheckpointError: If `folder` holds a damaged run or one with other settings.
        OutputError: If `folder` cannot be written.
        FlowsrError: If the loss stops being finite.
    """
    device = device or torch.device("cpu")
    objective.to(device)
    module = objective.trained.train()
    optimizer = torch.optim.Adam(module.parameters(), lr=settings.learning_rate)
    average = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    run = _Run(folder, settings, dict(recipe or {}), module, optimizer, average)
    start = run.resume(device)
    steps = range(start, settings.steps)
    for step, batch in zip(steps, batches(crops, steps, workers), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step, settings)
        loss, figures = objective(*(each.to(device) for each in batch))
        if not math.isfinite(loss.item()):
            raise FlowsrError(f"loss is not finite at step {step}; lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), GRADIENT_NORM)
        optimizer.step()
        _average(average, module, min(settings.ema_decay, (1 + step) / (10 + step)))
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            run.save(step + 1, figures, _validate(objective, average, validation, device))
        report(step + 1, settings.steps, figures)
    return {name: tensor.cpu() for name, tensor in average.items()}


def density_noise(picture: Tensor) -> Tensor:
    """Draw uniform noise of one step: eight-bit pictures have no density without it.

    Args:
        picture: Normalized picture or residual, in units of half the range.
    """
    return (torch.rand_like(picture) - 0.5) * (2 / 255)


def check_weights(*weights: float) -> None:
    """Refuse weights of a loss that make no sense.

    Raises:
        UsageError: If one is below 0 or not finite.
    """
    for weight in weights:
        if not 0 <= weight < math.inf:
            raise UsageError(f"weights must be finite and at least 0, got {weight}")


def check_prior_weights(
    perceptual: float, latent: float, pixel: float
) -> tuple[float, float, float]:
    """Return the weights of a prior's loss.

    Raises:
        UsageError: If none is above 0, or one is below 0 or not finite.
    """
    check_weights(perceptual, latent, pixel)
    if max(perceptual, latent, pixel) <= 0:
        raise UsageError("one of the loss's weights must be above 0")
    return perceptual, latent, pixel


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


def _random_origin(linf: LINF) -> tuple[int, int]:
    """Draw a shift of the patch grid that is not zero, from PyTorch's generator."""
    index = int(torch.randint(1, linf.patch_size**2, ()))
    return index // linf.patch_size, index % linf.patch_size


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
        self, step: int, figures: dict[str, float], checked: dict[str, float] | None
    ) -> None:
        """Write `last.pt`, whole or not at all, and a line of `log.jsonl`.

        Args:
            step: Steps done.
            figures: Figures of the last batch.
            checked: Loss and figures of held-out batches; of the lowest loss the weights are
                kept in `best.pt`.
        """
        line: dict[str, Any] = {"step": step, **figures}
        state = {
            "settings": asdict(self.settings),
            "recipe": self.recipe,
            "step": step,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "noise": _noise_state(),
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

    def resume(self, device: torch.device) -> int:
        """Take over what `last.pt` holds and return the step that comes next."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make folder {self.folder}: {error.strerror}") from error
        path = self.folder / "last.pt"
        if not path.exists():
            torch.manual_seed(self.settings.seed)
            return 0
        state = _load(path, device)
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
            _set_noise_state(state["noise"])
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


def _noise_state() -> list[Tensor]:
    """State of PyTorch's generators, the CPU's and then each GPU's."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *gpus]


def _set_noise_state(states: list[Tensor]) -> None:
    cpu, *gpus = (state.cpu() for state in states)
    torch.set_rng_state(cpu)
    for index, state in zip(range(torch.cuda.device_count()), gpus, strict=False):
        torch.cuda.set_rng_state(state, index)
