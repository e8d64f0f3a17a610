"""Evaluation protocols: the border, values, metrics and inputs that each paper uses."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from flowsr_export.evaluation.imresize import Filter
from flowsr_runtime.geometry import exact_scale

if TYPE_CHECKING:
    from flowsr_lp.linf.query import Border

__all__ = ["OWN", "PROTOCOLS", "Protocol", "Rounding", "SsimKind", "Values"]

Values = Literal["rounded", "truncated", "float"]
Rounding = Literal["half-up", "half-even"]
SsimKind = Literal["gaussian", "uniform"]


@dataclass(frozen=True)
class Shave:
    """Border that a metric leaves out.

    Attributes:
        scales: Multiple of the scale, in pixels.
        more: Pixels besides.
    """

    scales: int = 0
    more: int = 0

    def pixels(self, scale: str) -> int:
        """Return the border at a scale as it was typed, in pixels; it is rounded up."""
        return self.scales * math.ceil(exact_scale(scale)) + self.more


WHOLE, BY_SCALE, BY_SCALE_AND_SIX = Shave(), Shave(1), Shave(1, 6)


@dataclass(frozen=True)
class Protocol:
    """The choices of an evaluation.

    Attributes:
        border: Rule for patches beyond the edge; only checkpoints in PyTorch have others than
            "extend".
        downsample: Filter that reduces originals without a partner.
        rounding: Rule for an output side of half a pixel.
        values: Form of the outputs that are compared: eight bits, or float32 in [0, 255].
        psnr: Border of the PSNR of RGB.
        psnr_y: Border of the PSNR of luma.
        ssim: Border of the SSIM of RGB.
        ssim_y: Border of the SSIM of luma.
        lr_psnr: Border of the consistency with the input, in low-resolution pixels.
        ssim_kind: Window of SSIM; see `metrics.ssim`.
        lr_rounded: Whether the reduced output is rounded to eight bits.
    """

    border: Border = "extend"
    downsample: Filter = "matlab"
    rounding: Rounding = "half-up"
    values: Values = "rounded"
    psnr: Shave = BY_SCALE
    psnr_y: Shave = BY_SCALE
    ssim: Shave = WHOLE
    ssim_y: Shave = BY_SCALE
    lr_psnr: Shave = WHOLE
    ssim_kind: SsimKind = "gaussian"
    lr_rounded: bool = True

    def shaved(self, metric: str, scale: str) -> int:
        """Return the border of a metric at a scale, in pixels; 0 for one without."""
        shave = getattr(self, metric.replace("-", "_"), WHOLE)
        return shave.pixels(scale) if isinstance(shave, Shave) else 0


OWN: Final = Protocol()
"""Eight bits as they are saved, inputs by MATLAB's filter, borders of the LINF-LP paper."""

ARBITRARY: Final = Protocol(
    border="tight", downsample="pillow", rounding="half-even", values="float", lr_rounded=False
)

PROTOCOLS: Final = {
    "linf-lp": Protocol(border="paired", values="float", lr_psnr=BY_SCALE, lr_rounded=False),
    "linf-lp-arbitrary": ARBITRARY,
    "linf": replace(ARBITRARY, psnr=BY_SCALE_AND_SIX, psnr_y=BY_SCALE_AND_SIX),
    "srflow": Protocol(
        values="truncated", psnr=WHOLE, psnr_y=WHOLE, ssim_y=WHOLE, ssim_kind="uniform"
    ),
}
"""Protocols of the released evaluation scripts; spec/linf.md, last section."""
