from collections.abc import Sequence

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from flowsr_export.onnx_graph.lint import (
    GEOMETRY_RULES,
    LARGEST_FILE,
    RULES,
    SIZE_RULES,
    lint,
    require_clean,
)
from flowsr_runtime.errors import LintError

HALF, FLOAT, INT64 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64


def model(nodes: Sequence[NodeProto], opset: int = 18) -> ModelProto:
    """Return a graph with the inputs of a bundle's, a few weights and any nodes."""
    weights = {
        "kernel": np.ones((4, 3, 3, 3), np.float32),
        "kernel_half": np.ones((4, 3, 3, 3), np.float16),
        "square": np.eye(3, dtype=np.float32),
        "vector": np.ones(3, dtype=np.float32),
        "two": np.float32(2),
        "ratio": np.float32(0.5),
        "first": np.int64(0),
        "three": np.int64(3),
        "step": np.int64(1),
        "column": np.array([-1]),
        "yes": np.bool_(True),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "grid": np.zeros((1, 2, 2, 2), np.float32),
    }
    inputs = [
        helper.make_tensor_value_info("input", FLOAT, ["batch", 3, "h", "w"]),
        helper.make_tensor_value_info("geometry", INT64, [10]),
    ]
    graph = helper.make_graph(
        list(nodes),
        "fixture",
        inputs,
        [helper.make_tensor_value_info("output", 0, None)],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets)


def rules_of(graph: ModelProto) -> list[str]:
    return sorted({finding.rule for finding in lint(graph)})


node = helper.make_node


def matrix_nodes() -> list[NodeProto]:
    """Return nodes that make an (n, 1) float32 matrix `matrix` from `geometry`."""
    return [
        node("Gather", ["geometry", "three"], ["size"]),
        node("Div", ["size", "three"], ["count"]),
        node("Range", ["first", "count", "step"], ["index"]),
        node("Cast", ["index"], ["coordinate"], to=FLOAT),
        node("Cast", ["size"], ["length"], to=FLOAT),
        node("Div", ["coordinate", "length"], ["position"]),
        node("Unsqueeze", ["position", "column"], ["matrix"]),
    ]


def half_graph() -> ModelProto:
    """Return a graph in half precision that is right.

    Features are half, read by an integer index and join the phase in float32; a float32
    matrix of geometry is cast for the product that applies it.
    """
    return model(
        [
            *matrix_nodes(),
            node("Cast", ["input"], ["half"], to=HALF),
            node("Conv", ["half", "kernel_half"], ["features"], pads=[1, 1, 1, 1]),
            node("Gather", ["features", "index"], ["rows"], axis=2),
            node("Cast", ["rows"], ["frequency"], to=FLOAT),
            node("Mul", ["frequency", "matrix"], ["angle"]),
            node("Cos", ["angle"], ["wave"]),
            node("Mul", ["wave", "position"], ["weighted"]),
            node("Cast", ["weighted"], ["weighted_half"], to=HALF),
            node("Mul", ["rows", "weighted_half"], ["fourier"]),
            node("Cast", ["matrix"], ["matrix_half"], to=HALF),
            node("Transpose", ["matrix_half"], ["transposed"], perm=[1, 0]),
            node("MatMul", ["fourier", "matrix_half"], ["across"]),
            node("MatMul", ["transposed", "across"], ["down"]),
            node("Cast", ["down"], ["output"], to=FLOAT),
        ]
    )


def test_right_graph_in_half_precision_passes() -> None:
    require_clean(half_graph())
    assert lint(half_graph()) == []


def changed(graph: ModelProto, name: str, replacement: list[NodeProto]) -> ModelProto:
    """Replace the node that makes the tensor `name`."""
    at = next(i for i, n in enumerate(graph.graph.node) if name in n.output)
    nodes = list(graph.graph.node)
    nodes[at : at + 1] = replacement
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph


