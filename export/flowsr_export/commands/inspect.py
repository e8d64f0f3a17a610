"""The `inspect` command: check a bundle and print it; count the nodes of its graph."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowsr_export.options.command import Choice, Command
from flowsr_export.options.engine import flavour_option, gpu_option
from flowsr_export.options.session import self_test_option
from flowsr_export.options.shared import (
    PRECISIONS,
    bundle_argument,
    device_option,
    flag,
    json_option,
    open_bundle,
    provider_option,
    value_option,
)
from flowsr_export.options.speech import program
from flowsr_export.options.values import parse_capability

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowsr_export.engine.library import TensorrtVariant
    from flowsr_export.engine.listing import Match
    from flowsr_runtime import Bundle
    from flowsr_runtime.bundle.manifest import (
        Latent,
        Manifest,
        SizeFixedGraph,
        StageGraphs,
        Tiling,
    )
    from flowsr_runtime.bundle.verdicts import Verdict
    from flowsr_runtime.geometry import Halo

__all__ = ["command"]

FIXED_SCALE = "{:g} only; upscale --resample reaches other scales"
COUNTED_SIDE = 64
"""Low-resolution side of the run whose nodes are counted."""
PADDED = "any; padded to multiples of {} for the graph, then cropped"
IMAGES = {
    "float32": "float32 in [0, 1]",
    "uint8": "uint8, rounded in the graph; an exploding inverse cannot be detected",
}


@click.command("inspect", cls=Command)
@bundle_argument
@flag("--engine", "List engines that load on a GPU, and why others do not.")
@flavour_option
@provider_option("Count where the nodes run, and the copies, on a provider of ONNX Runtime.")
@click.option(
    "--precision",
    type=Choice(PRECISIONS),
    show_default="fp16 with --engine, what upscale takes with --provider",
    help="Precision of the engine or of the graph that runs.",
)
@device_option
@self_test_option
@value_option(
    parse_capability,
    "--compute-capability",
    show_default="this machine's GPU",
    help="Compute capability of the GPU, such as 8.9, with --engine.",
)
@gpu_option
@json_option
def command(
    bundle: Path | None,
    engine: bool,
    flavour: TensorrtVariant,
    provider: str | None,
    precision: str | None,
    device: int,
    self_test: bool,
    compute_capability: str | None,
    gpu: str | None,
    as_json: bool,
) -> None:
    """Check BUNDLE, or the built-in one, and print its contents.

    The first line sums up: sound or DAMAGED, family, scale, precisions. A damaged file ends
    with exit code 5, and so does --engine if no engine loads. --provider runs the golden
    pair and counts the nodes of the optimized graph by provider.

    \b
    Examples:
      flowsr-export inspect
      flowsr-export inspect edsr.bundle --engine --compute-capability 8.9
      flowsr-export inspect edsr.bundle --provider cuda
    """
    from flowsr_runtime.errors import IntegrityError

    opened = open_bundle(bundle)
    if engine:
        from flowsr_export.engine.listing import match_engines

        if provider is not None:
            raise click.UsageError("give at most one of --engine and --provider")
        match = match_engines(opened, flavour, precision or "fp16", compute_capability)
        _print_match(opened, match, gpu, as_json)
        return
    if provider is not None:
        _print_placement(opened, provider, device, precision or "auto", self_test, as_json)
        return
    problems = {name: _problem(opened, name) for name in opened.manifest.files}
    if as_json:
        files = {name: problem or "ok" for name, problem in problems.items()}
        content = {
            "path": str(opened.path),
            "sound": not any(problems.values()),
            "title": opened.title,
            "files": files,
            "self_tests": [verdict.as_dict() for verdict in _verdicts(opened)],
            "manifest": opened.manifest.raw,
        }
        click.echo(json.dumps(content, indent=2, default=dict))
    else:
        _print(opened, problems)
    damaged = [problem for problem in problems.values() if problem is not None]
    if damaged:
        raise IntegrityError("; ".join(damaged))


def _print_placement(
    bundle: Bundle, provider: str, device: int, precision: str, self_test: bool, as_json: bool
) -> None:
    """Test a provider, and print where the nodes of the graph run on it."""
    from flowsr_export.bench.placement import placement_of
    from flowsr_export.inputs.cases import Case
    from flowsr_runtime import SessionSettings
    from flowsr_runtime.geometry import size_for

    asked = SessionSettings(
        "onnxruntime", provider, device, precision=precision, self_test=self_test
    )
    session, choice = asked.choose(bundle)
    session.close()
    lr = (COUNTED_SIDE, COUNTED_SIDE)
    case = Case(lr, size_for(lr, scale=bundle.manifest.scale or 2, size=None))
    placement = placement_of(bundle, choice.settings, case)
    if as_json:
        click.echo(json.dumps({**choice.as_dict(), **dataclasses.asdict(placement)}, indent=1))
        return
    click.echo(f"{choice}, {choice.self_test}")
    for line in placement.lines():
        click.echo(line)


def _problem(bundle: Bundle, name: str) -> str | None:
    """Return the problem of a file, None if its hash is right."""
    from flowsr_runtime.errors import BundleError

    try:
        bundle.read(name)
    except BundleError as error:
        return str(error)
    return None


def _print_match(bundle: Bundle, match: Match, gpu: str | None, as_json: bool) -> None:
    """Print the engines that load and, field by field, why the others do not."""
    from flowsr_export.engine.listing import qualification_text, roofline
    from flowsr_runtime import BundleError

    least = {entry.name: roofline(entry, gpu) for entry in match.loads}
    if as_json:
        content = {
            **vars(match),
            "loads": [entry.name for entry in match.loads],
            "qualified": {entry.name: entry.facts.get("qualified") for entry in match.loads},
            "roofline": {name: each and each.as_dict() for name, each in least.items()},
            "differences": [dataclasses.asdict(field) for field in match.differences],
        }
        click.echo(json.dumps(content, indent=1))
    else:
        for entry in match.loads:
            click.echo(f"loads      {entry.name}")
            click.echo(f"  {'qualified':20}{qualification_text(entry)}")
            each = least[entry.name]
            for line in [] if each is None else each.lines():
                click.echo(f"  work     {line}")
        for name in dict.fromkeys(field.name for field in match.differences):
            click.echo(f"does not   {name}")
            for field in (field for field in match.differences if field.name == name):
                click.echo(f"  {field.field:20}is {field.found}, must be {field.wanted}")
    if not match.loads:
        place = f"{match.library} on compute capability {match.compute_capability}"
        raise BundleError(
            f"no {match.precision} engine of {bundle.path} loads in {place}; build one with "
            f"{program()} build-engine"
        )


def _print(bundle: Bundle, problems: Mapping[str, str | None]) -> None:
    click.echo(f"{'DAMAGED' if any(problems.values()) else 'sound'}, {bundle.title}")
    rows = summary(bundle.manifest)
    width = max(len(heading) for heading, _ in rows) + 2
    click.echo(f"{'bundle':{width}}{bundle.path}")
    for heading, text in rows:
        click.echo(f"{heading:{width}}{text}".rstrip())
    verdicts = _verdicts(bundle)
    click.echo("self-tests" if verdicts else f"{'self-tests':{width}}none yet")
    for verdict in verdicts:
        click.echo(f"  {verdict}")
    click.echo("files")
    longest = max(26, *map(len, problems)) + 2
    for name, problem in problems.items():
        entry = bundle.manifest.files[name]
        state = "ok" if problem is None else "DAMAGED"
        size = f"{entry.bytes / 1e6:8.2f} MB  {entry.precision or ''}"
        click.echo(f"  {state:9}{name:{longest}}{size}".rstrip())


def _verdicts(bundle: Bundle) -> list[Verdict]:
    """Return the verdicts of this user's self-tests of a bundle."""
    from flowsr_runtime.bundle.verdicts import kept_verdicts

    hashes = {entry.sha256 for entry in bundle.manifest.files.values()}
    return [verdict for verdict in kept_verdicts() if verdict.key["model"] in hashes]


