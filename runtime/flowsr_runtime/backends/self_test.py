"""Run a bundle's golden pair on a session once, and refuse a session that misses it."""

import io
import json
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.bundle.verdicts import Verdict, device_name, keep, kept_verdict
from flowsr_runtime.errors import BundleError, ParityError
from flowsr_runtime.pictures.pixels import full_range, padded, planes
from flowsr_runtime.tiling.graph_inputs import graph_inputs
from flowsr_runtime.tiling.planner import TilePlanner
from flowsr_runtime.tiling.tiles import Plan, Tile, blend

__all__ = ["NO_GOLDEN_PAIR", "SKIPPED", "GoldenPair", "SelfTest", "Tolerance", "self_test"]

_CASE: Final = "golden/case.json"
_INPUT: Final = "golden/input.png"
_OUTPUT: Final = "golden/output.npy"

_NO_LIMIT: Final = 2**62
"""Bytes of memory, more than any run takes."""


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted difference from the golden output; the limits of `verify`.

    Attributes:
        max_abs: Largest difference of any value, 1 is full range; None for no limit.
        p999_steps: 99.9th percentile of the difference in eight-bit steps; None for no limit.
        psnr: Smallest PSNR in dB, None for no limit.
    """

    max_abs: float | None = None
    p999_steps: float | None = None
    psnr: float | None = None


_FLOAT: Final = 1e-4
_EIGHT_BIT_FLOAT: Final = 1.001 / 255
"""One eight-bit step, for graphs of uint8: a value near a half may be rounded either way."""

_HALF: Final = Tolerance(psnr=50.0, p999_steps=2.0)
_QUANTIZED: Final = Tolerance(psnr=38.0)


@dataclass(frozen=True)
class SelfTest:
    """Whether and how a session was tested.

    Attributes:
        passed: Whether the golden pair was met; None if it was not run.
        note: The largest difference, or the reason why it was not run.
    """

    passed: bool | None
    note: str

    def __str__(self) -> str:
        return f"self-test passed, {self.note}" if self.passed else f"not tested: {self.note}"


SKIPPED: Final = SelfTest(None, "the self-test was switched off")
NO_GOLDEN_PAIR: Final = SelfTest(None, "the bundle holds no golden pair")


@dataclass(frozen=True)
class GoldenPair:
    """A small picture of a bundle, and what its graph makes of it.

    Attributes:
        picture: RGB picture, (h, w, 3) uint8.
        output: Right output, (3, H, W) float32 in units of full range.
        seed: Random seed of the noise.
        temperature: Standard deviation of the latents, None with a learned prior.
        max_abs: Largest difference of a float32 graph, 1 is full range.
    """

    picture: NDArray[np.uint8]
    output: NDArray[np.float32]
    seed: int
    temperature: float | None
    max_abs: float

    @classmethod
    def of(cls, bundle: Bundle) -> "GoldenPair | None":
        """Read the golden pair of a bundle; None if it has none.

        Raises:
            BundleError: If a file of it is damaged or is not what it should be.
        """
        if _CASE not in bundle.manifest.files:
            return None
        case = _parsed(bundle.read(_CASE), bundle)
        try:
            with Image.open(io.BytesIO(bundle.read(_INPUT))) as image:
                picture = np.asarray(image.convert("RGB"))
            output = np.load(io.BytesIO(bundle.read(_OUTPUT)), allow_pickle=False)
        except (OSError, ValueError, EOFError, Image.DecompressionBombError) as error:
            if isinstance(error, BundleError):
                raise
            raise BundleError(f"{bundle.path} has no readable golden pair: {error}") from error
        if output.shape != (3, *case["size"]) or output.dtype not in (np.float32, np.uint8):
            stated = f"(3, {case['size'][0]}, {case['size'][1]})"
            raise BundleError(
                f"golden/output.npy must be {stated} as {_CASE} says, got {output.shape} "
                f"{output.dtype}"
            )
        temperature = case.get("temperature")
        return cls(
            picture=picture,
            output=full_range(output),
            seed=int(case.get("seed", 0)),
            temperature=None if temperature is None else float(temperature),
            max_abs=float(case.get("max_abs", _FLOAT)),
        )


def self_test(
    bundle: Bundle, session: Any, *, precision: str, graph: str, options: str = ""
) -> SelfTest:
    """Test a session with the bundle's golden pair, or find that it has passed before.

    A verdict is kept in the user's cache. A miss is tested again every time.

    Args:
        bundle: Bundle with the model of the session.
        session: A `Session` with the attribute `library`, the name and version of its library.
        precision: Precision of the session.
        graph: Precision of the graph that it runs.
        options: Settings in words that change results, such as "tf32".

    Returns:
        A test that passed, or that could not be run.

    Raises:
        ParityError: If the session misses the golden pair.
        BundleError: If the golden pair is damaged.
        FlowsrError: As `Session.run`.
    """
    if _CASE not in bundle.manifest.files:
        return NO_GOLDEN_PAIR
    key = _key(bundle, session, precision, graph, options)
    verdict = kept_verdict(key)
    if verdict is not None and verdict.passed:
        return SelfTest(True, verdict.measured)
    golden = GoldenPair.of(bundle)
    assert golden is not None, "the manifest lists it"
    try:
        plan = _plan(bundle, session, golden)
    except BundleError:  # no profile of an engine takes it
        size = f"{golden.picture.shape[1]}x{golden.picture.shape[0]}"
        reason = f"no profile takes the golden picture of {size} or tiles of it"
        return SelfTest(None, reason)
    output = _run(bundle, session, golden, plan)
    verdict = _judge(key, golden, output, _tolerance(bundle, golden, precision, options))
    keep(verdict)
    if not verdict.passed:
        where = f"{session.backend} {session.provider} ({session.library})"
        raise ParityError(
            f"{where} misses the golden pair of {bundle.path}: {verdict.measured}; nothing is "
            "computed with it"
        )
    return SelfTest(True, verdict.measured)


def _key(
    bundle: Bundle, session: Any, precision: str, graph: str, options: str
) -> dict[str, str]:
    files = bundle.manifest.files
    return {
        "interface": "python",
        "model": files[bundle.model_name(graph)].sha256,
        "golden": files[_OUTPUT].sha256 if _OUTPUT in files else "",
        "backend": session.backend,
        "provider": session.provider,
        "library": session.library,
        "device": device_name(session.provider, session.device),
        "precision": precision,
        "options": options,
        "engines": " ".join(getattr(session, "engine_hashes", ())),
    }


def _tolerance(bundle: Bundle, golden: GoldenPair, precision: str, options: str) -> Tolerance:
    if precision in ("int8", "fp8"):
        return _QUANTIZED
    if precision != "fp32" or options:
        return _HALF
    eight_bit = bundle.manifest.io == "uint8"
    return Tolerance(max_abs=_EIGHT_BIT_FLOAT if eight_bit else golden.max_abs)


def _plan(bundle: Bundle, session: Any, golden: GoldenPair) -> Plan:
    """Return the tiles of the golden picture, padded for the graph; one if it is taken."""
    manifest = bundle.manifest
    height, width = padded(golden.picture, manifest.multiple).shape[:2]
    target: tuple[int, int] = golden.output.shape[1], golden.output.shape[2]
    if manifest.scale is not None:
        target = int(height * manifest.scale), int(width * manifest.scale)
    planner = TilePlanner(
        (height, width),
        target,
        halo=manifest.tiling.exact,  # tiles then equal the whole to float rounding
        memory=manifest.memory,
        fade=0,
        whole_only=manifest.tiling.whole_only,
        limits=session.limits,
    )
    return planner.plan(_NO_LIMIT)


def _run(bundle: Bundle, session: Any, golden: GoldenPair, plan: Plan) -> NDArray[np.float32]:
    """Return the output of a session, (3, H, W) in units of full range."""
    manifest = bundle.manifest
    picture = padded(golden.picture, manifest.multiple)

    def compute(tile: Tile) -> NDArray[Any]:
        inputs = graph_inputs(
            planes(picture[tile.source], manifest.io),
            tile.window,
            latents=manifest.latents,
            geometry=manifest.geometry,
            seed=golden.seed,
            temperature=golden.temperature or 0.0,
        )
        output: NDArray[Any] = session.run(inputs)
        rows, columns = tile.window.rows.out_size, tile.window.columns.out_size
        if output.shape != (1, 3, rows, columns):
            raise ParityError(
                f"{session.backend} {session.provider} must return (1, 3, {rows}, {columns}) "
                f"for the golden pair of {bundle.path}, got {output.shape}"
            )
        core: NDArray[Any] = output[0].transpose(1, 2, 0)[tile.core]
        return core

    def smaller(plan: Plan, top: int, error: MemoryError) -> Plan:
        raise error

    bands = [full_range(band.copy()) for _, band in blend(plan, compute, smaller)]
    height, width = golden.output.shape[1:]
    result: NDArray[np.float32] = np.concatenate(bands)[:height, :width].transpose(2, 0, 1)
    return result


def _judge(
    key: dict[str, str],
    golden: GoldenPair,
    output: NDArray[np.float32],
    tolerance: Tolerance,
) -> Verdict:
    """Compare an output with the right one; a statistic that is NaN is a miss."""
    if output.shape != golden.output.shape:
        return Verdict(key, False, f"shape must be {golden.output.shape}, got {output.shape}")
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are misses
        difference = np.abs(golden.output.astype(np.float64) - output)
        mean_square = float(np.mean(difference**2))
        largest = float(difference.max())
        steps = float(np.percentile(difference, 99.9)) * 255
    psnr = math.inf if mean_square == 0 else -10 * math.log10(mean_square)
    limits = (
        ("max error", largest, tolerance.max_abs, 1),
        ("p99.9 error in steps", steps, tolerance.p999_steps, 1),
        ("PSNR", psnr, tolerance.psnr, -1),
    )
    missed = [
        f"{name} must be at {'most' if sign > 0 else 'least'} {limit:.3g}, got {value:.3g}"
        for name, value, limit, sign in limits
        if limit is not None and not sign * value <= sign * limit
    ]
    return Verdict(key, not missed, "; ".join(missed) or f"max error {largest:.2g}")


def _parsed(content: bytes, bundle: Bundle) -> dict[str, Any]:
    """Return the content of case.json, checked."""
    message = f"{bundle.path / _CASE} is not the description of a golden pair"
    try:
        case = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{message}: {error}") from error
    if not isinstance(case, dict):
        raise BundleError(f"{message}, got {case!r}")
    size, numbers = case.get("size"), [case.get("seed", 0), case.get("max_abs", 0.0)]
    if case.get("temperature") is not None:
        numbers.append(case["temperature"])
    sides = size if isinstance(size, list) and len(size) == 2 else [None]
    is_size = all(type(side) is int and side >= 1 for side in sides)
    if not is_size or any(type(number) not in (int, float) for number in numbers):
        raise BundleError(f"{message}, got {case}")
    return case
