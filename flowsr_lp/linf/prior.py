"""The latent modules: networks that predict the latent which the flow's inverse decodes."""

__all__ = ["EdsrLatent", "UNet", "prior_from_spec"]

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_lp.linf.encoder import DenseBlock, ResidualBlock
from flowsr_runtime.errors import CheckpointError

SLOPE = 0.2


class LatentInput(nn.Module):
    """Embed the encoded latent and the picture at the latent's size; spec "Latent modules"."""

    def __init__(self, in_chans: int, dim: int) -> None:
        """Build the two dense blocks, each giving dim/2 channels."""
        super().__init__()
        self.width = in_chans
        half = dim // 2
        self.input_proj = DenseBlock(in_chans, half, half)
        self.lr_proj = nn.Sequential(
            nn.Conv2d(3, in_chans, 3, stride=3, padding=1),
            nn.LeakyReLU(SLOPE),
            DenseBlock(in_chans, half, half),
        )

    def embed(self, z: Tensor, x: Tensor) -> Tensor:
        """Join a latent (B, D, rows, cols) and a picture (B, 3, h, w): (B, dim, rows, cols)."""
        a, b = self.input_proj(z), self.lr_proj(x)
        if b.shape[-2:] != a.shape[-2:]:
            b = F.interpolate(b, size=a.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat((a, b), dim=1)


class DoubleConv(nn.Module):
    """(3x3 convolution, BatchNorm, LeakyReLU) twice."""

    def __init__(self, in_channels: int, mid: int, out_channels: int) -> None:
        """Build both convolutions, without bias."""
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(in_channels, mid, 3, padding=1, bias=False),
            nn.BatchNorm2d(mid),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(mid, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(SLOPE),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, out_channels, h, w)."""
        out: Tensor = self.double_conv(x)
        return out


class Down(nn.Module):
    """2x2 max-pool, then a double convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Build the level."""
        super().__init__()
        self.maxpool_conv = nn.Sequential(
            nn.MaxPool2d(2), DoubleConv(in_channels, out_channels, out_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, out_channels, h // 2, w // 2)."""
        out: Tensor = self.maxpool_conv(x)
        return out


class Up(nn.Module):
    """Bilinear x2 with aligned corners, padded to the skip, then a double convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Build the level; `in_channels` counts the skip and what comes from below."""
        super().__init__()
        self.conv = DoubleConv(in_channels, in_channels // 2, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join `x` (B, C, h, w) to `skip` (B, C, H, W), H in {2h, 2h + 1}."""
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        dy, dx = skip.shape[-2] - x.shape[-2], skip.shape[-1] - x.shape[-1]
        x = F.pad(x, (dx // 2, dx - dx // 2, dy // 2, dy - dy // 2))
        out: Tensor = self.conv(torch.cat((skip, x), dim=1))
        return out


class PointwiseOut(nn.Module):
    """The last 1x1 convolution; a module of its own because released files name it so."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Build the convolution."""
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, out_channels, h, w)."""
        out: Tensor = self.conv(x)
        return out


def unet_levels(depth: int, dim: int) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Build the ways down and up of a U-Net of `depth` levels, `dim` channels at the top."""
    skips = [dim << level for level in range(depth)]
    downs = (
        Down(width, width if level == depth - 1 else 2 * width)
        for level, width in enumerate(skips)
    )
    ups = (Up(2 * width, max(width // 2, dim)) for width in reversed(skips))
    return nn.ModuleList(downs), nn.ModuleList(ups)


def pass_levels(
    x: Tensor,
    inc: DoubleConv,
    down_layers: nn.ModuleList,
    up_layers: nn.ModuleList,
    outc: PointwiseOut,
) -> Tensor:
    """Run the levels of a U-Net.

    Features with fewer rows or columns than the deepest level needs are zero-padded at the
    bottom and right, and the result cropped; the published code fails there.

    Args:
        x: Features at the top, (B, dim, rows, cols).
        inc: First convolutions.
        down_layers: Levels down.
        up_layers: Levels up, as many.
        outc: Last convolution.

    Returns:
        Latent, (B, D, rows, cols).
    """
    rows, cols = x.shape[-2:]
    reduction = 1 << len(down_layers)
    bottom, right = max(0, reduction - rows), max(0, reduction - cols)
    feature = inc(F.pad(x, (0, right, 0, bottom)))
    skips = []
    for down in down_layers:
        skips.append(feature)
        feature = down(feature)
    for up in up_layers:
        feature = up(feature, skips.pop())
    out: Tensor = outc(feature)
    return out[..., :rows, :cols]


class UNet(LatentInput):
    """The published latent module (arXiv 2403.10988); spec/linf.md "Latent modules"."""

    def __init__(self, in_chans: int, depth: int = 3, dim: int = 64) -> None:
        """Build `depth` levels with `dim` channels at the top, for latents of `in_chans`."""
        super().__init__(in_chans, dim)
        self.depth = depth
        self.down_layers, self.up_layers = unet_levels(depth, dim)
        self.inc = DoubleConv(dim, dim, dim)
        self.outc = PointwiseOut(dim, in_chans)

    @property
    def reduction(self) -> int:
        """Latent rows per row of the deepest level."""
        return 1 << self.depth

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Predict a latent.

        Args:
            z: Encoded latent of the low-frequency residual, (B, D, rows, cols).
            x: Normalized low-resolution picture, (B, 3, h, w).

        Returns:
            Latent, (B, D, rows, cols).
        """
        return self.predict(self.embed(z, x))

    def predict(self, features: Tensor) -> Tensor:
        """Predict a latent from the result of `embed`."""
        levels = (self.inc, self.down_layers, self.up_layers, self.outc)
        return pass_levels(features, *levels)


class EdsrLatent(LatentInput):
    """The EDSR-like latent module: residual blocks at one size; spec "Latent modules"."""

    reduction = 1

    def __init__(self, in_chans: int, n_resblocks: int = 16, dim: int = 64) -> None:
        """Build `n_resblocks` blocks of `dim` channels for latents of `in_chans`."""
        super().__init__(in_chans, dim)
        self.body = nn.Sequential(
            *(ResidualBlock(dim, negative_slope=SLOPE) for _ in range(n_resblocks))
        )
        self.last_conv = nn.Conv2d(dim, in_chans, 1)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Predict a latent (B, D, rows, cols) from `z` of that shape and `x` (B, 3, h, w)."""
        return self.predict(self.embed(z, x))

    def predict(self, features: Tensor) -> Tensor:
        """Predict a latent from the result of `embed`."""
        out: Tensor = self.last_conv(self.body(features))
        return out


Prior = UNet | EdsrLatent
PRIORS: dict[str, tuple[Callable[..., Prior], dict[str, Any]]] = {
    "unet": (UNet, {"in_chans": 27, "depth": 3, "dim": 64}),
    "edsr-baseline-latent": (EdsrLatent, {"in_chans": 27, "n_resblocks": 16, "dim": 64}),
}


def prior_from_spec(spec: Mapping[str, Any]) -> Prior:
    """Build the latent module that a checkpoint's `prior_model` names.

    Args:
        spec: `{"name": ..., "args": {...}}` as in a released checkpoint.

    Raises:
        CheckpointError: If the name or an argument is unknown.
    """
    name, args = spec.get("name"), dict(spec.get("args") or {})
    if name not in PRIORS:
        raise CheckpointError(f"prior must be one of {', '.join(PRIORS)}, got {name!r}")
    if args.pop("bilinear", True) is not True:
        raise CheckpointError("prior unet must be bilinear, got transposed convolutions")
    build, defaults = PRIORS[name]
    unknown = set(args) - set(defaults)
    if unknown:
        raise CheckpointError(f"prior {name} has no argument {', '.join(sorted(unknown))}")
    return build(**{key: args.get(key, value) for key, value in defaults.items()})
