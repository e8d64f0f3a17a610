"""Values of many options at once: a published recipe, or a file of settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from flowsr_export.options.command import Choice, dashes
from flowsr_export.options.command import Option as NamedOption
from flowsr_export.options.shared import FILE, Option

__all__ = ["PUBLISHED", "config_option", "recipe_option"]

# LINF and LINF-LP (arXiv 2303.05156, 2403.10988): 1000 epochs in batches of 16, halved every
# 200 epochs; an epoch takes each of DF2K's 3450 images 8 times.
LINF = {
    "--batch": "16",
    "--crop": "96",
    "--scale-range": "1,4",
    "--scale-per": "image",
    "--steps": "1725000",
    "--learning-rate": "1e-4",
    "--halve-at": "0.2,0.4,0.6,0.8",
    "--ema-decay": "0",
}
# SRFlow (arXiv 2006.14200): 200,000 steps on patches of 160 pixels at 4x.
SRFLOW = {
    "--batch": "16",
    "--crop": "40",
    "--steps": "200000",
    "--learning-rate": "5e-4",
    "--halve-at": "0.5,0.75,0.9,0.95",
    "--ema-decay": "0",
    "--quant": "32",
}
# The configurations of LINF's authors train the second stage at half the rate of the first.
SECOND_STAGE = {**LINF, "--learning-rate": "5e-5"}
# SRFlow-LP_DF2K_4X.yml of the authors of SRFlow-LP.
SRFLOW_LP = {
    "--batch": "12",
    "--crop": "40",
    "--steps": "70000",
    "--learning-rate": "2.5e-4",
    "--halve-at": "0.5,0.75,0.9,0.95",
    "--ema-decay": "0",
}
# RRDB_DF2K_4X.yml of SRFlow's authors, without the restarts of its cosine.
RRDB = {
    "--batch": "16",
    "--crop": "40",
    "--steps": "200000",
    "--learning-rate": "2e-4",
    "--ema-decay": "0",
}
PUBLISHED = {
    "linf": LINF,
    "linf stage 2": SECOND_STAGE,
    "linf prior": LINF,
    "srflow": SRFLOW,
    "srflow prior": SRFLOW_LP,
    "rrdb": RRDB,
}
"""Values of the published recipes by network and option."""


def _take_recipe(context: click.Context, option: click.Parameter, name: str | None) -> None:
    """Make a recipe the defaults of the options that are neither given nor in a file."""
    if name is None:
        return
    options = _options(context.command)
    values = PUBLISHED[_published(context)]
    recipe = {str(options[flag.lstrip("-")].name): value for flag, value in values.items()}
    context.default_map = {**recipe, **(context.default_map or {})}


def _published(context: click.Context) -> str:
    """Return the name of the recipe that is meant."""
    if context.command.name == "rrdb":
        return "rrdb"
    if context.command.name == "prior":
        from flowsr_lp.checkpoint import system_of

        return f"{system_of(context.params['model'])} prior"
    stage = " stage 2" if context.params["stage"] == "2" else ""
    return f"{context.params['system']}{stage}"


def _take_config(context: click.Context, option: click.Parameter, path: Path | None) -> None:
    """Make the values of a file the defaults of the options."""
    if path is None:
        return
    options = _options(context.command)
    values: dict[str, Any] = {}
    for name, value in _read(path).items():
        if dashes(name) not in options:
            raise click.UsageError(f"{path}: no option is named {name}")
        param = options[dashes(name)]
        if param.name in values:
            raise click.UsageError(f"{path}: {param.opts[0]} is named twice, once as {name}")
        values[str(param.name)] = _plain(path, name, value, param)
    context.default_map = values


def _read(path: Path) -> Mapping[str, Any]:
    from flowsr_runtime.errors import InputError

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read settings {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"settings {path} are not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"settings {path} are not a JSON object")
    return values


def _plain(path: Path, name: str, value: Any, option: click.Option) -> Any:
    """Return a value in the form that the command line has."""
    many = isinstance(value, list)
    values = value if many else [value]
    if option.is_flag and isinstance(value, bool):
        return value
    wrong = option.is_flag or any(
        isinstance(each, bool) or not isinstance(each, str | int | float) for each in values
    )
    if wrong:
        rule = "true or false" if option.is_flag else "a text, a number or a list of them"
        raise click.UsageError(f"{path}: {name} must be {rule}, got {json.dumps(value)}")
    texts = [str(each) for each in values]
    return texts if option.multiple else ",".join(texts)


def _options(command: click.Command) -> dict[str, click.Option]:
    """Return the options of a command by their names, the old ones too."""
    return {
        name.lstrip("-"): param
        for param in command.params
        if isinstance(param, click.Option) and param.name != "config"
        for name in (*param.opts, *getattr(param, "old", ()))
    }


# A recipe depends on --system, --stage or --model, and a file may name a recipe: in the order
# of processing, eager options come first, and of those that are not given, the ones that are
# declared first.
config_option: Option = click.option(
    "--config",
    type=FILE,
    is_eager=True,
    expose_value=False,
    callback=_take_config,
    help="JSON file with values of options by name; the command line overrides it.",
)
recipe_option: Option = click.option(
    "--recipe",
    cls=NamedOption,
    type=Choice(["published"]),
    expose_value=False,
    callback=_take_recipe,
    help="Values of a published recipe; the file and the command line override them.",
)
