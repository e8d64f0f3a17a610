import numpy as np
import onnx.parser
import onnxruntime as ort
import torch

from flowsr_calibration.codes import FP8, INT8

ROUND = """<ir_version: 10, opset_import: ["" : 19]>
round (float[n] x) => (float[n] y) <float step = {0.5}, float nought = {0.0}> {
  zero = Cast <to = 17> (nought)
  code = QuantizeLinear (x, step, zero)
  y = DequantizeLinear (code, step, zero)
}"""
RNG = np.random.default_rng(0)
# Exact in float32; both libraries round other numbers twice.
EDGES = np.array([0.0, -0.0, 2**-9, 2**-10, 1.5 * 2**-9, 447.0, 448.0, 500.0, -1e9, 0.0175])
SPREAD = RNG.normal(0, 1, 20_000) * 10.0 ** RNG.uniform(-4, 3, 20_000)
EDGES, SPREAD = (values.astype(np.float32).astype(np.float64) for values in (EDGES, SPREAD))


def test_e4m3_is_that_of_pytorch() -> None:
    values = np.concatenate((EDGES, SPREAD))
    expected = torch.from_numpy(np.clip(values, -448, 448)).to(torch.float8_e4m3fn)
    codes = np.frombuffer(FP8.encode(values, np.ones(1)), np.uint8)
    np.testing.assert_array_equal(codes, expected.view(torch.uint8).numpy())
    np.testing.assert_array_equal(FP8.rounded(values, np.ones(1)), expected.double().numpy())


def test_onnx_runtime_rounds_to_the_same_numbers() -> None:
    model = onnx.parser.parse_model(ROUND)
    session = ort.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    values = np.clip(SPREAD, -200, 200).astype(np.float32)
    (result,) = session.run(None, {"x": values})
    expected = FP8.rounded(values.astype(np.float64), np.full(1, 0.5))
    np.testing.assert_array_equal(result, expected)


def test_int8_is_symmetric_and_ties_go_to_even() -> None:
    values = np.array([0.5, 1.5, -2.5, 126.7, 1000.0, -1000.0])
    np.testing.assert_array_equal(INT8.rounded(values, np.ones(1)), [0, 2, -2, 127, 127, -127])
    assert INT8.encode(values, np.ones(1)) == bytes([0, 2, 254, 127, 127, 129])
