"""Penalties on artifacts: zero for a clean output, positive for the artifact."""

import math

import pytest
import torch

from flowsr_lp.training.penalties import (
    Penalties,
    excess_gain,
    mesh,
    out_of_range,
    phase_pattern,
    rescaled_difference,
)
from flowsr_runtime.errors import UsageError


def test_a_mesh_of_the_patch_is_penalized_by_its_deviation() -> None:
    error = torch.zeros(2, 3, 12, 15)
    error[..., ::3, ::3] = 0.9  # one of nine phases: mean 0.1, deviations 0.8 and 8 times 0.1
    assert phase_pattern(error, 3).item() == pytest.approx((0.8 + 8 * 0.1) / 9)


def test_an_error_without_a_pattern_costs_nothing() -> None:
    assert phase_pattern(torch.full((1, 3, 10, 11), 0.2), 3).item() == pytest.approx(
        0, abs=1e-6
    )


def test_a_mesh_costs_more_than_the_detail_around_it() -> None:
    torch.manual_seed(0)
    detail = torch.rand(2, 3, 96, 100) - 0.5
    patterned = detail.clone()
    patterned[..., ::3, :] += 0.5
    clean, one_way = mesh(detail, 3).item(), mesh(patterned, 3).item()
    assert clean < 0.2
    assert one_way == pytest.approx(mesh(patterned.mT, 3).item(), rel=1e-4)
    assert one_way > clean + 0.5 * math.log(10)  # half: the rows alone, not the columns


def test_a_mesh_that_turns_within_the_image_costs_too() -> None:
    torch.manual_seed(0)
    detail = 0.05 * torch.rand(1, 3, 96, 96)
    half = torch.zeros(96, 96)
    half[::3] = 0.5
    turning = detail + half * torch.where(torch.arange(96) < 48, 1.0, -1.0)
    assert phase_pattern(turning, 3).item() == pytest.approx(0, abs=1e-2)
    assert mesh(turning, 3).item() > mesh(detail, 3).item() + 1


def test_an_image_of_few_patches_has_no_mesh_to_cost() -> None:
    assert mesh(torch.rand(1, 3, 29, 29), 3).item() == 0
    assert mesh(torch.zeros(1, 3, 48, 29), 3).item() == 0


def test_values_in_range_cost_nothing_and_values_outside_do() -> None:
    assert out_of_range(torch.rand(1, 3, 8, 8)).item() == pytest.approx(0, abs=1e-5)
    assert out_of_range(torch.full((1, 3, 8, 8), 1.5)).item() == pytest.approx(1.0)


def test_an_image_that_shrinks_back_to_its_input_agrees_with_it() -> None:
    low = torch.full((1, 3, 6, 5), 0.4)
    assert rescaled_difference(torch.full((1, 3, 24, 20), 0.4), low).item() < 1e-6
    assert rescaled_difference(torch.full((1, 3, 24, 20), 0.6), low).item() > 0.19


def test_small_factors_cost_and_usual_ones_do_not() -> None:
    assert excess_gain(torch.full((1, 4, 6, 27), 0.88)).item() == 0
    assert excess_gain(torch.full((1, 4, 6, 27), 0.3)).item() > 1


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_makes_no_sense_is_refused(weight: float) -> None:
    with pytest.raises(UsageError, match=str(weight)):
        Penalties(phase=weight)
