"""Options of several commands, and a decorator that packs options into one object."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowsr_export.options.command import Choice
from flowsr_export.options.command import Option as NamedOption
from flowsr_export.options.values import WholeRange, parse_blocks, parse_memory, parse_scales

if TYPE_CHECKING:
    from flowsr_runtime import Bundle

__all__ = [
    "FILE",
    "POSITIVE",
    "PRECISIONS",
    "blocks_option",
    "bundle_argument",
    "choice_option",
    "device_option",
    "flag",
    "force_option",
    "halo_option",
    "json_option",
    "memory_budget_option",
    "number_option",
    "open_bundle",
    "packs",
    "precision_option",
    "provider_option",
    "required_bundle_argument",
    "scales_option",
    "seed_option",
    "threads_option",
    "value_option",
    "with_options",
]

Command = Callable[..., Any]
Option = Callable[[Command], Command]


class PathName(click.Path):
    """A path; an empty one, which would be the current folder, is refused."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Read a path and check it."""
        if value == "":
            self.fail("a path must not be empty", param, ctx)
        return super().convert(value, param, ctx)


FILE = PathName(path_type=Path)
POSITIVE = WholeRange(min=1)
SEED = WholeRange(0, 2**64 - 1)
PRECISIONS = ["fp32", "fp16", "bf16", "int8", "fp8"]
METAVARS = {
    "color_type": "COLOR",
    "exact_scale_type": "S",
    "format_type": "FORMAT",
    "parse_blocks": "I,J,…",
    "parse_capability": "N.N",
    "parse_counts": "N,N,…",
    "parse_devices": "N,N,…",
    "parse_duration": "TIME",
    "parse_gpu": "GPU",
    "parse_limit": "pP:TIME",
    "parse_memory": "BYTES",
    "parse_percentiles": "P,P,…",
    "parse_range": "FROM,TO",
    "parse_rates": "R,R,…",
    "parse_scales": "S,S,…",
    "parse_shares": "S,S,…",
    "parse_sizes": "WxH,WxH,…",
    "parse_temperatures": "T,T,…",
    "scale_type": "S|SxS",
    "sides_type": "WxH|Wx|xH",
    "size_type": "WxH",
}
BUNDLE = "flowsr_export.bundle"
PROVIDERS = ["cpu", "cuda", "tensorrt", "openvino"]


def packs(
    target: str | Callable[..., Any],
    *options: Option,
    name: str = "settings",
    takes: Sequence[str] = (),
) -> Option:
    """Return a decorator that adds options and passes their values as one object.

    Args:
        target: Dataclass or function with one argument for each option. A "module:name" is
            imported when the command runs.
        options: Options, in the order of the help.
        name: Argument of the command that receives the object.
        takes: Further arguments of the command that go into the object.
    """
    filled = click.command("filled")(with_options(lambda: None, options))
    passed = [str(param.name) for param in filled.params if param.expose_value]
    fields = [*passed, *takes]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def packed(**values: Any) -> Any:
            make = _imported(target) if isinstance(target, str) else target
            packable = {field: values.pop(field) for field in fields}
            return command(**{name: make(**packable)}, **values)

        return with_options(packed, options)

    return decorate


def with_options(command: Command, options: Sequence[Option]) -> Command:
    """Add options to a command, in the order of the help."""
    for option in reversed(options):
        command = option(command)
    return command


def open_bundle(path: Path | None) -> Bundle:
    """Open a bundle, or the built-in one without a path."""
    from flowsr_runtime import Bundle, embedded_bundle

    return Bundle.open(embedded_bundle() if path is None else path)


def flag(name: str, help_text: str, *names: str) -> Option:
    """Return an option without a value."""
    return click.option(name, *names, cls=NamedOption, is_flag=True, help=help_text)


def number_option(
    name: str,
    limits: click.ParamType[Any],
    default: float | str,
    help_text: str,
    *,
    argument: str | None = None,
    **attributes: Any,
) -> Option:
    """Return an option with a number and a default; `argument` renames its argument."""
    names = [name, *([argument] if argument else [])]
    attributes |= {"type": limits, "default": default, "show_default": True}
    return click.option(*names, cls=NamedOption, help=help_text, **attributes)


