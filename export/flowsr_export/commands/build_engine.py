"""The `build-engine` command."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from flowsr_export.options.choice import run_command
from flowsr_export.options.command import Choice, Command
from flowsr_export.options.engine import (
    builder_options,
    flavour_option,
    gpu_option,
    size_options,
)
from flowsr_export.options.progress import progress, step_progress
from flowsr_export.options.session import device_type
from flowsr_export.options.shared import (
    FILE,
    blocks_option,
    bundle_argument,
    flag,
    force_option,
    json_option,
    packs,
    precision_option,
    value_option,
)
from flowsr_export.options.speech import note
from flowsr_export.options.values import FiniteRange, exact_scale_type
from flowsr_export.reports.table import mebibytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowsr_export.deployment.interface import Precision
    from flowsr_export.engine.build import EnginePlan, EngineRequest, EngineResult
    from flowsr_export.engine.library import TensorrtVariant
    from flowsr_export.engine.target_bundle import TargetBundle
    from flowsr_runtime import Bundle
    from flowsr_runtime.bundle.engine_store import Profile

__all__ = ["command"]

BAR_STEPS = 100


@click.command("build-engine", cls=Command)
@packs(
    "flowsr_export.engine.target_bundle:TargetBundle",
    bundle_argument,
    click.option(
        "--model",
        type=FILE,
        help="LINF or SRFlow checkpoint: the bundle's, or one to make a bundle from.",
    ),
    click.option("--prior", type=FILE, help="Checkpoint of its learned prior."),
    blocks_option,
    click.option("-o", "--output", type=FILE, help="Bundle that receives the engine."),
    value_option(
        exact_scale_type,
        "--fixed-scale",
        help="Export a graph with this one scale, as export-onnx --scale does.",
    ),
    click.option(
        "--io",
        type=Choice(["float32", "uint8"]),
        show_default="the bundle's own, or float32",
        help="Image type of an exported graph, as for export-onnx.",
    ),
    force_option,
    name="target",
)
@flavour_option
@size_options
@builder_options
@packs(
    "flowsr_export.engine.build:EngineRequest",
    precision_option(
        "Precision of the engine; a missing fp16 or bf16 graph is exported.", "fp16"
    ),
    click.option(
        "--least-share",
        type=FiniteRange(0, 1),
        show_default="LINF 0.95, SRFlow 0.9, fp32 1; int8 and fp8 the share of the ONNX file",
        help="Minimum share of the weight multiply-adds that run in the precision.",
    ),
    click.option(
        "--kernels/--no-kernels",
        default=True,
        help="Compile the project's own Triton kernels into an engine for CUDA (inductor).",
    ),
    name="request",
    takes=("sizes", "settings"),
)
@click.option(
    "--device",
    type=device_type,
    show_default="0; with inductor cuda if PyTorch has it, else cpu",
    metavar="N|cpu|cuda:N",
    help="GPU index; inductor also compiles for the CPU of this machine.",
)
@click.option(
    "--log", type=FILE, show_default="beside the bundle", help="File for the builder's log."
)
@click.option(
    "--export-layer-info",
    type=FILE,
    help="JSON file for the engine's layers, as trtexec writes it; builds the engine anew.",
)
@click.option(
    "--export-profile",
    type=FILE,
    help="JSON file for the time of each layer, as trtexec writes it; needs a GPU.",
)
@flag("--dry-run", "Print the plan without building; needs no GPU.")
@gpu_option
@json_option
def command(
    target: TargetBundle,
    request: EngineRequest,
    flavour: TensorrtVariant,
    device: int | str | None,
    log: Path | None,
    export_layer_info: Path | None,
    export_profile: Path | None,
    dry_run: bool,
    gpu: str | None,
    as_json: bool,
) -> None:
    """Build an engine into BUNDLE, or into the bundle given with -o.

    Without BUNDLE, the bundle is made from --model and --prior, or is the built-in one. An
    existing engine with the same key is kept. An engine that does not run in the requested
    precision ends with exit code 3. Where the engine can run, it is run before it is stored:
    every profile's smallest, usual and largest sizes, and the bundle's golden pair.

    The engine takes every image from 16 pixels a side to the given size, and larger ones in
    tiles; it is optimized for the given size. --exact takes that size only. With --flavor
    inductor each exact size, tiles too, is compiled for itself.

    \b
    Examples:
      flowsr-export build-engine -o small.bundle --size 1920x1080
      flowsr-export build-engine -o small.bundle --flavor inductor --device cpu \\
          --precision fp32 --lr-size 128x128 --scale 4 --exact
      flowsr-export build-engine edsr.bundle --compute-capability 8.9 --size 1920x1080 --dry-run
      flowsr-export build-engine --model linf.pth --prior linf-LP.pth -o edsr.bundle \\
          --min-shapes input:1x3x16x16 --opt-shapes input:1x3x128x128 --max-shapes \\
          input:1x3x256x256 --scale 2,4
    """
    from flowsr_export.engine.build import LayerFiles, build_engine, plan_engine
    from flowsr_export.engine.inductor import place_of
    from flowsr_export.engine.library import device_here

    precision = cast("Precision", request.precision)
    here = None
    if flavour == "inductor":
        request = replace(request, place=place_of(device))
        if log is not None:
            raise click.UsageError("--log is for tensorrt and tensorrt-rtx")
    elif isinstance(device, str):
        raise click.UsageError(f"--device must be a GPU index with {flavour}, got {device}")
    else:
        here = device_here(device or 0)
    if not dry_run:
        target.check()
    plan = plan_engine(target.manifest(precision), target.existing, flavour, request, here)
    if dry_run:
        click.echo(json.dumps(_plan_record(plan), indent=1) if as_json else _plan_text(plan))
        _warn(plan)
        return
    plan.check()
    files = LayerFiles(export_layer_info, export_profile, target.force)
    files.check(plan)
    _warn(plan)
    bundle = _prepare(target, precision, has_graph=not plan.needs_export)
    plan = plan_engine(bundle.manifest, bundle, flavour, request, here)
    if log is None:
        part = "" if plan.key is None else f".{plan.key.digest()[:12]}"
        log = bundle.path.with_name(f"{bundle.path.name}{part}.build.log")
    with progress("build", BAR_STEPS) as bar:
        reporter = _reporter(bar.advance, bar.say)
        result = build_engine(
            *(bundle, plan),
            log=log,
            files=files,
            checkpoint=lambda: target.checkpoint(bundle),
            report=reporter,
        )
    run = run_command(bundle, result.entry.key.precision, request.sizes.scales)
    if as_json:
        record = _result_record(result, bundle, gpu)
        warnings = list(plan.warnings)
        click.echo(json.dumps({**record, "warnings": warnings, "run": run}, indent=1))
    else:
        click.echo(f"{_result_text(result, bundle, gpu)}\nrun it     {run}")


def _warn(plan: EnginePlan) -> None:
    for line in plan.warnings:
        note(line)


def _prepare(target: TargetBundle, precision: Precision, *, has_graph: bool) -> Bundle:
    """Return the bundle that receives the engine; show a bar if its graph is exported."""
    from flowsr_export.export_onnx.model import STEPS

    if has_graph:
        return target.prepare(precision)
    with step_progress("export", len(STEPS)) as begin:
        return target.prepare(precision, begin)


def _reporter(
    advance: Callable[[int], None], say: Callable[[str], None]
) -> Callable[[float, str], None]:
    """Return a report of a build's share and phase that moves a bar of `BAR_STEPS`."""
    began, shown = time.monotonic(), 0

    def report(share: float, phase: str) -> None:
        nonlocal shown
        steps = int(share * BAR_STEPS) - shown
        shown += steps
        advance(steps)
        say(f"{phase} {time.monotonic() - began:.0f} s")

    return report


