import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.linf import LinfDeployment
from flowsr_export.inputs.cases import Case, sample_pictures
from flowsr_export.parity.compare import HALF_TOLERANCE, Tolerance, compare, tolerance_for
from flowsr_lp import LinfLP
from flowsr_runtime.errors import ParityError
from flowsr_runtime.geometry import exact_scale
from tests.flowsr_export.networks import small

FULL = Tolerance(max_abs=1e-4, max_steps=1)
CASE = Case((6, 7), (12, 15))


class Distorted:
    """Computes the reference and changes it."""

    def __init__(self, network: LinfLP, error: float = 0.0, value: float | None = None) -> None:
        self.network, self.error, self.value = network, error, value

    def run(self, feeds: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        h, w = feeds["geometry"][2:4]
        with torch.inference_mode():
            rgb = torch.from_numpy(feeds["input"])
            output: NDArray[np.float32] = self.network(rgb, (int(h), int(w))).output.numpy()
        output[0, 1, 2, 3] += self.error
        if self.value is not None:
            output[0, 0, 0, 0] = self.value
        return output


def test_equal_outputs_have_no_difference() -> None:
    net = small()
    (figures,) = compare(deployment_of(net), Distorted(net), [CASE], None, FULL)
    assert (figures.max_abs, figures.max_steps, figures.explosion) == (0, 0, None)
    assert figures.psnr == math.inf
    assert figures.as_dict()["psnr"] is None


def test_a_difference_of_one_value_is_refused() -> None:
    net = small()
    with pytest.raises(ParityError, match=r"7x6 to 15x12.*max error must be at most 0.0001"):
        compare(deployment_of(net), Distorted(net, 2e-4), [CASE], None, FULL)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_cannot_be_computed_is_refused(value: float) -> None:
    net = small()
    where = r"1 of 540 values \(0.185 %\) are NaN or infinite"
    with pytest.raises(ParityError, match=where):
        compare(deployment_of(net), Distorted(net, value=value), [CASE], None, HALF_TOLERANCE)


def test_a_reference_that_is_not_finite_is_refused_without_a_warning() -> None:
    net = small()
    last = net.linf.layers[-1]
    assert isinstance(last, nn.Conv2d)
    nn.init.constant_(last.weight, math.inf)
    with pytest.raises(ParityError, match=r"values .* are NaN or infinite"):
        compare(deployment_of(net), Distorted(net), [CASE], None, FULL)


def test_a_value_that_no_picture_holds_is_refused_where_the_bar_says_so() -> None:
    net = deployment_of(small())
    far = Distorted(small(), value=7)
    loose = Tolerance(psnr=0)
    (figures,) = compare(net, far, [CASE], None, loose)
    assert figures.explosion is not None
    assert figures.explosion.out_of_range == 1
    with pytest.raises(ParityError, match=r"1 of 540 .* lie outside \[-1, 2\], .* rows 0-0"):
        compare(net, far, [CASE], None, replace(loose, in_range=True))


def test_a_low_psnr_is_refused() -> None:
    net = small()
    with pytest.raises(ParityError, match="PSNR must be at least 90"):
        compare(deployment_of(net), Distorted(net, 0.01), [CASE], None, Tolerance(psnr=90))


def test_no_case_is_no_parity() -> None:
    net = small()
    with pytest.raises(ParityError, match="got none"):
        compare(deployment_of(net), Distorted(net), [], None, FULL)


def test_an_output_of_another_size_is_refused() -> None:
    class Cropped(Distorted):
        def run(self, feeds: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
            return super().run(feeds)[..., 1:]

    net = small()
    with pytest.raises(ParityError, match="output at"):
        compare(deployment_of(net), Cropped(net), [CASE], None, FULL)


def test_exports_are_checked_on_sizes_and_scales_they_were_not_traced_with() -> None:
    cases = deployment_of(small()).exported_cases(None)
    assert len({case.lr for case in cases}) >= 3
    assert len({case.size[0] / case.lr[0] for case in cases}) >= 2
    assert (20, 25) not in {case.lr for case in cases}


def test_verify_covers_scales_sides_and_batches() -> None:
    cases = deployment_of(small()).verify_cases(None)
    assert {case.batch for case in cases} == {1, 3}
    assert {1, 19, 31, 24, 37, 256} <= {side for case in cases for side in case.lr}
    assert Case((16, 24), (43, 86)) in cases
    assert Case((16, 24), (192, 288)) in cases


def test_a_fixed_scale_is_verified_at_that_scale() -> None:
    cases = deployment_of(small()).verify_cases(exact_scale("4"))
    assert {case.size for case in cases if case.lr == (1, 19)} == {(4, 76)}


def test_the_bar_of_full_precision_is_the_familys() -> None:
    assert tolerance_for(deployment_of(small()), "fp32") == FULL
    assert LinfDeployment.max_abs == FULL.max_abs


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_eight_bits_are_held_to_their_psnr_alone(precision: str) -> None:
    assert tolerance_for(deployment_of(small()), precision) == Tolerance(psnr=38.0)


def test_photographs_are_as_large_as_the_case_says() -> None:
    rgb = sample_pictures(Case((300, 5), (300, 5)))
    assert rgb.shape == (1, 3, 300, 5)
    assert np.array_equal(rgb[:, :, 256:], rgb[:, :, :44])


def test_photographs_are_in_range_and_differ_within_a_batch() -> None:
    rgb = sample_pictures(Case((8, 9), (16, 18), batch=3))
    assert rgb.shape == (3, 3, 8, 9)
    assert rgb.dtype == np.float32
    assert 0 <= rgb.min() < rgb.max() <= 1
    assert not np.array_equal(rgb[0], rgb[1])
