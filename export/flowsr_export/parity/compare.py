"""Comparing a runtime with the PyTorch reference, in the units of pictures; fails closed."""

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
    "HALF_BAR",
    "Tolerance",
    "ErrorStats",
    "GraphRunner",
    "tolerance_for",
    "compare",
    "figures_of",
    "graph_output",
    "reference_output",
]

EIGHT_BIT = 255


class GraphRunner(Protocol):
    """What runs the graph: a session of the runtime."""

    def run(self, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """Output of the graph for named inputs: float32, or eight bits."""
        ...


@dataclass(frozen=True)
class Tolerance:
    """The largest difference that is accepted; None where a precision has no such bar.

    Attributes:
        max_abs: Largest difference of any value, 1 is full range.
        max_steps: Largest difference of eight-bit pictures.
        p999_steps: 99.9th percentile of the difference, in eight-bit steps, not rounded.
        psnr: Smallest PSNR between the two outputs, dB.
        in_range: Whether a finite value that no picture holds misses the bar too.
    """

    max_abs: float | None = None
    max_steps: int | None = None
    p999_steps: float | None = None
    psnr: float | None = None
    in_range: bool = False


HALF_BAR = Tolerance(psnr=50.0, p999_steps=2.0)
QUANTISED_BAR = Tolerance(psnr=38.0)


@dataclass(frozen=True)
class ErrorStats:
    """How far two outputs are apart.

    Attributes:
        case: What was compared.
        max_abs: Largest difference, 1 is full range.
        max_steps: Largest difference of the eight-bit pictures.
        p999_steps: 99.9th percentile of the difference, in eight-bit steps, not rounded.
        psnr: PSNR between the outputs in dB, infinity when equal.
        explosion: Values that no picture holds, in the output or else in the reference.
    """

    case: Case
    max_abs: float
    max_steps: int
    p999_steps: float
    psnr: float
    explosion: OutOfRangeValues | None

    def violations(self, bar: Tolerance) -> list[str]:
        """Say which bars are missed; a figure that is not a number misses every bar."""
        missed = []
        if self.explosion and (bar.in_range or self.explosion.non_finite):
            missed.append(f"the flow explodes, {self.explosion}")
        limits = (
            ("max error", self.max_abs, bar.max_abs, 1),
            ("eight-bit error", self.max_steps, bar.max_steps, 1),
            ("p99.9 error in steps", self.p999_steps, bar.p999_steps, 1),
            ("PSNR", self.psnr, bar.psnr, -1),
        )
        for name, value, limit, sign in limits:
            if limit is not None and not sign * value <= sign * limit:
                word = "at most" if sign > 0 else "at least"
                missed.append(f"{name} must be {word} {limit:g}, got {value:.3g}")
        return missed

    def used(self, bar: Tolerance) -> float:
        """Largest share of a bar that is used up: 1 at the bar, infinite where it is no number.

        Of eight-bit steps it is the unrounded difference; of the PSNR the ratio of the errors.
        """
        shares = [
            value / limit
            for value, limit in (
                (self.max_abs, bar.max_abs),
                (self.max_abs * EIGHT_BIT, bar.max_steps),
                (self.p999_steps, bar.p999_steps),
            )
            if limit
        ]
        if bar.psnr is not None:
            shares.append(10 ** ((bar.psnr - self.psnr) / 20))
        if not all(math.isfinite(share) for share in shares):
            return math.inf
        return max(shares, default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """ErrorStats for JSON; an infinite PSNR is null."""
        values = asdict(self)
        values["psnr"] = self.psnr if math.isfinite(self.psnr) else None
        return values


def tolerance_for(deployment: Deployment, precision: str, io: str = "float32") -> Tolerance:
    """The largest difference that a graph of a precision and a type of pictures may show."""
    if precision == "fp32":
        return Tolerance(max_abs=deployment.max_abs if io == "float32" else None, max_steps=1)
    return QUANTISED_BAR if precision in ("int8", "fp8") else HALF_BAR


def compare(
    deployment: Deployment,
    session: GraphRunner,
    cases: Sequence[Case],
    scale: Fraction | None,
    bar: Tolerance,
    advance: Callable[[str], None] = lambda note: None,
) -> list[ErrorStats]:
    """Compare a session with the reference and refuse a difference.

    Args:
        deployment: The network; its reference is in float32.
        session: Runs the exported graph; what gives eight bits is compared in their steps.
        cases: What to compare, at least one.
        scale: The scale that the graph was restated with, None for any.
        bar: Largest difference that is accepted.
        advance: Called with each case's name when it is done.

    Returns:
        ErrorStats of every case.

    Raises:
        ParityError: If a bar is missed, a figure cannot be computed, or there is no case.
    """
    if not cases:
        raise ParityError("parity was not checked: no case")
    done = []
    for case in cases:
        feeds = deployment.feeds(case, scale)
        reference = reference_output(deployment, case, feeds)
        figures = figures_of(case, reference, graph_output(deployment, session, case, feeds))
        missed = figures.violations(bar)
        if missed:
            raise ParityError(f"output differs from PyTorch at {case}: {'; '.join(missed)}")
        done.append(figures)
        advance(str(case))
    return done


def reference_output(
    deployment: Deployment, case: Case, feeds: Mapping[str, NDArray[Any]]
) -> NDArray[np.float32]:
    """Enlarge in eager float32 PyTorch what the graph is fed.

    Args:
        deployment: The network.
        case: Sizes and batch.
        feeds: Inputs of the graph, padded.

    Returns:
        (B, 3, H, W), unclamped, of the picture without its padding.
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
    """GraphRunner the graph and crop its output to the picture without its padding.

    Args:
        deployment: The network.
        session: Runs the graph.
        case: Sizes and batch.
        feeds: Inputs of the graph, padded.

    Returns:
        (B, 3, H, W), float32 or eight bits.

    Raises:
        ParityError: If the output has another size.
    """
    output = session.run(dict(feeds))
    padded = (case.batch, 3, *deployment.padded_size(case))
    if output.shape != padded:
        raise ParityError(f"output at {case} must be {padded}, got {output.shape}")
    return output[..., : case.size[0], : case.size[1]]


def figures_of(case: Case, reference: NDArray[np.float32], output: NDArray[Any]) -> ErrorStats:
    """Say how far an output is from its reference.

    Args:
        case: What was compared.
        reference: (B, 3, H, W), unclamped, 1 is full range.
        output: The same, or eight bits: the reference is rounded for these.

    Returns:
        The figures; those that cannot be computed are not numbers.
    """
    explosion = find_out_of_range(reference)
    if output.dtype != np.uint8:
        explosion = find_out_of_range(output) or explosion
    else:  # eight bits hide what explodes; the reference shows it
        reference = (np.floor(_clean(reference) * EIGHT_BIT + 0.5) / EIGHT_BIT).astype(
            np.float32
        )
        output = (output / EIGHT_BIT).astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # the count of such values says it
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