def _plan_record(plan: EnginePlan) -> dict[str, Any]:
    return {
        "library": str(plan.library or "none"),
        "target": str(plan.target or "not known"),
        "profiles": [{name: asdict(r) for name, r in p.items()} for p in plan.profiles],
        "estimated_bytes": list(plan.estimates),
        "key": plan.key and plan.key.fields(),
        "digest": plan.key and plan.key.digest(),
        "engine": plan.key and plan.key.file_name(),
        "there": plan.existing is not None,
        "unknown": list(plan.unknown),
        "warnings": list(plan.warnings),
    }


def _plan_text(plan: EnginePlan) -> str:
    lines = [f"library    {plan.library or 'none'}", f"target     {plan.target or 'not known'}"]
    for index, profile in enumerate(plan.profiles):
        estimate = mebibytes(plan.estimates[index])
        lines += [f"profile {index}  {estimate} of activations (estimate)", *_ranges(profile)]
    lines += [f"not known  {reason}" for reason in plan.unknown]
    if plan.key is not None:
        state = "exists" if plan.existing else "would be built"
        lines.append(f"key        {plan.key.digest()}")
        lines.append(f"engine     {plan.key.file_name()}  {state}")
    return "\n".join(lines)


def _result_record(result: EngineResult, bundle: Bundle, gpu: str | None) -> dict[str, Any]:
    from flowsr_export.engine.listing import record_of, roofline

    entry, reused = result.entry, result.built is None
    more = {"path": str(bundle.path), "reused": reused, "digest": entry.key.digest()}
    least = roofline(entry, gpu)
    return {**more, **record_of(entry), "roofline": least and least.as_dict()}


