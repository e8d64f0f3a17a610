"""The `train` commands."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowsr_export.options.command import Choice, Group
from flowsr_export.options.presets import config_option, preset_option, recipe_option
from flowsr_export.options.progress import counted_progress
from flowsr_export.options.shared import (
    FILE,
    POSITIVE,
    blocks_option,
    choice_option,
    force_option,
    json_option,
    number_option,
    packs,
)
from flowsr_export.options.speech import note
from flowsr_export.options.train import (
    FOLDER,
    WEIGHT,
    given,
    linf_options,
    loop_options,
    penalty_options,
    rrdb_options,
    second_stage_options,
    srflow_options,
)
from flowsr_export.options.values import FiniteRange

if TYPE_CHECKING:
    from flowsr_lp.training.penalties import Penalties
    from flowsr_lp.training.priors import PriorRecipe
    from flowsr_lp.training.run import Loop

__all__ = ["command"]

Report = Callable[[int, int, dict[str, float]], None]

# Losses of single batches depend on the drawn scale; the bar shows their running mean.
SMOOTHING = 0.98
EIGHT_BITS = 255.0  # steps of eight-bit images


@click.group("train", cls=Group)
def command() -> None:
    """Train a flow on a folder of images, and then its learned prior.

    An interrupted run resumes when the same command is given again, and ends with the same
    weights as an uninterrupted one.

    \b
    Example:
      flowsr-export train flow --images photos -o runs/flow
    """


@command.command("flow")
@config_option
@preset_option("flow")
@number_option(
    "--system",
    Choice(["linf", "srflow"]),
    "linf",
    "Network: LINF upscales by any factor, SRFlow by 4 or 8.",
    is_eager=True,
)
@recipe_option
@linf_options
@srflow_options
@choice_option(
    "--stage",
    ["1", "2"],
    "Stage of LINF's training: by likelihood, or from --start on by its mode and samples too.",
    is_eager=True,
)
@click.option(
    "--pixel-weight",
    type=WEIGHT,
    show_default="0; 1 in stage 2",
    help="Weight of the L1 loss between the flow's mode and pixels.",
)
@second_stage_options
@number_option(
    "--quant",
    FiniteRange(min=1),
    EIGHT_BITS,
    "The noise that gives images a density spans 1/QUANT of their range (SRFlow).",
)
@penalty_options("phase", "mesh", "shift", "out_of_range", "rescaled", "gain")
@loop_options(learning_rate=4e-4, batch=16)
@json_option
def flow(
    system: str,
    linf: dict[str, Any],
    srflow: dict[str, Any],
    stage: str,
    pixel_weight: float | None,
    second: dict[str, Any],
    quant: float,
    penalties: Penalties,
    loop: Loop,
    as_json: bool,
) -> None:
    """Train a flow by maximum likelihood.

    The result is OUTPUT/model.safetensors. A LINF flow is guarded: patches whose values leave
    [-0.1, 1.1] are shrunk. export-onnx --no-guard turns that off.

    \b
    Example:
      flowsr-export train flow --images photos -o runs/flow --steps 7000
      flowsr-export train flow --recipe published --images DF2K -o runs/flow --workers 8
      flowsr-export train flow --recipe published --stage 2 --images DF2K -o runs/second \\
        --start runs/flow/model.safetensors --vgg vgg19-dcbb9e9d.pth
      flowsr-export train flow --preset SRFlow_DF2K_4X --start RRDB_DF2K_4X.pth \\
        --images DF2K -o runs/srflow
    """
    if stage == "2":
        _check_second(system, linf, srflow, quant, penalties)
        from flowsr_lp.training.second_stage import SecondStage, train_second_stage

        losses = SecondStage(**second, **given(pixel_weight=pixel_weight))
        with _progress(loop) as started:
            path = train_second_stage(losses, loop, started)
        return _print_result(path, loop, as_json)
    if second:
        raise click.UsageError(f"--{min(second).replace('_', '-')} is for --stage 2")
    other, options = ("linf", linf) if system == "srflow" else ("srflow", srflow)
    if options:
        name = min(options).replace("_", "-")
        raise click.UsageError(f"--{name} is for {other}, not {system}")
    trunk_from = srflow.pop("trunk_from", 0.0)
    spec = _srflow_spec(**srflow) if system == "srflow" else _linf_spec(**linf)
    from flowsr_lp.training.flows import train_flow

    with _progress(loop) as started:
        arguments = spec, pixel_weight or 0.0, penalties, loop, started, quant, trunk_from
        path = train_flow(*arguments)
    _print_result(path, loop, as_json)


def _check_second(
    system: str,
    linf: dict[str, Any],
    srflow: dict[str, Any],
    quant: float,
    penalties: Penalties,
) -> None:
    """Refuse options that the second stage does not take."""
    if system != "linf":
        raise click.UsageError(f"--stage 2 is for linf, not {system}")
    weighted = {
        f"{name.removeprefix('out_of_')}-weight"
        for name, value in asdict(penalties).items()
        if value
    }
    noise = {"quant"} if quant != EIGHT_BITS else set()
    refused = {*linf, *srflow, *weighted, *noise}
    if refused:
        name = min(refused).replace("_", "-")
        raise click.UsageError(f"--{name} is for --stage 1; stage 2 has the network of --start")


def _recipe(
    prior: str, depth: int | None, n_resblocks: int | None, dim: int, **fields: Any
) -> PriorRecipe:
    """Combine options into the recipe of a prior."""
    from flowsr_lp.training.priors import PriorRecipe

    if depth is not None and prior != "unet":
        raise click.UsageError(f"--depth is for unet, not {prior}")
    if n_resblocks is not None and prior == "unet":
        raise click.UsageError("--n-resblocks is for edsr-baseline-latent, not unet")
    if dim % 2:
        raise click.UsageError(f"--dim must be even, got {dim}")
    if not any(value for name, value in fields.items() if name.endswith("_weight")):
        raise click.UsageError("one of the weights must be above 0")
    args = given(depth=depth, n_resblocks=n_resblocks, dim=dim)
    return PriorRecipe(prior, args, **fields)


@command.command("prior")
@config_option
@preset_option("prior")
@recipe_option
@click.option(
    "--model", type=FILE, required=True, is_eager=True, help="Checkpoint of the flow."
)
@blocks_option
@click.option(
    "--vgg",
    type=FILE,
    required=True,
    help="ImageNet weights: torchvision's VGG19 (flowsr-export fetch vgg19-dcbb9e9d.pth), or "
    "Caffe's VGG16 with conv1_1.weight and so on.",
)
@penalty_options("phase", "mesh", "shift", "out_of_range", "rescaled")
@packs(
    _recipe,
    choice_option("--prior", ["unet", "edsr-baseline-latent"], "Network of the prior."),
    click.option("--depth", type=POSITIVE, show_default="3", help="Levels of the U-Net."),
    click.option(
        "--n-resblocks", type=POSITIVE, show_default="16", help="Residual blocks of the EDSR."
    ),
    number_option("--dim", POSITIVE, 64, "Number of channels, even."),
    click.option(
        "--vgg-layer",
        "vgg_layers",
        multiple=True,
        show_default="features.34 of VGG19, conv5_3 of VGG16",
        help="VGG layer whose features are compared, before its ReLU; may be repeated.",
    ),
    number_option("--perceptual-weight", WEIGHT, 1.0, "Weight of the VGG feature loss."),
    number_option("--latent-weight", WEIGHT, 0.0, "Weight of the L1 loss between latents."),
    number_option("--pixel-weight", WEIGHT, 0.0, "Weight of the L1 loss between pixels."),
    number_option(
        "--likelihood-weight",
        WEIGHT,
        0.0,
        "Weight of the flow's negative log-likelihood; above 0 trains the flow too (LINF).",
    ),
    name="recipe",
    takes=["penalties"],
)
@loop_options(learning_rate=1e-4, batch=16)
@json_option
def prior(
    model: Path,
    blocks: tuple[int, ...] | None,
    vgg: Path,
    recipe: PriorRecipe,
    loop: Loop,
    as_json: bool,
) -> None:
    """Train the learned prior of a LINF or SRFlow flow.

    The result is OUTPUT/prior.safetensors, and OUTPUT/model.safetensors with
    --likelihood-weight. With torchvision's VGG19 the loss is the published one: the L1
    between features before the last ReLU, of an output clamped to [0, 1]. With Caffe's
    VGG16 it is relative to the size of the features, and the output is not clamped.

    \b
    Example:
      flowsr-export train prior --model runs/flow/model.safetensors \\
        --vgg vgg16.safetensors --images photos -o runs/prior
    """
    from flowsr_lp.training.priors import train_prior

    with _progress(loop) as started:
        path = train_prior(model, vgg, recipe, loop, started, blocks)
    _print_result(path, loop, as_json)


@command.command("rrdb")
@config_option
@preset_option("rrdb")
@recipe_option
@rrdb_options
@loop_options(learning_rate=2e-4, batch=16)
@json_option
def rrdb(sizes: dict[str, Any], loop: Loop, as_json: bool) -> None:
    """Train an RRDB network by L1, with which a flow can begin.

    The result is OUTPUT/rrdb.safetensors, for --start of train flow: with --system srflow of
    the same sizes, or with --encoder rrdb.

    \b
    Example:
      flowsr-export train rrdb --images photos -o runs/rrdb
      flowsr-export train flow --system srflow --start runs/rrdb/rrdb.safetensors \\
        --images photos -o runs/srflow
    """
    from flowsr_lp.training.rrdb import train_rrdb

    whole = {name: int(value) for name, value in ({"scale": 4} | sizes).items()}
    with _progress(loop) as started:
        path = train_rrdb(whole, loop, started)
    _print_result(path, loop, as_json)


@command.command("curves")
@click.argument("run", type=FOLDER)
@click.option(
    "-o", "--output", type=FILE, show_default="RUN/curves.svg", help="SVG or PNG file."
)
@force_option
@json_option
def curves(run: Path, output: Path | None, force: bool, as_json: bool) -> None:
    """Draw the losses of a training run and those of its validation images.

    A run that still goes on can be drawn too.

    \b
    Example:
      flowsr-export train curves runs/prior -o curves.png
    """
    from flowsr_export.reports.files import prepare_files, write_files
    from flowsr_export.reports.training_curves import draw_training_curves

    path = output or run / "curves.svg"
    if path.suffix.lower() not in (".svg", ".png"):
        raise click.UsageError(f"-o must end in .svg or .png, got {path}")
    chart = draw_training_curves(run, png=path.suffix.lower() == ".png")
    prepare_files([path], force=force)
    write_files({path: chart})
    click.echo(json.dumps({"path": str(path)}) if as_json else path)


def _linf_spec(
    encoder: str = "edsr-baseline",
    hidden_dim: int = 256,
    flow_layers: int = 10,
    num_layer: int = 3,
    patch_size: int = 3,
    n_resblocks: int | None = None,
    n_feats: int | None = None,
) -> dict[str, Any]:
    edsr = given(n_resblocks=n_resblocks, n_feats=n_feats)
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
        "guard": True,
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
def _progress(loop: Loop) -> Iterator[Callable[[int], Report]]:
    """Show a bar with the smoothed losses; yield the callback for the start of the run.

    Of several processes the first one shows it, and one reports an error.
    """
    from flowsr_lp.training.processes import PeerEndedError

    try:
        if _is_first():
            with _bar(loop) as started:
                yield started
        else:
            yield lambda first: lambda step, steps, losses: None
    except PeerEndedError:
        raise SystemExit(1) from None


def _is_first() -> bool:
    """Whether this process is the first or only one of those that torchrun started."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


@contextmanager
def _bar(loop: Loop) -> Iterator[Callable[[int], Report]]:
    with counted_progress("training") as (start, advance):

        def started(first: int) -> Report:
            if first:
                note(f"resumed at step {first} of {loop.settings.steps}")
            start(loop.settings.steps, first)
            mean: dict[str, float] = {}

            def report(step: int, steps: int, losses: dict[str, float]) -> None:
                for name, value in losses.items():
                    mean[name] = value + SMOOTHING * (mean.get(name, value) - value)
                shown = list(dict.fromkeys((*list(mean)[:1], *list(mean)[-1:])))
                advance("  ".join(f"{name} {mean[name]:.4f}" for name in shown))

            return report

        yield started


def _print_result(path: Path, loop: Loop, as_json: bool) -> None:
    if not _is_first():
        return
    size, steps = path.stat().st_size, loop.settings.steps
    record = {"path": str(path), "bytes": size, "steps": steps}
    text = f"{path}  {size / 1e6:.2f} MB  {steps} steps"
    click.echo(json.dumps(record) if as_json else text)
