"""A small network with every kind of layer that is quantized, as the exporter names them."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

__all__ = ["WIDTH", "network", "photograph", "small_manifest"]

WIDTH = 8
OUTPUTS = 12  # three colors of two by two pixels


def _weights(rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    def normal(*shape: int) -> NDArray[np.float32]:
        spread = np.sqrt(np.prod(shape[1:]))
        return np.asarray(rng.standard_normal(shape) / spread, np.float32)

    def bias(*shape: int) -> NDArray[np.float32]:
        return np.asarray(0.1 * rng.standard_normal(shape), np.float32)

    return {
        "encoder.head.0.weight": normal(WIDTH, 3, 3, 3),
        "encoder.head.0.bias": bias(WIDTH),
        "encoder.body.0.body.0.weight": normal(WIDTH, WIDTH, 3, 3),
        "encoder.body.0.body.0.bias": bias(WIDTH),
        "encoder.body.0.body.2.weight": normal(WIDTH, WIDTH, 3, 3),
        "encoder.body.0.body.2.bias": bias(WIDTH),
        "tables.0.weight": normal(WIDTH, WIDTH, 3, 3),
        "tables.0.bias": bias(WIDTH),
        "tables.1.weight": normal(WIDTH, WIDTH, 3, 3),
        "tables.1.bias": bias(WIDTH),
        "conditioner.cosine": normal(WIDTH, WIDTH),
        "conditioner.sine": normal(WIDTH, WIDTH),
        "conditioner.bias": bias(WIDTH),
        "conditioner.last_weights.0": normal(OUTPUTS, WIDTH) * np.float32(0.3),
        "conditioner.last_biases.0": bias(OUTPUTS) + np.float32(0.5),
        "decode_maps.0.weight": np.eye(OUTPUTS, dtype=np.float32),
        "decode_maps.0.bias": np.zeros(OUTPUTS, np.float32),
    }


def network(seed: int = 0) -> ModelProto:
    """Return a graph that doubles a picture: convolutions, products, a map of the flow."""
    constants: dict[str, NDArray[Any]] = _weights(np.random.default_rng(seed))
    constants["flat"] = np.array([WIDTH, -1])

    def conv(source: str, name: str, output: str) -> onnx.NodeProto:
        inputs = [source, f"{name}.weight", f"{name}.bias"]
        return helper.make_node("Conv", inputs, [output], name=output, pads=[1, 1, 1, 1])

    def node(kind: str, inputs: list[str], output: str, **more: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [output], name=output, **more)

    def linear(source: str, weight: str, bias: str | None, output: str) -> onnx.NodeProto:
        return node("Gemm", [source, weight, *([bias] if bias else [])], output, transB=1)

    nodes = [
        conv("input", "encoder.head.0", "head"),
        conv("head", "encoder.body.0.body.0", "inner"),
        node("Relu", ["inner"], "inner_relu"),
        conv("inner_relu", "encoder.body.0.body.2", "outer"),
        node("Add", ["head", "outer"], "features"),
        conv("features", "tables.0", "cosine"),
        conv("features", "tables.1", "sine"),
    ]
    for name in ("cosine", "sine"):
        nodes += [
            node("Reshape", [name, "flat"], f"{name}_columns"),
            node("Transpose", [f"{name}_columns"], f"{name}_rows", perm=[1, 0]),
        ]
    nodes += [
        linear("cosine_rows", "conditioner.cosine", "conditioner.bias", "first"),
        linear("sine_rows", "conditioner.sine", None, "second"),
        node("Add", ["first", "second"], "both"),
        node("Relu", ["both"], "hidden"),
        linear("hidden", "conditioner.last_weights.0", "conditioner.last_biases.0", "patches"),
        linear("patches", "decode_maps.0.weight", "decode_maps.0.bias", "decoded_rows"),
        node("Transpose", ["decoded_rows"], "decoded", perm=[1, 0]),
        node("Shape", ["input"], "sides", start=2),
        node("Concat", ["lead", "sides"], "patch_grid", axis=0),
        node("Reshape", ["decoded", "patch_grid"], "laid_out"),
        node("DepthToSpace", ["laid_out"], "output", blocksize=2, mode="CRD"),
    ]
    constants["lead"] = np.array([1, OUTPUTS])
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, "H", "W"])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def small_manifest() -> dict[str, Any]:
    """Return a manifest for `network`."""
    tiling = {"patch": 2, "align": 2, "lr_align": 1, "ratio": None, "seam_steps": None}
    halos = {"halo_patches": 0, "halo_pixels": 0, "exact_patches": 0, "exact_pixels": 0}
    return {
        "schema": 1,
        "family": "linf-lp",
        "scale": {"kind": "fixed", "value": "2"},
        "picture": {"color": "RGB", "range": [0.0, 1.0], "layout": "NCHW", "multiple": 1},
        "graph": {"geometry": False},
        "latents": [],
        "tiling": {**tiling, **halos, "whole_only": True},
        "memory": {"base_bytes": 0, "bytes_per_pixel": 64, "bytes_per_patch": 64},
        "files": {"model.fp32.onnx": {"precision": "fp32", "opset": 18}},
    }


def photograph(seed: int, side: int = 48) -> NDArray[np.uint8]:
    """Return a picture with structure, (side, side, 3) uint8."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:side, :side] / side
    waves = [
        np.sin(2 * np.pi * (rng.uniform(1, 6) * rows + rng.uniform(1, 6) * cols + rng.random()))
        for _ in range(3)
    ]
    noise = rng.normal(0, 8, (side, side, 3))
    return np.clip(128 + 80 * np.stack(waves, axis=2) + noise, 0, 255).astype(np.uint8)
