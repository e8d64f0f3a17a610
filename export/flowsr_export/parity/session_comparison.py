"""ONNX files side by side, by Polygraphy: whole graphs compared, or every tensor of one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from flowsr_export.parity.compare import Tolerance
from flowsr_runtime.backends.onnxruntime_session import PROVIDERS
from flowsr_runtime.errors import BundleError, ParityError, ProviderError

__all__ = [
    "Comparison",
    "MetricLimit",
    "compare_sessions",
    "every_tensor",
    "open_session",
    "require_polygraphy",
    "tolerance_of",
]

Feeds = Mapping[str, NDArray[Any]]

GPU = ("cuda", "tensorrt")
EIGHT_BIT = 255
QUANTILE = 0.999


@dataclass(frozen=True)
class MetricLimit:
    """What Polygraphy holds a difference against.

    Attributes:
        statistic: Of the absolute differences; the quantile is the 99.9th percentile.
        limit: Largest value, in units of the output.
    """

    statistic: Literal["max", "mean", "quantile"]
    limit: float


@dataclass(frozen=True)
class Comparison:
    """Two sessions on the same inputs, as Polygraphy judged them.

    Attributes:
        first: Name of the session that is compared with.
        second: Name of the other.
        runs: How many inputs were run.
        tolerance: What the difference was held against.
        max_abs: Largest difference of any output value, in units of the output.
        mean_abs: Largest mean difference of any run.
        passed: Whether every run is within the tolerance.
    """

    first: str
    second: str
    runs: int
    tolerance: MetricLimit
    max_abs: float
    mean_abs: float
    passed: bool


def require_polygraphy() -> None:
    """Import Polygraphy, before slow work that needs it.

    Raises:
        ImportError: If it is not installed.
    """
    import polygraphy.comparator  # noqa: F401


def tolerance_of(bar: Tolerance, io: str) -> MetricLimit:
    """Say a bar in Polygraphy's terms.

    Polygraphy has no PSNR of pictures whose range is known. No mean difference exceeds the root
    of the mean square, which a PSNR bounds.
    """
    full = EIGHT_BIT if io == "uint8" else 1
    if bar.max_abs is not None:
        return MetricLimit("max", bar.max_abs * full)
    if bar.max_steps is not None:
        return MetricLimit("max", bar.max_steps * full / EIGHT_BIT)
    if bar.p999_steps is not None:
        return MetricLimit("quantile", bar.p999_steps * full / EIGHT_BIT)
    assert bar.psnr is not None, "a bar has a limit"
    return MetricLimit("mean", full * math.pow(10, -bar.psnr / 20))


def open_session(
    content: bytes, provider: str = "cpu", device: int = 0, *, optimised: bool = True
) -> ort.InferenceSession:
    """Load an ONNX file for Polygraphy.

    Args:
        content: The file.
        provider: A key of `PROVIDERS`.
        device: Index of the GPU.
        optimised: Whether ONNX Runtime may rewrite the graph.

    Raises:
        ProviderError: If ONNX Runtime took another provider.
        BundleError: If it cannot load the file.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    options.enable_mem_pattern = False  # as the runtime has it
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    at = {"device_id": str(device)} if provider in GPU else {}
    wanted = [(PROVIDERS[provider], at), (PROVIDERS["cpu"], {})]
    if provider == "cpu":
        wanted = wanted[:1]
    state = ort.capi.onnxruntime_pybind11_state
    try:
        session = ort.InferenceSession(content, options, providers=wanted, enable_fallback=0)
    except (
        state.Fail,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NotImplemented,
    ) as error:
        reason = " ".join(str(error).split())
        raise BundleError(f"onnxruntime cannot load the graph: {reason}") from error
    if PROVIDERS[provider] not in session.get_providers():
        raise ProviderError(f"provider {provider} did not start on device {device}")
    return session


def compare_sessions(
    sessions: Mapping[str, ort.InferenceSession],
    feeds: Sequence[Feeds],
    tolerances: Mapping[str, MetricLimit],
) -> list[Comparison]:
    """Compare the outputs of every session with those of the first.

    Args:
        sessions: By name, two or more.
        feeds: Inputs of each run, at least one.
        tolerances: By name of every session but the first.

    Returns:
        One comparison for each session but the first.

    Raises:
        ParityError: If Polygraphy could not compare.
    """
    from polygraphy.backend.onnxrt import OnnxrtRunner
    from polygraphy.comparator import Comparator, SimpleCompareFunc

    if len(sessions) < 2 or not feeds:
        raise ParityError("onnx backends were not compared: two sessions and a run are needed")
    first, *others = sessions
    done = []
    with _quiet():
        runners = [OnnxrtRunner(session, name=name) for name, session in sessions.items()]
        results = Comparator.run(runners, data_loader=[dict(feed) for feed in feeds])
        for i, name in enumerate(others, 1):
            tolerance = tolerances[name]
            compare = SimpleCompareFunc(
                atol=tolerance.limit,
                rtol=0,
                check_error_stat=tolerance.statistic,
                error_quantile=QUANTILE,
            )
            found = Comparator.compare_accuracy(
                results, comparisons=[(0, i)], compare_func=compare
            )
            judged = [run["output"] for run in found[0][(first, name)]]
            done.append(_comparison(first, name, tolerance, judged, len(feeds)))
    return done


def every_tensor(model: onnx.ModelProto, feeds: Feeds) -> dict[str, NDArray[Any]]:
    """Run a graph as its file says, not optimised, and keep what every node gives.

    Args:
        model: The graph; not changed.
        feeds: Its inputs.

    Returns:
        Tensors by name.

    Raises:
        BundleError: If ONNX Runtime cannot load the graph.
        ParityError: If it could not run.
    """
    from polygraphy import constants
    from polygraphy.backend.onnx import modify_outputs
    from polygraphy.backend.onnxrt import OnnxrtRunner

    with _quiet():
        marked = modify_outputs(model, outputs=constants.MARK_ALL, copy=True)
        session = open_session(marked.SerializeToString(), optimised=False)
        with OnnxrtRunner(session) as runner:
            tensors: dict[str, NDArray[Any]] = dict(runner.infer(dict(feeds)))
    return tensors


def _comparison(
    first: str, second: str, tolerance: MetricLimit, judged: Sequence[Any], due: int
) -> Comparison:
    """Sum up the runs of a pair; one without figures, as of other shapes, did not pass."""
    figures = [run for run in judged if hasattr(run, "max_absdiff")]
    sound = len(figures) == due and all(math.isfinite(run.max_absdiff) for run in figures)
    return Comparison(
        first,
        second,
        len(judged),
        tolerance,
        max_abs=max((run.max_absdiff for run in figures), default=math.nan),
        mean_abs=max((run.mean_absdiff for run in figures), default=math.nan),
        passed=sound and all(bool(run) for run in judged),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Polygraphy from printing, and make its errors ours."""
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    try:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):
            yield
    except PolygraphyException as error:
        raise ParityError(f"polygraphy could not compare: {error}") from error
