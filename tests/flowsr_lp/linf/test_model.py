import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowsr_lp.linf.model import guarded, low_frequency_residual, resize
from flowsr_lp.linf.swinir import SwinIR, continued_size
from flowsr_runtime.errors import ShapeError
from tests import stand_in

GOLDEN = Path(__file__).parents[2] / "golden" / "linf"
FILES = sorted(GOLDEN.glob("*.npz"))
OTHERS = [path for path in FILES if "swinir" not in path.name]
LEARNED = [path for path in OTHERS if not path.name.startswith("sampled")]

# Relative to the largest magnitude: the released code computes its query coordinates in
# float32, which is the larger part of the difference to integers.
GOLDEN_TOLERANCE = 3e-4
# Two float32 orders of the same sums, relative to the largest magnitude.
ROUNDING = 2e-5

TINY: dict[str, Any] = {
    "name": "linf-patch",
    "args": {
        "encoder_spec": {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 8}},
        "flow_layers": 2,
        "num_layer": 2,
        "hidden_dim": 8,
        "patch_size": 3,
    },
}
TINY_PRIOR: dict[str, Any] = {"name": "unet", "args": {"in_chans": 27, "depth": 1, "dim": 4}}


def difference(got: Tensor, wanted: NDArray[np.float32] | Tensor) -> float:
    wanted = torch.as_tensor(wanted)
    assert got.shape == wanted.shape
    return float((got - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("path", LEARNED, ids=lambda path: path.stem)
@torch.inference_mode()
def test_learned_prior_meets_the_golden_file(path: Path) -> None:
    golden = np.load(path)
    meta = json.loads(str(golden["meta"]))
    network = stand_in.network(meta["model"], meta["prior"], meta["salt"])
    rgb = stand_in.tensor(meta["lr"][0], meta["lr"][1], meta["salt"])
    got = network(rgb, golden["pred"].shape[-2:], border=meta["border"])
    assert difference(got.encoded, golden["z_lr"]) < GOLDEN_TOLERANCE
    assert difference(got.latent, golden["z"]) < GOLDEN_TOLERANCE
    assert difference(got.output * 2 - 1, golden["pred"]) < GOLDEN_TOLERANCE


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
@torch.inference_mode()
def test_decoding_a_given_latent_meets_the_golden_file(path: Path) -> None:
    golden = np.load(path)
    meta = json.loads(str(golden["meta"]))
    network = stand_in.network(meta["model"], None, meta["salt"])
    rgb = stand_in.tensor(meta["lr"][0], meta["lr"][1], meta["salt"])
    size = golden["pred"].shape[-2:]
    got = network(rgb, size, torch.from_numpy(golden["z"]), meta["border"])
    assert difference(got.output * 2 - 1, golden["pred"]) < GOLDEN_TOLERANCE


def test_every_golden_file_is_there() -> None:
    assert len(FILES) == 15


# The golden file itself is this far from float64, of whose coordinates it has float32's.
SWINIR_ENCODED_TOLERANCE = 4e-4


@torch.inference_mode()
def test_whole_windows_meet_the_golden_file() -> None:
    golden = np.load(GOLDEN / "pixel_swinir_x3.npz")
    meta = json.loads(str(golden["meta"]))
    network = stand_in.network(meta["model"], meta["prior"], meta["salt"])
    linf, x = network.linf, stand_in.tensor(meta["lr"][0], meta["lr"][1], meta["salt"]) * 2 - 1
    size = golden["pred"].shape[-2:]
    assert isinstance(linf.encoder, SwinIR)
    assert network.prior is not None
    features = linf.feature_maps(linf.encoder.windows(x))
    c = linf.condition(x, size, meta["border"], features=features)
    encoded = linf.encode(low_frequency_residual(x, size), c)
    latent = network.prior(encoded, x)
    assert difference(encoded, golden["z_lr"]) < SWINIR_ENCODED_TOLERANCE
    assert difference(latent, golden["z"]) < GOLDEN_TOLERANCE
    output = linf.decode(latent, c, size) + resize(x, size)
    assert difference(output, golden["pred"]) < GOLDEN_TOLERANCE


@torch.inference_mode()
def test_the_continued_image_meets_the_golden_file() -> None:
    golden = np.load(GOLDEN / "pixel_swinir_x3_window.npz")
    meta = json.loads(str(golden["meta"]))
    network = stand_in.network(meta["model"], meta["prior"], meta["salt"])
    rgb = stand_in.tensor(meta["lr"][0], meta["lr"][1], meta["salt"])
    got = network(rgb, golden["pred"].shape[-2:], border=meta["border"])
    assert difference(got.output * 2 - 1, golden["pred"]) < GOLDEN_TOLERANCE


@pytest.mark.parametrize("patch", [1, 3])
@pytest.mark.parametrize("lr", [(13, 18), (16, 24), (1, 5), (8, 7)])
@torch.inference_mode()
def test_without_a_prior_swinir_gives_what_was_published_at_its_own_size_too(
    lr: tuple[int, int], patch: int
) -> None:
    model = swinir(patch)
    network = stand_in.network(model, None)
    rgb, size = stand_in.tensor(*lr), (4 * lr[0], 4 * lr[1])
    grids = [[-(-side // patch) for side in sides] for sides in (size, continued(lr))]
    own, published = (
        network(rgb, size, torch.zeros(1, 3 * patch**2, *grid), border).output
        for grid, border in zip(grids, ("extend", "tight"), strict=True)
    )
    assert difference(own, published) < 1e-6


def swinir(patch: int) -> dict[str, Any]:
    encoder = {"embed_dim": 8, "depths": [2], "num_heads": 2, "num_feat": 8}
    args = {**TINY["args"], "encoder_spec": {"name": "swinir", "args": encoder}}
    if patch == 1:
        del args["patch_size"]
    return {"name": "linf" if patch == 1 else "linf-patch", "args": args}


def continued(lr: tuple[int, int]) -> tuple[int, int]:
    """Return the output size of the continued image at scale 4."""
    return 4 * continued_size(lr[0]), 4 * continued_size(lr[1])


@torch.inference_mode()
def test_a_published_border_that_the_continued_image_cannot_have_is_refused() -> None:
    network = stand_in.network(swinir(3), None)
    with pytest.raises(ShapeError, match=r"border tight with SwinIR .*, got 27x22 for 10x8"):
        network(stand_in.tensor(8, 10), (22, 27), torch.zeros(1, 27, 8, 9), "tight")


@pytest.mark.parametrize("size", [(9, 12), (10, 14), (13, 17)])
@pytest.mark.parametrize("origin", [(0, 0), (1, 0), (0, 2), (2, 1)])
@torch.inference_mode()
def test_decode_inverts_encode_wherever_the_patch_grid_begins(
    size: tuple[int, int], origin: tuple[int, int]
) -> None:
    linf = stand_in.network(TINY, None).linf
    x = stand_in.tensor(5, 6) * 2 - 1
    residual = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    c = linf.condition(x, size, "extend", origin)
    assert (c.rows, c.cols) == (-(-(size[0] + origin[0]) // 3), -(-(size[1] + origin[1]) // 3))
    assert difference(linf.decode(linf.encode(residual, c), c, size), residual) < ROUNDING


@torch.inference_mode()
def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    network = stand_in.network(TINY, TINY_PRIOR)
    rgb = torch.cat([stand_in.tensor(6, 7, salt) for salt in "abc"])
    together = network(rgb, (17, 20)).output
    alone = torch.cat([network(one[None], (17, 20)).output for one in rgb])
    assert difference(together, alone) < ROUNDING


@torch.inference_mode()
def test_each_axis_has_its_own_scale() -> None:
    got = stand_in.network(TINY, TINY_PRIOR)(stand_in.tensor(6, 7), (13, 30))
    assert got.output.shape == (1, 3, 13, 30)
    assert got.latent.shape == (1, 27, 5, 10)


@torch.inference_mode()
def test_sampling_repeats_with_its_seed() -> None:
    network = stand_in.network(TINY, None)
    rgb = stand_in.tensor(5, 5)
    a, b, other = (
        network.sample(rgb, (15, 15), 0.8, torch.Generator().manual_seed(seed)).output
        for seed in (1, 1, 2)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, other)


@torch.inference_mode()
def test_temperature_zero_decodes_the_mode() -> None:
    network = stand_in.network(TINY, None)
    rgb = stand_in.tensor(5, 5)
    mode = network(rgb, (14, 15), torch.zeros(1, 27, *network.latent_size((14, 15))))
    assert torch.equal(network.sample(rgb, (14, 15), 0.0).output, mode.output)


def test_a_model_without_prior_wants_a_latent() -> None:
    with pytest.raises(ShapeError, match="latent must be given, the model has no learned"):
        stand_in.network(TINY, None)(stand_in.tensor(5, 5), (15, 15))


def test_a_picture_that_was_enlarged_by_two_has_its_own_residual() -> None:
    x = stand_in.tensor(6, 8)
    up = resize(x, (12, 16))
    wanted = up - resize(resize(up, (6, 8)), (12, 16))
    assert torch.equal(low_frequency_residual(x, (12, 16)), wanted)


def test_the_residual_is_zero_at_scale_one() -> None:
    assert not low_frequency_residual(stand_in.tensor(6, 8), (6, 8)).any()


def test_gradients_reach_every_parameter() -> None:
    network = stand_in.network(TINY, TINY_PRIOR)
    network(stand_in.tensor(6, 6), (20, 18)).output.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_the_guard_shrinks_a_patch_as_little_as_it_needs() -> None:
    base = torch.tensor([[0.5, -0.5, 0.0], [0.9, 0.0, -0.9]])
    residual = torch.tensor([[1.4, -0.2, 0.1], [0.1, -0.3, 0.2]])
    shrunk = guarded(residual, base, -1)
    torch.testing.assert_close(shrunk[0], residual[0] * (0.7 / 1.4))
    torch.testing.assert_close(shrunk[1], residual[1])


def test_the_guard_takes_the_color_from_gray_patches_alone() -> None:
    base = torch.tensor(
        [[0.2] * 6, [0.2, 0.2, 0.2, 0.2, 0.2, 0.2 + 8 / 255], [0.2] * 5 + [0.6]]
    )
    residual = torch.tensor([[0.3, 0.1, 0.0, 0.2, 0.0, -0.3]]).expand(3, 6)
    gray, half, full = guarded(residual, base, -1)
    torch.testing.assert_close(gray, torch.tensor([0.1, 0.0] * 3))
    torch.testing.assert_close(full, residual[2])
    torch.testing.assert_close(half, (gray + full) / 2)
    transposed = guarded(residual.T, base.T, 0).T
    torch.testing.assert_close(transposed, torch.stack((gray, half, full)))


@pytest.mark.parametrize("size", [(40, 48), (27, 31)])
def test_a_guarded_network_keeps_gray_images_gray(size: tuple[int, int]) -> None:
    network = stand_in.network(TINY, TINY_PRIOR)
    network.linf.guard = True
    gray = stand_in.tensor(10, 12)[:, :1].expand(-1, 3, -1, -1)
    output = network(gray, size).output
    assert (output.amax(1) - output.amin(1)).max() < 1e-6
    network.linf.guard = False
    assert np.ptp(network(gray, size).output.detach().numpy(), axis=1).max() > 1e-3
