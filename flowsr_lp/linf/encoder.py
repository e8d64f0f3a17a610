"""Low-resolution feature encoders: EDSR, RDN, RRDB and SwinIR without their up-samplers."""

__all__ = ["EDSR", "RDN", "RRDB", "SwinIR", "continued", "encoder_from_spec"]

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_lp.linf.swinir import SwinIR, continued_size
from flowsr_runtime.errors import CheckpointError

# Growth and depth of the two published RDN configurations (arXiv 1802.08797, section 5.1).
RDN_CONFIGS = {"A": (20, 6, 32), "B": (16, 8, 64)}


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around an activation, scaled and added to the input."""

    def __init__(self, width: int, res_scale: float = 1.0, negative_slope: float = 0.0) -> None:
        """Build a block of `width` channels; a `negative_slope` of 0 is a plain ReLU."""
        super().__init__()
        act = nn.LeakyReLU(negative_slope) if negative_slope else nn.ReLU()
        self.body = nn.Sequential(conv3x3(width, width), act, conv3x3(width, width))
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        out: Tensor = x + self.body(x) * self.res_scale
        return out


class EDSR(nn.Module):
    """EDSR's head and body (arXiv 1707.02921); spec/linf.md "Encoders"."""

    def __init__(
        self, n_resblocks: int = 16, n_feats: int = 64, res_scale: float = 1.0
    ) -> None:
        """Build `n_resblocks` residual blocks of `n_feats` channels."""
        super().__init__()
        self.out_dim = n_feats
        self.head = nn.Sequential(conv3x3(3, n_feats))
        blocks: list[nn.Module] = [
            ResidualBlock(n_feats, res_scale) for _ in range(n_resblocks)
        ]
        self.body = nn.Sequential(*blocks, conv3x3(n_feats, n_feats))

    def forward(self, x: Tensor) -> Tensor:
        """Map a normalized picture (B, 3, h, w) to features (B, out_dim, h, w)."""
        head = self.head(x)
        out: Tensor = self.body(head) + head
        return out


class DenseBlock(nn.Module):
    """Five 3x3 convolutions on growing concatenations, LeakyReLU 0.2 after the first four."""

    def __init__(self, in_channels: int, growth: int, out_channels: int) -> None:
        """Build the block; every convolution but the last gives `growth` channels."""
        super().__init__()
        self.conv1 = conv3x3(in_channels, growth)
        self.conv2 = conv3x3(in_channels + growth, growth)
        self.conv3 = conv3x3(in_channels + 2 * growth, growth)
        self.conv4 = conv3x3(in_channels + 3 * growth, growth)
        self.conv5 = conv3x3(in_channels + 4 * growth, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, out_channels, h, w)."""
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = torch.cat((x, F.leaky_relu(conv(x), 0.2)), dim=1)
        out: Tensor = self.conv5(x)
        return out


class RRDBBlock(nn.Module):
    """Residual-in-residual dense block (arXiv 1809.00219)."""

    def __init__(self, width: int, growth: int) -> None:
        """Build three dense blocks of `width` channels."""
        super().__init__()
        self.RDB1 = DenseBlock(width, growth, width)
        self.RDB2 = DenseBlock(width, growth, width)
        self.RDB3 = DenseBlock(width, growth, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to the same shape."""
        out = x
        for block in (self.RDB1, self.RDB2, self.RDB3):
            out = block(out) * 0.2 + out
        return out * 0.2 + x


class RRDB(nn.Module):
    """ESRGAN's trunk without its up-sampler; spec/linf.md "Encoders"."""

    def __init__(self, nf: int = 64, nb: int = 23, gc: int = 32) -> None:
        """Build `nb` blocks of `nf` channels with growth `gc`."""
        super().__init__()
        self.out_dim = nf
        self.conv_first = conv3x3(3, nf)
        self.RRDB_trunk = nn.Sequential(*(RRDBBlock(nf, gc) for _ in range(nb)))
        self.trunk_conv = conv3x3(nf, nf)

    def forward(self, x: Tensor) -> Tensor:
        """Map a normalized picture (B, 3, h, w) to features (B, nf, h, w)."""
        first = self.conv_first(x)
        out: Tensor = first + self.trunk_conv(self.RRDB_trunk(first))
        return out


class RDNConv(nn.Module):
    """3x3 convolution and ReLU, concatenated to the input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        """Build the layer."""
        super().__init__()
        self.conv = nn.Sequential(conv3x3(in_channels, growth), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, in_channels + growth, h, w)."""
        return torch.cat((x, self.conv(x)), dim=1)


