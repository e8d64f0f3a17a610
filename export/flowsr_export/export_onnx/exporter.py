"""Export a deployment module to a self-contained ONNX model."""

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

# Below 18 the exporter converts down and can fail silently. At 20 TensorRT's parser takes the
# mode "linear" of GridSample for "nearest", and nothing here needs 20.
OPSETS = (18, 19)
# First opset with bfloat16 convolutions.
BF16_OPSET = 22
# Readable by ONNX Runtime 1.17; the opsets above need no newer version.
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
        precision: Data type of the heavy layers; the deployment's islands stay float32.
        scale: Fixed scale of the single-input variant; None for any scale.
        opset: ONNX operator set, 18 or 19; None for 18, or 22 in bf16, the only one there.
        metadata: Entries of the model's metadata, written as JSON.

    Returns:
        The checked model with its weights; axes are named batch, h, w, H, W.

    Raises:
        UsageError: If the opset is not supported.
        LintError: If the exporter returned another opset or an invalid model.
    """
    opset = _checked_opset(precision, opset)
    module = deployment.graph(DTYPES[precision], scale).eval()
    named = deployment.example(scale)
    names, example = list(named), tuple(named.values())
    # Dimensions that are not declared dynamic become constants.
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
                f"opset must be {BF16_OPSET} in bf16, the first with bfloat16 convolutions, "
                f"got {opset}",
                option="opset",
            )
        return BF16_OPSET
    if opset is not None and opset not in OPSETS:
        raise UsageError(
            f"opset must be {OPSETS[0]} or {OPSETS[1]}, got {opset}", option="opset"
        )
    return opset or OPSETS[0]


def _finished(
    model: onnx.ModelProto, opset: int, metadata: Mapping[str, Any]
) -> onnx.ModelProto:
    """Name the axes, set the metadata and check the model."""
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4:
            rows, cols = AXES.get(value.name, _latent_axes(value.name))
            dims[0].dim_param, dims[2].dim_param, dims[3].dim_param = "batch", rows, cols
    # Inner shapes use the exporter's symbols instead of the axes' names.
    del model.graph.value_info[:]
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("") != opset:
        raise LintError(f"opset must be {opset}, got {versions.get('')} from the exporter")
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
    """Return the axes of a latent: rows0 and cols0 for `latent0`."""
    index = name.removeprefix("latent")
    return f"rows{index}", f"cols{index}"


def _integer_division(self: Any, other: Any, rounding_mode: str | None = None) -> Any:
    """Translate `div(rounding_mode="trunc")` of integers to Div, which truncates.

    The exporter's translation goes through float32 and is wrong from 2^24 on. All divisions
    with a rounding mode come from axis.quotient; the lint rule "integer-indices" would find a
    float one.
    """
    return op.Div(self, other)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's notes on optional libraries and deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
