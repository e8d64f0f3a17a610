"""Values of many options at once: a recipe, a preset, or a file of settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from flowsr_export.options.command import Choice, dashes
from flowsr_export.options.command import Option as NamedOption
from flowsr_export.options.recipes import PRESETS, PUBLISHED, SECOND_PRESETS
from flowsr_export.options.shared import FILE, Option

__all__ = ["config_option", "preset_option", "recipe_option"]

PRESET = "flowsr_export.preset"
YAML = (".yaml", ".yml")


class ReleasedName(click.Choice[str]):
    """Names of released files, in any case where they do not differ by it alone."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return the name as it is in the list."""
        alike = [name for name in self.choices if dashes(name) == dashes(value)]
        alike = alike or [
            name for name in self.choices if dashes(name).lower() == dashes(value).lower()
        ]
        return super().convert(alike[0] if len(alike) == 1 else value, param, ctx)

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Return the message for a value that is none of the names."""
        return f"{value!r} is not one of {', '.join(self.choices)}"


def _take_preset(context: click.Context, option: click.Parameter, name: str | None) -> None:
    """Remember a preset, and let it choose the system."""
    if name is None:
        return
    context.meta[PRESET] = name
    system = PRESETS[str(context.command.name)][name].get("--system")
    if system is not None:
        context.default_map = {"system": system, **(context.default_map or {})}


def _take_recipe(context: click.Context, option: click.Parameter, name: str | None) -> None:
    """Make a recipe or a preset the defaults of options neither given nor in a file."""
    preset = context.meta.get(PRESET)
    if preset is not None and name is not None:
        raise click.UsageError("give at most one of --preset and --recipe")
    if preset is not None:
        values = _preset(context, preset)
    elif name is not None:
        values = PUBLISHED[_published(context)]
    else:
        return
    options = _options(context.command)
    recipe = {str(options[flag.lstrip("-")].name): value for flag, value in values.items()}
    context.default_map = {**recipe, **(context.default_map or {})}


def _preset(context: click.Context, name: str) -> Mapping[str, str]:
    """Return the values of a preset; in the second stage the network is known."""
    values = PRESETS[str(context.command.name)][name]
    if context.params.get("stage") != "2":
        return values
    if name not in SECOND_PRESETS:
        raise click.UsageError(f"--stage 2 is for linf, not the preset {name}")
    return {flag: x for flag, x in SECOND_PRESETS[name].items() if flag != "--patch-size"}


def _published(context: click.Context) -> str:
    """Return the name of the recipe that is meant."""
    if context.command.name == "rrdb":
        return "rrdb"
    if context.command.name == "prior":
        from flowsr_lp.checkpoint import system_of

        model = context.params["model"]
        known = model.exists()  # the command says so where it does not
        return f"{system_of(model) if known else 'linf'} prior"
    stage = " stage 2" if context.params["stage"] == "2" else ""
    return f"{context.params['system']}{stage}"


def _take_config(context: click.Context, option: click.Parameter, path: Path | None) -> None:
    """Make the values of a file the defaults of the options."""
    if path is None:
        return
    options = _options(context.command)
    values: dict[str, Any] = {}
    for name, value in _read(path).items():
        if dashes(str(name)) not in options:
            raise click.UsageError(f"{path}: no option is named {name}")
        param = options[dashes(str(name))]
        if param.name in values:
            raise click.UsageError(f"{path}: {param.opts[0]} is named twice, once as {name}")
        values[str(param.name)] = _plain(path, str(name), value, param)
    context.default_map = values


def _read(path: Path) -> Mapping[Any, Any]:
    from flowsr_runtime.errors import InputError

    language, parse = ("YAML", _yaml) if path.suffix.lower() in YAML else ("JSON", json.loads)
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read settings {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"settings {path} are not {language}: {error}") from error
    if not isinstance(values, dict):
        form = "mapping" if language == "YAML" else "object"
        raise InputError(f"settings {path} are not a {language} {form}")
    return values


def _yaml(text: str) -> Any:
    """Read YAML of plain values; nothing in it is run.

    Raises:
        ImportError: If PyYAML is not installed.
        ValueError: If the text is not YAML.
    """
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


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
        raise click.UsageError(
            f"{path}: {name} must be {rule}, got {json.dumps(value, default=str)}"
        )
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
    help="YAML or JSON file with values of options by name; the command line overrides it.",
)


def preset_option(command: str) -> Option:
    """Return `--preset` of one command; it must be declared after `--config`."""
    return click.option(
        "--preset",
        cls=NamedOption,
        type=ReleasedName(list(PRESETS[command])),
        is_eager=True,
        expose_value=False,
        callback=_take_preset,
        metavar="NAME",
        help="Network and recipe of a released file; the file and the command line override "
        f"them. {', '.join(PRESETS[command])}.",
    )


recipe_option: Option = click.option(
    "--recipe",
    cls=NamedOption,
    type=Choice(["published"]),
    expose_value=False,
    callback=_take_recipe,
    help="Values of a published recipe; the file and the command line override them.",
)