def summary(manifest: Manifest) -> list[tuple[str, str]]:
    """Return a manifest as (heading, text) rows."""
    raw, memory = manifest.raw, manifest.memory
    scale, multiple = manifest.scale, manifest.multiple
    rows = [
        ("family", manifest.family),
        ("scale", FIXED_SCALE.format(float(scale)) if scale else "any from 1, per axis"),
        ("images", IMAGES[manifest.io]),
        ("inputs", ", ".join(sorted(manifest.inputs))),
        ("latents", _latents(manifest.latents)),
        *([("border", str(raw["border"]))] if "border" in raw else []),
        ("sides", "any" if multiple == 1 else PADDED.format(multiple)),
        *_tiling(manifest.tiling),
        *_size_fixed(manifest.graphs),
        *_stages(manifest.stages),
        *_latent_graphs(manifest),
        *_parameters(raw),
        (
            "memory",
            f"{memory.base_bytes / 2**20:.0f} MiB + "
            f"{memory.bytes_per_pixel / 1024:.1f} KiB per LR pixel + "
            f"{memory.bytes_per_patch / 1024:.1f} KiB per output patch",
        ),
    ]
    conditions = raw.get("condition_numbers")
    if isinstance(conditions, list) and conditions:
        largest = f"{len(conditions)} linear layers of the flow, largest {max(conditions):.3g}"
        rows.append(("conditions", largest))
    for heading in ("model", "tool", "verification"):
        rows += _block(heading, raw.get(heading))
    return rows