def _result_text(result: EngineResult, bundle: Bundle, gpu: str | None) -> str:
    from flowsr_export.engine.listing import qualification_text, roofline

    entry, facts = result.entry, result.entry.facts
    state = "kept: an engine with the same key exists"
    if result.built is not None:
        state = f"built in {result.built.seconds:.1f} s"
    lines = [f"engine     {bundle.path / entry.name}  {entry.size / 1e6:.2f} MB, {state}"]
    for tensor in facts["tensors"]:
        shape = "x".join("?" if side < 0 else str(side) for side in tensor["shape"])
        direction = "input " if tensor["input"] else "output"
        lines.append(f"{direction}     {tensor['name']} {tensor['dtype'].lower()} {shape}")
    scratch = facts["scratch_bytes"] or [None] * len(entry.key.profiles)
    for index, profile in enumerate(entry.key.profiles):
        memory, estimate = mebibytes(scratch[index]), mebibytes(facts["estimated_bytes"][index])
        lines.append(f"profile {index}  {memory} of activations (estimate {estimate})")
        lines += _ranges(profile)
    lines += _precision(entry.key.precision, facts["precision"])
    least = roofline(entry, gpu)
    if least is not None:
        lines += [f"work       {line}" for line in least.lines()]
    return "\n".join([*lines, f"qualified  {qualification_text(entry)}"])


def _precision(precision: str, facts: Mapping[str, Any]) -> list[str]:
    stored, engine = facts["onnx"], facts["engine"]
    measured = "not known" if engine is None else f"{engine.get(precision, 0):.1%}"
    share, whole = stored.get(precision, 0), facts["everything"].get(precision, 0)
    lines = [
        f"{precision:9}  of the multiply-adds with weights {share:.1%} in the file, {measured} "
        f"in the engine (at least {facts['least']:.0%}); {whole:.1%} of all"
    ]
    if facts["layers"]:
        counts = ", ".join(f"{count} {kind}" for kind, count in facts["layers"].items())
        lines.append(f"layers     {counts}")
    return lines


def _ranges(profile: Profile) -> list[str]:
    """Format the ranges of the inputs; of `geometry` only the window, which decides shapes."""
    rows = []
    for name, bounds in profile.items():
        values = [bounds.min, bounds.opt, bounds.max]
        if name == "geometry":
            name, values = "window", [value[8:] for value in values]
        rows.append(f"  {name:9}{' … '.join('x'.join(map(str, value)) for value in values)}")
    return rows
