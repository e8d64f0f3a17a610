"""Size-fixed graphs: one scale, one size and one batch, with all geometry in constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Deployment, Precision
from flowsr_export.export_onnx.manifest import Request
from flowsr_export.export_onnx.model import VerifiedModel, opened, verified_model
from flowsr_export.inputs.cases import Case
from flowsr_export.inputs.feeds import graph_feeds
from flowsr_export.parity.compare import ErrorStats
from flowsr_lp import Checkpoint
from flowsr_runtime import Bundle, ParityError, ScaleError, UsageError, output_size
from flowsr_runtime.bundle.directory import extend_bundle
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.errors import OutputError
from flowsr_runtime.geometry import MAX_SIDE, size_text
from flowsr_runtime.pictures.pixels import full_range

__all__ = [
    "SizeFixed",
    "SizeFixedModel",
    "add_size_fixed",
    "check_equal",
    "size_fixed",
    "size_fixed_models",
    "size_fixed_name",
]

# Both graphs compute the same sums, which libraries order by the shapes that they know.
SAME = {"float32": 2e-5, "uint8": 1.01 / 255}
SAME_HALF = 4 / 255
STEP, WRITE = "size-fixed graph for {}", "write"


@dataclass(frozen=True)
class SizeFixed:
    """Sizes of graphs.

    Attributes:
        scale: Output pixels per low-resolution pixel.
        cases: Sizes and batch of each graph.
    """

    scale: Fraction
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class SizeFixedModel:
    """A size-fixed graph that agrees with PyTorch.

    Attributes:
        name: File name in a bundle.
        content: The ONNX file.
        entry: Facts about the file for `files` of the manifest.
        graph: Its entry in `graphs` of the manifest.
        stats: Difference from PyTorch.
    """

    name: str
    content: bytes
    entry: dict[str, Any]
    graph: dict[str, Any]
    stats: ErrorStats


def size_fixed_name(precision: str, scale: Fraction, case: Case) -> str:
    """Return the name of a graph's file, such as model.fp32.x4.480x270.onnx."""
    factor = f"{float(scale):g}"
    if Fraction(factor) != scale:
        factor = f"{scale.numerator}_{scale.denominator}"
    batch = "" if case.batch == 1 else f".b{case.batch}"
    return f"model.{precision}.x{factor}.{size_text(case.lr)}{batch}.onnx"


def size_fixed(
    deployment: Deployment, scale: Fraction | None, sizes: Sequence[tuple[int, int]], batch: int
) -> SizeFixed:
    """Check the sizes of graphs before slow work.

    Args:
        deployment: The network.
        scale: Scale; None for the network's own.
        sizes: Low-resolution sizes (h, w).
        batch: Images at once.

    Returns:
        The scale and the sizes, each once.

    Raises:
        UsageError: If a network of any scale gets none, or a size is not a multiple that the
            network takes.
        ScaleError: If the network has another scale, or an output would be too large.
    """
    scale = scale or deployment.scale
    if scale is None:
        raise UsageError("lr_size needs a scale for a network of any scale", option="scale")
    if deployment.scale not in (None, scale):
        raise ScaleError(
            f"scale must be {deployment.scale}, the only scale of this network, got {scale}",
            option="scale",
        )
    cases = []
    for h, w in dict.fromkeys(sizes):
        if h % deployment.multiple or w % deployment.multiple:
            raise UsageError(
                f"lr_size must be a multiple of {deployment.multiple} for "
                f"{deployment.family}, got {size_text((h, w))}",
                option="lr_size",
            )
        size = output_size(h, scale), output_size(w, scale)
        if max(size) > MAX_SIDE:
            raise ScaleError(
                f"output sides must be at most {MAX_SIDE} pixels, got {size_text(size)}",
                option="lr_size",
            )
        cases.append(Case((h, w), size, batch))
    return SizeFixed(scale, tuple(cases))


