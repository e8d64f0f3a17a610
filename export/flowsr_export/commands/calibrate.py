"""The `calibrate` command."""

from __future__ import annotations

import importlib
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowsr_export.options.session import force_option, json_option

if TYPE_CHECKING:
    from flowsr_calibration.codes import EightBits
    from flowsr_calibration.ranges import Method
    from flowsr_export.calibration.run import Calibration, CalibrationConfig, Report

__all__ = ["command"]

FILE = click.Path(path_type=Path)
LEAST_DB = 38.0
STEPS = 1000  # of a phase's bar


@click.command("calibrate")
@click.argument("bundle", required=False, type=FILE)
@click.option("--images", type=FILE, required=True, help="Folder of pictures.")
@click.option(
    "--method",
    type=click.Choice(["percentile", "entropy", "minmax", "mse"]),
    default="mse",
    show_default=True,
    help="How a tensor's range is chosen.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Crops of the pictures.",
)
@click.option(
    "--crop",
    "side",
    type=click.IntRange(min=16),
    default=48,
    show_default=True,
    help="Low-resolution pixels a side of a crop.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the crops.")
@click.option(
    "--budget-db",
    type=click.FloatRange(min=0),
    show_default="38",
    help="Least PSNR against float32, dB; blocks are left out until every crop has it.",
)
@click.option(
    "--max-psnr-loss",
    type=click.FloatRange(min=0),
    help="In its place, most that the luma PSNR against the originals may fall, dB.",
)
@click.option("--exclude", multiple=True, metavar="REGEX", help="Blocks that stay float32.")
@click.option("--per-tensor", is_flag=True, help="One step for a weight, not for each channel.")
@click.option(
    "--precision",
    type=click.Choice(["int8", "fp8"]),
    default="int8",
    show_default=True,
    help="fp8 is E4M3, for GPUs that have it; ONNX Runtime computes it in float32 on a CPU.",
)
@click.option("--alexnet", type=FILE, help="AlexNet's weights, for the gate on LPIPS.")
@click.option("--lpips-weights", type=FILE, help="LPIPS's own weights, v0.1.")
@click.option(
    "--threads", type=click.IntRange(min=1), show_default="all cores", help="CPU threads."
)
@click.option(
    "--work",
    type=FILE,
    show_default="OUTPUT.calibration",
    help="Folder that keeps the statistics: a run that was interrupted goes on there.",
)
@click.option("-o", "--output", type=FILE, required=True, help="Bundle that gets the graph.")
@force_option
@json_option
def command(
    bundle: Path | None,
    output: Path,
    work: Path | None,
    force: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Quantise BUNDLE to eight bits with pictures, and keep it only within a quality budget.

    Crops with texture show what range each tensor needs. Each block is quantised alone to rank
    what it costs; blocks are left out until the budget holds. The result is judged on pictures
    that were held out: a gate that is missed ends with exit code 3 and writes nothing, unless
    --force is given. Without BUNDLE it is the built-in one; -o may name BUNDLE itself.

    \b
    Examples:
      flowsr-export calibrate --images photos -o small-int8.bundle
      flowsr-export calibrate edsr.bundle --images photos --budget-db 40 -o edsr.bundle
    """
    from flowsr_export.calibration.bundle import check_output_bundle, write_calibrated
    from flowsr_runtime import Bundle, ParityError, embedded_bundle

    config = _config(asked, work or output.with_name(f"{output.name}.calibration"))
    source = Bundle.open(embedded_bundle() if bundle is None else bundle)
    check_output_bundle(source, output, config.type, force)

    # The picture of the frontier is drawn last: what draws it is missed before the slow work.
    importlib.import_module("matplotlib")
    from flowsr_export.calibration.run import calibrate

    with ExitStack() as stack:
        done = calibrate(source, config, _bars(stack))
    missed = done.gates.missed
    if missed and not force:
        raise ParityError(f"gates are missed, nothing is written: {'; '.join(missed)}")
    written = write_calibrated(source, output, done, force=force)
    if as_json:
        from flowsr_export.calibration.report import report_of

        click.echo(json.dumps({"path": str(written.path), **report_of(done)}, indent=1))
    else:
        _print(written.path, done)


def _config(asked: dict[str, Any], work: Path) -> CalibrationConfig:
    """Pack the options."""
    from flowsr_export.calibration.gates import Budget
    from flowsr_export.calibration.run import CalibrationConfig
    from flowsr_runtime import UsageError

    least, most = asked["budget_db"], asked["max_psnr_loss"]
    if least is not None and most is not None:
        raise UsageError("give either --budget-db or --max-psnr-loss, not both")
    kind: EightBits = asked["precision"]
    method: Method = asked["method"]
    least = LEAST_DB if least is None and most is None else least
    names = ("images", "samples", "side", "seed", "exclude", "per_tensor", "alexnet")
    return CalibrationConfig(
        work=work,
        type=kind,
        method=method,
        budget=Budget(least, most),
        lpips_weights=asked["lpips_weights"],
        threads=asked["threads"],
        **{name: asked[name] for name in names},
    )


def _bars(stack: ExitStack) -> Report:
    """Show a bar for each phase, one after another."""
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


def _print(path: Path, done: Calibration) -> None:
    gates, kind = done.gates, done.config.type
    left_out = ", ".join((*done.excluded, *done.choice.point.left_out)) or "none"
    click.echo(f"{path}  {len(done.content) / 1e6:.2f} MB {kind}")
    click.echo(f"multiply-adds in {kind}: {done.work.share(kind):.1%}; left out: {left_out}")
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
    for trial in done.corrections:
        kept = "kept" if trial.kept else "not kept"
        click.echo(f"{trial.name}: {trial.before:.2f} to {trial.after:.2f} dB, {kept}")
    for line in done.pictures.skipped:
        click.echo(f"skipped: {line}")
    for line in gates.missed:
        click.echo(f"missed: {line}")
