import numpy as np
import pytest

from flowsr_calibration.codes import FP8
from flowsr_calibration.ranges import METHODS, Method, activation_range, weight_scales
from flowsr_calibration.statistics import Histogram
from flowsr_runtime.errors import UsageError


def bell(outlier: float = 0.0) -> Histogram:
    values = np.random.default_rng(0).normal(0, 1, 100_000).astype(np.float32)
    values[0] = outlier
    histogram = Histogram()
    histogram.add(values)
    return histogram


@pytest.mark.parametrize("method", METHODS)
def test_a_range_is_within_what_was_seen(method: Method) -> None:
    histogram = bell()
    assert 2 < activation_range(histogram, method) <= histogram.largest


def test_minmax_keeps_the_outlier_and_the_others_clip_it() -> None:
    histogram = bell(outlier=40.0)
    found = {method: activation_range(histogram, method) for method in METHODS}
    assert found["minmax"] == 40.0
    assert max(found["percentile"], found["entropy"]) < 20
    assert found["mse"] < 30


def test_the_percentile_leaves_one_in_ten_thousand_outside() -> None:
    values = np.arange(100_000, dtype=np.float32)
    histogram = Histogram()
    histogram.add(values)
    assert activation_range(histogram, "percentile") == pytest.approx(99_990, rel=1e-3)


def test_mse_has_the_least_error_of_all_methods() -> None:
    values = np.random.default_rng(0).laplace(0, 1, 100_000).astype(np.float32)
    histogram = Histogram()
    histogram.add(values)

    def error(reach: float) -> float:
        step = reach / 127
        return float(np.mean((np.clip(np.rint(values / step), -127, 127) * step - values) ** 2))

    errors = {method: error(activation_range(histogram, method)) for method in METHODS}
    assert errors["mse"] <= min(errors.values()) * 1.02


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_has_a_range(method: Method) -> None:
    histogram = Histogram()
    histogram.add(np.zeros(10, np.float32))
    assert activation_range(histogram, method) > 0


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UsageError, match="method must be one of percentile, entropy"):
        activation_range(bell(), "guess")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (16, 64), (16, 3, 3, 3)])
def test_neighboring_codes_of_one_sign_sum_to_what_sixteen_bits_hold(
    shape: tuple[int, ...],
) -> None:
    weight = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)
    steps = weight_scales(weight).reshape(-1, *([1] * (len(shape) - 1)))
    codes = np.rint(weight / steps)
    rows = codes if len(shape) == 2 else codes.transpose(0, 2, 3, 1)
    pairs = rows.reshape(shape[0], -1)
    assert np.abs(codes).max() <= 127
    assert 255 * np.abs(pairs[:, :-1:2][:, :13] + pairs[:, 1::2][:, :13]).max() <= 32767


def test_every_output_has_its_own_step_unless_the_tensor_has_one() -> None:
    weight = np.ones((3, 4), np.float32) * np.array([[1.0], [2.0], [4.0]], np.float32)
    np.testing.assert_allclose(weight_scales(weight), np.array([2, 4, 8]) / 127, rtol=1e-6)
    np.testing.assert_allclose(weight_scales(weight, per_tensor=True), 8 / 127, rtol=1e-6)


def test_floats_of_eight_bits_keep_the_outlier_that_integers_clip() -> None:
    histogram = bell(outlier=40.0)
    assert activation_range(histogram, "mse", FP8) > activation_range(histogram, "mse")
