"""From a PyTorch network to one self-contained ONNX model."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import onnx
import torch
from onnxscript import opset18 as op

from flowsr_export.deployment.interface import DTYPES, Deployment, Precision
from flowsr_runtime.errors import LintError, UsageError

__all__ = ["OPSETS", "onnx_from_deployment"]

# Below 18 the exporter converts down and can fail in silence; at 20 GridSample's "linear" is
# what TensorRT's parser takes for "nearest", and nothing here needs 20.
OPSETS = (18, 19)
# The first in which a convolution takes bfloat16.
BF16_OPSET = 22
# Readable by ONNX Runtime from 1.17 on; the opsets above need no newer one.
IR_VERSION = 10
AXES = {"input": ("h", "w"), "output": ("H", "W")}


def onnx_from_deployment(
    deployment: Deployment,
    precision: Precision = "fp32",
    scale: Fraction | None = None,
    opset: int | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> onnx.ModelProto:
    """Export the deployment graph.

    Args:
        deployment: The network.
        precision: Type of the heavy layers; the deployment's islands stay float32.
        scale: The one scale of the single-input variant; None for any scale.
        opset: ONNX operator set, 18 or 19; None for 18, or 22 in bf16, which has no other.
        metadata: Written into the model's metadata, values as JSON.

    Returns:
        Checked model with its weights inside; axes named batch, h, w, H, W.

    Raises:
        UsageError: If the opset is not supported.
        LintError: If the exporter gave another opset than asked for, or an invalid model.
    """
    opset = _checked_opset(precision, opset)
    module = deployment.graph(DTYPES[precision], scale).eval()
    named = deployment.example(scale)
    names, example = list(named), tuple(named.values())
    # The exporter merges inputs that are one object and fixes what it is not told to vary.
    vary = deployment.vary(named)
    with _quiet():
        exported = torch.export.export(module, example, dynamic_shapes=vary, strict=False)
        program = torch.onnx.export(
            exported,
            example,
            dynamo=True,
            opset_version=opset,
            input_names=names,
            output_names=["output"],
            optimize=True,
            verbose=False,
            custom_translation_table={torch.ops.aten.div.Tensor_mode: _integer_division},
        )
    assert program is not None
    return _finished(program.model_proto, opset, metadata or {})


def _checked_opset(precision: Precision, opset: int | None) -> int:
    if precision == "bf16":
        if opset not in (None, BF16_OPSET):
            raise UsageError(
                f"opset must be {BF16_OPSET} in bf16: no convolution takes bfloat16 before, "
                f"got {opset}"
            )
        return BF16_OPSET
    if opset is not None and opset not in OPSETS:
        raise UsageError(f"opset must be {OPSETS[0]} or {OPSETS[1]}, got {opset}")
    return opset or OPSETS[0]


def _finished(
    model: onnx.ModelProto, opset: int, metadata: Mapping[str, Any]
) -> onnx.ModelProto:
    """Name the axes, add metadata, check."""
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4:
            rows, cols = AXES.get(value.name, _latent_axes(value.name))
            dims[0].dim_param, dims[2].dim_param, dims[3].dim_param = "batch", rows, cols
    # Shapes inside were written with the exporter's symbols, which are not axes' names.
    del model.graph.value_info[:]
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("") != opset:
        raise LintError(f"exporter gave opset {versions.get('')}, asked for {opset}")
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "flowsr-lp", ""
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=json.dumps(value, sort_keys=True))
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise LintError(f"exported model is not valid ONNX: {error}") from error
    return model


def _latent_axes(name: str) -> tuple[str, str]:
    """Name the grid of `latent0` rows0 and cols0."""
    index = name.removeprefix("latent")
    return f"rows{index}", f"cols{index}"


def _integer_division(self: Any, other: Any, rounding_mode: str | None = None) -> Any:
    """Translate `div(rounding_mode="trunc")` of integers to one Div, which truncates.

    The exporter's own translation goes through float32 and is wrong from 2^24 on. The graph
    has no other division with a rounding mode: axis.quotient makes them all, and the lint's
    rule "integer-indices" would find a float one.
    """
    return op.Div(self, other)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes on optional libraries and its own deprecations away."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
