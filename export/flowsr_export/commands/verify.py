"""The `verify` command."""

from __future__ import annotations

import json
import math
import shlex
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from flowsr_export.options.command import Command, Option
from flowsr_export.options.progress import counted_progress
from flowsr_export.options.session import verification_options
from flowsr_export.options.shared import FILE, bundle_argument, flag, force_option, json_option
from flowsr_export.options.values import FiniteRange

if TYPE_CHECKING:
    from flowsr_export.certificate.certify import Certificate
    from flowsr_export.parity.first_divergence import Difference, Divergence
    from flowsr_export.parity.verify import Verification
    from flowsr_runtime import Bundle, SessionSettings

__all__ = ["command"]


@click.command("verify", cls=Command)
@bundle_argument
@click.option("--model", type=FILE, help="Checkpoint of the bundle's flow.")
@click.option("--prior", type=FILE, help="Checkpoint of the bundle's learned prior.")
@click.option(
    "-o",
    "--output",
    "certificate",
    cls=Option,
    old=["--certificate"],
    type=FILE,
    help="Folder for certificate.json and certificate.html, which cover every precision.",
)
@flag("--quick", "Certify a few cases only.")
@click.option(
    "--locate",
    cls=Option,
    old=["--bisect"],
    metavar="PRECISION|FILE",
    help="Locate the first node that exceeds the tolerance, compared with another precision "
    "or ONNX file.",
)
@click.option(
    "--tolerance",
    type=FiniteRange(min=0, min_open=True),
    show_default="1e-4; fp16 0.05, bf16 0.4, int8 and fp8 0.5",
    help="Tolerance relative to the largest value of a tensor, with --locate.",
)
@verification_options
@force_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    bundle: Path | None,
    model: Path | None,
    prior: Path | None,
    certificate: Path | None,
    quick: bool,
    locate: str | None,
    tolerance: float | None,
    settings: SessionSettings,
    force: bool,
    as_json: bool,
) -> None:
    """Compare BUNDLE, or the built-in one, with its PyTorch model.

    The cases cover scales from 1.3 to 12, odd, even and one-pixel sides, and batches of one
    and three. Exit code 3 means that a difference exceeds its tolerance or could not be
    computed. Without --provider, every available provider is compared.

    --output compares more: every precision, tiles, borders, noise. It is written even
    if the exit code is 3, with images of the worst cases. --locate runs two ONNX files side
    by side and ends with exit code 3 if a node exceeds the tolerance.

    \b
    Examples:
      flowsr-export verify
      flowsr-export verify edsr.bundle --model linf.pth --prior linf-LP.pth
      flowsr-export verify -o certificate
      flowsr-export verify edsr.bundle --locate fp16
      flowsr-export verify before.onnx --locate after.onnx --tolerance 1e-3
    """
    from flowsr_runtime import Bundle, UsageError

    typed = ParameterSource.COMMANDLINE
    asked = {name for name in context.params if context.get_parameter_source(name) == typed}
    _check_options(asked)
    if locate is not None:
        precision = "fp32" if settings.precision == "auto" else settings.precision
        _locate(bundle, locate, precision, tolerance, as_json)
        return
    if prior is not None and model is None:
        raise UsageError("--prior needs --model")
    opened = None if bundle is None else Bundle.open(bundle)
    if certificate is None:
        _verify(opened, model, prior, settings, as_json)
        return
    from flowsr_export.certificate.certify import certify
    from flowsr_export.certificate.page import certificate_paths

    certificate_paths(certificate, force=force)
    only = settings.precision if settings.precision != "auto" else None
    with counted_progress("certificate") as (start, advance):
        work = partial(certify, opened, model, prior, settings, precision=only, quick=quick)
        done = work(start=start, advance=advance)
    _write(done, certificate, force, as_json)


def _check_options(asked: set[str]) -> None:
    """Refuse options that exclude or need each other."""
    from flowsr_runtime import UsageError

    if "locate" in asked:
        usable = {"locate", "tolerance", "bundle", "precision", "as_json"}
        for name in sorted(asked - usable):
            flag = "output" if name == "certificate" else name
            raise UsageError(f"--locate and --{flag} exclude each other")
    elif "tolerance" in asked:
        raise UsageError("--tolerance needs --locate")
    if "certificate" not in asked:
        for name in ("quick", "force"):
            if name in asked:
                raise UsageError(f"--{name} needs --output")


