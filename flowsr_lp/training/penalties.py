"""Penalties on artifacts: patch mesh, values out of range, disagreement with the input."""

__all__ = [
    "Penalties",
    "excess_gain",
    "mesh",
    "out_of_range",
    "phase_pattern",
    "rescaled_difference",
]

import math
from dataclasses import astuple, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from flowsr_runtime.errors import UsageError

# Logarithm of the gain of the flow's inverse, per channel over all layers, that costs nothing.
FREE_LOG_GAIN = 2.0
# Logarithm of the power's ratio that costs nothing: detail without a mesh has it by chance.
FREE_LOG_RATIO = 0.4


@dataclass(frozen=True)
class Penalties:
    """Weights of the penalties that a loss adds; 0 leaves one out.

    Attributes:
        phase: Mean pattern of the error over the patch; see `phase_pattern`.
        mesh: Power of the detail at the patch's period; see `mesh`.
        shift: L1 between two outputs whose patch grids differ by one or two pixels.
        out_of_range: Values outside [0, 1]; see `out_of_range`.
        rescaled: L1 between the output shrunk back and the input.
        gain: Gain of the flow's inverse; see `excess_gain`.

    Raises:
        UsageError: If a weight is below 0 or not finite.
    """

    phase: float = 0.0
    mesh: float = 0.0
    shift: float = 0.0
    out_of_range: float = 0.0
    rescaled: float = 0.0
    gain: float = 0.0

    def __post_init__(self) -> None:
        """Check every weight."""
        for weight in astuple(self):
            if not 0 <= weight < math.inf:
                raise UsageError(f"penalties must be finite and at least 0, got {weight}")

    def __call__(
        self,
        output: Tensor,
        base: Tensor,
        low: Tensor,
        high: Tensor,
        patch: int,
        scale: Tensor,
        shifted: Tensor | None,
    ) -> dict[str, Tensor]:
        """Return the weighted penalties of a batch by name.

        Args:
            output: Upscaled images, (B, 3, H, W), RGB in [0, 1].
            base: Inputs resized to the output's size, (B, 3, H, W), RGB in [0, 1].
            low: Inputs, (B, 3, h, w), RGB in [0, 1].
            high: Ground truth, (B, 3, H, W), RGB in [0, 1].
            patch: Patch side p.
            scale: Factors of the flow, (B, N, L, D).
            shifted: Output with a shifted patch grid, needed where `shift` is above 0.
        """
        terms: dict[str, Tensor] = {}
        if self.phase:
            terms["phase"] = self.phase * phase_pattern(output - high, patch)
        if self.mesh:
            terms["mesh"] = self.mesh * mesh(output - base, patch)
        if self.shift:
            assert shifted is not None
            terms["shift"] = self.shift * F.l1_loss(output, shifted)
        if self.out_of_range:
            terms["range"] = self.out_of_range * out_of_range(output)
        if self.rescaled:
            terms["rescaled"] = self.rescaled * rescaled_difference(output, low)
        if self.gain and scale.requires_grad:
            terms["gain"] = self.gain * excess_gain(scale)
        return terms


def phase_pattern(error: Tensor, patch: int) -> Tensor:
    """Mean absolute deviation of the error's p x p phase means from their mean, a scalar.

    An output with a mesh has an error whose mean depends on the position inside the patch.

    Args:
        error: Output minus ground truth, (B, C, H, W).
        patch: Patch side p.
    """
    rows, cols = (side // patch for side in error.shape[-2:])
    cut = error[..., : rows * patch, : cols * patch]
    means = cut.reshape(*error.shape[:-2], rows, patch, cols, patch).mean((-4, -2))
    deviation: Tensor = (means - means.mean((-2, -1), keepdim=True)).abs().mean()
    return deviation


def mesh(detail: Tensor, patch: int) -> Tensor:
    """Mean excess of the detail's power at the patch's period over that beside it, a scalar.

    The power spectrum of the rows of each channel, averaged over the rows, at 1 / p cycles a
    pixel; the logarithm of its ratio to the geometric mean of its neighborhood, beyond the 0.4
    that occur by chance. The same for columns. A texture that follows the patch grid has a high
    ratio; the detail of a photograph has a ratio near 1. Sides below 10 patches are left out.

    Args:
        detail: Output minus the resized input, (B, C, H, W).
        patch: Patch side p.
    """
    excess = [
        F.relu(_log_ratio_at_period(side, patch) - FREE_LOG_RATIO).mean()
        for side in (detail, detail.transpose(-1, -2))
        if side.shape[-1] >= 10 * patch
    ]
    return torch.stack(excess).mean() if excess else detail.new_zeros(())


def _log_ratio_at_period(rows: Tensor, patch: int) -> Tensor:
    """Logarithm of the power at the patch's period over that beside it, (B, C).

    A Hann window keeps the power of the borders' jumps out of it; the two frequencies on
    either side, to which it spreads the period's own power, are left out.
    """
    period = rows.shape[-1] // patch
    length = period * patch
    cut = rows[..., :length] - rows[..., :length].mean(-1, keepdim=True)
    window = torch.hann_window(length, device=rows.device, dtype=rows.dtype)
    power = torch.fft.rfft(cut * window, norm="ortho").abs().square().mean(-2)
    level = torch.log(power + 1e-7)
    reach = max(5, length // 16)
    below = level[..., max(period - reach, 1) : period - 2]
    above = level[..., period + 3 : period + reach + 1]
    return level[..., period] - torch.cat((below, above), dim=-1).mean(-1)


def out_of_range(rgb: Tensor) -> Tensor:
    """Mean distance of values from [0, 1] plus its root mean square, a scalar.

    The second term makes few values far outside cost more than many close to the range.
    """
    beyond = F.relu(-rgb) + F.relu(rgb - 1)
    return beyond.mean() + (beyond.square().mean() + 1e-12).sqrt()


def rescaled_difference(output: Tensor, low: Tensor) -> Tensor:
    """L1 between the output, shrunk back by antialiased bicubic, and the input, a scalar."""
    small = F.interpolate(
        output, size=low.shape[-2:], mode="bicubic", antialias=True, align_corners=False
    )
    return F.l1_loss(small, low)


def excess_gain(scale: Tensor) -> Tensor:
    """Mean squared log gain of the flow's inverse above e², a scalar.

    Args:
        scale: Factors of the flow, (B, N, L, D); the inverse divides by them.
    """
    gain = -torch.log(scale).sum(-2)
    return F.relu(gain - FREE_LOG_GAIN).square().mean()
