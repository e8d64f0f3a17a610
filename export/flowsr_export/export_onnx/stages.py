"""The graph of any scale in two stages, so that several scales share an image's features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch

from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import DTYPES, Deployment, Precision
from flowsr_export.export_onnx.exporter import axes_of, checked_opset, onnx_from_module
from flowsr_export.export_onnx.manifest import Request
from flowsr_export.export_onnx.metadata import graph_metadata
from flowsr_export.export_onnx.model import opened
from flowsr_export.onnx_graph.lint import require_clean
from flowsr_lp import Checkpoint
from flowsr_runtime import Bundle, ParityError, UsageError
from flowsr_runtime.bundle.directory import extend_bundle
from flowsr_runtime.errors import OutputError

__all__ = [
    "STEP",
    "StageModels",
    "add_stages",
    "check_stages",
    "exported_stages",
    "stage_models",
]

STEP, WRITE = "graphs of features and query", "write"

# The stages hold the same operators as the whole graph; on a CPU no bit differed.
SAME = 1e-5
SAME_HALF = 4 / 255


@dataclass(frozen=True)
class StageModels:
    """Both graphs of a precision, which together equal the whole graph.

    Attributes:
        pair: Their entry in `stages` of the manifest.
        contents: The ONNX files by name.
        entries: Facts about each file for `files` of the manifest.
    """

    pair: dict[str, Any]
    contents: dict[str, bytes]
    entries: dict[str, dict[str, Any]]


def check_stages(deployment: Deployment, request: Request) -> None:
    """Refuse a request without stages, before slow work.

    Args:
        deployment: The network.
        request: Settings of the export.

    Raises:
        UsageError: If the graph is not one of any scale with float32 images, in fp32 or fp16.
    """
    option = "stages"
    if deployment.family != "linf-lp":
        raise UsageError(f"stages must be of linf-lp, got {deployment.family}", option=option)
    if request.scale is not None:
        message = f"stages must be of a graph of any scale, got scale {request.scale}"
        raise UsageError(message, option=option)
    if request.io != "float32" or request.precision == "bf16":
        got = "io uint8" if request.io != "float32" else "bf16"
        message = f"stages must have float32 images in fp32 or fp16, got {got}"
        raise UsageError(message, option=option)


def exported_stages(
    deployment: Deployment,
    precision: Precision = "fp32",
    opset: int | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Export the deployment graph of any scale in two stages, and lint both.

    Args:
        deployment: A network with stages.
        precision: As for `onnx_from_deployment`.
        opset: As for `onnx_from_deployment`.
        metadata: As for `onnx_from_deployment`.

    Returns:
        The graph of the features, from `input`, and that of the query, from the inputs of the
        whole graph and the features.

    Raises:
        UsageError: If the opset is not supported.
        LintError: If a graph breaks a rule.
    """
    opset, stages = checked_opset(precision, opset), deployment.stages(DTYPES[precision])
    assert stages is not None, "checked by check_stages"
    named = deployment.example(None)
    axes, image = {**axes_of(named), **stages.axes}, {"input": named["input"]}
    with torch.no_grad():
        features = dict(zip(stages.axes, stages.features(**image), strict=True))
    form = axes, opset, metadata or {}
    models = (
        onnx_from_module(stages.features.eval(), image, [*features], *form),
        onnx_from_module(stages.query.eval(), {**named, **features}, ["output"], *form),
    )
    for model in models:
        require_clean(model)
    return models


def stage_models(
    checkpoint: Checkpoint,
    deployment: Deployment,
    request: Request,
    whole: bytes,
    begin: Callable[[str], None] = lambda step: None,
) -> StageModels:
    """Export both stages and compare them with the whole graph.

    Args:
        checkpoint: The network.
        deployment: Deployment of the network.
        request: Settings of the export.
        whole: ONNX file of the whole graph.
        begin: Called with the name of the step when it begins.

    Raises:
        LintError: If a graph breaks a rule.
        ParityError: If they differ from the whole graph by more than float rounding.
    """
    begin(STEP)
    metadata = graph_metadata(checkpoint, deployment, None)
    models = exported_stages(deployment, request.precision, request.opset, metadata)
    features, query = (model.SerializeToString() for model in models)
    difference = _difference(deployment, request, whole, features, query)
    names = tuple(f"{stage}.{request.precision}.onnx" for stage in ("features", "query"))
    opset = models[0].opset_import[0].version
    entries: dict[str, dict[str, Any]] = {name: {"opset": opset} for name in names}
    entries[names[1]]["verification"] = {"whole_graph_max_abs": difference}
    pair = {"precision": request.precision, "features": names[0], "query": names[1]}
    return StageModels(pair, dict(zip(names, (features, query), strict=True)), entries)


def add_stages(
    bundle: Bundle,
    checkpoint: Checkpoint,
    request: Request,
    begin: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Add the stages of a precision to a bundle that holds its whole graph.

    Args:
        bundle: The bundle; its present files stay.
        checkpoint: The network it was exported from; see `reference_of`.
        request: Settings of the export; its images and scale are the bundle's.
        begin: Called with each step when it begins.

    Returns:
        The extended bundle.

    Raises:
        UsageError: If the graph has no stages.
        LintError: If a graph breaks a rule.
        ParityError: If they differ from the whole graph.
        OutputError: If the bundle has such stages, or cannot be written.
    """
    deployment, manifest = deployment_of(checkpoint.network), bundle.manifest
    request = replace(request, scale=manifest.scale, io=manifest.io)
    check_stages(deployment, request)
    if bundle.stage_graphs(request.precision) is not None:
        message = f"{bundle.path} holds the stages of {request.precision} already"
        raise OutputError(message, option="stages")
    whole = bundle.model_bytes(request.precision)
    opset = onnx.load_from_string(whole).opset_import[0].version
    request = replace(request, opset=request.opset or opset)
    done = stage_models(checkpoint, deployment, request, whole, begin)
    begin(WRITE)
    return extend_bundle(bundle.path, done.contents, done.entries, stages=[done.pair])


def _difference(
    deployment: Deployment, request: Request, whole: bytes, features: bytes, query: bytes
) -> float:
    """Return the largest difference of both stages from the whole graph."""
    limit, worst = SAME if request.precision == "fp32" else SAME_HALF, 0.0
    with (
        closing(opened(whole, "the whole graph")) as reference,
        closing(opened(features, "the graph of features")) as first,
        closing(opened(query, "the graph of the query")) as second,
    ):
        for case in deployment.exported_cases(None):
            feeds = deployment.feeds(case, None)
            values = first.features({"input": feeds["input"]}).values
            output = second.run({**feeds, **values})
            worst = max(worst, float(np.abs(output - reference.run(feeds)).max()))
    if not worst <= limit:
        raise ParityError(
            f"graphs of features and query must equal the whole graph within {limit:.2g}, "
            f"got {worst:.3g}"
        )
    return worst
