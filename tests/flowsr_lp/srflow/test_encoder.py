import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flowsr_lp.srflow.encoder import SrflowEncoder
from tests import stand_in

# Two float32 orders of the same sums.
ROUNDING = 1e-6


def encoder(levels: int = 3, blocks: tuple[int, ...] = (0, 2)) -> SrflowEncoder:
    built = stand_in.fill(SrflowEncoder(levels, 3, blocks, nf=4, gc=2))
    assert isinstance(built, SrflowEncoder)
    return built


def trunk(built: SrflowEncoder, rgb: Tensor, blocks: int) -> Tensor:
    out: Tensor = built.RRDB_trunk[:blocks](built.conv_first(rgb))
    return out


@pytest.mark.parametrize(("levels", "sides"), [(3, [16, 8, 4]), (4, [32, 16, 8, 4])])
@torch.inference_mode()
def test_each_level_has_its_own_size(levels: int, sides: list[int]) -> None:
    built = encoder(levels)
    shapes = [tuple(u.shape) for u in built(stand_in.tensor(8, 6))]
    assert built.out_dim == 12
    assert shapes == [(1, 12, side, side * 6 // 8) for side in sides]


@torch.inference_mode()
def test_the_last_sum_adds_the_last_blocks_output() -> None:
    built, rgb = encoder(), stand_in.tensor(8, 6)
    last = trunk(built, rgb, 3)
    wanted = last + built.trunk_conv(last)
    torch.testing.assert_close(built(rgb)[1][:, :4], wanted, rtol=0, atol=ROUNDING)


@torch.inference_mode()
def test_the_coarsest_level_reads_means_of_two_by_two_pixels() -> None:
    _, middle, coarse = encoder()(stand_in.tensor(8, 6))
    wanted = F.avg_pool2d(middle[:, :4], 2)
    torch.testing.assert_close(coarse[:, :4], wanted, rtol=0, atol=ROUNDING)


@torch.inference_mode()
def test_finer_levels_read_doubled_features_after_their_activation() -> None:
    built = encoder(levels=4)
    finest, fine, middle, _ = (u[:, :4] for u in built(stand_in.tensor(8, 6)))
    for name, below, above in (("upconv1", middle, fine), ("upconv2", fine, finest)):
        doubled = below.repeat_interleave(2, 2).repeat_interleave(2, 3)
        wanted = F.leaky_relu(built.get_submodule(name)(doubled), 0.2)
        torch.testing.assert_close(above, wanted, rtol=0, atol=ROUNDING)


@torch.inference_mode()
def test_stacked_blocks_are_resized_to_the_nearest_pixel() -> None:
    built, rgb = encoder(), stand_in.tensor(8, 6)
    fine, middle, coarse = (u[:, 4:] for u in built(rgb))
    wanted = torch.cat((trunk(built, rgb, 1), trunk(built, rgb, 3)), dim=1)
    torch.testing.assert_close(middle, wanted, rtol=0, atol=ROUNDING)
    assert torch.equal(fine, middle.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.equal(coarse, middle[:, :, ::2, ::2])
