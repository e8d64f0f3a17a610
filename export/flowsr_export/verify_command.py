"""The `verify` command."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowsr_export.options import json_option, verification_options

if TYPE_CHECKING:
    from flowsr_export.progress import Progress
    from flowsr_export.verify import Verification
    from flowsr_runtime import SessionSettings

__all__ = ["command"]

FILE = click.Path(path_type=Path)


@click.command("verify")
@click.argument("bundle", required=False, type=FILE)
@click.option("--model", type=FILE, help="Checkpoint of the bundle's flow.")
@click.option("--prior", type=FILE, help="Checkpoint of the bundle's latent module.")
@verification_options
@json_option
def command(
    bundle: Path | None,
    model: Path | None,
    prior: Path | None,
    settings: SessionSettings,
    as_json: bool,
) -> None:
    """Compare BUNDLE with the PyTorch model that it was made of.

    Scales from 1.3 to 12, odd, even and one-pixel sides, batches of one and three. Ends with
    exit code 3 when a difference exceeds its bar or could not be computed. Without BUNDLE
    it is the built-in one; without --provider every provider that starts is compared.

    \b
    Examples:
      flowsr-export verify
      flowsr-export verify edsr.bundle --model linf.pth --prior linf-LP.pth
    """
    import json

    from flowsr_export.progress import progress
    from flowsr_runtime import Bundle, UsageError

    if model is None and prior is not None:
        raise UsageError("--prior needs --model")
    opened = None if bundle is None else Bundle.open(bundle)

    from flowsr_export.verify import verify

    with ExitStack() as stack:
        bars: list[Progress] = []

        def start(total: int) -> None:
            bars.append(stack.enter_context(progress("verify", total)))

        done = verify(
            opened,
            model,
            prior,
            settings,
            start=start,
            advance=lambda note: bars[0].advance(1, note),
        )
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
