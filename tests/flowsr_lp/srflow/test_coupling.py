import pytest
import torch
from torch import Tensor

from flowsr_lp.srflow.coupling import ActNorm, Coupling, GainedConv, even_and_odd
from tests import stand_in

# float64: what rounding leaves of an exact inverse and of an exact derivative.
ROUNDING = 1e-10
FEATURES = 5


def coupling(channels: int) -> Coupling:
    built = stand_in.fill(Coupling(channels, FEATURES, hidden=4)).double()
    assert isinstance(built, Coupling)
    return built


def values(*shape: int) -> Tensor:
    return stand_in.noise(*shape).double()


@pytest.mark.parametrize("channels", [5, 6])
def test_decode_is_the_inverse_of_encode(channels: int) -> None:
    built, x, u = coupling(channels), values(2, channels, 3, 4), values(2, FEATURES, 3, 4)
    assert (built.decode(built.encode(x, u)[0], u) - x).abs().max() < ROUNDING


@pytest.mark.parametrize("channels", [5, 6])
def test_log_det_is_that_of_autograds_jacobian(channels: int) -> None:
    built, x, u = coupling(channels), values(1, channels, 2, 3), values(1, FEATURES, 2, 3)

    def encode(flat: Tensor) -> Tensor:
        return built.encode(flat.view_as(x), u)[0].flatten()

    jacobian = torch.autograd.functional.jacobian(encode, x.flatten())  # type: ignore[no-untyped-call]
    assert abs(built.encode(x, u)[1][0] - torch.linalg.slogdet(jacobian)[1]) < ROUNDING


def test_the_first_half_is_mapped_by_the_features_alone() -> None:
    built, x, u = coupling(6), values(1, 6, 3, 4), values(1, FEATURES, 3, 4)
    changed = torch.cat((x[:, :3], 7 * x[:, 3:]), dim=1)
    assert torch.equal(built.encode(x, u)[0][:, :3], built.encode(changed, u)[0][:, :3])


def test_even_channels_shift_before_odd_ones_scale() -> None:
    built, x, u = coupling(6), values(1, 6, 3, 4), values(1, FEATURES, 3, 4)
    raw = built.fFeatures(u)
    wanted = (x + raw[:, 0::2]) * (torch.sigmoid(raw[:, 1::2] + 2) + 1e-4)
    assert torch.equal(built.encode(x, u)[0][:, :3], wanted[:, :3])


def test_an_untrained_coupling_only_scales() -> None:
    built, x, u = (
        Coupling(6, FEATURES, hidden=4),
        torch.ones(1, 6, 2, 2),
        torch.ones(1, 5, 2, 2),
    )
    scale = torch.sigmoid(torch.tensor(2.0)) + 1e-4
    wanted = torch.cat((x[:, :3] * scale, x[:, 3:] * scale**2), dim=1)
    assert torch.allclose(built.encode(x, u)[0], wanted)


def test_a_norm_shifts_before_it_scales() -> None:
    norm = ActNorm(2)
    norm.bias.data.fill_(0.5)
    norm.logs.data.fill_(2.0)
    x = stand_in.noise(1, 2, 3, 3)
    assert torch.allclose(norm(x), (x + 0.5) * torch.tensor(2.0).exp())
    assert torch.allclose(norm.inverse(norm(x)), x, atol=1e-6)


def test_a_gained_convolution_is_scaled_after_its_bias() -> None:
    conv = GainedConv(2, 3)
    stand_in.fill(conv)
    x = stand_in.noise(1, 2, 4, 4)
    plain = torch.nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)
    assert torch.allclose(conv(x), plain * (3 * conv.logs).exp(), atol=1e-6)


def test_channels_alternate() -> None:
    even, odd = even_and_odd(torch.arange(6.0).view(1, 6, 1, 1))
    assert even.flatten().tolist() == [0, 2, 4]
    assert odd.flatten().tolist() == [1, 3, 5]
