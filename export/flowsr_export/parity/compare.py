"""Compare the output of a graph with PyTorch, in image units.

The comparison fails closed: a statistic that cannot be computed violates every tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from flowsr_export.deployment.interface import Deployment
from flowsr_export.inputs.cases import Case
from flowsr_runtime.errors import ParityError
from flowsr_runtime.tiling.exploding_inverse import OutOfRangeValues, find_out_of_range

__all__ = [
    "HALF_TOLERANCE",
    "Tolerance",
    "ErrorStats",
    "GraphRunner",
    "tolerance_for",
    "compare",
    "error_stats",
    "graph_output",
    "reference_output",
]

EIGHT_BIT = 255


class GraphRunner(Protocol):
    """Runs a graph; a session of the runtime is one."""

    def run(self, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the output for named inputs, float32 or uint8."""
        ...


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted difference; None for a statistic that is not limited.

    Attributes:
        max_abs: Largest difference of any value, 1 is full range.
        max_steps: Largest difference of eight-bit pictures.
        p999_steps: 99.9th percentile of the difference, in eight-bit steps, not rounded.
        psnr: Smallest PSNR between the two outputs, dB.
        in_range: Whether finite values far outside the image range are violations too.
    """

    max_abs: float | None = None
    max_steps: int | None = None
    p999_steps: float | None = None
    psnr: float | None = None
    in_range: bool = False


HALF_TOLERANCE = Tolerance(psnr=50.0, p999_steps=2.0)
QUANTIZED_TOLERANCE = Tolerance(psnr=38.0)


@dataclass(frozen=True)
class ErrorStats:
    """Difference between two outputs.

    Attributes:
        case: Sizes and batch.
        max_abs: Largest difference, 1 is full range.
        max_steps: Largest difference of the eight-bit pictures.
        p999_steps: 99.9th percentile of the difference, in eight-bit steps, not rounded.
        psnr: PSNR between the outputs in dB, infinity when equal.
        explosion: Values far outside the image range, in the output or else in the reference.
    """

    case: Case
    max_abs: float
    max_steps: int
    p999_steps: float
    psnr: float
    explosion: OutOfRangeValues | None

    def violations(self, tolerance: Tolerance) -> list[str]:
        """List the violated limits; NaN violates all of them."""
        violated = []
        if self.explosion and (tolerance.in_range or self.explosion.non_finite):
            violated.append(f"the flow's inverse explodes: {self.explosion}")
        limits = (
            ("max error", self.max_abs, tolerance.max_abs, 1),
            ("eight-bit error", self.max_steps, tolerance.max_steps, 1),
            ("p99.9 error in steps", self.p999_steps, tolerance.p999_steps, 1),
            ("PSNR", self.psnr, tolerance.psnr, -1),
        )
        for name, value, limit, sign in limits:
            if limit is not None and not sign * value <= sign * limit:
                word = "at most" if sign > 0 else "at least"
                violated.append(f"{name} must be {word} {limit:g}, got {value:.3g}")
        return violated

    def fraction_used(self, tolerance: Tolerance) -> float:
        """Return the largest share of a limit that is used: 1 at the limit, infinite for NaN.

        For eight-bit steps it is the unrounded difference, for PSNR the ratio of the errors.
        """
        shares = [
            value / limit
            for value, limit in (
                (self.max_abs, tolerance.max_abs),
                (self.max_abs * EIGHT_BIT, tolerance.max_steps),
                (self.p999_steps, tolerance.p999_steps),
            )
            if limit
        ]
        if tolerance.psnr is not None:
            shares.append(10 ** ((tolerance.psnr - self.psnr) / 20))
        if not all(math.isfinite(share) for share in shares):
            return math.inf
        return max(shares, default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """Return the statistics for JSON; an infinite PSNR becomes null."""
        values = asdict(self)
        values["psnr"] = self.psnr if math.isfinite(self.psnr) else None
        return values


def tolerance_for(deployment: Deployment, precision: str, io: str = "float32") -> Tolerance:
    """Return the tolerance for a graph of a precision with float32 or uint8 images."""
    if precision == "fp32":
        return Tolerance(max_abs=deployment.max_abs if io == "float32" else None, max_steps=1)
    return QUANTIZED_TOLERANCE if precision in ("int8", "fp8") else HALF_TOLERANCE


def compare(
    deployment: Deployment,
    session: GraphRunner,
    cases: Sequence[Case],
    scale: Fraction | None,
    tolerance: Tolerance,
    advance: Callable[[str], None] = lambda note: None,
) -> list[ErrorStats]:
    """Compare a session with the reference and refuse a difference above the tolerance.

    Args:
        deployment: The network; its reference is in float32.
        session: Runs the exported graph; uint8 output is compared in eight-bit steps.
        cases: Sizes and batches, at least one.
        scale: The fixed scale of the graph, None for any.
        tolerance: Largest accepted difference.
        advance: Called with each case's name when it is done.

    Returns:
        Statistics of every case.

    Raises:
        ParityError: If the tolerance is violated or there is no case.
    """
    if not cases:
        raise ParityError("cases must hold at least one case, got none")
    results = []
    for case in cases:
        feeds = deployment.feeds(case, scale)
        reference = reference_output(deployment, case, feeds)
        stats = error_stats(case, reference, graph_output(deployment, session, case, feeds))
        violated = stats.violations(tolerance)
        if violated:
            raise ParityError(f"output differs from PyTorch at {case}: {'; '.join(violated)}")
        results.append(stats)
        advance(str(case))
    return results


def reference_output(
    deployment: Deployment, case: Case, feeds: Mapping[str, NDArray[Any]]
) -> NDArray[np.float32]:
    """Upscale the inputs of a graph in eager float32 PyTorch.

    Args:
        deployment: The network.
        case: Sizes and batch.
        feeds: Inputs of the graph, padded.

    Returns:
        (B, 3, H, W), unclamped, without padding.
    """
    rgb = torch.from_numpy(
        np.ascontiguousarray(feeds["input"][..., : case.lr[0], : case.lr[1]])
    )
    latents = [torch.from_numpy(feeds[latent.name]) for latent in deployment.latents]
    with torch.inference_mode():
        reference: NDArray[np.float32] = deployment.reference(
            rgb, case.size, latents or None
        ).numpy()
    return reference


def graph_output(
    deployment: Deployment, session: GraphRunner, case: Case, feeds: Mapping[str, NDArray[Any]]
) -> NDArray[Any]:
    """Run a graph and crop its output to the image without padding.

    Args:
        deployment: The network.
        session: Runs the graph.
        case: Sizes and batch.
        feeds: Inputs of the graph, padded.

    Returns:
        (B, 3, H, W), float32 or uint8.

    Raises:
        ParityError: If the output has another size.
    """
    output = session.run(dict(feeds))
    padded = (case.batch, 3, *deployment.padded_size(case))
    if output.shape != padded:
        raise ParityError(f"output at {case} must be {padded}, got {output.shape}")
    return output[..., : case.size[0], : case.size[1]]


def error_stats(case: Case, reference: NDArray[np.float32], output: NDArray[Any]) -> ErrorStats:
    """Compute the difference between an output and its reference.

    Args:
        case: Sizes and batch.
        reference: (B, 3, H, W), unclamped, 1 is full range.
        output: The same, or uint8: the reference is then rounded too.

    Returns:
        The statistics; NaN where one cannot be computed.
    """
    explosion = find_out_of_range(reference)
    if output.dtype != np.uint8:
        explosion = find_out_of_range(output) or explosion
    else:  # uint8 clips values out of range; the reference shows them
        reference = (np.floor(_clean(reference) * EIGHT_BIT + 0.5) / EIGHT_BIT).astype(
            np.float32
        )
        output = (output / EIGHT_BIT).astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # `explosion` counts such values
        difference = np.abs(reference.astype(np.float64) - output)
        mse = float(np.mean(difference**2))
    return ErrorStats(
        case,
        max_abs=float(difference.max()),
        max_steps=int(np.abs(_eight_bit(reference) - _eight_bit(output)).max()),
        p999_steps=round(float(np.percentile(difference, 99.9)) * EIGHT_BIT, 5),
        psnr=math.inf if mse == 0 else -10 * math.log10(mse),
        explosion=explosion,
    )


def _eight_bit(values: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.rint(_clean(values) * EIGHT_BIT).astype(np.int64)


def _clean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    clean: NDArray[np.float32] = np.nan_to_num(np.clip(values, 0, 1))
    return clean
