from typing import Any

import pytest
import torch

from flowsr_lp.linf.published_order import PublishedOrder
from tests import stand_in

# Relative to the largest magnitude: the published order computes its query coordinates in
# float32, which is the larger part of the difference to integers.
COORDINATE_TOLERANCE = 3e-4

ENCODER = {"name": "edsr-baseline", "args": {"n_resblocks": 2, "n_feats": 16}}
SIZES = {"flow_layers": 4, "num_layer": 2, "hidden_dim": 32}
PATCH: dict[str, Any] = {
    "name": "linf-patch",
    "args": {"encoder_spec": ENCODER, "patch_size": 3, **SIZES},
}
PIXEL: dict[str, Any] = {"name": "linf", "args": {"encoder_spec": ENCODER, **SIZES}}


def unet(width: int) -> dict[str, Any]:
    return {"name": "unet", "args": {"in_chans": width, "depth": 2, "dim": 16}}


def difference(model: dict[str, Any], width: int, size: tuple[int, int]) -> float:
    """Largest difference to the network, in units of its output's largest magnitude."""
    network = stand_in.network(model, unet(width))
    rgb = torch.cat([stand_in.tensor(16, 13, salt) for salt in "ab"])
    with torch.inference_mode():
        wanted = network(rgb, size).output
        return float(
            (PublishedOrder(network)(rgb, size) - wanted).abs().max() / wanted.abs().max()
        )


# No odd scale: there the last centres lie on the last pixels, and the published weights are
# what float32 rounding leaves of 0 / 0.
@pytest.mark.parametrize("size", [(64, 52), (32, 26), (43, 35), (37, 47), (96, 104)])
def test_the_published_order_computes_the_same_picture(size: tuple[int, int]) -> None:
    assert difference(PATCH, 27, size) < COORDINATE_TOLERANCE


def test_the_published_order_computes_the_pixel_variant() -> None:
    assert difference(PIXEL, 3, (64, 52)) < COORDINATE_TOLERANCE


def test_encoder_and_conditioner_run_twice() -> None:
    network = stand_in.network(PATCH, unet(27))
    runs = []
    network.linf.encoder.register_forward_hook(lambda *_: runs.append("encoder"))
    network.linf.layers.register_forward_hook(lambda *_: runs.append("conditioner"))
    with torch.inference_mode():
        PublishedOrder(network)(stand_in.tensor(8, 8), (16, 16))
    assert runs == ["encoder", "conditioner"] * 2
