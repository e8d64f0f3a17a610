"""SRFlow and SRFlow-LP: flow-based super-resolution at one scale; spec/srflow.md."""

__all__ = ["LatentGrid", "SRFlow", "SrflowLP", "SrflowPrediction", "srflow_from_spec"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flowsr_lp.linf.flow import LOG_2PI
from flowsr_lp.linf.model import resize
from flowsr_lp.srflow.encoder import SrflowEncoder
from flowsr_lp.srflow.flow import SrflowFlow
from flowsr_lp.srflow.prior import SrflowPrior
from flowsr_runtime.errors import CheckpointError, ShapeError

LEVELS = {4: 3, 8: 4}  # levels of the flow by scale
SIZES = ("scale", "nb", "K", "L", "nf", "gc", "hidden")
DEFAULTS: dict[str, Any] = {"nf": 64, "gc": 32, "hidden": 64}


class LatentGrid(NamedTuple):
    """One latent of the flow.

    Attributes:
        channels: Channels D.
        patch: Output pixels per cell and side.
    """

    channels: int
    patch: int


@dataclass(frozen=True)
class SrflowPrediction:
    """One inference.

    Attributes:
        output: RGB, unclamped, [0, 1] nominal, (B, 3, scale · h, scale · w).
        latents: The latents that were decoded, the finest first, each (B, D, rows, cols).
        encoded: Latents of the interpolated image, of the same shapes; None if given.
    """

    output: Tensor
    latents: list[Tensor]
    encoded: list[Tensor] | None


class SRFlow(nn.Module):
    """Encoder and flow; parameter names as released.

    Attributes:
        scale: Output pixels per input pixel and side.
        blocks: Indices of the trunk's blocks that the flow reads.
        multiple: Sides of its pictures are multiples of this.
        latents: Latents, the finest first.
    """

    multiple = 2

    def __init__(
        self,
        scale: int,
        nb: int,
        K: int,
        L: int,
        blocks: Sequence[int],
        nf: int = 64,
        gc: int = 32,
        hidden: int = 64,
    ) -> None:
        """Build the network.

        Args:
            scale: 4 or 8.
            nb: Blocks of the trunk.
            K: Steps with a coupling in each level.
            L: Levels: 3 at 4 times, 4 at 8 times.
            blocks: Indices of the trunk's blocks that the flow reads, from 0.
            nf: Channels of the trunk.
            gc: Growth of its dense blocks.
            hidden: Width of the couplings' nets.

        Raises:
            CheckpointError: If the scale, the levels or the blocks make no sense.
        """
        super().__init__()
        if LEVELS.get(scale) != L:
            rule = "srflow must have 3 levels at scale 4 or 4 at scale 8"
            raise CheckpointError(f"{rule}, got {L} at {scale}")
        if not blocks or not all(0 <= index < nb for index in blocks):
            got = ", ".join(map(str, blocks)) or "none"
            raise CheckpointError(f"srflow's blocks must be from 0 to {nb - 1}, got {got}")
        self.scale = scale
        self.blocks = tuple(blocks)
        self.latents = _latents(L)
        self.RRDB = SrflowEncoder(L, nb, self.blocks, nf, gc)
        self.flowUpsamplerNet = SrflowFlow(L, K, self.RRDB.out_dim, hidden)

    def condition(self, rgb: Tensor) -> list[Tensor]:
        """Compute what each level of the flow is conditioned on.

        Args:
            rgb: Picture in [0, 1], (B, 3, h, w), h and w even.

        Returns:
            Features, the finest level first, (B, features, rows, cols).

        Raises:
            ShapeError: If a side is odd.
        """
        if rgb.shape[2] % 2 or rgb.shape[3] % 2:
            raise ShapeError(f"sides must be even, got {rgb.shape[2]} x {rgb.shape[3]}")
        features: list[Tensor] = self.RRDB(rgb)
        return features

    def encode(self, y: Tensor, u: Sequence[Tensor]) -> list[Tensor]:
        """Map a picture to its latents.

        Args:
            y: RGB in [0, 1], (B, 3, H, W).
            u: `condition` of the picture of 1/scale the size.

        Returns:
            The latents, the finest first, each (B, D, rows, cols).
        """
        return self.flowUpsamplerNet.encode(y, u)[0]

    def decode(self, latents: Sequence[Tensor], u: Sequence[Tensor]) -> Tensor:
        """Map latents to the picture that they stand for, RGB, unclamped, (B, 3, H, W)."""
        return self.flowUpsamplerNet.decode(latents, u)

    def log_likelihood(self, y: Tensor, u: Sequence[Tensor]) -> Tensor:
        """Log density of pictures (B, 3, H, W) given the small ones, in nats, (B,)."""
        latents, log_det = self.flowUpsamplerNet.encode(y, u)
        base = [-0.5 * (z.square() + LOG_2PI).flatten(1).sum(1) for z in latents]
        return torch.stack(base).sum(0) + log_det


class SrflowLP(nn.Module):
    """SRFlow with an optional learned prior: the whole inference."""

    def __init__(self, srflow: SRFlow, prior: SrflowPrior | None = None) -> None:
        """Join a flow and the latent module trained for it."""
        super().__init__()
        self.srflow = srflow
        self.prior = prior

    def forward(self, rgb: Tensor, latents: Sequence[Tensor] | None = None) -> SrflowPrediction:
        """Enlarge a picture; spec/srflow.md "Learned prior".

        Args:
            rgb: Low-resolution picture in [0, 1], (B, 3, h, w), of any size; odd sides are
                padded by reflection.
            latents: Latents to decode, of the shapes of `latent_sizes`; the learned prior's
                when None.

        Raises:
            ShapeError: If there is neither a learned prior nor latents.
        """
        size = [self.srflow.scale * side for side in rgb.shape[2:]]
        rgb = pad_to_even(rgb)
        encoded = None
        if latents is None and self.prior is None:
            raise ShapeError("latents must be given, the model has no learned prior")
        u = self.srflow.condition(rgb)
        if latents is None:
            assert self.prior is not None
            encoded = self.srflow.encode(interpolate(rgb, self.srflow.scale), u)
            latents = self.prior(encoded)
        output = self.srflow.decode(latents, u)[..., : size[0], : size[1]]
        return SrflowPrediction(output, list(latents), encoded)

    def sample(
        self, rgb: Tensor, temperature: float, generator: torch.Generator | None = None
    ) -> SrflowPrediction:
        """Enlarge a picture with latents drawn from temperature · N(0, I)."""
        latents = [
            temperature
            * torch.randn(len(rgb), *size, generator=generator, dtype=rgb.dtype).to(rgb.device)
            for size in self.latent_sizes((rgb.shape[2], rgb.shape[3]))
        ]
        prediction: SrflowPrediction = self(rgb, latents)
        return prediction

    def latent_sizes(self, sides: tuple[int, int]) -> list[tuple[int, int, int]]:
        """Channels, rows and columns of each latent of a picture of `sides` (h, w)."""
        height, width = (self.srflow.scale * (side + side % 2) for side in sides)
        return [
            (channels, height // patch, width // patch)
            for channels, patch in self.srflow.latents
        ]


def pad_to_even(x: Tensor) -> Tensor:
    """Reflect (B, C, h, w) at the bottom and on the right to even sides; 1 repeats itself."""
    for dim in (2, 3):
        if x.shape[dim] % 2:
            x = torch.cat((x, x.narrow(dim, max(x.shape[dim] - 2, 0), 1)), dim)
    return x


def interpolate(rgb: Tensor, scale: int) -> Tensor:
    """Enlarge (B, 3, h, w) bilinearly: the picture whose latents the prior reads."""
    return resize(rgb, (scale * rgb.shape[2], scale * rgb.shape[3]))


def srflow_from_spec(spec: Mapping[str, Any]) -> SRFlow:
    """Build the network that our checkpoint's spec names.

    Args:
        spec: `{"name": "srflow", "args": {...}}` with the arguments of `SRFlow`.

    Raises:
        CheckpointError: If the name or an argument is unknown, missing or of another type.
    """
    name, args = spec.get("name"), DEFAULTS | dict(spec.get("args") or {})
    if name != "srflow":
        raise CheckpointError(f"model must be srflow, got {name!r}")
    if odd := set(args) ^ {*SIZES, "blocks"}:
        raise CheckpointError(f"srflow lacks or does not know argument {min(odd)}")
    for key in SIZES:
        if type(args[key]) is not int or args[key] < 1:
            rule = "must be a whole number of at least 1"
            raise CheckpointError(f"srflow: {key} {rule}, got {args[key]!r}")
    blocks = args["blocks"]
    if not isinstance(blocks, (list, tuple)) or not all(type(i) is int for i in blocks):
        raise CheckpointError(f"srflow: blocks must be whole numbers, got {blocks!r}")
    return SRFlow(**args)


def _latents(levels: int) -> tuple[LatentGrid, ...]:
    grids, channels = [], 3
    for level in range(1, levels + 1):
        channels *= 4
        if level < levels - 1:
            channels //= 2
            grids.append(LatentGrid(channels, 1 << level))
    return (*grids, LatentGrid(channels, 1 << levels))
