import numpy as np
from onnx import ModelProto

from flowsr_calibration.bias import bias_corrections, with_corrections
from flowsr_calibration.collect import TensorTap
from flowsr_calibration.layers import layers_of
from flowsr_calibration.onnx_graph import OnnxGraph
from flowsr_calibration.quantize import QuantizationForm, quantize_layers
from tests.flowsr_calibration.test_quantize import FEEDS, ranges_of


def test_a_layer_gives_its_mean_again(model: ModelProto) -> None:
    (head,) = (layer for layer in layers_of(model) if layer.node == "head")
    ranges = {**ranges_of(model), "input": 0.6, "head": 8.0}  # clips what is bright
    corrections = bias_corrections(model, [head], ranges, QuantizationForm(), [FEEDS])
    means = []
    for start in (model, with_corrections(model, [head], corrections)):
        made = quantize_layers(start, [head], ranges, QuantizationForm())
        means.append(TensorTap(made, ["head"], 1).run(FEEDS)["head"].mean(axis=(0, 2, 3)))
    wanted = TensorTap(model, ["head"], 1).run(FEEDS)["head"].mean(axis=(0, 2, 3))
    before, after = (float(np.abs(mean - wanted).max()) for mean in means)
    assert before > 0.01
    assert after < before / 5


def test_a_sum_of_products_has_its_correction_in_the_bias_of_the_sum(model: ModelProto) -> None:
    found = bias_corrections(
        model, layers_of(model), ranges_of(model), QuantizationForm(), [FEEDS]
    )
    assert found["second"].bias == found["first"].bias == "conditioner.bias"
    assert found["second"].added.shape == (8,)


def test_layers_that_stay_float_keep_their_bias(model: ModelProto) -> None:
    layers = layers_of(model)
    found = bias_corrections(model, layers, ranges_of(model), QuantizationForm(), [FEEDS])
    made = OnnxGraph(with_corrections(model, layers[:1], found))
    before, changed, kept = OnnxGraph(model), "encoder.head.0.bias", "tables.0.bias"
    assert np.any(made.value(changed) != before.value(changed))
    np.testing.assert_array_equal(made.value(kept), before.value(kept))


def test_floats_of_eight_bits_are_corrected_too(model: ModelProto) -> None:
    found = bias_corrections(
        model, layers_of(model), ranges_of(model), QuantizationForm("fp8"), [FEEDS]
    )
    assert len(found) == 8
    assert np.isfinite(np.concatenate([c.added.ravel() for c in found.values()])).all()
