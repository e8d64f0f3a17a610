"""The `verify` command."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from flowsr_export.options.session import force_option, json_option, verification_options

if TYPE_CHECKING:
    from flowsr_export.certificate.certify import Certificate
    from flowsr_export.options.progress import Progress
    from flowsr_export.parity.first_divergence import Difference, Divergence
    from flowsr_export.parity.verify import Verification
    from flowsr_runtime import Bundle, SessionSettings

__all__ = ["command"]

FILE = click.Path(path_type=Path)


@click.command("verify")
@click.argument("bundle", required=False, type=FILE)
@click.option("--model", type=FILE, help="Checkpoint of the bundle's flow.")
@click.option("--prior", type=FILE, help="Checkpoint of the bundle's latent module.")
@click.option(
    "-o",
    "--certificate",
    type=FILE,
    help="Folder for certificate.json and certificate.html, of every precision.",
)
@click.option("--quick", is_flag=True, help="Make the certificate of a few cases.")
@click.option(
    "--bisect",
    "other",
    help="Name the first node that leaves tolerance: a precision, or an ONNX file.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    show_default="1e-4; fp16 0.05, bf16 0.4, int8 and fp8 0.5",
    help="With --bisect: share of a tensor's largest value.",
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
    other: str | None,
    tolerance: float | None,
    settings: SessionSettings,
    force: bool,
    as_json: bool,
) -> None:
    """Compare BUNDLE with the PyTorch model that it was made of.

    Scales from 1.3 to 12, odd, even and one-pixel sides, batches of one and three. Ends with
    exit code 3 when a difference exceeds its bar or could not be computed. Without BUNDLE
    it is the built-in one; without --provider every provider that starts is compared.

    --certificate compares more: every precision, tiles, borders, noise. It writes what it
    found, with the worst cases pictured, also when it ends with exit code 3. --bisect runs
    two ONNX files beside each other and ends with exit code 3 if a node leaves tolerance.

    \b
    Examples:
      flowsr-export verify
      flowsr-export verify edsr.bundle --model linf.pth --prior linf-LP.pth
      flowsr-export verify -o certificate
      flowsr-export verify edsr.bundle --bisect fp16
      flowsr-export verify before.onnx --bisect after.onnx --tolerance 1e-3
    """
    from flowsr_runtime import Bundle, UsageError

    asked = _asked(context)
    _check_options(asked)
    if other is not None:
        _bisect(bundle, other, settings.precision, tolerance, as_json)
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
    only = settings.precision if "precision" in asked else None
    with _progress("certificate") as (start, advance):
        work = partial(certify, opened, model, prior, settings, precision=only, quick=quick)
        done = work(start=start, advance=advance)
    _write(done, certificate, force, as_json)


def _asked(context: click.Context) -> set[str]:
    """Return the names of the options that were typed."""
    typed = ParameterSource.COMMANDLINE
    return {name for name in context.params if context.get_parameter_source(name) == typed}


def _check_options(asked: set[str]) -> None:
    """Refuse options that do not go together."""
    from flowsr_runtime import UsageError

    if "other" in asked:
        ours = {"other", "tolerance", "bundle", "precision", "as_json"}
        for name in sorted(asked - ours):
            raise UsageError(f"--bisect does not go with --{name}")
    elif "tolerance" in asked:
        raise UsageError("--tolerance needs --bisect")
    if "certificate" not in asked:
        for name in ("quick", "force"):
            if name in asked:
                raise UsageError(f"--{name} needs --certificate")


@contextmanager
def _progress(
    label: str,
) -> Iterator[tuple[Callable[[int], None], Callable[[str], None]]]:
    """Yield what begins a progress bar, and what moves it on."""
    from flowsr_export.options.progress import progress

    with ExitStack() as stack:
        bars: list[Progress] = []

        def start(total: int) -> None:
            bars.append(stack.enter_context(progress(label, total)))

        yield start, lambda note: bars[0].advance(1, note)


def _verify(
    bundle: Bundle | None,
    model: Path | None,
    prior: Path | None,
    settings: SessionSettings,
    as_json: bool,
) -> None:
    import json

    from flowsr_export.parity.verify import verify

    with _progress("verify") as (start, advance):
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
    }


def _print(done: Verification) -> None:
    for backend, figures in done.runs.items():
        click.echo(f"{done.bundle.path}  {backend}  {done.precision}  against PyTorch float32")
        click.echo(
            f"{'case':36}{'max error':>11}{'steps':>7}{'p99.9 steps':>13}{'PSNR dB':>10}"
        )
        for f in figures:
            size = f"{f.max_abs:11.1e}{f.max_steps:7d}{f.p999_steps:13.4f}{f.psnr:10.1f}"
            click.echo(f"{f.case!s:36}{size}")
    click.echo(f"flow's inverse(forward(x)): {done.round_trip:.1e} relative")
    for name, reason in done.not_started.items():
        click.echo(f"not compared, {name}: {reason}")
    click.echo("every case within its bar")


def _write(done: Certificate, folder: Path, force: bool, as_json: bool) -> None:
    """Write a certificate and print its summary; end with exit code 3 if it did not pass."""
    import json

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


def _bisect(
    target: Path | None, other: str, precision: str, tolerance: float | None, as_json: bool
) -> None:
    """Print where two files part; end with exit code 3 if they do."""
    import json
    from dataclasses import asdict

    from flowsr_export.parity.first_divergence import first_divergence, graphs_of
    from flowsr_runtime import ParityError

    first, second, bundle = graphs_of(target, other, precision)
    done = first_divergence(first, second, bundle, tolerance)
    if as_json:
        click.echo(json.dumps(_finite({"graphs": [first.name, second.name], **asdict(done)})))
    else:
        _print_bisection(done, first.name, second.name)
    if done.first is not None:
        raise ParityError(f"{_leaving(done.first)}; the tolerance is {done.tolerance:g}")


def _print_bisection(done: Divergence, first: str, second: str) -> None:
    click.echo(f"{second} against {first}: {done.compared} tensors compared")
    click.echo(f"nodes without a counterpart of the same shape: {done.skipped}")
    click.echo(f"{'stage':16}{'largest difference':>20}")
    for stage, share in done.stages.items():
        click.echo(f"{stage:16}{share:20.2e}")
    if done.first is None:
        click.echo(f"no node leaves the tolerance of {done.tolerance:g}")
    else:
        click.echo(f"first: {_leaving(done.first)}")


def _leaving(found: Difference) -> str:
    how = "has other integers, or a value that is no finite number"
    if math.isfinite(found.share):
        how = f"differs by {found.share:.3g} of its largest value"
    return f"{found.node} ({found.kind}, {found.stage}): its output {found.tensor} {how}"


def _finite(value: Any) -> Any:
    """Put null where JSON has no number."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