def choice_option(
    name: str,
    choices: Sequence[str],
    help_text: str,
    default: str | None = None,
    *,
    argument: str | None = None,
    **attributes: Any,
) -> Option:
    """Return an option with a fixed set of values; the first one is the default."""
    return number_option(
        name, Choice(choices), default or choices[0], help_text, argument=argument, **attributes
    )


def value_option(
    parse: Callable[[str], Any], *names: str, help: str, **attributes: Any
) -> Option:
    """Return an option whose value is parsed; its metavar shows the form of the value."""
    if "default" in attributes:
        attributes["show_default"] = True
    attributes |= {"type": parse, "metavar": METAVARS[parse.__name__], "help": help}
    return click.option(*names, cls=NamedOption, **attributes)


def scales_option(
    show_default: str, check: Callable[[Sequence[Any]], None] | None = None
) -> Option:
    """Return `--scale` for several scales, joined by commas or repeated, as `scales`."""

    def joined(context: click.Context, option: click.Parameter, given: Any) -> tuple[Any, ...]:
        scales = tuple(scale for scales in given for scale in scales)
        if check is not None:
            check(scales)
        return scales

    return value_option(
        parse_scales,
        "--scale",
        "scales",
        help="Upscaling factors, joined by commas; 2.7x3.6 sets width and height separately.",
        multiple=True,
        callback=joined,
        show_default=show_default,
    )


def precision_option(help_text: str, default: str = "fp32") -> Option:
    """Return `--precision` over all precisions of a bundle."""
    return choice_option("--precision", PRECISIONS, help_text, default)


def provider_option(help_text: str, default: str | None = None) -> Option:
    """Return `--provider`, an execution provider of ONNX Runtime."""
    shown = default is not None
    choice = Choice(PROVIDERS)
    return click.option(
        "--provider", type=choice, default=default, show_default=shown, help=help_text
    )


def seed_option(help_text: str = "Random seed for the noise.") -> Option:
    """Return `--seed`."""
    return number_option("--seed", SEED, 0, help_text)


def _imported(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    imported: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return imported


def _bundle_argument(*, required: bool) -> Option:
    """Return the argument BUNDLE, and `--bundle` beside it."""

    def remember(context: click.Context, option: click.Parameter, path: Path | None) -> None:
        context.meta[BUNDLE] = path

    def bundle_of(
        context: click.Context, argument: click.Parameter, path: Path | None
    ) -> Path | None:
        named = context.meta.get(BUNDLE)
        if named is not None and path is not None:
            raise click.UsageError("give the bundle once: as BUNDLE or with --bundle")
        if required and named is None and path is None:
            raise click.MissingParameter(ctx=context, param=argument)
        return named if path is None else path

    metavar = "BUNDLE" if required else "[BUNDLE]"
    argument = click.argument(
        "bundle", required=False, type=FILE, metavar=metavar, callback=bundle_of
    )
    option = click.option(
        "--bundle",
        "bundle_option",
        type=FILE,
        expose_value=False,
        is_eager=True,
        callback=remember,
        help="Bundle, instead of the argument BUNDLE.",
    )
    return lambda command: with_options(command, [argument, option])


bundle_argument = _bundle_argument(required=False)
required_bundle_argument = _bundle_argument(required=True)
json_option = flag("--json", "Print one JSON object on stdout.", "as_json")
force_option = flag("--force", "Overwrite existing files.")
device_option = number_option("--device", WholeRange(min=0), 0, "GPU index.")
threads_option = click.option(
    "--threads", type=POSITIVE, show_default="all cores", help="Number of CPU threads."
)
blocks_option = value_option(
    parse_blocks,
    "--blocks",
    help="Indices of the stacked blocks of an SRFlow checkpoint that does not state them.",
)
memory_budget_option = value_option(
    parse_memory,
    "--max-memory",
    "memory_budget",
    old=["--memory-budget"],
    help="Memory limit for one run of the model, such as 2G; larger images are tiled.",
    show_default="the bundle's own, or 1G, or 16G with an engine",
)
halo_option = choice_option(
    "--halo",
    ["default", "exact"],
    "Overlap of tiles: small, or the model's receptive field, which makes a tiled result "
    "equal to an untiled one.",
)