def size_fixed_models(
    checkpoint: Checkpoint,
    request: Request,
    fixed: SizeFixed,
    begin: Callable[[str], None] = lambda step: None,
) -> list[SizeFixedModel]:
    """Export graphs and compare each with PyTorch.

    Args:
        checkpoint: The network.
        request: Settings of the export; its scale is not used.
        fixed: Sizes of the graphs.
        begin: Called with the name of each graph's step when it begins.

    Raises:
        LintError: If a graph breaks a rule, or its file would be too large.
        ParityError: If it differs from PyTorch.
    """
    deployment, request = deployment_of(checkpoint.network), replace(request, scale=fixed.scale)
    models = []
    for case in fixed.cases:
        begin(STEP.format(size_text(case.lr)))
        with verified_model(checkpoint, deployment, request, sizes=case) as model:
            models.append(_described(model, request.precision, fixed.scale, case))
    return models


def add_size_fixed(
    bundle: Bundle,
    checkpoint: Checkpoint,
    request: Request,
    fixed: SizeFixed,
    begin: Callable[[str], None] = lambda step: None,
) -> tuple[Bundle, list[ErrorStats]]:
    """Add size-fixed graphs to a bundle.

    Args:
        bundle: The bundle; its present files stay.
        checkpoint: The network it was exported from; see `reference_of`.
        request: Settings of the export; its scale is not used, its images are the bundle's.
        fixed: Sizes of the graphs.
        begin: Called with each step when it begins.

    Returns:
        The bundle, and the graphs' differences from PyTorch.

    Raises:
        LintError: If a graph breaks a rule, or its file would be too large.
        ParityError: If it differs from PyTorch or from the bundle's graph.
        ScaleError: If the bundle has another scale.
        OutputError: If the bundle holds such a graph, or cannot be written.
    """
    manifest, precision = bundle.manifest, request.precision
    if manifest.scale not in (None, fixed.scale):
        raise ScaleError(
            f"scale must be {manifest.scale}, the only scale of {bundle.path}, "
            f"got {fixed.scale}",
            option="scale",
        )
    for case in fixed.cases:
        name = size_fixed_name(precision, fixed.scale, case)
        if name in manifest.files:
            raise OutputError(f"{bundle.path} holds {name} already", option="lr_size")
    models = size_fixed_models(checkpoint, replace(request, io=manifest.io), fixed, begin)
    if precision in bundle.precisions:
        check_equal(manifest, bundle.model_bytes(precision), models, fixed)
    begin(WRITE)
    extended = extend_bundle(
        bundle.path,
        {model.name: model.content for model in models},
        {model.name: model.entry for model in models},
        [model.graph for model in models],
    )
    return extended, [model.stats for model in models]


def check_equal(
    manifest: Manifest, any_size: bytes, models: Sequence[SizeFixedModel], fixed: SizeFixed
) -> None:
    """Compare size-fixed graphs with the graph of any size, and record the difference.

    Nothing is compared in bfloat16, which ONNX Runtime does not run on a CPU.

    Args:
        manifest: Manifest of the graph of any size.
        any_size: Its ONNX file.
        models: The size-fixed graphs.
        fixed: Their sizes.

    Raises:
        ParityError: If they differ by more than float rounding.
    """
    precision = models[0].graph["precision"]
    if precision == "bf16":
        return
    limit = SAME[manifest.io] if precision == "fp32" else SAME_HALF
    with closing(opened(any_size, f"model.{precision}.onnx")) as reference:
        for model, case in zip(models, fixed.cases, strict=True):
            feeds = graph_feeds(manifest, case)
            expected = full_range(reference.run(feeds))
            feeds.pop("geometry", None)
            with closing(opened(model.content, model.name)) as session:
                output = full_range(session.run(feeds))
            difference = float(np.abs(output - expected).max())
            if not difference <= limit:
                raise ParityError(
                    f"{model.name} must equal the graph of any size within {limit:.2g}, "
                    f"got {difference:.3g}"
                )
            model.entry["verification"]["any_size_max_abs"] = difference


def _described(
    model: VerifiedModel, precision: Precision, scale: Fraction, case: Case
) -> SizeFixedModel:
    name, entry = size_fixed_name(precision, scale, case), dict(model.entry)
    del entry["precision"]  # a reader that does not know `graphs` takes it for any sizes
    graph = {
        "file": name,
        "precision": precision,
        "scale": str(scale),
        "lr_size": list(case.lr),
        "batch": case.batch,
    }
    (stats,) = model.stats
    return SizeFixedModel(name, model.content, entry, graph, stats)
