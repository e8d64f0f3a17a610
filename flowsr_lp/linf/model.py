"""LINF and LINF-LP: flow-based super-resolution at any scale; spec/linf.md."""

__all__ = ["LINF", "Conditioning", "LinfLP", "Prediction", "guarded", "linf_from_spec"]

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_lp.linf.encoder import encoder_from_spec
from flowsr_lp.linf.flow import Flow, scale_and_shift
from flowsr_lp.linf.prior import Prior
from flowsr_lp.linf.query import Border, Queries, patch_count, queries
from flowsr_lp.linf.swinir import SwinIR, continued_size, mirrored
from flowsr_runtime.errors import CheckpointError, ShapeError

# Largest distance from gray that a guarded patch may have, normalized: [-0.1, 1.1] in RGB.
GUARD_LIMIT = 1.2
# Difference of the channels from which a patch has the residual's whole color: 8 eight-bit
# steps, normalized. An exactly gray patch stays gray, without a jump beside colored ones.
FULL_COLOR = 16 / 255
DEFAULTS = {"flow_layers": 10, "num_layer": 3, "hidden_dim": 256}


@dataclass(frozen=True)
class Conditioning:
    """Condition of the flow for N = rows · cols patches.

    Attributes:
        rows: Patch rows.
        cols: Patch columns.
        scale: Factors, (B, N, L, D).
        shift: Shifts, (B, N, L, D).
        origin: Rows and columns by which the patch grid begins before the image.
    """

    rows: int
    cols: int
    scale: Tensor
    shift: Tensor
    origin: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Prediction:
    """One inference.

    Attributes:
        output: RGB, unclamped, [0, 1] nominal, (B, 3, H, W).
        latent: The latent that was decoded, (B, D, rows, cols).
        encoded: Latent of the low-frequency residual, (B, D, rows, cols); None when sampled.
    """

    output: Tensor
    latent: Tensor
    encoded: Tensor | None


