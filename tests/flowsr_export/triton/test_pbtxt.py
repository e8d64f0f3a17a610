"""The text format, read back by protobuf's own parser."""

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto

from flowsr_export.triton.pbtxt import Word, text_of


def test_scalars_messages_and_lists_come_back() -> None:
    text = text_of(
        {
            "ir_version": 8,
            "producer_name": "a",
            "graph": {"name": "g", "doc_string": ""},
            "opset_import": [{"domain": "x", "version": 18}, {"domain": "y", "version": -1}],
        }
    )
    model = text_format.Parse(text, ModelProto())
    assert (model.ir_version, model.graph.name) == (8, "g")
    assert [(each.domain, each.version) for each in model.opset_import] == [
        ("x", 18),
        ("y", -1),
    ]


def test_a_list_of_numbers_and_a_word_come_back() -> None:
    text = text_of({"dims": [-1, 3], "data_type": 1, "data_location": Word("EXTERNAL")})
    tensor = text_format.Parse(text, TensorProto())
    assert list(tensor.dims) == [-1, 3]
    assert tensor.data_location == TensorProto.EXTERNAL


def test_an_empty_list_writes_nothing() -> None:
    assert text_of({"dims": []}) == ""


@pytest.mark.parametrize(("value", "word"), [(True, "true"), (False, "false")])
def test_truth_is_a_word(value: bool, word: str) -> None:
    assert text_of({"optional": value}) == f"optional: {word}\n"


@settings(deadline=None)
@given(st.text())
def test_every_text_comes_back(text: str) -> None:
    written = text_of({"producer_name": text})
    assert written.isascii()
    assert written.count("\n") == 1
    assert text_format.Parse(written, ModelProto()).producer_name == text
