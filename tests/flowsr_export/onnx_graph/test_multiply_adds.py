from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from flowsr_export.onnx_graph.multiply_adds import (
    MacCount,
    Product,
    count_macs,
    per_pixel_and_patch,
)
from flowsr_runtime.errors import ShapeError, UsageError

HALF, FLOAT, INT64 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64
node = helper.make_node


def model(
    nodes: Sequence[NodeProto],
    weights: dict[str, NDArray[Any]],
    shape: Sequence[str | int] = ("batch", 3, "h", "w"),
    inputs: Sequence[str] = ("input",),
) -> ModelProto:
    """Return a graph from `input`, and maybe `geometry` and `latent`, to `output`."""
    kinds = {
        "input": helper.make_tensor_value_info("input", FLOAT, shape),
        "geometry": helper.make_tensor_value_info("geometry", INT64, [10]),
        "latent": helper.make_tensor_value_info("latent", FLOAT, ["batch", 5, "r", "c"]),
    }
    graph = helper.make_graph(
        list(nodes),
        "fixture",
        [kinds[name] for name in inputs],
        [helper.make_tensor_value_info("output", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def ones(*shape: int, dtype: Any = np.float32) -> NDArray[Any]:
    return np.ones(shape, dtype)


# Node, weights, input shape and multiply-adds by hand.
COUNTS: dict[str, tuple[NodeProto, dict[str, NDArray[Any]], tuple[int, ...], int]] = {
    "convolution": (
        node("Conv", ["input", "w"], ["output"], pads=[1, 1, 1, 1]),
        {"w": ones(8, 3, 3, 3)},
        (2, 3, 5, 7),
        2 * 8 * 5 * 7 * 3 * 9,
    ),
    "strided convolution without padding": (
        node("Conv", ["input", "w"], ["output"], strides=[2, 2]),
        {"w": ones(8, 3, 3, 3)},
        (1, 3, 7, 9),
        8 * 3 * 4 * 3 * 9,
    ),
    "grouped convolution": (
        node("Conv", ["input", "w"], ["output"], group=3),
        {"w": ones(6, 1, 1, 1)},
        (1, 3, 4, 4),
        6 * 4 * 4,
    ),
    "transposed convolution": (
        node("ConvTranspose", ["input", "w"], ["output"], strides=[2, 2]),
        {"w": ones(3, 4, 2, 2)},
        (1, 3, 5, 5),
        3 * 5 * 5 * 4 * 2 * 2,
    ),
    "product of a stack": (
        node("MatMul", ["input", "w"], ["output"]),
        {"w": ones(7, 11)},
        (2, 3, 5, 7),
        2 * 3 * 5 * 7 * 11,
    ),
    "product with a vector": (
        node("MatMul", ["input", "w"], ["output"]),
        {"w": ones(7)},
        (5, 7),
        5 * 7,
    ),
    "general product": (
        node("Gemm", ["input", "w"], ["output"]),
        {"w": ones(7, 11)},
        (5, 7),
        5 * 7 * 11,
    ),
    "general product of a transposed matrix": (
        node("Gemm", ["input", "w"], ["output"], transA=1, transB=1),
        {"w": ones(11, 7)},
        (7, 5),
        5 * 7 * 11,
    ),
}


@pytest.mark.parametrize("case", COUNTS)
def test_count_is_the_one_by_hand(case: str) -> None:
    step, weights, shape, wanted = COUNTS[case]
    graph = model([step], weights, [f"d{i}" for i in range(len(shape))])
    work = count_macs(graph, {"input": shape})
    nodes = {"output": Product(wanted, "fp32", of_weights=True)}
    assert work == MacCount(wanted, {step.op_type: wanted}, {"fp32": wanted}, 0, nodes)


def test_elementwise_work_counts_nothing() -> None:
    work = count_macs(model([node("Relu", ["input"], ["output"])], {}), {"input": (1, 3, 4, 4)})
    assert work == MacCount(0, {}, {}, 0, {})
    assert work.share("fp32") == 0


def test_types_are_counted_apart() -> None:
    graph = model(
        [
            node("Conv", ["input", "w"], ["a"]),
            node("Cast", ["a"], ["half"], to=HALF),
            node("Conv", ["half", "v"], ["b"]),
            node("Cast", ["b"], ["output"], to=FLOAT),
        ],
        {"w": ones(2, 3, 1, 1), "v": ones(9, 2, 1, 1, dtype=np.float16)},
    )
    work = count_macs(graph, {"input": (1, 3, 1, 1)})
    assert work.by_type == {"fp32": 6, "fp16": 18}
    assert work.by_node == {"a": Product(6, "fp32", True), "b": Product(18, "fp16", True)}
    assert work.share("fp16") == 0.75


def quantised(source: str) -> MacCount:
    """Count a convolution of `source` by an int8 weight, 3 to 2 channels, on one pixel."""
    graph = model(
        [
            node("QuantizeLinear", ["input", "scale", "zero"], ["bytes"]),
            node("DequantizeLinear", ["bytes", "scale", "zero"], ["dequantised"]),
            node("DequantizeLinear", ["w", "scale", "zero"], ["weight"]),
            node("Conv", [source, "weight"], ["output"]),
        ],
        {"w": ones(2, 3, 1, 1, dtype=np.int8), "scale": np.float32(1), "zero": np.int8(0)},
    )
    return count_macs(graph, {"input": (1, 3, 1, 1)})


def test_product_of_two_quantised_operands_is_int8() -> None:
    assert quantised("dequantised").by_type == {"int8": 6}


def test_product_with_one_quantised_operand_is_not_int8() -> None:
    assert quantised("input").by_type == {"fp32": 6}


def resizing() -> list[NodeProto]:
    """Return nodes that make a matrix `up` (3 · ceil(out_h / 3), h)."""
    return [
        node("Gather", ["geometry", "eight"], ["out"]),
        node("Add", ["out", "two"], ["more"]),
        node("Div", ["more", "patch"], ["patches"]),
        node("Mul", ["patches", "patch"], ["covered"]),
        node("Range", ["nought", "covered", "one"], ["index"]),
        node("Shape", ["input"], ["h"], start=2, end=3),
        node("Squeeze", ["h"], ["height"]),
        node("Range", ["nought", "height", "one"], ["column"]),
        node("Unsqueeze", ["index", "last"], ["rows"]),
        node("Equal", ["rows", "column"], ["equal"]),
        node("Cast", ["equal"], ["up"], to=FLOAT),
    ]


INTEGERS: dict[str, NDArray[Any]] = {
    "nought": np.array(0),
    "one": np.array(1),
    "two": np.array(2),
    "patch": np.array(3),
    "eight": np.array(8),
    "last": np.array([-1]),
}


def geometry(h: int, w: int, H: int, W: int) -> NDArray[np.int64]:
    return np.array([h, w, H, W, 0, 0, 0, 0, H, W], np.int64)


def test_shapes_follow_from_the_values_of_geometry() -> None:
    nodes = [*resizing(), node("MatMul", ["up", "input"], ["output"])]
    graph = model(nodes, INTEGERS, inputs=("input", "geometry"))
    work = count_macs(graph, {"input": (2, 3, 5, 7)}, {"geometry": geometry(5, 7, 40, 7)})
    covered = 14 * 3
    assert work.total == work.between_results == 2 * 3 * covered * 5 * 7


def test_shape_of_a_result_is_evaluated_once_it_is_known() -> None:
    nodes = [
        *resizing(),
        node("MatMul", ["up", "input"], ["resized"]),
        node("Shape", ["resized"], ["h2"], start=2, end=3),
        node("Squeeze", ["h2"], ["height2"]),
        node("Div", ["height2", "two"], ["half"]),
        node("Range", ["nought", "half", "one"], ["even"]),
        node("Gather", ["resized", "even"], ["rows2"], axis=2),
        node("Conv", ["rows2", "w"], ["output"]),
    ]
    graph = model(nodes, {**INTEGERS, "w": ones(1, 3, 1, 1)}, inputs=("input", "geometry"))
    work = count_macs(graph, {"input": (1, 3, 4, 4)}, {"geometry": geometry(4, 4, 31, 4)})
    assert work.by_operator["Conv"] == 3 * 16 * 4


def test_model_is_not_changed() -> None:
    nodes = [*resizing(), node("MatMul", ["up", "input"], ["output"])]
    graph = model(nodes, INTEGERS, inputs=("input", "geometry"))
    before = graph.SerializeToString()
    count_macs(graph, {"input": (1, 3, 5, 7)}, {"geometry": geometry(5, 7, 40, 7)})
    assert graph.SerializeToString() == before


def test_inputs_of_another_name_are_refused() -> None:
    graph = model([node("Relu", ["input"], ["output"])], {})
    with pytest.raises(ShapeError, match="inputs must be input, got picture"):
        count_macs(graph, {"picture": (1, 3, 4, 4)})


def test_shape_that_does_not_follow_is_refused() -> None:
    nodes = [*resizing(), node("MatMul", ["up", "input"], ["output"])]
    graph = model(nodes, INTEGERS, inputs=("input", "geometry"))
    with pytest.raises(ShapeError, match=r"'up' at .* \(MatMul\)"):
        count_macs(graph, {"input": (1, 3, 4, 4), "geometry": (10,)})


def patchwise() -> ModelProto:
    """Return a graph of 48 multiply-adds per pixel and 5 · 7 per patch of a latent."""
    return model(
        [
            node("Conv", ["input", "w"], ["features"]),
            *resizing(),
            node("MatMul", ["up", "features"], ["resized"]),
            node("Conv", ["latent", "v"], ["output"]),
        ],
        {**INTEGERS, "w": ones(16, 3, 1, 1), "v": ones(7, 5, 1, 1)},
        inputs=("input", "geometry", "latent"),
    )


def test_fit_tells_pixels_from_patches() -> None:
    a, b = per_pixel_and_patch(patchwise())
    assert (a, b) == pytest.approx((48, 35))


def test_fit_counts_the_pixels_by_which_an_encoder_continues_images() -> None:
    a, b = per_pixel_and_patch(patchwise(), continued=1)
    # This graph does not continue them: of 48x48 pixels and more it computes a row less.
    assert 44 < a < 47.5
    assert b == pytest.approx(35, rel=0.1)


def test_fit_refuses_a_graph_of_one_scale() -> None:
    graph = model([node("Relu", ["input"], ["output"])], {})
    with pytest.raises(UsageError, match="geometry"):
        per_pixel_and_patch(graph)