class RDNBlock(nn.Module):
    """Residual dense block with local feature fusion (arXiv 1802.08797)."""

    def __init__(self, width: int, growth: int, layers: int) -> None:
        """Build `layers` densely connected convolutions and their 1x1 fusion."""
        super().__init__()
        self.convs = nn.Sequential(
            *(RDNConv(width + i * growth, growth) for i in range(layers))
        )
        self.LFF = nn.Conv2d(width + layers * growth, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to the same shape."""
        out: Tensor = self.LFF(self.convs(x)) + x
        return out


class RDN(nn.Module):
    """Residual dense network without its up-sampler; spec/linf.md "Encoders"."""

    def __init__(self, G0: int = 64, RDNconfig: str = "B") -> None:
        """Build configuration "A" or "B" with `G0` output channels."""
        super().__init__()
        if str(RDNconfig) not in RDN_CONFIGS:
            raise CheckpointError(f"rdn's RDNconfig must be A or B, got {RDNconfig!r}")
        blocks, layers, growth = RDN_CONFIGS[RDNconfig]
        self.out_dim = G0
        self.SFENet1 = conv3x3(3, G0)
        self.SFENet2 = conv3x3(G0, G0)
        self.RDBs = nn.ModuleList(RDNBlock(G0, growth, layers) for _ in range(blocks))
        self.GFF = nn.Sequential(nn.Conv2d(blocks * G0, G0, 1), conv3x3(G0, G0))

    def forward(self, x: Tensor) -> Tensor:
        """Map a normalized picture (B, 3, h, w) to features (B, G0, h, w)."""
        first = self.SFENet1(x)
        x = self.SFENet2(first)
        outs = []
        for block in self.RDBs:
            x = block(x)
            outs.append(x)
        out: Tensor = self.GFF(torch.cat(outs, dim=1)) + first
        return out


ENCODERS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    "edsr-baseline": (EDSR, {"n_resblocks": 16, "n_feats": 64, "res_scale": 1.0}),
    "edsr": (EDSR, {"n_resblocks": 32, "n_feats": 256, "res_scale": 0.1}),
    "rdn": (RDN, {"G0": 64, "RDNconfig": "B"}),
    "rrdb": (RRDB, {"nf": 64, "nb": 23, "gc": 32}),
    "swinir": (
        SwinIR,
        {"embed_dim": 180, "depths": [6] * 6, "num_heads": 6, "mlp_ratio": 2, "num_feat": 64},
    ),
}
COUNTS = (
    *("n_resblocks", "n_feats", "G0", "nf", "nb", "gc"),
    *("embed_dim", "num_heads", "mlp_ratio", "num_feat"),
)
# Arguments of the released files that do not change the network without up-sampler.
IGNORED_ARGS = {"no_upsampling", "scale", "rgb_range", "n_colors"}


def encoder_from_spec(spec: Mapping[str, Any]) -> nn.Module:
    """Build the encoder that a checkpoint's `encoder_spec` names.

    Args:
        spec: `{"name": ..., "args": {...}}` as in a released checkpoint.

    Raises:
        CheckpointError: If the name or an argument is unknown.
    """
    name, args = spec.get("name"), dict(spec.get("args") or {})
    if name not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise CheckpointError(f"encoder must be one of {known}, got {name!r}")
    build, defaults = ENCODERS[name]
    unknown = set(args) - set(defaults) - IGNORED_ARGS
    if unknown:
        raise CheckpointError(f"encoder {name} has no argument {', '.join(sorted(unknown))}")
    for key in COUNTS:
        value = args.get(key, 1)
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(
                f"encoder {name}: {key} must be a whole number of at least 1, got {value!r}"
            )
    scale = args.get("res_scale", 1.0)
    if not isinstance(scale, (int, float)) or not math.isfinite(scale):
        raise CheckpointError(f"encoder {name}: res_scale must be a number, got {scale!r}")
    complete = {key: args.get(key, value) for key, value in defaults.items()}
    if name == "swinir":
        _check_attention(complete)
    return build(**complete)


def _check_attention(args: Mapping[str, Any]) -> None:
    """Check the arguments of SwinIR that depend on each other."""
    depths, width, heads = args["depths"], args["embed_dim"], args["num_heads"]
    known = isinstance(depths, (list, tuple)) and bool(depths)
    if not known or not all(type(depth) is int and depth >= 1 for depth in depths):
        raise CheckpointError(
            f"encoder swinir: depths must be whole numbers of at least 1, got {depths!r}"
        )
    if width % heads:
        raise CheckpointError(
            f"encoder swinir: embed_dim must be a multiple of num_heads, got {width}, {heads}"
        )


def continued(encoder: nn.Module, side: int) -> int | None:
    """Return the features along a side of an image, None if as many as it has pixels."""
    return continued_size(side) if isinstance(encoder, SwinIR) else None


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """3x3 convolution that keeps the size."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)
