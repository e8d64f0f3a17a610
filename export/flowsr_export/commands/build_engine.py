"""The `build-engine` command."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from flowsr_export.options.engine import builder_options, flavour_option, size_options
from flowsr_export.options.progress import progress
from flowsr_export.options.session import force_option, json_option, parse_blocks

if TYPE_CHECKING:
    from flowsr_export.deployment.interface import Precision
    from flowsr_export.engine.build import EngineRequest, EngineResult, Forecast, SizeSpec
    from flowsr_export.engine.builder import Settings
    from flowsr_export.engine.library import TensorrtVariant
    from flowsr_export.engine.target_bundle import TargetBundle
    from flowsr_runtime import Bundle
    from flowsr_runtime.bundle.engine_store import Profile
    from flowsr_runtime.bundle.manifest import Io
    from flowsr_runtime.cuda.device import Device

__all__ = ["command"]

FILE = click.Path(path_type=Path)
EXPORT_STEPS = 5
BAR_STEPS = 100


@click.command("build-engine")
@click.argument("bundle", required=False, type=FILE)
@click.option(
    "--model", type=FILE, help="LINF or SRFlow file: the bundle's, or to make one of."
)
@click.option("--prior", type=FILE, help="Its latent module.")
@click.option("--blocks", type=parse_blocks, metavar="I,I,…", help="As for export-onnx.")
@click.option("-o", "--output", type=FILE, help="Bundle that gets the engine.")
@click.option(
    "--precision",
    type=click.Choice(["fp16", "fp32", "bf16", "int8", "fp8"]),
    default="fp16",
    show_default=True,
    help="Which of the bundle's graphs; in half precision it is exported if it is not there.",
)
@click.option(
    "--least-share",
    type=click.FloatRange(0, 1),
    show_default="0.95 of LINF, 0.9 of SRFlow, all in fp32; that of the file in int8 and fp8",
    help="Share of the multiply-adds with weights that must be in the precision.",
)
@click.option("--fixed-scale", help="Make the graph of this one scale, as export-onnx --scale.")
@click.option(
    "--io",
    type=click.Choice(["float32", "uint8"]),
    show_default="the bundle's own, or float32",
    help="Type of the pictures of a graph that is made now, as for export-onnx.",
)
@flavour_option
@size_options
@builder_options
@click.option(
    "--device",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Number of the GPU.",
)
@click.option("--log", type=FILE, show_default="beside the bundle", help="The builder's log.")
@click.option("--dry-run", is_flag=True, help="Say what would be built; needs no GPU.")
@force_option
@json_option
def command(
    bundle: Path | None,
    model: Path | None,
    prior: Path | None,
    blocks: tuple[int, ...] | None,
    output: Path | None,
    precision: Precision,
    least_share: float | None,
    fixed_scale: str | None,
    io: Io | None,
    flavour: str,
    sizes: SizeSpec,
    settings: Settings,
    device: int,
    log: Path | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Compile a TensorRT engine into a bundle: BUNDLE, or the one that -o names.

    Without BUNDLE the bundle is made of --model and --prior, or is the built-in one. An engine
    that is there already with the same key is kept. An engine that does not compute in the
    precision that was asked for ends with exit code 3.

    \b
    Examples:
      flowsr-export build-engine -o small.bundle --picture 480x270 --scale 4
      flowsr-export build-engine edsr.bundle --compute-capability 8.9 --size 1920x1080 --dry-run
      flowsr-export build-engine --model linf.pth --prior linf-LP.pth -o edsr.bundle \\
          --min-shapes input:1x3x16x16 --opt-shapes input:1x3x128x128 --max-shapes \\
          input:1x3x256x256 --scale 2 --scale 4
    """
    from flowsr_export.engine.build import EngineRequest, forecast
    from flowsr_export.engine.library import device_here
    from flowsr_export.engine.target_bundle import TargetBundle
    from flowsr_runtime.geometry import exact_scale

    fixed = None if fixed_scale is None else exact_scale(fixed_scale)
    source = TargetBundle(bundle, output, model, prior, blocks, fixed, io, force)
    wanted = EngineRequest(precision, sizes, settings, least_share)
    chosen, gpu = cast("TensorrtVariant", flavour.replace("-", "_")), device_here(device)
    if not dry_run:
        source.check()
    seen = forecast(source.manifest(precision), source.opened(), chosen, wanted, gpu)
    if dry_run:
        click.echo(
            json.dumps(_plan_record(seen), indent=1) if as_json else _forecast_text(seen)
        )
        return
    made, where = _make(source, chosen, wanted, gpu, log)
    click.echo(json.dumps(_described(made, where), indent=1) if as_json else _text(made, where))


