"""The `calibrate` command."""

from __future__ import annotations

import importlib
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowsr_export.options.command import Command
from flowsr_export.options.shared import (
    FILE,
    POSITIVE,
    bundle_argument,
    choice_option,
    flag,
    force_option,
    json_option,
    number_option,
    open_bundle,
    packs,
    seed_option,
    threads_option,
)
from flowsr_export.options.values import FiniteRange, WholeRange

if TYPE_CHECKING:
    from flowsr_export.calibration.run import Calibration, CalibrationConfig, Report

__all__ = ["command"]

LEAST_DB = 38.0
STEPS = 1000  # of a phase's bar


def _config(
    *,
    output: Path,
    work: Path | None,
    budget_db: float | None,
    max_psnr_loss: float | None,
    **fields: Any,
) -> CalibrationConfig:
    """Combine options into the configuration of a calibration."""
    from flowsr_export.calibration.gates import Budget
    from flowsr_export.calibration.run import CalibrationConfig
    from flowsr_runtime import UsageError

    if budget_db is not None and max_psnr_loss is not None:
        raise UsageError("give either --budget-db or --max-psnr-loss, not both")
    if budget_db is None and max_psnr_loss is None:
        budget_db = LEAST_DB
    work = work or output.with_name(f"{output.name}.calibration")
    return CalibrationConfig(work=work, budget=Budget(budget_db, max_psnr_loss), **fields)


@click.command("calibrate", cls=Command)
@bundle_argument
@packs(
    lambda **values: (_config(**values), values["output"]),
    click.option("--images", type=FILE, required=True, help="Folder of calibration images."),
    choice_option(
        "--method",
        ["percentile", "entropy", "minmax", "mse"],
        "Method that chooses the range of a tensor.",
        "mse",
    ),
    number_option("--samples", POSITIVE, 200, "Number of crops in the calibration set."),
    number_option(
        "--crop",
        WholeRange(min=16),
        48,
        "Side of a crop in low-resolution pixels.",
        argument="side",
    ),
    seed_option("Random seed for the choice of crops."),
    click.option(
        "--budget-db",
        type=FiniteRange(min=0),
        show_default="38",
        help="Minimum PSNR against float32 in dB; blocks stay float32 until every crop has it.",
    ),
    click.option(
        "--max-psnr-loss",
        type=FiniteRange(min=0),
        help="Maximum loss of luma PSNR against the originals in dB, instead of --budget-db.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="REGEX",
        help="Pattern of blocks that stay float32; may be repeated.",
    ),
    flag("--per-tensor", "Use one step size per weight tensor instead of one per channel."),
    choice_option(
        "--precision",
        ["int8", "fp8"],
        "Eight-bit format; fp8 is E4M3, which a CPU computes in float32.",
        argument="type",
    ),
    click.option("--alexnet", type=FILE, help="AlexNet weights, for the LPIPS gate."),
    click.option("--lpips-weights", type=FILE, help="LPIPS weights, version 0.1."),
    threads_option,
    click.option(
        "--work",
        type=FILE,
        show_default="OUTPUT.calibration",
        help="Folder for statistics, from which an interrupted run resumes.",
    ),
    click.option(
        "-o", "--output", type=FILE, required=True, help="Bundle that receives the graph."
    ),
    name="request",
)
@force_option
@json_option
def command(
    bundle: Path | None, request: tuple[CalibrationConfig, Path], force: bool, as_json: bool
) -> None:
    """Quantize BUNDLE, or the built-in model, to eight bits within a quality budget.

    Textured crops give the range of each tensor. Each block is quantized alone to rank its
    cost, and blocks stay float32 until the budget holds. The result is measured on held-out
    images: a missed gate ends with exit code 3 and writes nothing, unless --force is given;
    the measurements are printed all the same.
    -o may name BUNDLE itself.

    \b
    Examples:
      flowsr-export calibrate --images photos -o small-int8.bundle
      flowsr-export calibrate edsr.bundle --images photos --budget-db 40 -o edsr.bundle
    """
    from flowsr_export.calibration.bundle import check_output_bundle, write_calibrated
    from flowsr_runtime import ParityError

    config, output = request
    source = open_bundle(bundle)
    check_output_bundle(source, output, config.type, force)

    # Import matplotlib first: a missing library must not be found after slow work.
    importlib.import_module("matplotlib")
    from flowsr_export.calibration.run import calibrate

    with ExitStack() as stack:
        calibration = calibrate(source, config, _bars(stack))
    missed = calibration.gates.missed
    path = None
    if force or not missed:
        path = write_calibrated(source, output, calibration, force=force).path
    if as_json:
        from flowsr_export.calibration.report import report_of

        place = None if path is None else str(path)
        click.echo(json.dumps({"path": place, **report_of(calibration)}, indent=1))
    else:
        _print(path, calibration)
    if path is None:
        raise ParityError(
            f"quality gates are missed, nothing is written: {'; '.join(missed)}; "
            f"{calibration.images}"
        )


def _bars(stack: ExitStack) -> Report:
    """Show one bar per phase."""
    from flowsr_export.options.progress import Progress, progress

    shown: dict[str, Any] = {"phase": None, "at": 0}

    def report(about: str, done: int, total: int) -> None:
        phase, _, note = about.partition(": ")
        if phase != shown["phase"]:
            stack.close()
            bar: Progress = stack.enter_context(progress(phase, STEPS))
            shown.update(phase=phase, bar=bar, at=0)
        at = done * STEPS // max(total, 1)
        shown["bar"].advance(max(at - shown["at"], 0), note)
        shown["at"] = max(at, shown["at"])

    return report


def _print(path: Path | None, calibration: Calibration) -> None:
    """Print the measurements; without a path nothing was written."""
    gates, precision = calibration.gates, calibration.config.type
    left_out = (*calibration.excluded, *calibration.choice.point.left_out)
    click.echo(f"{path or 'not written'}  {len(calibration.content) / 1e6:.2f} MB {precision}")
    click.echo(
        f"multiply-adds in {precision}: {calibration.work.share(precision):.1%}; left out: "
        f"{', '.join(left_out) or 'none'}"
    )
    click.echo(
        f"held out, {gates.crops} crops of {gates.pictures} pictures: {gates.psnr:.2f} dB "
        f"against float32, the least {gates.worst:.2f} ({gates.worst_crop})"
    )
    lpips = "not measured" if gates.lpips_loss is None else f"{gates.lpips_loss:+.4f}"
    shift = max(gates.color_shift, key=abs)
    click.echo(
        f"against the originals: luma PSNR falls by {gates.psnr_loss:.3f} dB, LPIPS {lpips}; "
        f"largest shift of a channel {shift:+.3f} steps"
    )
    for trial in calibration.corrections:
        kept = "kept" if trial.kept else "not kept"
        click.echo(f"{trial.name}: {trial.before:.2f} to {trial.after:.2f} dB, {kept}")
    for line in calibration.pictures.skipped:
        click.echo(f"skipped: {line}")
    for line in gates.missed:
        click.echo(f"missed: {line}")