class LINF(nn.Module):
    """Encoder, local Fourier features, conditioner and flow; parameter names as released.

    Attributes:
        guard: Whether inference shrinks patches with values out of range; see `guarded`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        patch_size: int,
        flow_layers: int = 10,
        num_layer: int = 3,
        hidden_dim: int = 256,
    ) -> None:
        """Build the network around an encoder with an `out_dim`."""
        super().__init__()
        self.guard = False
        self.patch_size = patch_size
        self.width = 3 * patch_size**2
        self.flow_layers = flow_layers
        self.encoder = encoder
        features = int(encoder.out_dim)  # type: ignore[arg-type]
        self.coef = nn.Conv2d(features, hidden_dim, 3, padding=1)
        self.freq = nn.Conv2d(features, hidden_dim, 3, padding=1)
        self.phase = nn.Linear(2, hidden_dim // 2, bias=False)
        widths = [4 * hidden_dim] + [hidden_dim] * num_layer
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [nn.Conv2d(i, o, 1), nn.ReLU()]
        layers.append(nn.Conv2d(hidden_dim, flow_layers * 2 * self.width, 1))
        self.layers = nn.Sequential(*layers)
        self.imnet = Flow(self.width, flow_layers)

    def condition(
        self,
        x: Tensor,
        size: tuple[int, int],
        border: Border,
        origin: tuple[int, int] = (0, 0),
        features: tuple[Tensor, Tensor] | None = None,
        window: tuple[int, int] | None = None,
    ) -> Conditioning:
        """Compute the flow's factors and shifts; spec/linf.md, stages 2 to 4.

        Args:
            x: Normalized picture in [-1, 1], (B, 3, h, w).
            size: Output size (H, W).
            border: Rule for patches beyond the edge.
            origin: Rows and columns by which the patch grid begins before the image.
            features: Result of `features`, if it is known; saves the encoder a run.
            window: Patch rows and columns from the origin on; all of the image if None.
        """
        features = features or self.features(x)
        lr, count = ((each.shape[-2], each.shape[-1]) for each in (x, features[0]))
        query = queries(lr, size, self.patch_size, border, origin, count, window, x.device)
        offset, weight = query.offset.to(x), query.weight.to(x)
        query = Queries(query.rows, query.cols, query.index, offset, weight)
        cell = x.new_tensor([2 * x.shape[-2] / size[0], 2 * x.shape[-1] / size[1]])
        rows = self._fourier(features, query, cell)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):  # a 1x1 convolution is a matrix product of rows
                rows = F.linear(rows, layer.weight.flatten(1), layer.bias)
            else:
                rows = layer(rows)
        scale, shift = scale_and_shift(rows, self.flow_layers)
        return Conditioning(query.rows, query.cols, scale, shift, origin)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute amplitudes and frequencies of every low-resolution pixel.

        Args:
            x: Normalized image in [-1, 1], (B, 3, h, w).

        Returns:
            Two maps, each (B, hidden, h, w), with SwinIR of the continued image.
        """
        return self.feature_maps(self.encoder(x))

    def feature_maps(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Compute amplitudes and frequencies from the encoder's features (B, C, h, w)."""
        return self.coef(encoded), self.freq(encoded)

    def _fourier(self, features: tuple[Tensor, Tensor], query: Queries, cell: Tensor) -> Tensor:
        """Compute local Fourier features, (B, N, 4 · hidden)."""
        coef, freq = (_gather(each, query.index) for each in features)
        f_row, f_col = freq.chunk(2, dim=-1)
        angle = f_row * query.offset[..., :1] + f_col * query.offset[..., 1:] + self.phase(cell)
        waves = torch.cat((torch.cos(torch.pi * angle), torch.sin(torch.pi * angle)), dim=-1)
        return (coef * waves * query.weight[..., None]).flatten(2)

    def encode(self, residual: Tensor, c: Conditioning) -> Tensor:
        """Map a residual (B, 3, H, W) to its latent (B, D, rows, cols)."""
        z = self.imnet.encode(self._patches(residual, c), c.scale, c.shift)
        return _grid(z, c)

    def decode(
        self, z: Tensor, c: Conditioning, size: tuple[int, int], base: Tensor | None = None
    ) -> Tensor:
        """Map a latent to its residual.

        Args:
            z: Latent, (B, D, rows, cols).
            c: Condition of the flow.
            size: Output size (H, W).
            base: Interpolated image that the residual is added to, (B, 3, H, W) in [-1, 1];
                with it and `guard`, patches out of range are shrunk.

        Returns:
            Residual, (B, 3, H, W).
        """
        vectors = self.imnet.decode(z.flatten(2).mT, c.scale, c.shift)
        if self.guard and base is not None:
            vectors = guarded(vectors, self._patches(base, c), -1)
        folded = F.pixel_shuffle(_grid(vectors, c), self.patch_size)
        top, left = c.origin
        return folded[..., top : top + size[0], left : left + size[1]]

    def log_likelihood(self, residual: Tensor, c: Conditioning) -> Tensor:
        """Log density of each patch of a residual (B, 3, H, W) in nats, (B, N)."""
        return self.imnet.log_likelihood(self._patches(residual, c), c.scale, c.shift)

    def _patches(self, residual: Tensor, c: Conditioning) -> Tensor:
        """Cut (B, 3, H, W) into vectors (B, N, D), zero beyond the picture."""
        top, left = c.origin
        bottom = c.rows * self.patch_size - residual.shape[-2] - top
        right = c.cols * self.patch_size - residual.shape[-1] - left
        padded = F.pad(residual, (left, right, top, bottom))
        return F.pixel_unshuffle(padded, self.patch_size).flatten(2).mT


class LinfLP(nn.Module):
    """LINF with an optional learned prior: the whole inference."""

    def __init__(self, linf: LINF, prior: Prior | None = None) -> None:
        """Join a flow and the latent module trained for it."""
        super().__init__()
        self.linf = linf
        self.prior = prior

    def forward(
        self,
        rgb: Tensor,
        size: tuple[int, int],
        latent: Tensor | None = None,
        border: Border = "extend",
    ) -> Prediction:
        """Upscale an image; spec/linf.md, stages 1 to 7.

        Args:
            rgb: Low-resolution picture in [0, 1], (B, 3, h, w).
            size: Output size (H, W).
            latent: Latent to decode, (B, D, rows, cols); the learned prior's when None.
            border: Rule for patches beyond the edge.

        Raises:
            ShapeError: If there is neither a learned prior nor a latent, or a published border
                cannot be had: with SwinIR it takes scales that give the continued image whole
                sides.
        """
        x = (rgb - 0.5) / 0.5
        if border != "extend" and isinstance(self.linf.encoder, SwinIR):
            return self._continued(self.linf.encoder, x, size, latent, border)
        return self._predicted(x, size, latent, self.linf.condition(x, size, border))

    def _continued(
        self,
        encoder: SwinIR,
        x: Tensor,
        size: tuple[int, int],
        latent: Tensor | None,
        border: Border,
    ) -> Prediction:
        """Upscale as published with SwinIR: the continued image, cropped in the end."""
        whole = _continued((x.shape[-2], x.shape[-1]), size, border)
        x = mirrored(mirrored(x, 2), 3)
        features = self.linf.feature_maps(encoder.windows(x))
        c = self.linf.condition(x, whole, border, features=features)
        full = self._predicted(x, whole, latent, c)
        return replace(full, output=full.output[..., : size[0], : size[1]])

    def _predicted(
        self, x: Tensor, size: tuple[int, int], latent: Tensor | None, c: Conditioning
    ) -> Prediction:
        """Upscale a normalized image under a condition."""
        encoded = None
        if latent is None:
            if self.prior is None:
                raise ShapeError("latent must be given, the model has no learned prior")
            encoded = self.linf.encode(low_frequency_residual(x, size), c)
            latent = self.prior(encoded, x)
        base = resize(x, size)
        y = self.linf.decode(latent, c, size, base) + base
        return Prediction(y * 0.5 + 0.5, latent, encoded)

    def sample(
        self,
        rgb: Tensor,
        size: tuple[int, int],
        temperature: float,
        generator: torch.Generator | None = None,
        border: Border = "extend",
    ) -> Prediction:
        """Upscale an image with a latent drawn from temperature · N(0, I)."""
        rows, cols = self.latent_size(size, border, (rgb.shape[-2], rgb.shape[-1]))
        shape = (rgb.shape[0], self.linf.width, rows, cols)
        noise = torch.randn(shape, generator=generator, dtype=rgb.dtype).to(rgb.device)
        prediction: Prediction = self(rgb, size, temperature * noise, border)
        return prediction

    def latent_size(
        self,
        size: tuple[int, int],
        border: Border = "extend",
        lr: tuple[int, int] | None = None,
    ) -> tuple[int, int]:
        """Return the rows and columns of a latent.

        Args:
            size: Output size (H, W).
            border: Rule for patches beyond the edge.
            lr: Low-resolution size (h, w); needed with SwinIR and a published border, where the
                latent is of the continued image.
        """
        if lr is not None and border != "extend" and isinstance(self.linf.encoder, SwinIR):
            size = _continued(lr, size, border)
        rows, cols = (patch_count(side, self.linf.patch_size, border) for side in size)
        return rows, cols


def guarded(residual: Tensor, base: Tensor, dim: int) -> Tensor:
    """Keep gray patches gray, and shrink residuals until no value leaves [-0.1, 1.1] in RGB.

    Args:
        residual: Residual patches, normalized, with the values of a patch along `dim`, channel
            by channel.
        base: Interpolated image in [-1, 1], of the same shape, 0 beyond the image.
        dim: Dimension of a patch's values, 0 or the last.

    Returns:
        Residual patches; those of colored patches in range are unchanged.
    """
    axis = dim % residual.dim()
    shape = (*residual.shape[:axis], 3, residual.shape[axis] // 3, *residual.shape[axis + 1 :])
    channels, below = residual.reshape(shape), base.reshape(shape)
    spread = below.amax(axis, keepdim=True) - below.amin(axis, keepdim=True)
    share = (spread.amax(axis + 1, keepdim=True) / FULL_COLOR).clamp(max=1)
    gray = channels.mean(axis, keepdim=True)
    residual = (gray + (channels - gray) * share).flatten(axis, axis + 1)
    excess = torch.maximum(residual / (GUARD_LIMIT - base), -residual / (GUARD_LIMIT + base))
    return residual / excess.amax(dim, keepdim=True).clamp(min=1)


def _continued(lr: tuple[int, int], size: tuple[int, int], border: Border) -> tuple[int, int]:
    """Return the output size of an image that SwinIR continues."""
    whole = [Fraction(continued_size(a) * b, a) for a, b in zip(lr, size, strict=True)]
    if any(side.denominator > 1 for side in whole):
        raise ShapeError(
            f"border {border} with SwinIR needs a whole size of the continued image, got "
            f"{size[1]}x{size[0]} for {lr[1]}x{lr[0]}; border extend takes any"
        )
    return int(whole[0]), int(whole[1])


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, h, w) bilinearly with half-pixel centres, no antialiasing."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def low_frequency_residual(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The residual that the learned prior encodes, (B, 3, H, W); spec/linf.md, stage 6."""
    up = resize(x, size)
    return up - resize(resize(up, (x.shape[-2], x.shape[-1])), size)


def linf_from_spec(spec: Mapping[str, Any]) -> LINF:
    """Build the network that a checkpoint's `model` entry names.

    Args:
        spec: `{"name": "linf" | "linf-patch", "args": {...}}` as in a released checkpoint;
            `"guard": true` turns the guard on.

    Raises:
        CheckpointError: If the name or the encoder is unknown.
    """
    name, args = spec.get("name"), dict(spec.get("args") or {})
    if name not in ("linf", "linf-patch"):
        raise CheckpointError(f"model must be linf or linf-patch, got {name!r}")
    patch = int(args.get("patch_size", 3)) if name == "linf-patch" else 1
    sizes = {key: int(args.get(key, value)) for key, value in DEFAULTS.items()}
    linf = LINF(encoder_from_spec(args.get("encoder_spec") or {}), patch, **sizes)
    linf.guard = spec.get("guard") is True
    return linf


def _grid(vectors: Tensor, c: Conditioning) -> Tensor:
    """Lay vectors (B, N, D) out as (B, D, rows, cols)."""
    return vectors.mT.reshape(vectors.shape[0], -1, c.rows, c.cols)


def _gather(features: Tensor, index: Tensor) -> Tensor:
    """Read pixels of (B, C, h, w) as rows, (B, N, 4, C)."""
    batch, channels, height, width = features.shape
    table = features.flatten(2).mT.reshape(-1, channels)
    first = torch.arange(batch, device=index.device).view(-1, 1, 1) * (height * width)
    return F.embedding(first + index, table)
