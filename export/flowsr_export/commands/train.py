"""The `train` commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowsr_export.options.session import parse_blocks
from flowsr_export.options.train import (
    POSITIVE,
    WEIGHT,
    gathered,
    linf_options,
    loop_options,
    number,
    srflow_options,
)

if TYPE_CHECKING:
    from flowsr_lp.training.run import Loop

__all__ = ["command"]

Report = Callable[[int, int, dict[str, float]], None]

PRIORS = ["unet", "edsr-baseline-latent"]
# Figures of single batches jump with the scale; the bar shows their running mean.
SMOOTHING = 0.98


@click.group("train")
def command() -> None:
    """Train a flow on a folder of pictures, and then its learned prior.

    A run that was interrupted goes on when the same command is given again, and ends with
    the same weights as one that was not.

    \b
    Example:
      flowsr-export train flow --pictures photos -o runs/flow
    """


@command.command("flow")
@click.option(
    "--system",
    type=click.Choice(["linf", "srflow"]),
    default="linf",
    show_default=True,
    help="LINF enlarges any times, SRFlow 4 or 8 times.",
)
@gathered("linf", linf_options())
@gathered("srflow", srflow_options())
@number("--pixel-weight", WEIGHT, 0.0, "Weight of the L1 between the flow's mode and pixels.")
@loop_options(learning_rate=4e-4, batch=16)
def flow(
    system: str,
    linf: dict[str, Any],
    srflow: dict[str, Any],
    pixel_weight: float,
    loop: Loop,
) -> None:
    """Train a flow by likelihood.

    Writes OUTPUT/model.safetensors when it is done.

    \b
    Example:
      flowsr-export train flow --pictures photos -o runs/flow --steps 7000
      flowsr-export train flow --system srflow --pictures photos -o runs/srflow
    """
    other, options = ("linf", linf) if system == "srflow" else ("srflow", srflow)
    if options:
        name = min(options).replace("_", "-")
        raise click.UsageError(f"--{name} is for {other}, not {system}")
    spec = _srflow_spec(**srflow) if system == "srflow" else _linf_spec(**linf)
    from flowsr_lp.training.run import train_flow

    with _told(loop) as started:
        path = train_flow(spec, pixel_weight, loop, started)
    _say_written(path, loop)


@command.command("prior")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    required=True,
    help="The flow, LINF or SRFlow, a released file or one of ours; it stays as it is.",
)
@click.option(
    "--blocks",
    type=parse_blocks,
    metavar="I,J,…",
    help="Stacked blocks of an SRFlow network that its file does not tell.",
)
@click.option(
    "--vgg",
    type=click.Path(path_type=Path),
    required=True,
    help="ImageNet weights of VGG16: safetensors with conv1_1.weight and so on.",
)
@click.option("--prior", type=click.Choice(PRIORS), default=PRIORS[0], show_default=True)
@click.option("--depth", type=POSITIVE, show_default="3", help="Levels of the U-Net.")
@click.option("--n-resblocks", type=POSITIVE, show_default="16", help="Blocks of the EDSR.")
@number("--dim", POSITIVE, 64, "Channels, even.")
@click.option(
    "--vgg-layer",
    "vgg_layers",
    multiple=True,
    default=["conv5_3"],
    show_default=True,
    help="Layer whose features are compared, before its ReLU; may be repeated.",
)
@number("--perceptual-weight", WEIGHT, 1.0, "Weight of the distance of VGG's features.")
@number("--latent-weight", WEIGHT, 0.0, "Weight of the L1 between latents.")
@number("--pixel-weight", WEIGHT, 0.0, "Weight of the L1 between pixels.")
@loop_options(learning_rate=1e-4, batch=16)
def prior(
    model: Path,
    blocks: tuple[int, ...] | None,
    vgg: Path,
    prior: str,
    depth: int | None,
    n_resblocks: int | None,
    dim: int,
    vgg_layers: tuple[str, ...],
    perceptual_weight: float,
    latent_weight: float,
    pixel_weight: float,
    loop: Loop,
) -> None:
    """Train the learned prior of a flow, LINF's or SRFlow's.

    Writes OUTPUT/prior.safetensors when it is done. The published recipe compares features
    of VGG19 before the last ReLU; this command takes VGG16, whose last layer is conv5_3.

    \b
    Example:
      flowsr-export train prior --model runs/flow/model.safetensors \\
        --vgg vgg16.safetensors --pictures photos -o runs/prior
    """
    if depth is not None and prior != "unet":
        raise click.UsageError(f"--depth is for unet, not {prior}")
    if n_resblocks is not None and prior == "unet":
        raise click.UsageError("--n-resblocks is for edsr-baseline-latent, not unet")
    if dim % 2:
        raise click.UsageError(f"--dim must be even, got {dim}")
    if perceptual_weight + latent_weight + pixel_weight == 0:
        raise click.UsageError("one of the weights must be above 0")
    from flowsr_lp.training.run import PriorRecipe, train_prior

    args = _given(depth=depth, n_resblocks=n_resblocks, dim=dim)
    weights = (perceptual_weight, latent_weight, pixel_weight)
    recipe = PriorRecipe(prior, args, vgg_layers, *weights)
    with _told(loop) as started:
        path = train_prior(model, vgg, recipe, loop, started, blocks)
    _say_written(path, loop)


def _given(**values: int | None) -> dict[str, int]:
    return {name: value for name, value in values.items() if value is not None}


def _linf_spec(
    encoder: str = "edsr-baseline",
    hidden_dim: int = 256,
    flow_layers: int = 10,
    num_layer: int = 3,
    patch_size: int = 3,
    n_resblocks: int | None = None,
    n_feats: int | None = None,
) -> dict[str, Any]:
    edsr = _given(n_resblocks=n_resblocks, n_feats=n_feats)
    if edsr and not encoder.startswith("edsr"):
        raise click.UsageError(f"--n-resblocks and --n-feats are for EDSR, not {encoder}")
    if hidden_dim % 2:
        raise click.UsageError(f"--hidden-dim must be even, got {hidden_dim}")
    return {
        "name": "linf-patch" if patch_size > 1 else "linf",
        "args": {
            "encoder_spec": {"name": encoder, "args": edsr},
            "flow_layers": flow_layers,
            "num_layer": num_layer,
            "hidden_dim": hidden_dim,
            **({"patch_size": patch_size} if patch_size > 1 else {}),
        },
    }


def _srflow_spec(
    scale: str = "4",
    nb: int = 23,
    blocks: tuple[int, ...] | None = None,
    nf: int = 64,
    gc: int = 32,
    steps_per_level: int = 16,
    coupling_width: int = 64,
) -> dict[str, Any]:
    from flowsr_lp.srflow.architecture import BLOCKS
    from flowsr_lp.srflow.model import LEVELS

    stacked = blocks or BLOCKS.get((int(scale), nb))
    if stacked is None:
        raise click.UsageError(f"--blocks must say which of {nb} blocks the flow reads")
    if max(stacked) >= nb:
        raise click.UsageError(f"--blocks must be from 0 to {nb - 1}, got {max(stacked)}")
    sizes = {"nb": nb, "K": steps_per_level, "L": LEVELS[int(scale)], "blocks": list(stacked)}
    widths = {"nf": nf, "gc": gc, "hidden": coupling_width}
    return {"name": "srflow", "args": {"scale": int(scale), **sizes, **widths}}


@contextmanager
def _told(loop: Loop) -> Iterator[Callable[[int], Report]]:
    """Show the run's progress; yields what is to be called when it begins."""
    from flowsr_export.options.progress import progress

    with ExitStack() as stack:

        def started(first: int) -> Report:
            if first:
                click.echo(f"resumed at step {first} of {loop.settings.steps}", err=True)
            bar = stack.enter_context(progress("training", loop.settings.steps, first))
            mean: dict[str, float] = {}

            def report(step: int, steps: int, figures: dict[str, float]) -> None:
                for name, value in figures.items():
                    mean[name] = value + SMOOTHING * (mean.get(name, value) - value)
                shown = list(dict.fromkeys((*list(mean)[:1], *list(mean)[-1:])))
                bar.advance(1, "  ".join(f"{name} {mean[name]:.4f}" for name in shown))

            return report

        yield started


def _say_written(path: Path, loop: Loop) -> None:
    size = path.stat().st_size / 1e6
    click.echo(f"{path}  {size:.2f} MB  {loop.settings.steps} steps")
