from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flowsr_lp.perceptual import LPIPS, VggFeatures, VggLoss
from flowsr_runtime.errors import CheckpointError, UsageError
from tests import stand_in

# (name, outputs, inputs, side): the networks' own shapes, far fewer channels.
ALEX = (
    ("features.0", 4, 3, 11),
    ("features.3", 6, 4, 5),
    ("features.6", 8, 6, 3),
    ("features.8", 8, 8, 3),
    ("features.10", 8, 8, 3),
)
VGG = (("conv1_1", 4, 3, 3), ("conv1_2", 4, 4, 3), ("conv2_1", 6, 4, 3))


def convolutions(layers: tuple[tuple[str, int, int, int], ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, outputs, inputs, side in layers:
        shape = (outputs, inputs, side, side)
        tensors[f"{name}.weight"] = torch.randn(shape, generator=generator) / side
        tensors[f"{name}.bias"] = torch.randn(outputs, generator=generator)
    return tensors


@pytest.fixture
def vgg(tmp_path: Path) -> Path:
    save_file(convolutions(VGG), tmp_path / "vgg.safetensors")
    return tmp_path / "vgg.safetensors"


@pytest.fixture
def alex(tmp_path: Path) -> Path:
    save_file(convolutions(ALEX), tmp_path / "alex.safetensors")
    return tmp_path / "alex.safetensors"


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    tensors = {f"lin{i}.model.1.weight": torch.ones(1, n[1], 1, 1) for i, n in enumerate(ALEX)}
    save_file(tensors, tmp_path / "lin.safetensors")
    return tmp_path / "lin.safetensors"


def pictures() -> tuple[Tensor, Tensor]:
    a, b = (torch.cat([stand_in.tensor(64, 64, s) for s in pair]) for pair in ("ab", "ac"))
    return a, b


def test_lpips_of_a_picture_with_itself_is_zero(alex: Path, linear: Path) -> None:
    assert LPIPS(alex, linear)(*pictures()).tolist()[0] == 0


def test_lpips_is_a_distance_per_picture(alex: Path, linear: Path) -> None:
    lpips, (a, b) = LPIPS(alex, linear), pictures()
    assert lpips(a, b)[1] > 0
    assert torch.allclose(lpips(a, b), lpips(b, a))
    assert torch.allclose(lpips(a, b)[1], lpips(a[1:], b[1:])[0])


def test_lpips_grows_with_its_linear_weights(alex: Path, linear: Path) -> None:
    lpips = LPIPS(alex, linear)
    a, b = pictures()
    before = lpips(a, b)[1]
    for weight in lpips.lin:
        weight.data *= 3
    assert torch.allclose(lpips(a, b)[1], 3 * before)


def test_lpips_by_pixel_has_the_size_of_the_picture(alex: Path, linear: Path) -> None:
    lpips = LPIPS(alex, linear)
    a, b = pictures()
    by_pixel = lpips.spatial(a, b)
    assert by_pixel.shape == (2, 1, 64, 64)
    assert by_pixel.min() >= 0
    assert by_pixel[0].abs().max() == 0
    assert by_pixel[1].mean().item() == pytest.approx(lpips(a, b)[1].item(), rel=0.2)


def test_the_smallest_picture_of_lpips_leaves_a_feature(alex: Path, linear: Path) -> None:
    lpips = LPIPS(alex, linear)
    side = lpips.smallest
    assert lpips(torch.zeros(1, 3, side, side), torch.ones(1, 3, side, side)) > 0
    with pytest.raises(RuntimeError, match="too small"):
        lpips(torch.zeros(1, 3, side - 1, side), torch.ones(1, 3, side - 1, side))


def test_weights_may_be_pytorchs_own_files(alex: Path, linear: Path) -> None:
    for path in (alex, linear):
        torch.save(load_file(path), path.with_suffix(".pth"))
    a, b = pictures()
    pickled = LPIPS(alex.with_suffix(".pth"), linear.with_suffix(".pth"))
    assert torch.equal(pickled(a, b), LPIPS(alex, linear)(a, b))


@pytest.mark.parametrize("content", [["a list"], {"a": 3}, nn.ReLU()])
def test_a_pickle_of_anything_else_is_refused(
    content: object, linear: Path, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"weights .*a\.pth are not a PyTorch state dict"):
        LPIPS(tmp_path / "a.pth", linear)


def test_vgg_loss_of_a_picture_with_itself_is_zero(vgg: Path) -> None:
    a, _ = pictures()
    assert VggLoss(vgg, ["conv1_2", "conv2_1"])(a, a) == 0


def test_vgg_loss_reaches_the_output_alone(vgg: Path) -> None:
    a, b = (picture.requires_grad_() for picture in pictures())
    VggLoss(vgg, ["conv2_1"])(a, b).backward()
    assert a.grad is not None
    assert a.grad.any()
    assert b.grad is None


def test_vgg_features_are_taken_before_the_relu(vgg: Path) -> None:
    first, second = VggFeatures(vgg, ["conv1_1", "conv2_1"])(stand_in.tensor(10, 12))
    assert first.shape == (1, 4, 10, 12)
    assert second.shape == (1, 6, 5, 6)
    assert first.min() < 0


def test_vgg_reads_blue_green_red_around_imagenets_mean(vgg: Path) -> None:
    features = VggFeatures(vgg, ["conv1_1"])
    mean_rgb = torch.tensor([123.68, 116.779, 103.939]).view(1, 3, 1, 1) / 255
    got = features(mean_rgb.expand(1, 3, 8, 8))[0]
    bias = features.convs["conv1_1"].bias
    assert torch.allclose(got, bias.view(1, -1, 1, 1).expand_as(got), atol=1e-3)  # type: ignore[operator]


def test_the_smallest_picture_leaves_one_pixel(vgg: Path) -> None:
    features = VggFeatures(vgg, ["conv2_1"])
    assert features(torch.zeros(1, 3, features.smallest, features.smallest))[0].shape[-1] == 1


@pytest.mark.parametrize("layer", ["conv9_9", "features.0"])
def test_unknown_vgg_layers_are_refused(vgg: Path, layer: str) -> None:
    with pytest.raises(UsageError, match=rf"vgg layers must be among conv1_1, .*, got {layer}"):
        VggFeatures(vgg, [layer])


# Torchvision's VGG19 by its own definition: the index of each convolution and of each pool.
VGG19_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
VGG19_POOLS = (4, 9, 18, 27, 36)


@pytest.fixture
def vgg19() -> nn.Sequential:
    """VGG19's feature layers as torchvision builds them, with four channels."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for index in range(37):
        if index in VGG19_CONVOLUTIONS:
            layers.append(nn.Conv2d(4 if index else 3, 4, 3, padding=1))
        else:
            layers.append(nn.MaxPool2d(2, 2) if index in VGG19_POOLS else nn.ReLU())
    return nn.Sequential(*layers)


@pytest.fixture
def torchvision(vgg19: nn.Sequential, tmp_path: Path) -> Path:
    whole = nn.ModuleDict({"features": vgg19, "classifier": nn.Linear(4, 2)})
    torch.save(whole.state_dict(), tmp_path / "vgg19-dcbb9e9d.pth")
    return tmp_path / "vgg19-dcbb9e9d.pth"


def test_torchvisions_vgg19_gives_the_features_before_the_last_relu(
    vgg19: nn.Sequential, torchvision: Path
) -> None:
    features, rgb = VggFeatures(torchvision), stand_in.tensor(40, 50)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    got = features(rgb)
    assert features.layers == ("features.34",)
    assert features.smallest == 16
    torch.testing.assert_close(got, [vgg19[:35]((rgb - mean) / deviation)])


def test_every_layer_of_torchvisions_vgg19_can_be_taken(
    vgg19: nn.Sequential, torchvision: Path
) -> None:
    layers, rgb = [f"features.{index}" for index in VGG19_CONVOLUTIONS], stand_in.tensor(16, 16)
    features = VggFeatures(torchvision, layers)
    x = (rgb - features.mean) / features.deviation
    wanted = [vgg19[: index + 1](x) for index in VGG19_CONVOLUTIONS]
    torch.testing.assert_close(features(rgb), wanted)


def test_the_published_loss_is_a_plain_l1_of_a_clamped_output(torchvision: Path) -> None:
    loss, (a, b) = VggLoss(torchvision), pictures()
    expected = (loss.features(a.clamp(0.2, 1))[0] - loss.features(b)[0]).abs().mean()
    torch.testing.assert_close(loss(a.clamp(0.2, 1), b), expected)
    torch.testing.assert_close(loss(a * 3 - 1, b), loss((a * 3 - 1).clamp(0, 1), b))


def test_caffes_loss_is_relative_and_sees_values_out_of_range(vgg: Path) -> None:
    loss, (a, b) = VggLoss(vgg, ["conv2_1"]), pictures()
    expected = loss.features(b)[0]
    distance = (loss.features(a)[0] - expected).abs().mean() / expected.abs().mean()
    torch.testing.assert_close(loss(a, b), distance)
    assert loss(a * 3 - 1, b) != loss((a * 3 - 1).clamp(0, 1), b)


def test_a_file_that_lacks_a_tensor_is_named(alex: Path, vgg: Path) -> None:
    with pytest.raises(CheckpointError, match=r"weights .*vgg\.safetensors lack conv2_2\.weig"):
        VggFeatures(vgg, ["conv2_2"])
    with pytest.raises(CheckpointError, match=r"weights .*vgg.safetensors lack lin0\.model"):
        LPIPS(alex, vgg)


def test_a_tensor_that_is_no_convolution_is_named(tmp_path: Path) -> None:
    wrong = {"conv1_1.weight": torch.zeros(4, 3), "conv1_1.bias": torch.zeros(4)}
    save_file(wrong, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="conv1_1 is not a convolution"):
        VggFeatures(tmp_path / "a.safetensors", ["conv1_1"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.safetensors", r"weights .*none\.safetensors do not exist"),
        ("none.pth", r"weights .*none\.pth do not exist"),
        ("a.safetensors", r"cannot read weights .*a\.safetensors"),
    ],
)
def test_weights_that_cannot_be_read_are_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.safetensors").write_text("hello")
    with pytest.raises(CheckpointError, match=message):
        VggFeatures(tmp_path / name, ["conv1_1"])
