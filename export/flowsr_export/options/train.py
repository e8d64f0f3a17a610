"""Options of the `train` commands, gathered by what they are about."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from flowsr_export.options.session import parse_blocks

if TYPE_CHECKING:
    from flowsr_lp.training.run import Loop

__all__ = [
    "POSITIVE",
    "WEIGHT",
    "gathered",
    "linf_options",
    "loop_options",
    "number",
    "parse_range",
    "srflow_options",
]

Command = Callable[..., object]
Option = Callable[[Command], Command]

ENCODERS = ["edsr-baseline", "edsr", "rdn", "rrdb"]

POSITIVE = click.IntRange(min=1)
WEIGHT = click.FloatRange(min=0)


def parse_range(value: str) -> tuple[float, float]:
    """Read two numbers joined by a comma, as in `1,4`."""
    try:
        low, high = map(float, value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not as in 1,4") from None
    return low, high


def number(
    name: str, kind: click.IntRange | click.FloatRange, default: float, help_text: str
) -> Option:
    """Return an option with a number."""
    return click.option(name, type=kind, default=default, show_default=True, help=help_text)


def gathered(name: str, options: Sequence[Option]) -> Callable[[Command], Command]:
    """Return a decorator that adds options and hands over those that were given as a dict.

    Args:
        name: Argument of the command, a dict from the options' names to their values.
        options: What `click.option` gives, without defaults.
    """
    names = _names(options)

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def collected(**values: Any) -> object:
            taken = {key: values.pop(key) for key in names}
            given = {key: value for key, value in taken.items() if value is not None}
            return command(**{name: given}, **values)

        return _with(collected, options)

    return decorate


def loop_options(learning_rate: float, batch: int) -> Callable[[Command], Command]:
    """Return a decorator that adds the options which both commands share, as one `loop`.

    Args:
        learning_rate: Default of `--learning-rate`.
        batch: Default of `--batch`.
    """
    options = _loop_options(learning_rate, batch)
    names = _names(options)

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def collected(**values: Any) -> object:
            loop = _loop(**{name: values.pop(name) for name in names})
            return command(loop=loop, **values)

        return _with(collected, options)

    return decorate


def linf_options() -> list[Option]:
    """Return the options that only a LINF network has."""
    return [
        click.option(
            "--encoder",
            type=click.Choice(ENCODERS),
            show_default=ENCODERS[0],
            help="LINF: network of the features.",
        ),
        _size("--n-resblocks", "LINF: residual blocks of an EDSR."),
        _size("--n-feats", "LINF: channels of an EDSR."),
        _size("--hidden-dim", "LINF: channels of the Fourier features, even.", 256),
        _size("--flow-layers", "LINF: layers of the flow.", 10),
        _size("--num-layer", "LINF: hidden layers of the conditioner.", 3),
        _size("--patch-size", "LINF: side of a patch in output pixels.", 3),
    ]


def srflow_options() -> list[Option]:
    """Return the options that only an SRFlow network has."""
    return [
        click.option(
            "--scale",
            type=click.Choice(["4", "8"]),
            show_default="4",
            help="SRFlow: output pixels per input pixel.",
        ),
        _size("--nb", "SRFlow: blocks of the trunk.", 23),
        click.option(
            "--blocks",
            type=parse_blocks,
            metavar="I,J,…",
            help="SRFlow: blocks of the trunk that the flow reads, from 0.  "
            "[default: 1,8,15,22 of 23; at 8 times 1,3,5,7 of 8 or 23]",
        ),
        _size("--nf", "SRFlow: channels of the trunk.", 64),
        _size("--gc", "SRFlow: growth of its dense blocks.", 32),
        _size("--steps-per-level", "SRFlow: couplings of each level of the flow.", 16),
        _size("--coupling-width", "SRFlow: channels of the couplings' nets.", 64),
    ]


def _size(name: str, help_text: str, default: int | None = None) -> Option:
    shown = str(default) if default is not None else False
    return click.option(name, type=POSITIVE, show_default=shown, help=help_text)


def _loop_options(learning_rate: float, batch: int) -> list[Option]:
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
        number("--steps", POSITIVE, 10_000, "Optimiser steps."),
        number("--batch", POSITIVE, batch, "Crops per step."),
        number("--lr-size", POSITIVE, 32, "Side of the low-resolution crops in pixels."),
        click.option(
            "--scales",
            type=parse_range,
            metavar="FROM,TO",
            show_default="1,4; SRFlow's own",
            help="Range of LINF's scale; one is drawn per step.",
        ),
        number(
            "--learning-rate",
            click.FloatRange(min=0, min_open=True),
            learning_rate,
            "Peak of the warm-up; from there a cosine to zero.",
        ),
        number(
            "--ema-decay",
            click.FloatRange(min=0, max=1, max_open=True),
            0.999,
            "Of the averaged weights that are kept; 0 keeps the last ones.",
        ),
        number("--seed", click.IntRange(min=0), 0, "Of weights, crops and noise."),
        number("--save-every", POSITIVE, 200, "Steps between saves."),
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


def _loop(
    pictures: Path,
    output: Path,
    steps: int,
    batch: int,
    lr_size: int,
    scales: tuple[float, float] | None,
    learning_rate: float,
    ema_decay: float,
    seed: int,
    save_every: int,
    threads: int | None,
    device: Literal["cpu", "cuda"],
    start: Path | None,
) -> Loop:
    from flowsr_lp.training.linf import Settings
    from flowsr_lp.training.run import Loop

    settings = Settings(steps, learning_rate, ema_decay, save_every, seed)
    data = (pictures, output, settings, batch, lr_size, scales)
    return Loop(*data, threads=threads, device=device, start=start)


def _names(options: Sequence[Option]) -> list[str]:
    """Return the arguments that options fill, in their order."""
    filled = click.command("filled")(_with(lambda: None, options))
    return [str(param.name) for param in filled.params]


def _with(command: Command, options: Sequence[Option]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
