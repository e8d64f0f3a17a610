import pytest
import torch
from torch import Tensor, nn

from flowsr_lp.srflow.coupling import Coupling
from flowsr_lp.srflow.flow import InvertibleConv, Split, SrflowFlow, Step
from tests import stand_in

# float64: what rounding leaves of an exact inverse and of an exact derivative.
ROUNDING = 1e-10
FEATURES = 5


def values(*shape: int) -> Tensor:
    return stand_in.noise(*shape).double()


def step(coupled: bool) -> Step:
    affine = Coupling(6, FEATURES, hidden=4) if coupled else None
    built = stand_in.fill(Step(6, affine)).double()
    assert isinstance(built, Step)
    return built


def split() -> Split:
    built = stand_in.fill(Split(6)).double()
    assert isinstance(built, Split)
    return built


@pytest.mark.parametrize("coupled", [True, False])
def test_a_step_is_undone(coupled: bool) -> None:
    built, x, u = step(coupled), values(2, 6, 3, 4), values(2, FEATURES, 3, 4)
    assert (built.decode(built.encode(x, u)[0], u) - x).abs().max() < ROUNDING


@pytest.mark.parametrize("coupled", [True, False])
def test_a_steps_log_det_is_that_of_autograds_jacobian(coupled: bool) -> None:
    built, x, u = step(coupled), values(1, 6, 2, 3), values(1, FEATURES, 2, 3)

    def encode(flat: Tensor) -> Tensor:
        return built.encode(flat.view_as(x), u)[0].flatten()

    jacobian = torch.autograd.functional.jacobian(encode, x.flatten())  # type: ignore[no-untyped-call]
    assert abs(built.encode(x, u)[1][0] - torch.linalg.slogdet(jacobian)[1]) < ROUNDING


def test_a_split_is_undone() -> None:
    built, x = split(), values(2, 6, 3, 4)
    rest, eps, _ = built.encode(x)
    assert (built.decode(rest, eps) - x).abs().max() < ROUNDING


def test_a_splits_log_det_is_that_of_autograds_jacobian() -> None:
    built, x = split(), values(1, 6, 2, 3)

    def encode(flat: Tensor) -> Tensor:
        return torch.cat(built.encode(flat.view_as(x))[:2], dim=1).flatten()

    jacobian = torch.autograd.functional.jacobian(encode, x.flatten())  # type: ignore[no-untyped-call]
    assert abs(built.encode(x)[2][0] - torch.linalg.slogdet(jacobian)[1]) < ROUNDING


def test_the_first_half_of_a_split_goes_on() -> None:
    x = values(1, 6, 3, 4)
    assert torch.equal(split().encode(x)[0], x[:, :3])


def test_untrained_maps_are_rotations() -> None:
    weight = InvertibleConv(6).weight
    assert torch.allclose(weight @ weight.mT, torch.eye(6), atol=1e-5)


@pytest.mark.parametrize(
    ("levels", "widths", "splits"),
    [
        (3, [12, 24, 96], [True, False, False]),
        (4, [12, 24, 48, 192], [True, True, False, False]),
    ],
)
def test_only_the_last_two_levels_have_no_split(
    levels: int, widths: list[int], splits: list[bool]
) -> None:
    flow = SrflowFlow(levels, steps=2, features=FEATURES, hidden=4)
    assert [len(level.steps) for level in flow.levels] == [4] * levels
    assert [len(level.steps[0].invconv.weight) for level in flow.levels] == widths
    assert [level.split is not None for level in flow.levels] == splits
    coupled = [[s.affine is not None for s in level.steps] for level in flow.levels]
    assert coupled == [[False, False, True, True]] * levels


def test_a_picture_is_cut_into_two_by_two_blocks_by_colour() -> None:
    flow = SrflowFlow(3, steps=1, features=FEATURES, hidden=4)
    blocks = torch.arange(12.0).view(1, 12, 1, 1)
    squeeze = flow.layers[0]
    assert isinstance(squeeze, nn.PixelUnshuffle)
    picture = torch.arange(12.0).view(1, 3, 2, 2)
    assert torch.equal(squeeze(picture), blocks)
