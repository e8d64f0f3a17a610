from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from flowsr_calibration.collect import TensorTap
from flowsr_calibration.equalization import equalize_pairs, pairs_of
from flowsr_calibration.layers import layers_of
from flowsr_calibration.onnx_graph import OnnxGraph, with_nodes
from tests.flowsr_calibration.test_quantize import FEEDS, run


def uneven(model: ModelProto) -> ModelProto:
    """The same function with channels of very different ranges between two layers."""
    graph, factor = OnnxGraph(model), np.geomspace(0.05, 20, 8).astype(np.float32)
    first, bias = (graph.value(f"encoder.body.0.body.0.{part}") for part in ("weight", "bias"))
    second = graph.value("encoder.body.0.body.2.weight")
    constants: dict[str, NDArray[Any]] = {
        "encoder.body.0.body.0.weight": first * factor[:, None, None, None],
        "encoder.body.0.body.0.bias": bias * factor,
        "encoder.body.0.body.2.weight": second / factor[None, :, None, None],
    }
    return with_nodes(model, model.graph.node, constants)


def channels(model: ModelProto) -> dict[str, NDArray[np.float32]]:
    seen = TensorTap(model, ["inner_relu", "hidden"], 1).run(FEEDS)
    return {
        "inner_relu": seen["inner_relu"].max(axis=(0, 2, 3)),
        "hidden": seen["hidden"].max(axis=0),
    }


def test_pairs_are_layers_with_a_relu_between_them(model: ModelProto) -> None:
    pairs = pairs_of(model, layers_of(model))
    found = [([layer.node for layer in pair.before], pair.after.node) for pair in pairs]
    assert found == [(["inner"], "outer"), (["first", "second"], "patches")]


def test_the_function_stays_the_same(model: ModelProto) -> None:
    start = uneven(model)
    made = equalize_pairs(start, pairs_of(start, layers_of(start)), channels(start))
    np.testing.assert_allclose(run(made), run(model), atol=2e-6)


def test_channels_come_to_like_ranges(model: ModelProto) -> None:
    start = uneven(model)
    made = equalize_pairs(start, pairs_of(start, layers_of(start)), channels(start))
    before, after = channels(start)["inner_relu"], channels(made)["inner_relu"]
    alive = before > 0
    assert before[alive].max() / before[alive].min() > 100
    assert after[alive].max() / after[alive].min() < 10


def test_a_dead_channel_is_left_as_it_is(model: ModelProto) -> None:
    seen = channels(model)
    seen["inner_relu"][3] = 0
    made = OnnxGraph(equalize_pairs(model, pairs_of(model, layers_of(model)), seen))
    name = "encoder.body.0.body.0.weight"
    np.testing.assert_array_equal(made.value(name)[3], OnnxGraph(model).value(name)[3])
