"""The first node that leaves tolerance between two files."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from flowsr_export.parity.first_divergence import Divergence, Graph, first_divergence, graphs_of
from flowsr_runtime import Bundle, InputError, ParityError, UsageError, embedded_bundle
from tests.flowsr_export.certificate.certificates import one_percent, swapped_slots

WEIGHT = "encoder.body.3.body.0.weight"
PLAIN = """<ir_version: 8, opset_import: ["" : 18]>
tiny (float[B,3,h,w] input) => (float[B,4,h,w] output)
<float[3,3] m_first = {%s}, float[4,3,1,1] m_second = {%s}> {
    turned = Transpose<perm = [0, 2, 3, 1]>(input)
    mapped = MatMul(turned, m_first)
    back = Transpose<perm = [0, 3, 1, 2]>(mapped)
    %s
}"""
SINGLE = "output = Conv(back, m_second)"


def built_in() -> onnx.ModelProto:
    return onnx.load_from_string(Bundle.open(embedded_bundle()).model_bytes())


def parted(change: Callable[[onnx.ModelProto], object], tolerance: float | None) -> Divergence:
    other = built_in()
    change(other)
    bundle = Bundle.open(embedded_bundle())
    return first_divergence(Graph("a", built_in()), Graph("b", other), bundle, tolerance)


def plain(tail: str = SINGLE) -> onnx.ModelProto:
    """Return a small graph whose weights have names like a module's."""
    numbers = [", ".join(f"{0.1 * (i + 1):.1f}" for i in range(count)) for count in (9, 12)]
    model = onnx.parser.parse_model(PLAIN % (*numbers, tail))
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("_", ".")
    for node in model.graph.node:
        node.input[:] = [name.replace("m_", "m.") for name in node.input]
    return model


def in_half(model: onnx.ModelProto, weight: str) -> onnx.ModelProto:
    """Let the node that reads a weight compute in float16 between casts."""
    (tensor,) = (t for t in model.graph.initializer if t.name == weight)
    tensor.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), weight)
    )
    nodes = []
    for node in model.graph.node:
        if weight not in node.input:
            nodes.append(node)
            continue
        before, after = node.input[0], node.output[0]
        node.input[0], node.output[0] = "narrow", "result"
        to = {"narrow": TensorProto.FLOAT16, "wide": TensorProto.FLOAT}
        nodes.append(helper.make_node("Cast", [before], ["narrow"], to=to["narrow"]))
        nodes.append(node)
        nodes.append(helper.make_node("Cast", ["result"], [after], to=to["wide"]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def test_a_file_does_not_part_from_itself() -> None:
    done = parted(lambda model: None, None)
    assert done.first is None
    assert (done.skipped, done.output.share, done.tolerance) == (0, 0, 1e-4)
    assert done.compared > 700


def test_the_node_of_a_changed_weight_is_named() -> None:
    done = parted(lambda model: one_percent(model, WEIGHT), None)
    (reader,) = (node for node in built_in().graph.node if WEIGHT in node.input)
    assert done.first is not None
    assert (done.first.node, done.first.kind) == (reader.name, "Conv")
    assert done.first.stage == "encoder"
    assert 1e-4 < done.first.share <= 0.011
    assert done.output.share > 0
    assert done.stages["geometry"] == 0


def test_within_the_tolerance_no_node_is_named() -> None:
    done = parted(lambda model: one_percent(model, WEIGHT), 0.5)
    assert done.first is None
    assert done.output.share > 0


def test_the_node_of_swapped_neighbour_slots_is_named() -> None:
    other = built_in()
    name = swapped_slots(other)
    bundle = Bundle.open(embedded_bundle())
    done = first_divergence(Graph("a", built_in()), Graph("b", other), bundle)
    assert done.first is not None
    assert (done.first.node, done.first.share) == (name, math.inf)


def test_a_value_that_is_no_number_is_named() -> None:
    def spoil(model: onnx.ModelProto) -> None:
        (bias,) = (t for t in model.graph.initializer if t.name == "conditioner.bias")
        values = numpy_helper.to_array(bias).copy()
        values[0] = np.nan
        bias.CopyFrom(numpy_helper.from_array(values, bias.name))

    done = parted(spoil, 0.9)
    assert done.first is not None
    assert done.first.stage == "conditioner"
    assert done.first.share == math.inf


def test_casts_are_passed_over_and_half_precision_has_its_own_tolerance() -> None:
    first, other = plain(), in_half(plain(), "m.second")
    done = first_divergence(Graph("a", first), Graph("b", other))
    assert (done.tolerance, done.skipped) == (0.05, 0)
    assert done.first is None
    assert 0 < done.output.share < 1e-3


def test_the_node_that_half_precision_spoils_is_named() -> None:
    other = in_half(plain(), "m.second")
    done = first_divergence(Graph("a", plain()), Graph("b", other), tolerance=1e-6)
    assert done.first is not None
    assert (done.first.tensor, done.first.other) == ("output", "output")


def test_a_node_that_one_file_lacks_is_counted() -> None:
    longer = plain("twice = Add(back, back)\noutput = Conv(twice, m_second)")
    done = first_divergence(Graph("a", longer), Graph("b", plain()), tolerance=1e-6)
    assert done.skipped == 1
    assert done.first is not None
    assert done.first.kind == "Conv"


def test_outputs_of_other_shapes_are_not_compared() -> None:
    with pytest.raises(ParityError, match="outputs of a and b cannot be compared"):
        first_divergence(
            Graph("a", plain()),
            Graph("b", plain("c = Conv(back, m_second)\noutput = Concat<axis = 1>(c, c)")),
        )


def test_files_of_other_inputs_are_refused() -> None:
    with pytest.raises(UsageError, match="'geometry'"):
        first_divergence(Graph("a", built_in()), Graph("b", plain()))


def test_inputs_that_no_bundle_explains_are_refused() -> None:
    strange = plain()
    strange.graph.input.append(
        helper.make_tensor_value_info("latent", TensorProto.FLOAT, [1, 2, 3, 4])
    )
    with pytest.raises(UsageError, match="'latent'"):
        first_divergence(Graph("a", strange), Graph("b", strange))


def test_files_are_found_as_a_precision_or_by_their_path(tmp_path: Path) -> None:
    onnx.save(plain(), tmp_path / "a.onnx")
    first, other, bundle = graphs_of(None, "fp32", "fp32")
    assert (first.name, other.name) == ("model.fp32.onnx", "model.fp32.onnx")
    assert bundle is not None
    path = str(tmp_path / "a.onnx")
    assert graphs_of(None, path, "fp32")[1].name == path
    assert graphs_of(Path(path), path, "fp32")[2] is None


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("missing.onnx", None, "does not exist"),
        ("text.onnx", b"\xff\xff no graph", "is not a valid ONNX file"),
    ],
)
def test_what_is_no_onnx_file_is_refused(
    tmp_path: Path, name: str, data: bytes | None, match: str
) -> None:
    path = tmp_path / name
    (tmp_path / "text.onnx").write_bytes(data or b"")
    with pytest.raises(InputError, match=match):
        graphs_of(None, str(path), "fp32")


def test_what_is_neither_a_precision_nor_a_file_is_refused() -> None:
    with pytest.raises(UsageError, match=r"must be a precision .* got 'fp99'"):
        graphs_of(None, "fp99", "fp32")
