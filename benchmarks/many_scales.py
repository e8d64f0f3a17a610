"""Time of several scales of one picture together, against separate calls.

The network has the sizes of the published edsr-baseline with stand-in weights, which speed does
not depend on. `lower bound` is the ratio if the features cost nothing but their first
computation: conditioner, flow and prior run again for every scale, and no sharing saves them.

Example:
    python -m benchmarks.many_scales
    python -m benchmarks.many_scales --bundle runtime/flowsr_runtime/bundles/default
    python -m benchmarks.many_scales --bundle edsr.bundle --side 256 --budget 2048 --scales 3,4
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.stand_in_checkpoint import MODEL, PRIOR
from flowsr_export.export_onnx.bundle import build_bundle
from flowsr_export.export_onnx.manifest import Request
from flowsr_export.inputs.cases import Case, sample_pictures
from flowsr_lp import load_checkpoint, save_weights
from flowsr_runtime import Upscaler, Window
from flowsr_runtime.tiling.graph_inputs import graph_inputs
from tests import stand_in

__all__ = ["measured"]

SIDE = 128
EIGHT_BIT = 255


def stand_in_bundle(folder: Path) -> Path:
    """Export the stand-in network with its stages and return the bundle's folder."""
    network = stand_in.network(MODEL, PRIOR)
    assert network.prior is not None
    save_weights(folder / "model.safetensors", "model", MODEL, network.linf.state_dict())
    save_weights(folder / "prior.safetensors", "prior", PRIOR, network.prior.state_dict())
    checkpoint = load_checkpoint(folder / "model.safetensors", folder / "prior.safetensors")
    bundle, _ = build_bundle(checkpoint, folder / "edsr.bundle", Request(), stages=True)
    return bundle.path


def measured(
    bundle: Path,
    scales: tuple[float, ...],
    side: int,
    repeats: int,
    threads: int | None,
    budget: int | None = None,
) -> dict[str, Any]:
    """Measure both ways in turn, and return the best time of each.

    Args:
        bundle: Bundle with stage graphs.
        scales: Scales of one picture.
        side: Its low-resolution side.
        repeats: Number of measurements.
        threads: CPU threads, None for all cores.
        budget: Bytes of one run, for tiles with the exact halo; None for the picture whole.

    Returns:
        Seconds `separate` and `together`, their `ratio`, seconds of `features` and of each
        `query`, the `lower_bound` of the ratio, and `max_abs`, the largest difference. With a
        budget the parts of the time are not known: the number of `tiles` of each scale alone.
    """
    image, halo = _picture(side), "default" if budget is None else "exact"
    options: dict[str, Any] = {"threads": threads, "memory_budget": budget, "halo": halo}
    with Upscaler.open(bundle, self_test=False, **options) as upscaler:

        def separate() -> list[NDArray[Any]]:
            return [upscaler.upscale(image, scale, warn=_nothing) for scale in scales]

        def together() -> list[NDArray[Any]]:
            return upscaler.upscale(image, scales=list(scales), warn=_nothing)

        first, second = separate(), together()
        difference = max(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True))
        best = {"separate": np.inf, "together": np.inf}
        for _ in range(repeats):
            for name, call in (("separate", separate), ("together", together)):
                began = perf_counter()
                call()
                best[name] = min(best[name], perf_counter() - began)
        result = {**best, "ratio": best["together"] / best["separate"], "max_abs": difference}
        if budget is not None:
            plans = [len(upscaler.plan((side, side), scale)) for scale in scales]
            return {**result, "tiles": plans}
        parts = _parts(upscaler, image, scales, repeats)
    features, queries = parts["features"], sum(parts["query"])
    return {
        **result,
        **parts,
        "lower_bound": (features + queries) / (len(scales) * features + queries),
    }


def _parts(
    upscaler: Upscaler, image: NDArray[np.float32], scales: tuple[float, ...], repeats: int
) -> dict[str, Any]:
    """Return the best seconds of the features and of each scale's query."""
    session: Any = upscaler._session
    planes = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
    features, queries = np.inf, [np.inf] * len(scales)
    for _ in range(repeats):
        for i, scale in enumerate(scales):
            window = Window.whole(image.shape[:2], upscaler.target(image.shape[:2], scale))
            feeds = graph_inputs(planes, window, latents=(), geometry=True)
            stages = session.stages_for(feeds)
            began = perf_counter()
            shared = stages.features(planes)
            middle = perf_counter()
            stages.query(shared, feeds)
            features = min(features, middle - began)
            queries[i] = min(queries[i], perf_counter() - middle)
    return {"features": features, "query": queries}


def _picture(side: int) -> NDArray[np.float32]:
    planes = sample_pictures(Case((side, side), (side, side)))[0]
    image: NDArray[np.float32] = planes.transpose(1, 2, 0).copy()
    return image


def _nothing(line: str) -> None:
    """Ignore a warning."""


@click.command()
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Bundle with stage graphs and a prior, instead of the stand-in network.",
)
@click.option("--side", default=SIDE, show_default=True, help="Low-resolution side.")
@click.option("--repeats", default=5, show_default=True, help="Measurements; the best counts.")
@click.option("--threads", type=int, help="CPU threads.  [default: all cores]")
@click.option("--scales", default="1.5,2,3,4", show_default=True, help="Scales.")
@click.option("--budget", type=int, help="MiB of one run, for tiles with the exact halo.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(
    bundle: Path | None,
    side: int,
    repeats: int,
    threads: int | None,
    scales: str,
    budget: int | None,
    as_json: bool,
) -> None:
    """Measure several scales of one picture together and apart."""
    factors = tuple(float(scale) for scale in scales.split(","))
    most = None if budget is None else budget << 20
    with tempfile.TemporaryDirectory() as folder:
        path = bundle or stand_in_bundle(Path(folder))
        result = measured(path, factors, side, repeats, threads, most)
    if as_json:
        click.echo(json.dumps(result, indent=1))
        return
    click.echo(f"separate calls   {result['separate']:.3f} s")
    click.echo(f"together         {result['together']:.3f} s")
    click.echo(f"ratio            {result['ratio']:.3f}")
    if "tiles" in result:
        click.echo(f"tiles alone      {', '.join(map(str, result['tiles']))}")
    else:
        click.echo(f"features         {result['features']:.3f} s, once")
        for scale, seconds in zip(factors, result["query"], strict=True):
            click.echo(f"query at x{scale:<6g} {seconds:.3f} s")
        click.echo(f"lower bound      {result['lower_bound']:.3f}")
    click.echo(f"difference       {result['max_abs']:.1e} of full range")


if __name__ == "__main__":
    main()
