"""The `train` commands."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from flowsr_export.train import Loop

__all__ = ["command"]

Command = Callable[..., object]
Report = Callable[[int, int, dict[str, float]], None]

ENCODERS = ["edsr-baseline", "edsr", "rdn", "rrdb"]
PRIORS = ["unet", "edsr-baseline-latent"]
# Figures of single batches jump with the scale; the bar shows their running mean.
SMOOTHING = 0.98
LOOP = (
    *("pictures", "output", "steps", "batch", "lr_size", "scales", "learning_rate"),
    *("ema_decay", "seed", "save_every", "threads", "device", "start"),
)

POSITIVE = click.IntRange(min=1)
WEIGHT = click.FloatRange(min=0)


def parse_range(value: str) -> tuple[float, float]:
    """Read two numbers joined by a comma, as in `1,4`."""
    try:
        low, high = map(float, value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not as in 1,4") from None
    return low, high


def loop_options(learning_rate: float, batch: int) -> Callable[[Command], Command]:
    """Return a decorator that adds the options which both commands share, as one `loop`.

    Args:
        learning_rate: Default of `--learning-rate`.
        batch: Default of `--batch`.
    """
    options = _loop_options(learning_rate, batch)

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def collected(**values: Any) -> object:
            loop = _loop(**{name: values.pop(name) for name in LOOP})
            return command(loop=loop, **values)

        wrapped: Command = collected
        for option in reversed(options):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def _loop_options(learning_rate: float, batch: int) -> list[Callable[[Command], Command]]:
    folder = click.Path(path_type=Path, file_okay=False)
    return [
        click.option("--pictures", type=folder, required=True, help="Folder of pictures."),
        click.option(
            "-o",
            "--output",
            type=folder,
            required=True,
            help="Folder of the run; one that was interrupted goes on.",
        ),
        _number("--steps", POSITIVE, 10_000, "Optimiser steps."),
        _number("--batch", POSITIVE, batch, "Crops per step."),
        _number("--lr-size", POSITIVE, 32, "Side of the low-resolution crops in pixels."),
        click.option(
            "--scales",
            type=parse_range,
            metavar="FROM,TO",
            default="1,4",
            show_default=True,
            help="Range of the scale; one is drawn per step.",
        ),
        _number(
            "--learning-rate",
            click.FloatRange(min=0, min_open=True),
            learning_rate,
            "Peak of the warm-up; from there a cosine to zero.",
        ),
        _number(
            "--ema-decay",
            click.FloatRange(min=0, max=1, max_open=True),
            0.999,
            "Of the averaged weights that are kept; 0 keeps the last ones.",
        ),
        _number("--seed", click.IntRange(min=0), 0, "Of weights, crops and noise."),
        _number("--save-every", POSITIVE, 200, "Steps between saves."),
        click.option("--threads", type=POSITIVE, show_default="all cores", help="CPU threads."),
        click.option(
            "--start",
            type=click.Path(path_type=Path),
            help="Weights to begin with; without it new ones.",
        ),
        click.option(
            "--device",
            type=click.Choice(["cpu", "cuda"]),
            default="cpu",
            show_default=True,
            help="Where to compute.",
        ),
    ]


def _number(
    name: str, kind: click.IntRange | click.FloatRange, default: float, help_text: str
) -> Callable[[Command], Command]:
    return click.option(name, type=kind, default=default, show_default=True, help=help_text)


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
@click.option("--encoder", type=click.Choice(ENCODERS), default=ENCODERS[0], show_default=True)
@click.option("--n-resblocks", type=POSITIVE, help="Residual blocks of an EDSR.")
@click.option("--n-feats", type=POSITIVE, help="Channels of an EDSR.")
@_number("--hidden-dim", POSITIVE, 256, "Channels of the Fourier features, even.")
@_number("--flow-layers", POSITIVE, 10, "Layers of the flow.")
@_number("--num-layer", POSITIVE, 3, "Hidden layers of the conditioner.")
@_number("--patch-size", POSITIVE, 3, "Side of a patch in output pixels.")
@_number("--pixel-weight", WEIGHT, 0.0, "Weight of the L1 between the flow's mode and pixels.")
@loop_options(learning_rate=4e-4, batch=16)
def flow(
    encoder: str,
    n_resblocks: int | None,
    n_feats: int | None,
    hidden_dim: int,
    flow_layers: int,
    num_layer: int,
    patch_size: int,
    pixel_weight: float,
    loop: Loop,
) -> None:
    """Train a flow by likelihood.

    Writes OUTPUT/model.safetensors when it is done.

    \b
    Example:
      flowsr-export train flow --pictures photos -o runs/flow --steps 7000
    """
    args = _given(n_resblocks=n_resblocks, n_feats=n_feats)
    if args and not encoder.startswith("edsr"):
        raise click.UsageError(f"--n-resblocks and --n-feats are for EDSR, not {encoder}")
    if hidden_dim % 2:
        raise click.UsageError(f"--hidden-dim must be even, got {hidden_dim}")
    spec: dict[str, Any] = {
        "name": "linf-patch" if patch_size > 1 else "linf",
        "args": {
            "encoder_spec": {"name": encoder, "args": args},
            "flow_layers": flow_layers,
            "num_layer": num_layer,
            "hidden_dim": hidden_dim,
            **({"patch_size": patch_size} if patch_size > 1 else {}),
        },
    }
    from flowsr_export.train import train_flow

    with _told(loop) as started:
        path = train_flow(spec, pixel_weight, loop, started)
    _say_written(path, loop)


@command.command("prior")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    required=True,
    help="The flow, a released file or one of ours; it stays as it is.",
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
@_number("--dim", POSITIVE, 64, "Channels, even.")
@click.option(
    "--vgg-layer",
    "vgg_layers",
    multiple=True,
    default=["conv5_3"],
    show_default=True,
    help="Layer whose features are compared, before its ReLU; may be repeated.",
)
@_number("--perceptual-weight", WEIGHT, 1.0, "Weight of the distance of VGG's features.")
@_number("--latent-weight", WEIGHT, 0.0, "Weight of the L1 between latents.")
@_number("--pixel-weight", WEIGHT, 0.0, "Weight of the L1 between pixels.")
@loop_options(learning_rate=1e-4, batch=16)
def prior(
    model: Path,
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
    """Train the learned prior of a flow.

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
    from flowsr_export.train import PriorRecipe, train_prior

    args = _given(depth=depth, n_resblocks=n_resblocks, dim=dim)
    weights = (perceptual_weight, latent_weight, pixel_weight)
    recipe = PriorRecipe(prior, args, vgg_layers, *weights)
    with _told(loop) as started:
        path = train_prior(model, vgg, recipe, loop, started)
    _say_written(path, loop)


def _given(**values: int | None) -> dict[str, int]:
    return {name: value for name, value in values.items() if value is not None}


def _loop(
    pictures: Path,
    output: Path,
    steps: int,
    batch: int,
    lr_size: int,
    scales: tuple[float, float],
    learning_rate: float,
    ema_decay: float,
    seed: int,
    save_every: int,
    threads: int | None,
    device: Literal["cpu", "cuda"],
    start: Path | None,
) -> Loop:
    from flowsr_export.train import Loop
    from flowsr_lp.training import Settings

    settings = Settings(steps, learning_rate, ema_decay, save_every, seed)
    data = (pictures, output, settings, batch, lr_size, scales)
    return Loop(*data, threads=threads, device=device, start=start)


@contextmanager
def _told(loop: Loop) -> Iterator[Callable[[int], Report]]:
    """Show the run's progress; yields what is to be called when it begins."""
    from flowsr_export.progress import progress

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
