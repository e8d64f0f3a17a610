"""The graph in PyTorch, rounded as a precision rounds."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Precision
from flowsr_export.inputs.cases import Case
from flowsr_export.parity.half_emulation import HalfPrecisionEmulator, _FloatSums
from tests.flowsr_export.networks import small

CASE = Case((12, 15), (31, 38))
# Half a unit in the last place of float16 and of bfloat16.
HALF_ROUNDING, BRAIN_ROUNDING = 2.0**-11, 2.0**-8


def output(precision: Precision, scale: Fraction | None = None) -> np.ndarray:
    deployment = deployment_of(small())
    case = CASE if scale is None else Case((12, 15), (48, 60))
    return HalfPrecisionEmulator(deployment, precision, scale).run(
        deployment.feeds(case, scale)
    )


def test_in_float32_nothing_is_rounded() -> None:
    deployment = deployment_of(small())
    feeds = deployment.feeds(CASE, None)
    with torch.inference_mode():
        rgb = torch.from_numpy(feeds["input"])
        expected = deployment.reference(rgb, CASE.size, None).numpy()
    np.testing.assert_allclose(output("fp32"), expected, atol=1e-5)


def test_fewer_digits_give_a_larger_error() -> None:
    exact = output("fp32")
    half, brain = (np.abs(output(p) - exact).max() for p in ("fp16", "bf16"))
    assert 0 < half < brain / 2
    assert brain < 0.1


def test_the_graph_of_one_scale_runs_too() -> None:
    assert output("fp16", Fraction(4)).shape == (1, 3, 48, 60)


@pytest.mark.parametrize(
    ("dtype", "rounding"), [(torch.float16, HALF_ROUNDING), (torch.bfloat16, BRAIN_ROUNDING)]
)
def test_a_product_is_rounded_once_after_its_sum(dtype: torch.dtype, rounding: float) -> None:
    x = torch.rand(1, 64, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight = torch.rand(8, 64, 3, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = F.conv2d(x.double(), weight.double())
    with torch.inference_mode(), _FloatSums():  # type: ignore[no-untyped-call]
        result = F.conv2d(x, weight)
    assert result.dtype == dtype
    assert ((result.double() - exact).abs() <= rounding * exact.abs() * 1.01).all()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_it_says_what_it_is(precision: Precision) -> None:
    graph = HalfPrecisionEmulator(deployment_of(small()), precision, None)
    named = {"fp16": "PyTorch float16 graph", "bf16": "PyTorch bfloat16 graph"}
    assert (graph.backend, graph.provider) == (named[precision], "cpu")
