"""Train a flow, or the learned prior of one, on a folder of pictures."""

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
from torch import Tensor, nn

from flowsr_lp import (
    LINF,
    LinfLP,
    SRFlow,
    SrflowLP,
    SrflowPrior,
    linf_from_spec,
    load_checkpoint,
    prior_from_spec,
    save_weights,
    srflow_from_spec,
    srflow_prior_from_spec,
)
from flowsr_lp.linf.prior import EdsrLatent, Prior
from flowsr_lp.perceptual import VggLoss, load_tensors
from flowsr_lp.training.crops import Augmentation, Crops
from flowsr_lp.training.linf import (
    FlowLoss,
    PriorLoss,
    Settings,
    best_weights,
    steps_done,
    train,
)
from flowsr_lp.training.penalties import Penalties
from flowsr_lp.training.pictures import MEMORY, load_pictures
from flowsr_lp.training.srflow import (
    EIGHT_BITS,
    SrflowFlowLoss,
    SrflowPriorLoss,
    fit_norms,
)
from flowsr_lp.training.windows import WindowCrops, WindowFlowLoss, WindowPriorLoss
from flowsr_runtime.errors import (
    CheckpointError,
    OutputError,
    PictureError,
    ProviderError,
    UsageError,
)

__all__ = ["Loop", "PriorRecipe", "train_flow", "train_prior"]

Report = Callable[[int, int, dict[str, float]], None]
ANY_SCALE = (1.0, 4.0)  # default for LINF


