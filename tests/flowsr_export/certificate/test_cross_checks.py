"""The weights of a bundle's graphs compared with the network's."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from flowsr_export.certificate.candidates import Candidate
from flowsr_export.certificate.cross_checks import Weights, compare_weights
from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Deployment
from flowsr_export.parity.half_emulation import HalfPrecisionEmulator
from flowsr_export.parity.reference import reference_of
from flowsr_runtime import Bundle, embedded_bundle
from tests.flowsr_export.certificate.certificates import Change, altered, one_percent


@pytest.fixture(scope="module")
def deployment() -> Deployment:
    return deployment_of(reference_of(Bundle.open(embedded_bundle()), None, None).network)


def compared(deployment: Deployment, bundle: Bundle) -> Weights:
    graph = HalfPrecisionEmulator(deployment, "fp32", None)
    subject = Candidate("any", "fp32", "model.fp32.onnx", bundle, graph)
    (weights,), not_compared = compare_weights(deployment, None, [subject, subject])
    assert not_compared == {}
    return weights


def one_value(name: str, factor: float) -> Change:
    """Return what multiplies the first value of a weight."""

    def change(model: onnx.ModelProto) -> None:
        (tensor,) = (t for t in model.graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values.flat[0] *= np.float32(factor)
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    return change


def test_the_shipped_weights_are_the_networks(deployment: Deployment) -> None:
    weights = compared(deployment, Bundle.open(embedded_bundle()))
    assert weights.passed
    assert weights.tensors == 148
    assert weights.values > 800_000


@pytest.mark.parametrize(
    "name",
    ["decode_maps.6.bias", "prior.lr_proj.2.conv4.weight", "encoder.head.0.weight", "phase"],
)
def test_a_single_value_that_is_one_percent_off_is_named(
    deployment: Deployment, tmp_path: Path, name: str
) -> None:
    weights = compared(deployment, altered(tmp_path / "off", one_value(name, 1.01)))
    assert weights.changed == (name,)
    assert not weights.passed


def test_a_weight_of_an_older_name_is_found_by_its_values(
    deployment: Deployment, tmp_path: Path
) -> None:
    old, new = "prior.up_layers.0.bias", "prior.body.convs.0.double_conv.3.bias"

    def renamed(model: onnx.ModelProto) -> None:
        (tensor,) = (t for t in model.graph.initializer if t.name == new)
        tensor.name = old
        for node in model.graph.node:
            for place, name in enumerate(node.input):
                node.input[place] = old if name == new else name

    def changed(model: onnx.ModelProto) -> None:
        renamed(model)
        one_percent(model, old)

    assert compared(deployment, altered(tmp_path / "renamed", renamed)).passed
    assert compared(deployment, altered(tmp_path / "changed", changed)).changed == (old,)


def test_a_value_that_is_no_number_is_named(deployment: Deployment, tmp_path: Path) -> None:
    bundle = altered(tmp_path / "nan", one_value("conditioner.bias", float("nan")))
    assert compared(deployment, bundle).changed == ("conditioner.bias",)


def test_a_file_without_a_weight_is_no_pass(deployment: Deployment, tmp_path: Path) -> None:
    def unnamed(model: onnx.ModelProto) -> None:
        del model.graph.initializer[:]

    weights = compared(deployment, altered(tmp_path / "none", unnamed))
    assert (weights.tensors, weights.passed) == (0, False)


def test_quantised_weights_are_not_compared_with_the_reason(deployment: Deployment) -> None:
    bundle = Bundle.open(embedded_bundle())
    graph = HalfPrecisionEmulator(deployment, "fp32", None)
    subject = Candidate("any", "int8", "model.int8.onnx", bundle, graph)
    weights, not_compared = compare_weights(deployment, None, [subject])
    assert weights == []
    assert "quantized" in not_compared["weights of model.int8.onnx"]
