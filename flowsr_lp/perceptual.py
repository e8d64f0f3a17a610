"""Perceptual distances: VGG features for training, LPIPS and DISTS for evaluation."""

__all__ = ["DISTS", "LPIPS", "VggFeatures", "VggLoss", "load_tensors"]

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_runtime.errors import CheckpointError, UsageError

VGG16 = (2, 2, 3, 3, 3)  # convolutions of each block
VGG19 = (2, 2, 4, 4, 4)
VGG_MEAN_BGR = (103.939, 116.779, 123.68)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
ALEX_STRIDE_PADDING = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))
LPIPS_SHIFT = (-0.030, -0.088, -0.188)
LPIPS_SCALE = (0.458, 0.448, 0.450)
DISTS_STABILITY = 1e-6  # c1 and c2 of the paper's equations 5 and 6
L2_WINDOW = (0.25, 0.5, 0.25)  # Hanning's, of L2 pooling
PICKLED = (".pth", ".pt")
TINY = 1e-8  # features that are all zero have no magnitude to divide by


class _Vgg(nn.Module):
    """A VGG of ImageNet: how it takes a picture.

    Attributes:
        caffe: Whether the weights are Caffe's (BGR, 0 to 255, mean subtracted) and not
            torchvision's (RGB, ImageNet's mean and deviation).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        """Tell Caffe's weights from torchvision's by their names."""
        super().__init__()
        self.caffe = "features.0.weight" not in tensors
        mean = VGG_MEAN_BGR if self.caffe else IMAGENET_MEAN
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        deviation = torch.tensor(IMAGENET_DEVIATION).view(1, 3, 1, 1)
        self.register_buffer("deviation", deviation)

    def normalized(self, rgb: Tensor) -> Tensor:
        """Return RGB in [0, 1], (B, 3, H, W), in the form that the weights were trained on."""
        if self.caffe:
            return rgb.flip(1) * 255 - self.mean
        return (rgb - self.mean) / self.deviation


class VggFeatures(_Vgg):
    """Features of VGG (arXiv 1409.1556) BEFORE the ReLU of the named convolutions.

    Attributes:
        caffe: Whether the weights are Caffe's VGG16 (BGR, 0 to 255, mean subtracted) and not
            torchvision's VGG19 (RGB, ImageNet's mean and deviation).
        layers: Names of the convolutions whose features are taken.
        smallest: Pixels a side of which one is left at the deepest layer.
    """

    def __init__(self, weights: Path, layers: Sequence[str] = ()) -> None:
        """Load ImageNet weights; their names tell which network they are of.

        Args:
            weights: File with `conv{block}_{n}.weight|bias` of VGG16, or torchvision's VGG19
                with `features.{index}.weight|bias`: safetensors, .pth or .pt.
            layers: Names such as "conv5_3" or "features.34", in the order of the network;
                the last convolution, whose features the published loss compares, if none.

        Raises:
            UsageError: If a layer is unknown.
            CheckpointError: If the file is missing, damaged or lacks a tensor.
        """
        tensors = load_tensors(weights)
        super().__init__(tensors)
        pools = _convolutions(VGG16 if self.caffe else VGG19, self.caffe)
        names = list(pools)
        self.layers = tuple(layers) or (names[-1],)
        if set(self.layers) - set(names):
            raise UsageError(
                f"vgg layers must be among {', '.join(names)}, got {', '.join(layers)}"
            )
        used = names[: max(names.index(layer) for layer in self.layers) + 1]
        # Every block but the first halves the picture.
        self.smallest = 1 << sum(pools[name] for name in used)
        self.pooled = {_key(name) for name in used if pools[name]}
        self.convs = nn.ModuleDict()
        for name in used:
            self.convs[_key(name)] = _conv(tensors, name, weights, stride=1, padding=1)
        self.requires_grad_(False)

    def forward(self, rgb: Tensor) -> list[Tensor]:
        """Map RGB in [0, 1], (B, 3, H, W), to one feature map per layer."""
        x = self.normalized(rgb)
        taken = {_key(layer) for layer in self.layers}
        outs = []
        for name, conv in self.convs.items():
            if name in self.pooled:
                x = F.max_pool2d(x, 2)
            x = conv(x)
            if name in taken:
                outs.append(x)
            x = F.relu(x)
        return outs


class VggLoss(nn.Module):
    """L1 between VGG features.

    With torchvision's VGG19 as published: the plain L1, of an output clamped to [0, 1]. With
    Caffe's VGG16 each layer's L1 is in units of the target's mean magnitude.
    """

    def __init__(self, weights: Path, layers: Sequence[str] = ()) -> None:
        """Load the network; the published loss has the last layer, before its ReLU."""
        super().__init__()
        self.features = VggFeatures(weights, layers)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Distance of two RGB batches in [0, 1], (B, 3, H, W), a scalar."""
        caffe = self.features.caffe
        with torch.no_grad():
            expected = self.features(target)
        got = self.features(output if caffe else output.clamp(0, 1))
        terms = []
        for g, t in zip(got, expected, strict=True):
            distance = (g - t).abs().mean()
            terms.append(distance / t.abs().mean().clamp_min(TINY) if caffe else distance)
        return torch.stack(terms).mean()