# What breaks `half_graph`, by the tensor whose node is replaced.
MISTAKES: dict[str, tuple[str, list[NodeProto]]] = {
    "phase in half": (
        "angle",
        [
            node("Cast", ["matrix"], ["matrix_early"], to=HALF),
            node("Mul", ["rows", "matrix_early"], ["angle_half"]),
            node("Cast", ["angle_half"], ["angle"], to=FLOAT),
        ],
    ),
    "phase through half and back": (
        "angle",
        [
            node("Mul", ["frequency", "matrix"], ["exact"]),
            node("Cast", ["exact"], ["rounded"], to=TensorProto.BFLOAT16),
            node("Cast", ["rounded"], ["angle"], to=FLOAT),
        ],
    ),
    "wave of a half angle": (
        "wave",
        [
            node("Cast", ["angle"], ["angle_half"], to=HALF),
            node("Cos", ["angle_half"], ["wave_half"]),
            node("Cast", ["wave_half"], ["wave"], to=FLOAT),
        ],
    ),
    "wave of half features": (
        "wave",
        [
            node("Sin", ["rows"], ["wave_half"]),
            node("Cast", ["wave_half"], ["wave"], to=FLOAT),
        ],
    ),
    "index cast straight to half": (
        "matrix_half",
        [
            node("Cast", ["index"], ["index_half"], to=HALF),
            node("Unsqueeze", ["index_half", "column"], ["matrix_half"]),
        ],
    ),
    "half weight multiplied outside a product of matrices": (
        "weighted_half",
        [
            node("Cast", ["position"], ["position_half"], to=HALF),
            node("Mul", ["position_half", "position_half"], ["weighted_half"]),
        ],
    ),
    "division in half": (
        "position",
        [
            node("Cast", ["coordinate"], ["coordinate_half"], to=HALF),
            node("Cast", ["length"], ["length_half"], to=HALF),
            node("Div", ["coordinate_half", "length_half"], ["position_half"]),
            node("Cast", ["position_half"], ["position"], to=FLOAT),
        ],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_half_geometry_or_phase_is_found(mistake: str) -> None:
    name, replacement = MISTAKES[mistake]
    assert rules_of(changed(half_graph(), name, replacement)) == ["no-half-geometry"]


def test_graph_without_geometry_may_round_as_it_likes() -> None:
    graph = model(
        [
            *matrix_nodes(),
            node("Floor", ["matrix"], ["whole"]),
            node("Cast", ["whole"], ["output"], to=HALF),
        ]
    )
    assert rules_of(graph) == ["integer-indices", "no-half-geometry"]
    require_clean(graph, linf=False)


BRANCH = helper.make_graph(
    [node("Identity", ["input"], ["branch"])],
    "branch",
    [],
    [helper.make_tensor_value_info("branch", FLOAT, None)],
)
# One graph that keeps a rule closely, and one that breaks it and no other.
CASES: dict[str, tuple[list[NodeProto], list[NodeProto]]] = {
    "standard-domain": (
        [node("Relu", ["input"], ["output"])],
        [
            node("Gelu", ["input"], ["smooth"], domain="com.microsoft"),
            node("Cast", ["smooth"], ["output"], to=FLOAT),
        ],
    ),
    "no-control-flow": (
        [node("Where", ["yes", "input", "two"], ["output"])],
        [node("If", ["yes"], ["output"], then_branch=BRANCH, else_branch=BRANCH)],
    ),
    "typed": (
        [node("Relu", ["input"], ["output"])],
        [
            node("NoSuchOperator", ["input"], ["unknown"]),
            node("Cast", ["unknown"], ["output"], to=FLOAT),
        ],
    ),
    "static-weights": (
        [node("Conv", ["input", "kernel"], ["output"])],
        [
            node("Mul", ["kernel", "two"], ["doubled"]),
            node("Conv", ["input", "doubled"], ["output"]),
        ],
    ),
    "no-random": (
        [node("Dropout", ["input", "ratio"], ["output"])],
        [node("RandomNormalLike", ["input"], ["output"])],
    ),
    "no-grid-sample": (
        [node("Resize", ["input", "", "scales"], ["output"], mode="linear")],
        [node("GridSample", ["input", "grid"], ["output"])],
    ),
    "no-float64": (
        [node("Cast", ["input"], ["output"], to=HALF)],
        [
            node("Cast", ["input"], ["exact"], to=TensorProto.DOUBLE),
            node("Cast", ["exact"], ["output"], to=FLOAT),
        ],
    ),
    "no-unfolded-inverse": (
        [
            node("Div", ["input", "two"], ["halved"]),
            node("MatMul", ["halved", "square"], ["output"]),
        ],
        [node("MatMul", ["square", "square"], ["output"])],
    ),
    "no-vector-products": (
        [node("MatMul", ["input", "square"], ["output"])],
        [node("MatMul", ["input", "vector"], ["output"])],
    ),
    "integer-indices": (
        [
            node("Div", ["geometry", "three"], ["index"]),
            node("Gather", ["input", "index"], ["output"], axis=2),
        ],
        [
            node("Cast", ["geometry"], ["real"], to=FLOAT),
            node("Div", ["real", "two"], ["half"]),
            node("Cast", ["half"], ["index"], to=INT64),
            node("Gather", ["input", "index"], ["output"], axis=2),
        ],
    ),
}


@pytest.mark.parametrize("rule", CASES)
def test_graph_that_keeps_a_rule_passes(rule: str) -> None:
    assert lint(model(CASES[rule][0])) == []


@pytest.mark.parametrize("rule", CASES)
def test_graph_that_breaks_a_rule_is_found(rule: str) -> None:
    assert rules_of(model(CASES[rule][1])) == [rule]


def test_graph_that_inference_refuses_is_found() -> None:
    graph = model(
        [
            node("Relu", ["input"], ["positive"]),
            node("Relu", ["positive"], ["output"], domain="not.imported"),
        ]
    )
    assert rules_of(graph) == ["standard-domain", "typed"]


def test_declared_types_are_not_believed() -> None:
    graph = model(
        [
            node("Cast", ["input"], ["exact"], to=TensorProto.DOUBLE),
            node("Neg", ["exact"], ["output"]),
        ]
    )
    graph.graph.value_info.append(helper.make_tensor_value_info("exact", FLOAT, None))
    graph.graph.output[0].type.tensor_type.elem_type = FLOAT
    assert {finding.place for finding in lint(graph)} == {"tensor 'exact'", "tensor 'output'"}


def test_half_geometry_that_leaves_the_graph_is_found() -> None:
    graph = model([*matrix_nodes(), node("Cast", ["matrix"], ["output"], to=HALF)])
    assert rules_of(graph) == ["no-half-geometry"]


def test_every_rule_has_a_failing_graph() -> None:
    elsewhere = {"opset", "self-contained", "no-half-geometry"}
    assert {*CASES, *elsewhere} == {*RULES, *GEOMETRY_RULES}


def test_every_product_with_a_vector_is_found() -> None:
    einsum = node("Einsum", ["input", "vector"], ["output"], equation="bchw,w->bch")
    assert rules_of(model([einsum])) == ["no-vector-products"]
    rows = node("Gemm", ["square", "vector"], ["output"])
    assert "no-vector-products" in rules_of(model([rows]))
    bias = [
        node("Reshape", ["input", "flat"], ["rows"]),
        node("Gemm", ["rows", "square", "vector"], ["output"]),
    ]
    graph = model(bias)
    graph.graph.initializer.append(numpy_helper.from_array(np.array([-1, 3]), "flat"))
    assert lint(graph) == []


def size_fixed(nodes: Sequence[NodeProto]) -> ModelProto:
    """Return the graph with numbers for the sizes, and a few shapes."""
    graph = model(nodes)
    sizes = [helper.make_tensor_value_info("input", FLOAT, [1, 3, 4, 6])]
    del graph.graph.input[:]
    graph.graph.input.extend(sizes)
    output = helper.make_tensor_value_info("output", FLOAT, [1, 3, 4, 6])
    graph.graph.output[0].CopyFrom(output)
    shapes = {"six": [1, 3, 2, 2, 2, 3], "four": [1, 3, 4, 6], "pads": [0] * 8}
    graph.graph.initializer.extend(
        numpy_helper.from_array(np.array(shape), name) for name, shape in shapes.items()
    )
    return graph


SIZE_CASES: dict[str, tuple[list[NodeProto], list[NodeProto]]] = {
    "no-shape-operators": (
        [
            node("Reshape", ["input", "four"], ["same"]),
            node("Gather", ["same", "three"], ["row"], axis=3),
            node("Pad", ["same", "pads"], ["output"]),
        ],
        [
            node("Shape", ["input"], ["shape"]),
            node("Reshape", ["input", "shape"], ["output"]),
        ],
    ),
    "four-dimensions": (
        [node("Reshape", ["input", "four"], ["output"])],
        [
            node("Reshape", ["input", "six"], ["split"]),
            node("Reshape", ["split", "four"], ["output"]),
        ],
    ),
}


@pytest.mark.parametrize("rule", SIZE_CASES)
def test_size_fixed_graphs_have_rules_of_their_own(rule: str) -> None:
    kept, broken = SIZE_CASES[rule]
    assert lint(size_fixed(kept), size_fixed=True) == []
    assert {found.rule for found in lint(size_fixed(broken), size_fixed=True)} == {rule}
    assert lint(size_fixed(broken)) == []


def test_sizes_that_are_names_are_found() -> None:
    graph = model([node("Relu", ["input"], ["output"])])
    found = lint(graph, size_fixed=True)
    assert [(one.rule, one.place) for one in found] == [("sizes-are-numbers", "tensor 'input'")]


def test_a_size_fixed_graph_that_is_too_large_says_what_to_do() -> None:
    graph = size_fixed([node("Relu", ["input"], ["output"])])
    large = np.zeros(LARGEST_FILE // 4, np.float32)
    graph.graph.initializer.append(numpy_helper.from_array(large, "large"))
    require_clean(graph)
    with pytest.raises(LintError, match=r"file-size .*smaller size .*64 MB, got 64\.0 MB"):
        require_clean(graph, size_fixed=True)


def test_every_size_rule_has_a_failing_graph() -> None:
    assert {*SIZE_CASES, "sizes-are-numbers", "file-size"} == {*SIZE_RULES}


@pytest.mark.parametrize("opset", [16, 19])
def test_opset_in_the_range_passes(opset: int) -> None:
    assert lint(model([node("Relu", ["input"], ["output"])], opset)) == []


def test_a_bfloat16_convolution_needs_the_opset_that_takes_it() -> None:
    graph = model([node("Conv", ["input", "w"], ["output"])])
    graph.graph.initializer.add(name="w", data_type=TensorProto.BFLOAT16, dims=[1, 3, 1, 1])
    assert "opset" in rules_of(graph)
    graph.opset_import[0].version = 22
    assert "opset" not in rules_of(graph)


@pytest.mark.parametrize("opset", [15, 20])
def test_opset_outside_the_range_is_found(opset: int) -> None:
    assert rules_of(model([node("Relu", ["input"], ["output"])], opset)) == ["opset"]


def outside_tensor() -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "outside")
    set_external_data(tensor, "weights.bin")
    return tensor


def test_initializer_outside_the_file_is_found() -> None:
    graph = model([node("Relu", ["input"], ["output"])])
    graph.graph.initializer.append(outside_tensor())
    assert rules_of(graph) == ["self-contained"]


def test_constant_outside_the_file_is_found() -> None:
    constant = node("Constant", [], ["constant"], value=outside_tensor())
    graph = model([constant, node("Relu", ["input"], ["output"])])
    assert rules_of(graph) == ["self-contained"]


@pytest.mark.parametrize("name", ["Bernoulli", "RandomUniform", "RandomNormal", "Multinomial"])
def test_every_random_operator_is_found(name: str) -> None:
    assert "no-random" in rules_of(model([node(name, ["input"], ["output"])]))


def test_dropout_in_training_is_found() -> None:
    graph = model([node("Dropout", ["input", "ratio", "yes"], ["output"])])
    assert rules_of(graph) == ["no-random"]


@pytest.mark.parametrize("name", ["Det", "Inverse", "MatrixInverse", "Solve"])
def test_inverse_of_any_domain_is_found(name: str) -> None:
    graph = model([node(name, ["input"], ["output"], domain="com.microsoft")])
    assert "no-unfolded-inverse" in rules_of(graph)


def test_random_operator_inside_a_branch_is_found() -> None:
    branch = helper.make_graph(
        [node("RandomNormalLike", ["input"], ["noise"])],
        "noisy",
        [],
        [helper.make_tensor_value_info("noise", FLOAT, None)],
    )
    graph = model([node("If", ["yes"], ["output"], then_branch=branch, else_branch=BRANCH)])
    assert rules_of(graph) == ["no-control-flow", "no-random"]


def test_float64_weight_is_found_even_if_unused() -> None:
    graph = model([node("Relu", ["input"], ["output"])])
    graph.graph.initializer.append(numpy_helper.from_array(np.ones(2), "exact"))
    assert rules_of(graph) == ["no-float64"]


def test_weight_that_is_an_input_too_is_not_static() -> None:
    graph = model([node("Conv", ["input", "kernel"], ["output"])])
    graph.graph.input.append(helper.make_tensor_value_info("kernel", FLOAT, [4, 3, 3, 3]))
    assert rules_of(graph) == ["static-weights"]


def test_quantised_weight_is_static() -> None:
    graph = model(
        [
            node("DequantizeLinear", ["bytes", "two"], ["weight"]),
            node("Conv", ["input", "weight"], ["output"]),
        ]
    )
    graph.graph.initializer.append(
        numpy_helper.from_array(np.ones((4, 3, 3, 3), np.int8), "bytes")
    )
    assert lint(graph) == []


def test_error_is_one_line_with_rule_node_and_remedy() -> None:
    with pytest.raises(
        LintError, match=r"^graph breaks no-unfolded.* 'a' \(MatMul\): fold .*; 1 more$"
    ):
        require_clean(
            model(
                [
                    node("MatMul", ["square", "square"], ["x"], name="a"),
                    node("MatMul", ["x", "square"], ["output"], name="b"),
                ]
            )
        )


def test_single_finding_counts_no_others() -> None:
    with pytest.raises(LintError, match=r"in float64$"):
        require_clean(model([node("MatMul", ["square", "square"], ["output"])]))