def flatten(value: object, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested objects as (dotted key, text) rows; a list stays in one row."""
    if not isinstance(value, dict):
        return [(prefix, _text(value))]
    return [
        row
        for key, inner in value.items()
        for row in flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    ]


def _latents(latents: tuple[Latent, ...]) -> str:
    names = [f"{x.name} {x.channels} channels of {x.patch}x{x.patch} pixels" for x in latents]
    return f"sampled at a temperature: {', '.join(names)}" if names else "learned prior"


def _tiling(tiling: Tiling) -> list[tuple[str, str]]:
    if tiling.whole_only:
        return [("tiling", "none: whole images only")]
    halo, seam = tiling.halo, tiling.seam_steps
    stated = "not measured" if seam is None else f"{seam:g} steps of 255"
    return [
        ("tiling", f"windows at multiples of {halo.align} output pixels"),
        ("  default", f"halo {_reach(halo)}, seam {stated}"),
        ("  exact", f"halo {_reach(tiling.exact)}"),
    ]


def _size_fixed(graphs: tuple[SizeFixedGraph, ...]) -> list[tuple[str, str]]:
    """Return a row for each size-fixed graph, under one heading."""
    from flowsr_runtime.geometry import size_text

    texts = (
        f"{size_text(one.lr)} to {size_text(one.size)}, batch {one.batch}, {one.precision}"
        for one in graphs
    )
    return [("" if i else "size-fixed", text) for i, text in enumerate(texts)]


def _stages(stages: tuple[StageGraphs, ...]) -> list[tuple[str, str]]:
    """Return a row with the precisions that have stage graphs, none without any."""
    names = ", ".join(pair.precision for pair in stages)
    return [("stages", f"{names}: several scales share the encoder")] if stages else []


def _latent_graphs(manifest: Manifest) -> list[tuple[str, str]]:
    """Return a row that says what the graphs of latents are for, none without any."""
    graphs = manifest.latent_graphs
    if graphs is None:
        return []
    sampled = "" if graphs.sample is None else ", --temperature beside the prior"
    return [("latent graphs", f"encode, decode{sampled}")]


def _parameters(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a row with the number of weights, none in a bundle that does not state it."""
    model = raw.get("model")
    counts = model.get("parameters") if isinstance(model, dict) else None
    if not isinstance(counts, dict) or not isinstance(counts.get("model"), int):
        return []
    flow, prior = counts["model"], counts.get("prior") or 0
    return [("parameters", f"{flow + prior:,} (flow {flow:,}, prior {prior:,})")]


def _reach(halo: Halo) -> str:
    pixels = f"{halo.pixels} LR pixels"
    return pixels if halo.ratio is not None else f"{halo.patches} patches + {pixels}"


def _block(heading: str, value: object) -> list[tuple[str, str]]:
    if value is None:
        return [(heading, "none")]
    return [(heading, ""), *((f"  {key}", text) for key, text in flatten(value))]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(_text(item) for item in value) if isinstance(value, list) else str(value)