@dataclass(frozen=True)
class Loop:
    """Settings shared by the training of a flow and of a prior.

    Attributes:
        pictures: Folder of pictures.
        output: Folder of the run.
        settings: Length, rate, averaging, seed.
        batch: Crops per step.
        lr_size: Side of the low-resolution crops in pixels.
        scales: Range of the scale, one drawn per step; None is 1 to 4 for LINF and the
            one that it has for SRFlow.
        threads: CPU threads; PyTorch's choice when None.
        device: Device to train on.
        augmentation: Changes to the crops beyond flips (LINF).
        validation: Folder of held-out pictures, None for no validation; with it the weights
            of the lowest loss on them are written into the folder `best` of the run.
        start: Weights to begin with, of the same architecture, or for SRFlow an RRDB network
            of the size of its trunk; new ones when None.
        scale_per: Whether a scale is drawn for each step or for each picture; the latter with
            losses on windows of the output, as LINF-LP was trained (LINF).
        workers: Processes that decode pictures and cut crops; 0 does it in this one.
        picture_memory: Bytes of decoded pictures to keep.
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


@dataclass(frozen=True)
class PriorRecipe:
    """Architecture and loss of a prior.

    Attributes:
        name: Kind of latent module.
        args: Sizes that differ from the published ones.
        vgg_layers: Layers of the VGG whose features are compared; its last one if none.
        perceptual_weight: Weight of the distance of the features.
        latent_weight: Weight of the L1 between latents.
        pixel_weight: Weight of the L1 between pixels.
        penalties: Weights of the penalties on artifacts (LINF).
        likelihood_weight: Weight of the flow's negative log-likelihood; above 0 trains the
            flow too (LINF).
    """

    name: str
    args: dict[str, int]
    vgg_layers: Sequence[str]
    perceptual_weight: float
    latent_weight: float
    pixel_weight: float
    penalties: Penalties
    likelihood_weight: float = 0.0


def train_flow(
    spec: dict[str, Any],
    pixel_weight: float,
    penalties: Penalties,
    loop: Loop,
    started: Callable[[int], Report],
    quant: float = EIGHT_BITS,
) -> Path:
    """Train a flow by likelihood and write `model.safetensors` into the run's folder.

    Args:
        spec: `{"name": "linf" | "linf-patch" | "srflow", "args": {...}}`.
        pixel_weight: Weight of the L1 between the flow's mode and the truth.
        penalties: Weights of the penalties on artifacts (LINF).
        loop: Settings of the run.
        started: Called with the first step; returns the callback for every step.
        quant: The noise that gives a picture a density spans 1/quant of the range (SRFlow).

    Returns:
        The file.

    Raises:
        FlowsrError: If the request makes no sense, the pictures cannot be read, the folder
            holds another run or cannot be written, or the loss stops being finite.
    """
    device = _prepare(loop)
    first = steps_done(loop.output)
    torch.manual_seed(loop.settings.seed)
    flow = srflow_from_spec(spec) if spec["name"] == "srflow" else linf_from_spec(spec)
    _check_linf_only(flow, penalties, loop.augmentation)
    loop = _at_own_scale(loop, flow)
    _check_windows(loop, flow, penalties)
    if quant != EIGHT_BITS and isinstance(flow, LINF):
        raise UsageError(f"quant is for SRFlow, not LINF, got {quant:g}", option="quant")
    new = loop.start is None or _begin_flow(flow, loop.start, spec["args"].get("blocks"))
    crops = _crops(loop, flow)
    recipe = {
        "model": spec,
        "pixel_weight": pixel_weight,
        "penalties": asdict(penalties),
        **({} if quant == EIGHT_BITS else {"quant": quant}),
        **_describe(loop, crops),
    }
    objective = _flow_loss(flow, pixel_weight, penalties, loop, quant)
    if isinstance(flow, SRFlow) and first == 0 and new:
        objective.to(device)
        low, high = crops.batch_at(0)
        fit_norms(flow, low.to(device), high.to(device), quant=quant)
    held_out = _validation(loop, flow)
    path = loop.output / "model.safetensors"
    with _begun_run(loop, first, started) as report:
        arguments = objective, crops, loop.settings, loop.output, report, device, recipe
        weights = train(*arguments, held_out, loop.workers)
        for file, kept in _kept(path, weights, held_out):
            save_weights(file, "model", spec, kept)
    return path


def train_prior(
    model: Path,
    vgg: Path,
    recipe: PriorRecipe,
    loop: Loop,
    started: Callable[[int], Report],
    blocks: Sequence[int] | None = None,
) -> Path:
    """Train the prior of a flow and write `prior.safetensors` into the run's folder.

    With a weight of the likelihood the flow is trained too and `model.safetensors` is written.

    Args:
        model: The flow, a released file or one of ours.
        vgg: ImageNet weights, Caffe's VGG16 or torchvision's VGG19.
        recipe: Architecture and loss of the prior.
        loop: Settings of the run.
        started: Called with the first step; returns the callback for every step.
        blocks: Stacked blocks of an SRFlow network that its file does not tell.

    Returns:
        The file.

    Raises:
        FlowsrError: As `train_flow`, and if the model or the VGG cannot be read.
    """
    device = _prepare(loop)
    first = steps_done(loop.output)
    checkpoint = load_checkpoint(model, blocks=blocks)
    flow = _flow_of(checkpoint.network)
    likelihood = {"likelihood_weight": recipe.likelihood_weight}
    _check_linf_only(flow, recipe.penalties, loop.augmentation, likelihood)
    loop = _at_own_scale(loop, flow)
    _check_windows(loop, flow, recipe.penalties, likelihood)
    torch.manual_seed(loop.settings.seed)
    spec, prior = _new_prior(recipe, flow)
    if loop.start is not None:
        source = load_checkpoint(model, loop.start, blocks).network.prior
        _begin(prior, {} if source is None else source.state_dict(), loop.start)
    _check_batch(loop, prior, _coarsest_patch(flow))
    perceptual = _perceptual(vgg, recipe, loop)
    objective = _prior_loss(flow, prior, perceptual, recipe, loop)
    crops = _crops(loop, flow)
    described = {
        "prior": spec,
        "model_sha256": checkpoint.model_sha256,
        "vgg_layers": list(perceptual.features.layers),
        "weights": list(objective.weights),
        "penalties": asdict(recipe.penalties),
        **likelihood,
        **_describe(loop, crops),
    }
    held_out = _validation(loop, flow)
    path = loop.output / "prior.safetensors"
    model_spec = checkpoint.config["model"] if recipe.likelihood_weight else None
    with _begun_run(loop, first, started) as report:
        arguments = objective, crops, loop.settings, loop.output, report, device, described
        weights = train(*arguments, held_out, loop.workers)
        for file, kept in _kept(path, weights, held_out):
            _save_prior(file, spec, model_spec, kept)
    return path


def _prepare(loop: Loop) -> torch.device:
    """Check what can be checked at once and set the threads; nothing is written."""
    if not 1 <= loop.range[0] <= loop.range[1]:
        raise UsageError(
            f"scales must be a range from 1 up, got {loop.range[0]:g},{loop.range[1]:g}",
            option="scales",
        )
    if loop.device == "cuda" and not torch.cuda.is_available():
        raise ProviderError("PyTorch finds no CUDA device", option="device")
    if loop.threads is not None:
        torch.set_num_threads(loop.threads)
    if not loop.pictures.is_dir():
        rule = "is not a folder" if loop.pictures.exists() else "does not exist"
        raise PictureError(f"folder of images {loop.pictures} {rule}")
    return torch.device(loop.device)


@contextmanager
def _begun_run(loop: Loop, first: int, started: Callable[[int], Report]) -> Iterator[Report]:
    """Make the folder of the run, and keep other runs out; all other inputs are checked."""
    try:
        loop.output.mkdir(parents=True, exist_ok=True)
        folder = os.open(loop.output, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"cannot make folder {loop.output}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"another run is training in {loop.output}") from error
        yield started(first)
    finally:
        os.close(folder)


def _at_own_scale(loop: Loop, flow: LINF | SRFlow) -> Loop:
    """Settle the scale of the crops: an SRFlow network has one."""
    if isinstance(flow, LINF):
        return loop
    if loop.scales not in (None, (flow.scale, flow.scale)):
        raise UsageError(
            f"scales must be {flow.scale}, the only scale of this network, got "
            f"{loop.range[0]:g},{loop.range[1]:g}",
            option="scales",
        )
    if loop.lr_size % flow.multiple:
        rule = f"lr_size must be even for SRFlow, got {loop.lr_size}"
        raise UsageError(rule, option="lr_size")
    return replace(loop, scales=(flow.scale, flow.scale))


def _check_linf_only(
    flow: LINF | SRFlow, *settings: Penalties | Augmentation | dict[str, float]
) -> None:
    """Refuse settings for an SRFlow network that only the training of LINF has."""
    fields = (each if isinstance(each, dict) else asdict(each) for each in settings)
    for name, value in (field for each in fields for field in each.items()):
        if value and isinstance(flow, SRFlow):
            raise UsageError(f"{name} is for LINF, not SRFlow", option=name)


def _check_windows(
    loop: Loop, flow: LINF | SRFlow, *settings: Penalties | dict[str, float]
) -> None:
    """Refuse one scale per image where it cannot be had."""
    if loop.scale_per == "step":
        return
    if isinstance(flow, SRFlow):
        raise UsageError("scale_per image is for LINF, not SRFlow", option="scale_per")
    if loop.lr_size % flow.patch_size:
        raise UsageError(
            f"lr_size must be a multiple of {flow.patch_size}, the side of a patch, with "
            f"scale_per image, got {loop.lr_size}",
            option="lr_size",
        )
    fields = (each if isinstance(each, dict) else asdict(each) for each in settings)
    for name, value in (field for each in fields for field in each.items()):
        if value:
            raise UsageError(f"{name} needs scale_per step, got image", option=name)


def _flow_of(network: LinfLP | SrflowLP) -> LINF | SRFlow:
    return network.linf if isinstance(network, LinfLP) else network.srflow


def _flow_loss(
    flow: LINF | SRFlow, pixel_weight: float, penalties: Penalties, loop: Loop, quant: float
) -> FlowLoss | SrflowFlowLoss:
    if isinstance(flow, SRFlow):
        return SrflowFlowLoss(flow, pixel_weight, quant)
    loss = FlowLoss if loop.scale_per == "step" else WindowFlowLoss
    return loss(flow, pixel_weight, penalties)


def _new_prior(
    recipe: PriorRecipe, flow: LINF | SRFlow
) -> tuple[dict[str, Any], Prior | SrflowPrior]:
    """Make a latent module for a flow: its spec and the module."""
    if isinstance(flow, LINF):
        spec = {"name": recipe.name, "args": {"in_chans": flow.width, **recipe.args}}
        return spec, prior_from_spec(spec)
    if recipe.name != "unet":
        raise UsageError(f"the prior of an SRFlow model must be unet, got {recipe.name}")
    widths = [latent.channels for latent in flow.latents]
    spec = {"name": recipe.name, "args": {"in_chans": widths, **recipe.args}}
    return spec, srflow_prior_from_spec(spec)


def _prior_loss(
    flow: LINF | SRFlow,
    prior: Prior | SrflowPrior,
    perceptual: VggLoss,
    recipe: PriorRecipe,
    loop: Loop,
) -> PriorLoss | SrflowPriorLoss:
    weights = (recipe.perceptual_weight, recipe.latent_weight, recipe.pixel_weight)
    if isinstance(flow, LINF):
        assert not isinstance(prior, SrflowPrior)
        network, likelihood = LinfLP(flow, prior), recipe.likelihood_weight
        loss = PriorLoss if loop.scale_per == "step" else WindowPriorLoss
        return loss(network, perceptual, *weights, recipe.penalties, likelihood)
    assert isinstance(prior, SrflowPrior)
    return SrflowPriorLoss(SrflowLP(flow, prior), perceptual, *weights)


def _perceptual(vgg: Path, recipe: PriorRecipe, loop: Loop) -> VggLoss:
    """Load the perceptual loss; the crops must be large enough for its layers."""
    perceptual = VggLoss(vgg, recipe.vgg_layers)
    features = perceptual.features
    if loop.smallest_crop < features.smallest:
        raise UsageError(
            f"crops must be at least {features.smallest} pixels a side for "
            f"{features.layers[-1]}, got {loop.smallest_crop} at scale {loop.range[0]:g}"
        )
    return perceptual


def _crops(loop: Loop, flow: LINF | SRFlow) -> Crops:
    pictures = load_pictures(
        loop.pictures, loop.largest_crop, loop.memory_share, decode=not loop.workers
    )
    settings = loop.batch, loop.lr_size, loop.range, loop.settings.seed, loop.augmentation
    if loop.scale_per == "step" or isinstance(flow, SRFlow):
        return Crops(pictures, *settings)
    return WindowCrops(pictures, *settings, patch=flow.patch_size)


def _validation(loop: Loop, flow: LINF | SRFlow) -> Crops | None:
    """Held-out crops, the same in every run; None without a folder."""
    if loop.validation is None:
        return None
    settings = replace(loop.settings, seed=0)
    plain = Augmentation()
    held_out = replace(
        loop, pictures=loop.validation, settings=settings, augmentation=plain, workers=0
    )
    return _crops(held_out, flow)


def _describe(loop: Loop, crops: Crops) -> dict[str, Any]:
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
        **({} if loop.start is None else {"start": _sha256(loop.start)}),
    }


def _kept(
    path: Path, last: dict[str, Tensor], held_out: Crops | None
) -> Iterator[tuple[Path, dict[str, Tensor]]]:
    """Yield the files to write: the last weights and, of a validated run, the best ones."""
    yield path, last
    # A run that was finished by a version without best.pt has none.
    if held_out is not None and (path.parent / "best.pt").exists():
        best = path.parent / "best"
        try:
            best.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make folder {best}: {error.strerror}") from error
        yield best / path.name, best_weights(path.parent)


def _save_prior(
    path: Path, spec: dict[str, Any], model: dict[str, Any] | None, weights: dict[str, Tensor]
) -> None:
    """Write a prior and, if `model` describes one, the flow that was trained with it."""
    if model is not None:
        flow = _part(weights, "linf.")
        save_weights(path.with_name("model.safetensors"), "model", model, flow)
        weights = _part(weights, "prior.")
    save_weights(path, "prior", spec, weights)


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights of a part of the network under their own names."""
    return {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }


