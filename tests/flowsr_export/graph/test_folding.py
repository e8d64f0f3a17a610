"""Folded weights compute what the modules that they come from compute."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flowsr_export.graph.folding import (
    ChannelMap,
    Conditioner,
    condition_numbers,
    decode_maps,
    encode_maps,
    fold_norms,
    last_conditioner_layer,
    pad_inputs,
    pad_outputs,
)
from flowsr_lp.linf.encoder import DenseBlock
from flowsr_lp.linf.flow import Flow, scale_and_shift
from flowsr_lp.linf.prior import DoubleConv
from tests import stand_in
from tests.flowsr_export.networks import small

# Sums of the same products in another order.
SAME = 1e-5
# Eleven bits of products of this size, through four layers.
SAME_IN_HALF = 2e-2


def flow() -> Flow:
    return small().linf.imnet.requires_grad_(False)


def test_the_maps_of_a_flow_are_its_linear_layers() -> None:
    module, z = flow(), stand_in.noise(5, 27)
    for folded, linear in zip(
        encode_maps(module, 27, 27, torch.float32), [*module.linears, module.last], strict=True
    ):
        torch.testing.assert_close(folded(z), linear(z), rtol=0, atol=SAME)


def test_the_inverse_maps_undo_the_maps() -> None:
    module, z = flow(), stand_in.noise(5, 27)
    widths = (module, 27, 27, torch.float32)
    for forward, inverse in zip(encode_maps(*widths), decode_maps(*widths), strict=True):
        torch.testing.assert_close(inverse(forward(z)), z, rtol=0, atol=SAME)


def test_maps_of_more_channels_keep_the_added_ones_zero() -> None:
    module, z = flow(), F.pad(stand_in.noise(5, 27), (0, 1))
    plain = encode_maps(module, 27, 27, torch.float32)
    for exact, padded in zip(plain, encode_maps(module, 28, 32, torch.float32), strict=True):
        output = padded(z)
        assert torch.equal(output[:, 27:], torch.zeros_like(output[:, 27:]))
        torch.testing.assert_close(output[:, :27], exact(z[:, :27]), rtol=0, atol=SAME)


def test_decoding_takes_the_latents_channels_and_gives_the_patchs() -> None:
    module = flow()
    maps = decode_maps(module, 28, 32, torch.float32)
    shapes = [list(each.get_buffer("weight").shape) for each in maps]
    assert shapes == [[27, 28], [28, 28], [28, 32]]


def test_padded_dense_blocks_compute_what_the_block_computes() -> None:
    block = DenseBlock(27, 4, 6)
    stand_in.fill(block)
    z = stand_in.noise(2, 27, 6, 5)
    with torch.inference_mode():
        output = pad_inputs(block)(F.pad(z, (0, 0, 0, 0, 0, 5)))
        torch.testing.assert_close(output, block(z), rtol=0, atol=SAME)


def test_padded_convolutions_give_zeros_in_the_added_channels() -> None:
    conv, x = nn.Conv2d(3, 27, 3, stride=3, padding=1), stand_in.noise(1, 3, 7, 8)
    with torch.inference_mode():
        output = pad_outputs(conv)(x)
        assert torch.equal(output[:, 27:], torch.zeros_like(output[:, 27:]))
        torch.testing.assert_close(output[:, :27], conv(x), rtol=0, atol=SAME)


def test_inverses_are_taken_in_float64_and_kept_in_float32() -> None:
    module = flow()
    (*_, last) = decode_maps(module, 27, 27, torch.float32)
    exact = torch.linalg.inv(module.last._weight.double())
    assert isinstance(last, ChannelMap)
    assert last.weight.dtype == torch.float32
    assert torch.equal(last.weight, exact.float())


def test_condition_numbers_name_the_layer_that_is_nearly_singular() -> None:
    module = flow()
    with torch.no_grad():
        module.last._weight.copy_(torch.diag(torch.tensor([4.0] + 26 * [0.5])))
    *others, last = condition_numbers(module)
    assert len(others) == 2
    assert last == 8
    assert min(others) >= 1


@pytest.mark.parametrize("width", [27, 28])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, SAME), (torch.float16, SAME_IN_HALF)]
)
def test_cosines_and_sines_apart_give_what_the_conditioner_gives(
    width: int, dtype: torch.dtype, tolerance: float
) -> None:
    linf = small().linf
    half = linf.coef.out_channels // 2
    features = stand_in.noise(6, 4, 2, half)  # per neighbour cosines, then sines, as published
    cosine, sine = (features[:, :, i].to(dtype) for i in (0, 1))
    with torch.inference_mode():
        factors, shifts = Conditioner(linf, width, dtype)(cosine, sine)
        published = linf.layers(features.reshape(6, -1, 1, 1)).flatten(1)
    scale, shift = scale_and_shift(published, linf.flow_layers)
    for outputs, expected in ((factors, scale), (shifts, shift)):
        for output, layer in zip(outputs, expected.unbind(1), strict=True):
            assert output.shape == (6, width)
            torch.testing.assert_close(output[:, :27].float(), layer, rtol=0, atol=tolerance)


def test_the_last_layer_gives_all_logits_and_then_all_shifts() -> None:
    linf = small().linf
    rows = stand_in.noise(5, linf.coef.out_channels)
    with torch.inference_mode():
        published = linf.layers[-1](rows[:, :, None, None]).flatten(1)
    scale, shift = scale_and_shift(published, linf.flow_layers)
    weight, bias = last_conditioner_layer(linf, 27)
    logits, shifts = (rows @ weight.mT.float() + bias.float()).chunk(2, dim=1)
    torch.testing.assert_close(
        torch.sigmoid(logits) + 1e-4, scale.flatten(1), rtol=0, atol=SAME
    )
    torch.testing.assert_close(shifts, shift.flatten(1), rtol=0, atol=SAME)


def test_folded_norms_compute_what_norms_compute() -> None:
    module, x = stand_in.fill(DoubleConv(4, 6, 5)).eval(), stand_in.noise(2, 4, 9, 8)
    folded = fold_norms(module)
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), module(x), rtol=0, atol=SAME)
    assert not any(isinstance(child, nn.BatchNorm2d) for child in folded.modules())
    assert any(isinstance(child, nn.BatchNorm2d) for child in module.modules())
