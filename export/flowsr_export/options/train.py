"""Options of the `train` commands: the training loop, LINF networks, SRFlow networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flowsr_export.options.command import Choice
from flowsr_export.options.command import Option as NamedOption
from flowsr_export.options.shared import (
    FILE,
    POSITIVE,
    Option,
    PathName,
    choice_option,
    number_option,
    packs,
    threads_option,
    value_option,
    with_options,
)
from flowsr_export.options.values import (
    FiniteRange,
    WholeRange,
    parse_blocks,
    parse_memory,
    parse_range,
    parse_shares,
)

__all__ = [
    "WEIGHT",
    "given",
    "linf_options",
    "loop_options",
    "penalty_options",
    "rrdb_options",
    "second_stage_options",
    "srflow_options",
]

ENCODERS = ["edsr-baseline", "edsr", "rdn", "rrdb", "swinir"]
FOLDER = PathName(path_type=Path, file_okay=False)
FOLDERS = (
    click.option(
        "--images",
        "pictures",
        cls=NamedOption,
        old=["--pictures"],
        type=FILE,
        required=True,
        help="Folder of images.",
    ),
    click.option(
        "-o",
        "--output",
        type=FOLDER,
        required=True,
        help="Folder of the run; an interrupted run resumes.",
    ),
)
PENALTIES = {
    "phase": "the mesh of patches in the error",
    "mesh": "the power of the detail at the period of the patch",
    "shift": "the L1 loss between outputs with shifted patches",
    "out_of_range": "values out of range",
    "rescaled": "the L1 loss between the output, shrunk back, and the input",
    "gain": "the gain of the flow's inverse",
}
SHARE = FiniteRange(min=0, max=1)
WEIGHT = FiniteRange(min=0)


def given(**values: Any) -> dict[str, Any]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def _size(name: str, help_text: str, default: int | None = None) -> Option:
    shown = str(default) if default is not None else False
    return click.option(name, type=POSITIVE, show_default=shown, help=help_text)


def _fonts(context: click.Context, option: click.Parameter, folder: Path | None) -> Any:
    """Return the fonts in a folder, none without one."""
    if folder is not None and not folder.is_dir():
        from flowsr_runtime.errors import InputError

        raise InputError(f"folder of fonts {folder} does not exist")
    fonts = tuple(sorted(folder.glob("*.ttf"))) if folder else ()
    if folder and not fonts:
        raise click.UsageError(f"--fonts must be a folder with .ttf files, got {folder}")
    return fonts


AUGMENTATION = packs(
    "flowsr_lp.training.crops:Augmentation",
    number_option("--synthetic", SHARE, 0.0, "Share of the crops that are drawn (LINF)."),
    click.option(
        "--fonts",
        type=FILE,
        callback=_fonts,
        help="Folder of .ttf fonts for the drawn text (LINF).",
    ),
    number_option("--gray", SHARE, 0.0, "Share of the other crops made gray (LINF)."),
    number_option(
        "--color", SHARE, 0.0, "Share of the other crops with changed colors (LINF)."
    ),
    name="augmentation",
)


CROPS = (
    number_option(
        "--crop",
        POSITIVE,
        32,
        "Side of a crop in low-resolution pixels.",
        argument="lr_size",
        old=["--lr-size"],
    ),
    value_option(
        parse_range,
        "--scale-range",
        "scales",
        old=["--scales"],
        help="Range of the scale drawn for each step (LINF).",
        show_default="1,4; SRFlow's own",
    ),
    choice_option(
        "--scale-per",
        ["step", "image"],
        "Draw a scale for each step, or one for each image and compare windows of the "
        "output (LINF).",
    ),
)
LOADING = (
    number_option(
        "--workers",
        WholeRange(min=0),
        0,
        "Number of processes that decode images; the weights do not depend on it.",
    ),
    value_option(
        parse_memory,
        "--image-memory",
        "picture_memory",
        default="512M",
        help="Memory for decoded images; the others are decoded whenever they are used.",
    ),
)


def loop_options(learning_rate: float, batch: int) -> Option:
    """Return a decorator that adds the options of every training run, packed as `loop`.

    Args:
        learning_rate: Default of `--learning-rate`.
        batch: Default of `--batch`.
    """
    loop = packs(
        "flowsr_lp.training.run:Loop",
        number_option("--batch", POSITIVE, batch, "Number of crops per step, in all."),
        *CROPS,
        threads_option,
        click.option("--validation", type=FOLDER, help="Folder of held-out images."),
        click.option(
            "--start",
            type=FILE,
            help="Initial weights, of the same architecture, or an RRDB network for its trunk.",
        ),
        click.option(
            "--snapshot-every",
            type=POSITIVE,
            help="Number of steps between weights that are kept in OUTPUT/step-N.",
        ),
        choice_option("--device", ["cpu", "cuda"], "Device to train on."),
        *LOADING,
        name="loop",
        takes=["pictures", "output", "settings", "augmentation"],
    )
    settings = packs(
        "flowsr_lp.training.loop:Settings",
        number_option("--steps", POSITIVE, 10_000, "Number of optimizer steps."),
        number_option(
            "--learning-rate",
            FiniteRange(min=0, min_open=True),
            learning_rate,
            "Learning rate after the warm-up; it falls to 0 along a cosine.",
        ),
        value_option(
            parse_shares,
            "--halve-at",
            help="Shares of the steps at which the learning rate is halved, instead of warm-up "
            "and cosine.",
        ),
        number_option(
            "--ema-decay",
            FiniteRange(min=0, max=1, max_open=True),
            0.999,
            "Decay of the exponential moving average of the weights; 0 disables it.",
        ),
        number_option("--save-every", POSITIVE, 200, "Number of steps between checkpoints."),
        number_option(
            "--seed", WholeRange(min=0), 0, "Random seed for weights, crops and noise."
        ),
    )
    return lambda command: with_options(command, [*FOLDERS, settings, AUGMENTATION, loop])


def penalty_options(*names: str) -> Option:
    """Return a decorator that adds the weights of some penalties, packed as `penalties`."""
    weights = (
        number_option(
            f"--{name.removeprefix('out_of_')}-weight",
            WEIGHT,
            0.0,
            f"Weight of {PENALTIES[name]} (LINF).",
            argument=name,
        )
        for name in names
    )
    return packs("flowsr_lp.training.penalties:Penalties", *weights, name="penalties")


second_stage_options = packs(
    given,
    click.option(
        "--vgg",
        type=FILE,
        help="ImageNet weights of VGG19 or VGG16, as for train prior (stage 2).",
    ),
    click.option(
        "--likelihood-weight",
        type=WEIGHT,
        show_default="5e-4",
        help="Weight of the negative log-likelihood of a patch (stage 2).",
    ),
    click.option(
        "--perceptual-weight",
        type=WEIGHT,
        show_default="0.025",
        help="Weight of the VGG feature loss of a sample (stage 2).",
    ),
    click.option(
        "--sample-temperature",
        type=WEIGHT,
        show_default="0.8",
        help="Temperature of that sample (stage 2).",
    ),
    name="second",
)

linf_options = packs(
    given,
    click.option(
        "--encoder",
        type=Choice(ENCODERS),
        show_default=ENCODERS[0],
        help="Encoder network (LINF).",
    ),
    _size("--n-resblocks", "Number of residual blocks of an EDSR encoder (LINF)."),
    _size("--n-feats", "Number of channels of an EDSR encoder (LINF)."),
    _size("--hidden-dim", "Number of channels of the Fourier features, even (LINF).", 256),
    _size("--flow-layers", "Number of layers of the flow (LINF).", 10),
    _size("--num-layer", "Number of hidden layers of the conditioner (LINF).", 3),
    _size("--patch-size", "Side of a patch in output pixels (LINF).", 3),
    name="linf",
)

TRUNK = (
    click.option(
        "--scale",
        type=Choice(["4", "8"]),
        show_default="4",
        help="Upscaling factor of the network (SRFlow, RRDB).",
    ),
    _size("--nb", "Number of blocks of the RRDB trunk.", 23),
    _size("--nf", "Number of channels of the trunk.", 64),
    _size("--gc", "Growth of the dense blocks of the trunk.", 32),
)
rrdb_options = packs(given, *TRUNK, name="sizes")
srflow_options = packs(
    given,
    *TRUNK,
    value_option(
        parse_blocks,
        "--blocks",
        help="Indices of the trunk blocks that condition the flow (SRFlow).  "
        "[default: 1,8,15,22 of 23; at scale 8 1,3,5,7 of 8 or 23]",
    ),
    _size("--steps-per-level", "Number of couplings per level of the flow (SRFlow).", 16),
    _size("--coupling-width", "Number of channels of the coupling networks (SRFlow).", 64),
    click.option(
        "--trunk-from",
        type=SHARE,
        show_default="0",
        help="Share of the steps after which the trunk of --start is trained too (SRFlow).",
    ),
    name="srflow",
)
