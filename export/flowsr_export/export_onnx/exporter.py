"""Export a deployment module to a self-contained ONNX model."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import opset18 as op
from torch.export import Dim

from flowsr_export.deployment.interface import DTYPES, Deployment, Precision
from flowsr_export.deployment.tracing import IS_BEFORE_2_13, tracing
from flowsr_export.inputs.cases import Case
from flowsr_export.onnx_graph.constant_folding import LARGEST_FOLDED, fold_constants
from flowsr_export.onnx_graph.lint import LARGEST_FILE
from flowsr_runtime.errors import LintError, UsageError

__all__ = ["OPSETS", "axes_of", "checked_opset", "onnx_from_deployment", "onnx_from_module"]

# Below 18 the exporter converts down and can fail silently. At 20 TensorRT's parser takes the
# mode "linear" of GridSample for "nearest", and nothing here needs 20.
OPSETS = (18, 19)
# First opset with bfloat16 convolutions.
BF16_OPSET = 22
# Readable by ONNX Runtime 1.17; the opsets above need no newer version.
IR_VERSION = 10
# Names of axes by input and output, None for a fixed one.
Axes = Mapping[str, tuple[str | None, ...]]


def onnx_from_deployment(
    deployment: Deployment,
    precision: Precision = "fp32",
    scale: Fraction | None = None,
    opset: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    sizes: Case | None = None,
) -> onnx.ModelProto:
    """Export the deployment graph.

    Args:
        deployment: The network.
        precision: Data type of the heavy layers; the deployment's islands stay float32.
        scale: Fixed scale of the single-input variant; None for any scale.
        opset: ONNX operator set, 18 or 19; None for 18, or 22 in bf16, the only one there.
        metadata: Entries of the model's metadata; a text as it is, the rest as JSON.
        sizes: Sizes and batch to fix, of a graph with a `scale`; None for any.

    Returns:
        The checked model with its weights. Axes are named batch, h, w, H, W, those of the
        output 4*h and 4*w at a whole scale such as 4. With `sizes` they are numbers, and all
        that follows from them is a constant.

    Raises:
        UsageError: If the opset is not supported.
        LintError: If the exporter returned another opset or an invalid model.
    """
    opset = checked_opset(precision, opset)
    module = deployment.graph(DTYPES[precision], scale).eval()
    named = deployment.example(scale)
    vary: dict[str, Any] | None = deployment.vary(named)
    if sizes is not None:
        # Dimensions that are not declared dynamic become constants.
        feeds = deployment.feeds(sizes, scale)
        named, vary = {name: torch.from_numpy(feeds[name]) for name in named}, None
    model = _translated(module, named, vary, ["output"], opset, size_fixed=sizes is not None)
    axes = axes_of(named, scale or deployment.scale)
    if sizes is not None:
        return _folded(model, opset, metadata or {}, axes)
    if scale is not None and scale.denominator == 1 and deployment.scale is None:
        _state_output_size(model, scale.numerator)
    return _finished(model, opset, metadata or {}, axes)


def onnx_from_module(
    module: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    outputs: list[str],
    axes: Axes,
    opset: int,
    metadata: Mapping[str, Any],
) -> onnx.ModelProto:
    """Export a module whose sizes vary.

    Args:
        module: Module in evaluation mode.
        inputs: Inputs to trace it with, by the names of its arguments.
        outputs: Names of its outputs.
        axes: Names of the axes of inputs and outputs, None for a fixed one.
        opset: ONNX operator set; see `checked_opset`.
        metadata: As for `onnx_from_deployment`.

    Raises:
        LintError: If the exporter returned another opset or an invalid model.
    """
    arguments = inspect.signature(module.forward).parameters
    named = {name: inputs[name] for name in arguments if name in inputs}
    vary = {
        name: {i: Dim.AUTO for i, axis in enumerate(axes.get(name, ())) if axis} or None
        for name in named
    }
    model = _translated(module, named, vary, outputs, opset)
    return _finished(model, opset, metadata, axes)


def _translated(
    module: torch.nn.Module,
    named: Mapping[str, torch.Tensor],
    vary: Any,
    outputs: list[str],
    opset: int,
    *,
    size_fixed: bool = False,
) -> onnx.ModelProto:
    """Trace a module with named inputs and translate it to ONNX."""
    example = tuple(named.values())
    with tracing("torch.onnx"):
        exported = torch.export.export(
            module,
            (),
            dict(named),
            dynamic_shapes=vary,
            strict=False,
            # An older PyTorch guards comparisons of sizes that always hold.
            prefer_deferred_runtime_asserts_over_guards=IS_BEFORE_2_13,
        )
        program = torch.onnx.export(
            exported,
            example,
            dynamo=True,
            opset_version=opset,
            input_names=list(named),
            output_names=outputs,
            optimize=True,
            verbose=False,
            custom_translation_table=_translations(size_fixed=size_fixed),
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def _state_output_size(model: onnx.ModelProto, scale: int) -> None:
    """End a graph of LINF with a Reshape to (B, 3, scale h, scale w), which it has already.

    From it, onnx.shape_inference derives the output's size once h and w are numbers; the
    exporter's own computation of it stops at a Range. SRFlow's has none.
    """
    graph = model.graph
    (last,) = (node for node in graph.node if "output" in node.output)
    last.output[:] = ["scaled" if name == "output" else name for name in last.output]
    factors = onnx.numpy_helper.from_array(np.array([1, 1, scale, scale]), "output_factors")
    graph.initializer.append(factors)
    graph.node.extend(
        [
            onnx.helper.make_node("Shape", ["input"], ["input_size"], name="input_size"),
            onnx.helper.make_node(
                "Mul", ["input_size", "output_factors"], ["output_size"], name="output_size"
            ),
            onnx.helper.make_node(
                "Reshape", ["scaled", "output_size"], ["output"], name="sized_output"
            ),
        ]
    )


def _folded(
    model: onnx.ModelProto, opset: int, metadata: Mapping[str, Any], axes: Axes
) -> onnx.ModelProto:
    """Fold a graph of fixed sizes; what would make the file too large stays compact."""
    finished = model
    for largest in (LARGEST_FOLDED, LARGEST_FOLDED >> 4, LARGEST_FOLDED >> 8):
        finished = _finished(fold_constants(model, largest), opset, metadata, axes)
        if finished.ByteSize() <= LARGEST_FILE:
            break
    return finished


def checked_opset(precision: Precision, opset: int | None) -> int:
    """Return the operator set of a precision, the usual one for None; raise for others."""
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
    model: onnx.ModelProto,
    opset: int,
    metadata: Mapping[str, Any],
    axes: Axes | None = None,
) -> onnx.ModelProto:
    """Name the axes that are not numbers, set the metadata and check the model."""
    names = axes or axes_of(())
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4:
            for dim, name in zip(dims, names[value.name], strict=True):
                if name is not None and not dim.dim_value:
                    dim.dim_param = name
    # Inner shapes use the exporter's symbols instead of the axes' names.
    del model.graph.value_info[:]
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("") != opset:
        raise LintError(f"opset must be {opset}, got {versions.get('')} from the exporter")
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "flowsr-lp", ""
    del model.metadata_props[:]
    for key, value in metadata.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        model.metadata_props.add(key=key, value=text)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise LintError(f"exported model is not valid ONNX: {error}") from error
    return model


def axes_of(
    inputs: Iterable[str], scale: Fraction | None = None
) -> dict[str, tuple[str | None, ...]]:
    """Return the axes of images and latents by name: rows0 and cols0 of `latent0`.

    Args:
        inputs: Names of the inputs.
        scale: Fixed scale of the graph; None for any.
    """
    sides = {"input": ("h", "w"), "output": ("H", "W")}
    if scale is not None and scale.denominator == 1:
        sides["output"] = f"{scale}*h", f"{scale}*w"
    for name in inputs:
        if name.startswith("latent"):
            index = name.removeprefix("latent")
            sides[name] = f"rows{index}", f"cols{index}"
    return {name: ("batch", None, *pair) for name, pair in sides.items()}


def _integer_division(self: Any, other: Any, rounding_mode: str | None = None) -> Any:
    """Translate `div(rounding_mode="trunc")` of integers to Div, which truncates.

    The exporter's translation goes through float32 and is wrong from 2^24 on. All divisions
    with a rounding mode come from axis.quotient; the lint rule "integer-indices" would find a
    float one.
    """
    return op.Div(self, other)


def _translations(*, size_fixed: bool) -> dict[Any, Any]:
    """Return translations in place of the exporter's own."""
    table: dict[Any, Any] = {torch.ops.aten.div.Tensor_mode: _integer_division}
    if size_fixed:
        table[torch.ops.aten.pixel_unshuffle.default] = _space_to_depth
    return table


def _space_to_depth(self: Any, downscale_factor: int) -> Any:
    """Translate `pixel_unshuffle` in four dimensions at most; the exporter takes six.

    ONNX's SpaceToDepth puts the position in a block before the channel, PyTorch after it.
    """
    blocks = op.SpaceToDepth(self, blocksize=downscale_factor)
    split = [0, downscale_factor**2, self.shape[1], -1]
    shape: Any = op.Constant(value_ints=split)
    apart = op.Reshape(blocks, shape)
    return op.Reshape(op.Transpose(apart, perm=[0, 2, 1, 3]), op.Shape(blocks))
