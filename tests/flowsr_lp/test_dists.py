"""DISTS against its definition in float64, and its properties; random narrow weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from flowsr_lp.perceptual import DISTS
from flowsr_runtime.errors import CheckpointError
from tests import stand_in

# VGG16 by its own definition: torchvision's index and Caffe's name of each convolution.
TORCHVISION = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
CHANNELS = (4, 5, 6, 7, 7)
FLOAT32 = 2e-6  # of a distance in [0, 1], computed in float32


def vgg16(folder: Path, caffe: bool = False) -> Path:
    """Write VGG16 with few channels, under torchvision's or Caffe's names."""
    generator, tensors, inputs = torch.Generator().manual_seed(5), {}, 3
    for block, (indices, outputs) in enumerate(zip(TORCHVISION, CHANNELS, strict=True), 1):
        for n, index in enumerate(indices, 1):
            name = f"conv{block}_{n}" if caffe else f"features.{index}"
            shape = (outputs, inputs, 3, 3)
            spread = 0.3 / 64 if caffe and index == 0 else 0.3  # a picture in [0, 255]
            tensors[f"{name}.weight"] = torch.randn(shape, generator=generator) * spread
            tensors[f"{name}.bias"] = torch.randn(outputs, generator=generator) * 0.3
            inputs = outputs
    path = folder / f"vgg16{caffe}.safetensors"
    save_file(tensors, path)
    return path


def own_weights(folder: Path, count: int = 3 + sum(CHANNELS)) -> Path:
    """Write `alpha` and `beta` as DISTS's own file has them."""
    generator = torch.Generator().manual_seed(6)
    names = ("alpha", "beta")
    values = {name: torch.rand(1, count, 1, 1, generator=generator) for name in names}
    torch.save(values, folder / "dists.pt")
    return folder / "dists.pt"


def defined(a: NDArray[np.float64], b: NDArray[np.float64], vgg: Path, own: Path) -> float:
    """Compute DISTS of two pictures, (3, H, W) in [0, 1], from the paper's equations."""
    x, y = (stages(picture, load_file(vgg)) for picture in (a, b))
    weights = {name: w.double().flatten() for name, w in torch.load(own).items()}
    total, place = 0.0, 0
    for p, q in zip(x, y, strict=True):
        for channel in range(len(p)):
            u, v = p[channel].ravel(), q[channel].ravel()
            (var_u, cov), (_, var_v) = np.cov(u, v, bias=True)
            texture = (2 * u.mean() * v.mean() + 1e-6) / (u.mean() ** 2 + v.mean() ** 2 + 1e-6)
            structure = (2 * cov + 1e-6) / (var_u + var_v + 1e-6)
            total += float(weights["alpha"][place] * texture)
            total += float(weights["beta"][place] * structure)
            place += 1
    return 1 - total / float(weights["alpha"].sum() + weights["beta"].sum())


def stages(picture: NDArray[np.float64], vgg: dict[str, Tensor]) -> list[NDArray[np.float64]]:
    """Return the picture and the last features of each block, each (C, H, W)."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = (picture - mean[:, None, None]) / deviation[:, None, None]
    outs = [picture]
    for block, indices in enumerate(TORCHVISION):
        x = l2_pooled(x) if block else x
        for index in indices:
            weight, bias = (vgg[f"features.{index}.{k}"].double() for k in ("weight", "bias"))
            x = F.conv2d(torch.from_numpy(x)[None], weight, bias, padding=1)[0].relu().numpy()
        outs.append(x)
    return outs


def l2_pooled(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root of the squares' mean under Hanning's window, every second row and column."""
    hanning = np.hanning(5)[1:-1]
    window = np.outer(hanning, hanning) / hanning.sum() ** 2
    rows, columns = (side + 1 >> 1 for side in x.shape[1:])
    padded = np.pad(x**2, ((0, 0), (1, 1), (1, 1)))
    taps = [
        window[i, j]
        * padded[:, i : i + 2 * rows : 2, j : j + 2 * columns : 2][:, :rows, :columns]
        for i in range(3)
        for j in range(3)
    ]
    return np.asarray(np.sqrt(sum(taps) + 1e-12))


@pytest.fixture
def dists(tmp_path: Path) -> DISTS:
    return DISTS(vgg16(tmp_path), own_weights(tmp_path))


@pytest.mark.parametrize("size", [(64, 64), (37, 50), (5, 3), (1, 1)])
def test_dists_equals_its_definition_in_float64(size: tuple[int, int], tmp_path: Path) -> None:
    vgg, own = vgg16(tmp_path), own_weights(tmp_path)
    a, b = stand_in.tensor(*size, "a"), stand_in.tensor(*size, "b")
    expected = defined(a[0].double().numpy(), b[0].double().numpy(), vgg, own)
    assert DISTS(vgg, own)(a, b).item() == pytest.approx(expected, abs=FLOAT32)
    assert expected > 1e-3


def test_dists_of_a_picture_with_itself_is_zero(dists: DISTS) -> None:
    a = stand_in.tensor(40, 33, "a")
    assert dists(a, a).tolist() == [0]


def test_dists_is_symmetric_and_a_distance_per_picture(dists: DISTS) -> None:
    a, b, c = (stand_in.tensor(40, 33, name) for name in "abc")
    both = dists(torch.cat([a, a]), torch.cat([b, c]))
    assert torch.allclose(both, torch.cat([dists(b, a), dists(c, a)]), atol=FLOAT32)
    assert 0 < both.min() <= both.max() < 1


def test_dists_forgives_a_shifted_texture_more_than_noise(dists: DISTS) -> None:
    texture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    shifted, flat = texture.roll((5, 3), (2, 3)), torch.full_like(texture, 0.5)
    dists.beta.zero_()  # means alone: texture without structure
    assert dists(texture, shifted) < 0.1 * dists(texture, flat)


def test_caffes_names_bring_caffes_input(tmp_path: Path) -> None:
    dists = DISTS(vgg16(tmp_path, caffe=True), own_weights(tmp_path))
    mean_rgb = torch.tensor([123.68, 116.779, 103.939]).view(1, 3, 1, 1) / 255
    assert dists.caffe
    assert dists.normalized(mean_rgb.expand(1, 3, 8, 8)).abs().max() < 1e-4
    red = dists.normalized(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)).flatten()
    assert red.tolist() == pytest.approx([-103.939, -116.779, 131.32], abs=1e-4)
    a, b = stand_in.tensor(40, 33, "a"), stand_in.tensor(40, 33, "b")
    assert 0 < dists(a, b) < 1


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    vgg = vgg16(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"dists\.pt: alpha must have 32 values, got 1475"
    ):
        DISTS(vgg, own_weights(tmp_path, 1475))
    with pytest.raises(CheckpointError, match=r"vgg16False\.safetensors lack alpha"):
        DISTS(vgg, vgg)
    with pytest.raises(CheckpointError, match=r"dists\.pt lack conv1_1\.weight"):
        DISTS(own_weights(tmp_path), own_weights(tmp_path))