class LPIPS(nn.Module):
    """LPIPS v0.1 with AlexNet (arXiv 1801.03924)."""

    smallest = 31
    """Pixels a side below which AlexNet's pools leave nothing."""

    shift: Tensor
    scale: Tensor

    def __init__(self, features: Path, linear: Path) -> None:
        """Load ImageNet's and LPIPS's weights.

        Args:
            features: File with AlexNet's `features.{0,3,6,8,10}.weight|bias`: safetensors, or
                torchvision's .pth.
            linear: File with `lin{0..4}.model.1.weight`: safetensors, or LPIPS's own .pth.

        Raises:
            CheckpointError: If a file is missing, damaged or lacks a tensor.
        """
        super().__init__()
        tensors, lin = load_tensors(features), load_tensors(linear)
        self.convs = nn.ModuleList(
            _conv(tensors, f"features.{index}", features, stride, padding)
            for index, (stride, padding) in zip(
                (0, 3, 6, 8, 10), ALEX_STRIDE_PADDING, strict=True
            )
        )
        self.lin = nn.ParameterList(
            _tensor(lin, f"lin{i}.model.1.weight", linear) for i in range(5)
        )
        self.register_buffer("shift", torch.tensor(LPIPS_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(LPIPS_SCALE).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of two RGB batches in [0, 1], (B, 3, H, W); one value a picture, (B,)."""
        return torch.stack([layer.mean((1, 2, 3)) for layer in self._layers(a, b)]).sum(0)

    def spatial(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of two RGB batches in [0, 1] by pixel, (B, 1, H, W).

        Each layer's distances resized to the picture, as the `lpips` package does with
        `spatial=True`; their mean differs a little from `forward`.
        """
        size = a.shape[-2:]
        resized = [F.interpolate(x, size, mode="bilinear") for x in self._layers(a, b)]
        return torch.stack(resized).sum(0)

    def _layers(self, a: Tensor, b: Tensor) -> list[Tensor]:
        """Return the distances at the positions of each layer's features."""
        features = zip(self._features(a), self._features(b), self.lin, strict=True)
        return [F.conv2d((_unit(x) - _unit(y)).square(), lin) for x, y, lin in features]

    def _features(self, rgb: Tensor) -> list[Tensor]:
        x = (rgb * 2 - 1 - self.shift) / self.scale
        outs = []
        for i, conv in enumerate(self.convs):
            if i in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(conv(x))
            outs.append(x)
        return outs


class DISTS(_Vgg):
    """DISTS (Ding et al., arXiv 2004.07728): VGG16 whose pools are L2 pools.

    Each channel of the picture itself and of the last ReLU of VGG16's five blocks is compared
    by its mean (texture, weight `alpha`) and by its deviations from it (structure, weight
    `beta`). The published weights belong to torchvision's VGG16.
    """

    alpha: Tensor
    beta: Tensor

    def __init__(self, vgg16: Path, weights: Path) -> None:
        """Load ImageNet's and DISTS's weights.

        Args:
            vgg16: File with torchvision's `features.{index}.weight|bias` of VGG16, or with
                Caffe's `conv{block}_{n}.weight|bias`: safetensors, .pth or .pt.
            weights: File with `alpha` and `beta`, a value for each channel: safetensors, or
                DISTS's own .pt.

        Raises:
            CheckpointError: If a file is missing, damaged, lacks a tensor or has one of another
                length.
        """
        tensors, own = load_tensors(vgg16), load_tensors(weights)
        super().__init__(tensors)
        names = iter(_convolutions(VGG16, self.caffe))
        blocks = [
            [_conv(tensors, next(names), vgg16, 1, 1) for _ in range(count)] for count in VGG16
        ]
        self.blocks = nn.ModuleList(
            nn.Sequential(*(layer for conv in block for layer in (conv, nn.ReLU())))
            for block in blocks
        )
        self.widths = [3, *(block[-1].out_channels for block in blocks)]
        for name in ("alpha", "beta"):
            weight, channels = _tensor(own, name, weights).flatten(), sum(self.widths)
            if len(weight) != channels:
                rule = f"{name} must have {channels} values, got {len(weight)}"
                raise CheckpointError(f"weights {weights}: {rule}")
            self.register_buffer(name, weight.detach())
        self.requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of two RGB batches in [0, 1], (B, 3, H, W); one value a picture, (B,).

        It is 0 for equal pictures, and above 1 only where details are negatively correlated.
        """
        alphas, betas = (torch.split(x, self.widths) for x in (self.alpha, self.beta))
        features = zip(self._features(a), self._features(b), alphas, betas, strict=True)
        terms = [
            (alpha * _unlike_means(x, y) + beta * _unlike_details(x, y)).sum(1)
            for x, y, alpha, beta in features
        ]
        return torch.stack(terms).sum(0) / (self.alpha + self.beta).sum()

    def _features(self, rgb: Tensor) -> list[Tensor]:
        x, outs = self.normalized(rgb), [rgb]
        for place, block in enumerate(self.blocks):
            x = block(_l2_pooled(x) if place else x)
            outs.append(x)
        return outs


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file as float32; no code of the file is run.

    Args:
        path: safetensors file, or PyTorch's state dict if the name ends in .pth or .pt.

    Raises:
        CheckpointError: If the file is missing, or not what its name says.
    """
    try:
        tensors = _unpickled(path) if path.suffix in PICKLED else load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"weights {path} do not exist") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read weights {path}: {error}") from error
    return {name: tensor.float() for name, tensor in tensors.items()}


def _convolutions(blocks: Sequence[int], caffe: bool) -> dict[str, bool]:
    """Name the convolutions of a VGG; each with whether a pool comes before it."""
    pools, index = {}, 0
    for block, count in enumerate(blocks):
        for n in range(count):
            name = f"conv{block + 1}_{n + 1}" if caffe else f"features.{index}"
            pools[name] = block > 0 and n == 0
            index += 2  # the convolution and its ReLU
        index += 1  # the pool
    return pools


def _key(layer: str) -> str:
    """Name a layer as a submodule, where a dot is not allowed."""
    return layer.replace(".", "_")


def _unpickled(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():  # PyTorch's, about the pickle protocol
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever the unpickler meets in a file of another kind
        raise CheckpointError(f"weights {path} are not a PyTorch state dict") from error
    if not (isinstance(content, dict) and all(isinstance(x, Tensor) for x in content.values())):
        raise CheckpointError(f"weights {path} are not a PyTorch state dict")
    return content


def _tensor(tensors: dict[str, Tensor], name: str, path: Path) -> Tensor:
    if name not in tensors:
        raise CheckpointError(f"weights {path} lack {name}")
    return tensors[name]


def _conv(
    tensors: dict[str, Tensor], name: str, path: Path, stride: int, padding: int
) -> nn.Conv2d:
    weight = _tensor(tensors, f"{name}.weight", path)
    bias = _tensor(tensors, f"{name}.bias", path)
    if weight.ndim != 4 or bias.shape != weight.shape[:1]:
        raise CheckpointError(f"weights {path}: {name} is not a convolution")
    out, channels, side, _ = weight.shape
    conv = nn.Conv2d(channels, out, side, stride, padding)
    conv.load_state_dict({"weight": weight, "bias": bias})
    return conv


def _unit(x: Tensor) -> Tensor:
    norm: Tensor = x.square().sum(1, keepdim=True).sqrt()
    return x / (norm + 1e-10)


def _l2_pooled(x: Tensor) -> Tensor:
    """Halve a picture: roots of the weighted means of squares (DISTS, equation 1)."""
    window = x.new_tensor(L2_WINDOW)
    kernel = (window[:, None] * window).expand(x.shape[1], 1, -1, -1)
    squares = F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1])
    return (squares + 1e-12).sqrt()


def _unlike_means(x: Tensor, y: Tensor) -> Tensor:
    """Return 1 minus the similarity of means of each channel, (B, C), without cancellation."""
    a, b = x.mean((2, 3)), y.mean((2, 3))
    return (a - b).square() / (a.square() + b.square() + DISTS_STABILITY)


def _unlike_details(x: Tensor, y: Tensor) -> Tensor:
    """Return 1 minus the similarity of deviations from the mean of each channel, (B, C)."""
    a, b = (z - z.mean((2, 3), keepdim=True) for z in (x, y))
    squares = a.square().mean((2, 3)) + b.square().mean((2, 3))
    return (a - b).square().mean((2, 3)) / (squares + DISTS_STABILITY)
