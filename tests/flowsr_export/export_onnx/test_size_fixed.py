"""Size-fixed graphs hold no shape arithmetic and equal the graph of any size."""

from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Network, Precision
from flowsr_export.export_onnx.exporter import onnx_from_deployment
from flowsr_export.export_onnx.metadata import graph_metadata
from flowsr_export.export_onnx.size_fixed import size_fixed, size_fixed_name
from flowsr_export.inputs.cases import Case
from flowsr_export.onnx_graph.lint import lint
from flowsr_export.onnx_graph.uint8_io import with_uint8_io
from flowsr_lp import Checkpoint
from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession
from flowsr_runtime.errors import ScaleError, UsageError
from tests.flowsr_export.networks import small, small_model, small_srflow, small_srflow_model
from tests.stand_in import network, srflow_network

FOUR = Fraction(4)
# Float sums in another order.
SAME = 1e-5


def exported(
    net: Network, case: Case, scale: Fraction = FOUR, precision: Precision = "fp32"
) -> ModelProto:
    return onnx_from_deployment(deployment_of(net), precision, scale, sizes=case)


@cache
def any_size(net: Network) -> ModelProto:
    """Export the graph of any size, once for all tests."""
    return onnx_from_deployment(deployment_of(net))


def run(model: ModelProto, feeds: dict[str, Any]) -> np.ndarray:
    options: dict[str, Any] = {"provider": "cpu", "device": 0, "threads": 1, "name": "graph"}
    return OnnxRuntimeSession(model.SerializeToString(), **options).run(feeds)


LINF = small()
NETWORKS: dict[str, tuple[Network, Fraction, Case]] = {
    "linf, batch 2": (LINF, FOUR, Case((9, 14), (36, 56), 2)),
    "linf x2.7": (LINF, Fraction("2.7"), Case((7, 20), (19, 54))),
    "linf x3, one pixel": (LINF, Fraction(3), Case((1, 5), (3, 15))),
    "linf, sampled": (network(small_model(), None), FOUR, Case((9, 14), (36, 56))),
    "srflow": (small_srflow(), FOUR, Case((16, 22), (64, 88))),
    "srflow x8, sampled": (
        srflow_network(small_srflow_model(scale=8, L=4), None),
        Fraction(8),
        Case((8, 10), (64, 80)),
    ),
    "srflow, sampled": (
        srflow_network(small_srflow_model(), None),
        FOUR,
        Case((16, 20), (64, 80), 2),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_size_fixed_graph_equals_the_one_of_any_size(name: str) -> None:
    net, scale, case = NETWORKS[name]
    deployment = deployment_of(net)
    model = exported(net, case, scale)
    assert lint(model, size_fixed=True) == []
    fixed, free = deployment.feeds(case, scale), deployment.feeds(case, None)
    assert "geometry" not in fixed
    output = run(model, fixed)
    assert output.shape == (case.batch, 3, *case.size)
    np.testing.assert_allclose(output, run(any_size(net), free), rtol=0, atol=SAME)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_keeps_its_islands(precision: Precision) -> None:
    model = exported(LINF, Case((9, 14), (36, 56)), precision=precision)
    assert lint(model, size_fixed=True) == []
    types = {n.op_type for n in model.graph.node}
    assert {"Cos", "Sin", "Cast"} <= types


def test_a_graph_with_eight_bit_images_is_fixed_too() -> None:
    sizes = Case((9, 14), (36, 56))
    entries = {"range": [0, 1]}
    plain = onnx_from_deployment(deployment_of(LINF), "fp32", FOUR, None, entries, sizes)
    model = with_uint8_io(plain)
    assert lint(model, size_fixed=True) == []
    assert [metadata(one)["range"] for one in (plain, model)] == ["[0, 1]", "[0, 255]"]


def test_large_sizes_keep_their_matrices_out_of_the_file() -> None:
    model = exported(LINF, Case((720, 1280), (2880, 5120)))
    assert lint(model, size_fixed=True) == []
    assert model.ByteSize() < any_size(LINF).ByteSize() + 16_000_000
    assert max(np.prod(tensor.dims) for tensor in model.graph.initializer) <= 1 << 20


def metadata(model: ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


@pytest.mark.parametrize(
    ("net", "scale", "expected"),
    [
        (LINF, None, {"2": 6, "3": 4, "4": 3, "8": 3}),
        (LINF, FOUR, 3),
        (LINF, Fraction(3), 4),
        (LINF, Fraction(2), 6),
        (LINF, Fraction("2.7"), 40),
        (small_srflow(), None, 16),
    ],
)
def test_metadata_say_where_tiles_begin(
    net: Network, scale: Fraction | None, expected: object
) -> None:
    checkpoint = Checkpoint(net, {}, "0" * 64, None)
    entries = graph_metadata(checkpoint, deployment_of(net), scale)
    assert entries["tile_multiple"] == expected
    assert (entries["color_order"], entries["layout"]) == ("RGB", "NCHW")
    assert entries["range"] == [0, 1]


@pytest.mark.parametrize("net", [LINF, small_srflow()])
def test_the_output_size_follows_from_the_input_size(net: Network) -> None:
    model = onnx_from_deployment(deployment_of(net), "fp32", FOUR)
    dims = model.graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, "4*h", "4*w"]
    for dim, size in zip(
        model.graph.input[0].type.tensor_type.shape.dim, (1, 3, 10, 16), strict=True
    ):
        dim.dim_value = size
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    dims = inferred.graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims][1:] == [3, 40, 64]


@pytest.mark.parametrize(
    ("scale", "batch", "name"),
    [
        ("4", 1, "model.fp32.x4.480x270.onnx"),
        ("2.7", 2, "model.fp32.x2.7.480x270.b2.onnx"),
        ("5/3", 1, "model.fp32.x5_3.480x270.onnx"),
    ],
)
def test_a_file_is_named_after_its_sizes(scale: str, batch: int, name: str) -> None:
    case = Case((270, 480), (0, 0), batch)
    assert size_fixed_name("fp32", Fraction(scale), case) == name


def test_sizes_that_a_network_does_not_take_are_refused_before_work() -> None:
    linf, srflow = deployment_of(LINF), deployment_of(small_srflow())
    with pytest.raises(UsageError, match="lr_size needs a scale"):
        size_fixed(linf, None, [(8, 8)], 1)
    with pytest.raises(UsageError, match="multiple of 2 for srflow-lp, got 9x8"):
        size_fixed(srflow, None, [(8, 9)], 1)
    with pytest.raises(ScaleError, match=r"scale must be 4, .*got 2"):
        size_fixed(srflow, Fraction(2), [(8, 8)], 1)
    with pytest.raises(ScaleError, match="1048576 pixels, got 4194304x32"):
        size_fixed(linf, FOUR, [(8, 1 << 20)], 1)
    assert [case.lr for case in size_fixed(linf, FOUR, [(8, 9), (8, 9)], 1).cases] == [(8, 9)]
