"""The exporter refuses other opsets, and translates integer divisions exactly."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from flowsr_export.deployment.families import deployment_of
from flowsr_export.export_onnx.exporter import _finished, onnx_from_deployment
from flowsr_export.onnx_graph.lint import lint
from flowsr_lp import load_checkpoint
from flowsr_runtime import Bundle, Window, open_session
from flowsr_runtime.errors import LintError, UsageError
from flowsr_runtime.geometry import Extent, Halo
from tests import stand_in
from tests.flowsr_export.conftest import Exported
from tests.flowsr_export.networks import small

Change = Callable[[onnx.ModelProto], object]

# Float32 sums in another order.
SAME = 2e-5


@pytest.mark.parametrize("opset", [17, 20])
def test_an_opset_that_is_not_supported_is_refused(opset: int) -> None:
    with pytest.raises(UsageError, match=f"opset must be 18 or 19, got {opset}"):
        onnx_from_deployment(deployment_of(small()), opset=opset)


def test_bfloat16_has_one_opset() -> None:
    with pytest.raises(UsageError, match=r"must be 22 .*got 18"):
        onnx_from_deployment(deployment_of(small()), "bf16", opset=18)


def test_bfloat16_is_exported_with_its_opset() -> None:
    model = onnx_from_deployment(deployment_of(small()), "bf16")
    assert model.opset_import[0].version == 22
    types = {tensor.data_type for tensor in model.graph.initializer}
    assert TensorProto.BFLOAT16 in types
    assert lint(model) == []


def plain_model(opset: int = 18) -> onnx.ModelProto:
    """Return a valid model with the names of a bundle's."""
    pictures = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 3, None, None])
        for name in ("input", "output")
    ]
    node = helper.make_node("Relu", ["input"], ["output"], name="relu", doc_string="a trace")
    graph = helper.make_graph([node], "plain", pictures[:1], pictures[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def test_a_finished_model_names_its_axes_and_its_origin() -> None:
    model = _finished(plain_model(), 18, {"flowsr-lp": {"b": 1, "a": None}})
    (output,) = model.graph.output
    axes = [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim]
    assert axes == ["batch", 3, "H", "W"]
    (entry,) = model.metadata_props
    assert (entry.key, entry.value) == ("flowsr-lp", '{"a": null, "b": 1}')
    assert model.graph.node[0].doc_string == ""


def test_an_opset_that_was_not_asked_for_is_refused() -> None:
    with pytest.raises(LintError, match="must be 19, got 18"):
        _finished(plain_model(), 19, {})


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Enlarge"


def other_type(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64


@pytest.mark.parametrize("change", [unknown_operator, other_type])
def test_a_model_that_is_not_valid_is_refused(change: Change) -> None:
    model = plain_model()
    change(model)
    with pytest.raises(LintError, match="exported model is not valid ONNX"):
        _finished(model, 18, {})


@pytest.mark.slow
def test_the_newer_opset_is_exported_too() -> None:
    model = onnx_from_deployment(deployment_of(small()), opset=19)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [19]
    assert lint(model) == []


def test_the_exported_geometry_is_exact_beyond_float32s_integers(exported: Exported) -> None:
    halo = Halo(3, 12, 3, 0, 2)
    extent = Extent.around(60_000, 60_024, 16_001, 64_007, halo)
    window = Window(extent, Extent.whole(9, 23))
    assert extent.target * extent.source > 2**24
    tile = stand_in.tensor(extent.lr_size, 9)
    network = load_checkpoint(exported.model, exported.prior).network
    graph = deployment_of(network).graph(torch.float32, None)
    with torch.inference_mode():
        expected = graph(tile, torch.from_numpy(window.geometry())).numpy()
    session = open_session(Bundle.open(exported.bundle), threads=1)
    output = session.run({"input": tile.numpy(), "geometry": window.geometry()})
    np.testing.assert_allclose(output, expected, rtol=0, atol=SAME)
