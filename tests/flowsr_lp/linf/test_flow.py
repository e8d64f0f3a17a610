import pytest
import torch
from torch import Tensor

from flowsr_lp import Flow
from flowsr_lp.linf.flow import scale_and_shift

WIDTH, LAYERS = 6, 3
# float64: what rounding leaves of an exact inverse and of an exact derivative.
ROUNDING = 1e-10


@pytest.fixture
def flow() -> Flow:
    torch.manual_seed(0)
    flow = Flow(WIDTH, LAYERS).double()
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return flow


def conditioning(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    raw = torch.randn(*shape, LAYERS * 2 * WIDTH, generator=generator, dtype=torch.float64)
    return scale_and_shift(raw, LAYERS)


def test_decode_and_encode_are_inverse(flow: Flow) -> None:
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    scale, shift = conditioning(2, 5)
    assert (flow.decode(flow.encode(x, scale, shift), scale, shift) - x).abs().max() < ROUNDING
    assert (flow.encode(flow.decode(x, scale, shift), scale, shift) - x).abs().max() < ROUNDING


def test_log_det_is_that_of_autograds_jacobian(flow: Flow) -> None:
    x = torch.randn(WIDTH, dtype=torch.float64)
    scale, shift = conditioning()
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.encode(v, scale, shift), x)  # type: ignore[no-untyped-call]
    assert abs(flow.log_det(scale) - torch.linalg.slogdet(jacobian)[1]) < ROUNDING


def test_density_is_the_normal_density_of_the_latent_times_the_volume_change(
    flow: Flow,
) -> None:
    x = torch.randn(4, WIDTH, dtype=torch.float64)
    scale, shift = conditioning(4)
    z = flow.encode(x, scale, shift)
    base = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)  # type: ignore[no-untyped-call]
    wanted = base + flow.log_det(scale)
    assert (flow.log_likelihood(x, scale, shift) - wanted).abs().max() < ROUNDING


def test_density_integrates_to_one() -> None:
    flow = Flow(1, 1).double()
    flow.last.bias.data += 0.3
    scale = torch.full((1, 1), 0.6, dtype=torch.float64)
    grid = torch.linspace(-30, 30, 60_001, dtype=torch.float64).unsqueeze(-1)
    density = flow.log_likelihood(grid, scale, scale).exp()
    assert abs(torch.trapezoid(density, grid[:, 0]) - 1) < 1e-6


def test_each_layer_takes_its_slice_of_logits_and_shifts() -> None:
    raw = torch.arange(LAYERS * 2 * WIDTH).double()
    scale, shift = scale_and_shift(raw, LAYERS)
    first = 2 * WIDTH  # where the second layer's slice begins
    assert torch.equal(scale[1], torch.sigmoid(raw[first : first + WIDTH] + 2) + 1e-4)
    assert torch.equal(shift[1], raw[first + WIDTH : first + 2 * WIDTH])


def test_untrained_maps_are_rotations() -> None:
    weight = Flow(WIDTH, LAYERS).last._weight
    assert torch.allclose(weight @ weight.mT, torch.eye(WIDTH), atol=1e-5)