def _make(
    source: TargetBundle,
    flavour: TensorrtVariant,
    wanted: EngineRequest,
    gpu: Device | None,
    log: Path | None,
) -> tuple[EngineResult, Bundle]:
    """Export what is missing and build, each with a bar."""
    from flowsr_export.engine.build import make_engine
    from flowsr_export.engine.library import load_library

    library = load_library(flavour, gpu)
    precision = cast("Precision", wanted.precision)
    if source.is_ready(precision):
        bundle = source.prepare(precision)
    else:
        with progress("export", EXPORT_STEPS) as bar:
            bundle = source.prepare(precision, lambda step: bar.advance(1, step))
    log = log or bundle.path.with_name(f"{bundle.path.name}.build.log")
    began, shown = time.monotonic(), 0
    with progress("build", BAR_STEPS) as bar:

        def report(share: float, phase: str) -> None:
            nonlocal shown
            steps = int(share * BAR_STEPS) - shown
            shown += steps
            bar.advance(steps)
            bar.say(f"{phase} {time.monotonic() - began:.0f} s")

        made = make_engine(bundle, library, wanted, device=gpu, log=log, report=report)
        bar.advance(BAR_STEPS - shown)
    return made, bundle


def _plan_record(seen: Forecast) -> dict[str, Any]:
    return {
        "library": seen.library,
        "target": seen.target,
        "profiles": [_fields(profile) for profile in seen.profiles],
        "estimated_bytes": list(seen.estimates),
        "key": None if seen.key is None else seen.key.fields(),
        "digest": None if seen.key is None else seen.key.digest(),
        "engine": None if seen.key is None else seen.key.file_name(),
        "there": seen.there is not None,
        "unknown": list(seen.unknown),
    }


def _forecast_text(seen: Forecast) -> str:
    lines = [f"library    {seen.library}", f"target     {seen.target}"]
    for index, (profile, estimate) in enumerate(
        zip(seen.profiles, seen.estimates, strict=True)
    ):
        lines.append(f"profile {index}  about {_mebibytes(estimate)} of activations (estimate)")
        lines += _ranges(profile)
    lines += [f"not known  {what}" for what in seen.unknown]
    if seen.key is not None:
        state = "is there" if seen.there else "would be built"
        lines += [
            f"key        {seen.key.digest()}",
            f"engine     {seen.key.file_name()}  {state}",
        ]
    return "\n".join(lines)


def _described(made: EngineResult, bundle: Bundle) -> dict[str, Any]:
    return {
        "path": str(bundle.path),
        "engine": made.entry.name,
        "reused": made.built is None,
        "sha256": made.entry.sha256,
        "bytes": made.entry.size,
        "digest": made.entry.key.digest(),
        "key": made.entry.key.fields(),
        "facts": dict(made.entry.facts),
    }


def _text(made: EngineResult, bundle: Bundle) -> str:
    entry, facts = made.entry, made.entry.facts
    how = "kept: it is there with the same key"
    if made.built is not None:
        how = f"built in {made.built.seconds:.1f} s"
    lines = [f"engine     {bundle.path / entry.name}  {entry.size / 1e6:.2f} MB, {how}"]
    for tensor in facts["tensors"]:
        shape = "x".join("?" if side < 0 else str(side) for side in tensor["shape"])
        kind = "input " if tensor["input"] else "output"
        lines.append(f"{kind}     {tensor['name']} {tensor['dtype'].lower()} {shape}")
    scratch = facts["scratch_bytes"] or [None] * len(entry.key.profiles)
    for index, profile in enumerate(entry.key.profiles):
        needs = "not stated" if scratch[index] is None else _mebibytes(scratch[index])
        estimate = _mebibytes(facts["estimated_bytes"][index])
        lines.append(f"profile {index}  {needs} of activations (estimate {estimate})")
        lines += _ranges(profile)
    return "\n".join([*lines, *_precision(entry.key.precision, facts["precision"])])


def _precision(precision: str, facts: Mapping[str, Any]) -> list[str]:
    stored, engine = (facts[name] for name in ("onnx", "engine"))
    inside = "not known" if engine is None else f"{engine.get(precision, 0):.1%}"
    share, whole = stored.get(precision, 0), facts["everything"].get(precision, 0)
    lines = [
        f"{precision:9}  of the multiply-adds with weights {share:.1%} in the file, {inside} "
        f"in the engine (at least {facts['least']:.0%}); {whole:.1%} of all"
    ]
    if facts["layers"]:
        counted = ", ".join(f"{count} {kind}" for kind, count in facts["layers"].items())
        lines.append(f"layers     {counted}")
    return lines


def _ranges(profile: Profile) -> list[str]:
    """Ranges of the inputs; of `geometry` the window, which alone decides shapes."""
    rows = []
    for name, each in profile.items():
        bounds = [each.min, each.opt, each.max]
        if name == "geometry":
            name, bounds = "window", [bound[8:] for bound in bounds]
        rows.append(f"  {name:9}{' … '.join('x'.join(map(str, bound)) for bound in bounds)}")
    return rows


def _fields(profile: Profile) -> dict[str, Any]:
    return {
        name: {"min": list(each.min), "opt": list(each.opt), "max": list(each.max)}
        for name, each in profile.items()
    }


def _mebibytes(size: float) -> str:
    return f"{size / (1 << 20):.0f} MiB"