def _begin_flow(flow: LINF | SRFlow, path: Path, blocks: Sequence[int] | None) -> bool:
    """Give a flow its initial weights; return whether they are those of its trunk alone."""
    if isinstance(flow, SRFlow):
        trunk = _rrdb(path)
        if trunk is not None:
            names = flow.RRDB.state_dict().keys() & trunk.keys()
            _begin(flow.RRDB, {name: trunk[name] for name in names}, path)
            return True
    _begin(flow, _flow_of(load_checkpoint(path, blocks=blocks).network).state_dict(), path)
    return False


def _rrdb(path: Path) -> dict[str, Tensor] | None:
    """Return the weights of a released RRDB network; None if the file is none."""
    try:
        tensors = load_tensors(path)
    except (
        CheckpointError
    ):  # not a plain file of tensors: `load_checkpoint` reads it or says why
        return None
    return tensors if "conv_first.weight" in tensors else None


def _begin(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Give a module weights of the same architecture."""
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    if shapes != {name: tensor.shape for name, tensor in module.state_dict().items()}:
        raise UsageError(f"{path} is of another architecture than the one to train")
    module.load_state_dict(weights)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _coarsest_patch(flow: LINF | SRFlow) -> int:
    """Output pixels per cell and side of the coarsest latent."""
    return flow.patch_size if isinstance(flow, LINF) else flow.latents[-1].patch


def _check_batch(loop: Loop, prior: Prior | SrflowPrior, patch: int) -> None:
    """Batch normalization needs two values per channel at the deepest level."""
    rows = -(-loop.smallest_crop // patch)
    deepest = max(rows // prior.reduction, 1)
    if not isinstance(prior, EdsrLatent) and loop.batch * deepest**2 < 2:
        raise UsageError("batch must be at least 2 for crops this small, got 1")
