"""Layers of an engine, from the log of its build and from the inspector."""

import json
from typing import Any

import pytest

from flowsr_export.engine.builder import Built
from flowsr_export.engine.layers import layers_from_json, layers_from_log, layers_of
from tests.doubles.layer_log import LOGGED
from tests.doubles.trt_module import fake_tensorrt


def test_layers_of_the_log_have_the_type_of_their_weights() -> None:
    found = [(layer.type, layer.nodes) for layer in layers_from_log(LOGGED)]
    assert found == [("fp32", ("conv_wide", "to_half")), ("fp16", ("conv_half",)), (None, ())]


@pytest.mark.parametrize(
    ("word", "expected"),
    [("Half", "fp16"), ("BFloat16", "bf16"), ("Float", "fp32"), ("Int64", None)],
)
def test_a_layer_without_weights_has_the_widest_type_that_it_reads(
    word: str, expected: str | None
) -> None:
    text = LOGGED.replace("Datatype: Float", "Datatype: Int64")
    text = text.replace("Datatype: Half", f"Datatype: {word}").replace("Constants: [ {", "x {")
    assert layers_from_log(text)[1].type == expected


@pytest.mark.parametrize(
    "raw",
    [
        {"Inputs": [{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}]},
        {"Inputs": [{"Dimensions": [1, 3, 8, 8], "Datatype": "Half"}]},
        {"Inputs": [{"Datatype": "Float"}], "Weights": {"Type": "Half", "Count": 57}},
        {
            "Inputs": [{"Datatype": "Float"}],
            "Constants": [
                {"Dimensions": [19, 1], "Datatype": "Float"},
                {"Dimensions": [19, 3], "Datatype": "Half"},
            ],
        },
    ],
)
def test_layers_of_the_inspector_are_read_in_every_versions_words(raw: dict[str, Any]) -> None:
    named = {"Name": "a", "LayerType": "gemm", "Metadata": "[ONNX Layer: b]\x1e[ONNX Layer: c]"}
    text = json.dumps({"Layers": [{**raw, **named}], "Bindings": ["input"]})
    (layer,) = layers_from_json(text)
    assert (layer.type, layer.nodes) == ("fp16", ("b", "c"))


def test_an_inspector_that_knows_names_alone_gives_no_layers() -> None:
    assert layers_from_json('{"Layers": ["a", "b"], "I/O Tensors": []}') == []


def test_the_bytes_of_a_layer_are_those_of_its_tensors() -> None:
    wide, half, wait = layers_from_log(LOGGED.replace("-1,-1", "8,8"))
    # input 3·64 and six weights and one factor in float32
    assert (wide.read, wide.written) == (4 * (3 * 64 + 6 + 1), 4 * 64)
    # 64 in half, the sum 19·64 in float32, weights 38 in half, one factor
    assert (half.read, half.written) == (2 * 64 + 4 * 19 * 64 + 2 * 38 + 4, 2 * 19 * 64)
    assert (wait.read, wait.written) == (0, 0)


def test_a_tensor_that_a_layer_reads_twice_counts_once() -> None:
    twice = {"Name": "a", "Dimensions": [1, 2], "Datatype": "Int64"}
    other = {"Name": "b", "Dimensions": [3], "Datatype": "Bool"}
    raw = {"Inputs": [twice, twice, other], "Outputs": [], "Metadata": ""}
    (layer,) = layers_from_json(json.dumps({"Layers": [raw]}))
    assert layer.read == 8 * 2 + 3


def test_the_bytes_of_a_range_of_sizes_are_not_known() -> None:
    wide, half, _ = layers_from_log(LOGGED)
    assert (wide.read, wide.written, half.read, half.written) == (None, None, None, None)


def test_the_builders_log_stands_in_where_no_engine_can_be_opened() -> None:
    built = Built(b"", 0.0, (), (), LOGGED, ())
    alone: Any = fake_tensorrt("tensorrt-rtx")
    expected = layers_from_log(LOGGED)
    assert layers_of(alone, built, on_device=False) == expected
    assert layers_of(alone, built, on_device=True) == expected