def _verify(
    bundle: Bundle | None,
    model: Path | None,
    prior: Path | None,
    settings: SessionSettings,
    as_json: bool,
) -> None:
    from flowsr_export.parity.verify import verify

    with counted_progress("verify") as (start, advance):
        done = verify(bundle, model, prior, settings, start=start, advance=advance)
    if as_json:
        click.echo(json.dumps(_as_dict(done), indent=1))
    else:
        _print(done)


def _as_dict(done: Verification) -> dict[str, Any]:
    runs = {name: [f.as_dict() for f in figures] for name, figures in done.runs.items()}
    return {
        "bundle": str(done.bundle.path),
        "precision": done.precision,
        "round_trip": done.round_trip,
        "runs": runs,
        "not_started": done.not_started,
        "size_fixed": {str(case): file for case, file in done.size_fixed.items()},
    }


def _print(done: Verification) -> None:
    for backend, figures in done.runs.items():
        click.echo(f"{done.bundle.path}  {backend}  {done.precision}  against PyTorch float32")
        head = f"{'case':36}{'max error':>11}{'steps':>7}{'p99.9 steps':>13}{'PSNR dB':>10}"
        click.echo(head)
        for f in figures:
            size = f"{f.max_abs:11.1e}{f.max_steps:7d}{f.p999_steps:13.4f}{f.psnr:10.1f}"
            ran = done.size_fixed.get(f.case) if backend.startswith("onnxruntime") else None
            click.echo(f"{f.case!s:36}{size}  {ran or ''}".rstrip())
    click.echo(f"flow's inverse(forward(x)): {done.round_trip:.1e} relative")
    for name, reason in done.not_started.items():
        click.echo(f"not compared, {name}: {reason}")
    click.echo("every case is within its tolerance")


def _write(done: Certificate, folder: Path, force: bool, as_json: bool) -> None:
    """Write a certificate, print its summary, and raise if it failed."""
    from flowsr_export.certificate.page import summary_lines, write_certificate
    from flowsr_runtime import ParityError

    line = shlex.join(["flowsr-export", *sys.argv[1:]])
    paths = write_certificate(done, folder, line, force=force)
    if as_json:
        files = [str(path) for path in paths]
        click.echo(json.dumps({"files": files, "command": line, **done.record.as_dict()}))
    else:
        click.echo("\n".join(summary_lines(done.record)))
        click.echo(f"written: {', '.join(str(path) for path in paths)}")
    if not done.passed:
        raise ParityError(f"the certificate failed, see {paths[1]}: {done.record.trouble()}")


def _locate(
    target: Path | None, other: str, precision: str, tolerance: float | None, as_json: bool
) -> None:
    """Print the first node at which two files differ, and raise if there is one."""
    from flowsr_export.parity.first_divergence import first_divergence, graphs_of
    from flowsr_runtime import ParityError

    first, second, bundle = graphs_of(target, other, precision)
    done = first_divergence(first, second, bundle, tolerance)
    if as_json:
        click.echo(json.dumps(_finite({"graphs": [first.name, second.name], **asdict(done)})))
    else:
        _print_divergence(done, first.name, second.name)
    if done.first is not None:
        raise ParityError(f"{_change_text(done.first)}; the tolerance is {done.tolerance:g}")


def _print_divergence(done: Divergence, first: str, second: str) -> None:
    click.echo(f"{second} against {first}: {done.compared} tensors compared")
    click.echo(f"nodes without a counterpart of the same shape: {done.skipped}")
    click.echo(f"{'stage':16}{'largest difference':>20}")
    for stage, share in done.stages.items():
        click.echo(f"{stage:16}{share:20.2e}")
    if done.first is None:
        click.echo(f"no node exceeds the tolerance of {done.tolerance:g}")
    else:
        click.echo(f"first: {_change_text(done.first)}")


def _change_text(found: Difference) -> str:
    change = "has other integers, or values that are not finite"
    if math.isfinite(found.share):
        change = f"differs by {found.share:.3g} of its largest value"
    return f"{found.node} ({found.kind}, {found.stage}): its output {found.tensor} {change}"


def _finite(value: Any) -> Any:
    """Replace numbers that JSON cannot hold by null."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
