"""Compare ONNX models with Polygraphy: their outputs, or every tensor of one."""

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
from flowsr_runtime.backends.cuda_provider import CudaOptions
from flowsr_runtime.backends.onnxruntime_session import PROVIDERS, provider_list, silenced
from flowsr_runtime.errors import BundleError, ParityError, ProviderError

__all__ = [
    "Comparison",
    "MetricLimit",
    "compare_sessions",
    "every_tensor",
    "open_session",
    "require_polygraphy",
    "metric_limit",
]

Feeds = Mapping[str, NDArray[Any]]

EIGHT_BIT = 255
QUANTILE = 0.999


@dataclass(frozen=True)
class MetricLimit:
    """Limit of one statistic of the absolute differences.

    Attributes:
        statistic: Name in Polygraphy; the quantile is the 99.9th percentile.
        limit: Largest accepted value, in units of the output.
    """

    statistic: Literal["max", "mean", "quantile"]
    limit: float


@dataclass(frozen=True)
class Comparison:
    """Two sessions compared by Polygraphy on the same inputs.

    Attributes:
        first: Name of the reference session.
        second: Name of the other session.
        runs: Number of inputs.
        tolerance: Accepted difference.
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
    """Import Polygraphy before slow work.

    Raises:
        ImportError: If Polygraphy is not installed.
    """
    import polygraphy.comparator  # noqa: F401


def metric_limit(tolerance: Tolerance, io: str) -> MetricLimit:
    """Express a tolerance as a limit of Polygraphy.

    Polygraphy has no PSNR for images of a known range. The mean difference never exceeds the
    root mean square, which a PSNR bounds.
    """
    full = EIGHT_BIT if io == "uint8" else 1
    if tolerance.max_abs is not None:
        return MetricLimit("max", tolerance.max_abs * full)
    if tolerance.max_steps is not None:
        return MetricLimit("max", tolerance.max_steps * full / EIGHT_BIT)
    if tolerance.p999_steps is not None:
        return MetricLimit("quantile", tolerance.p999_steps * full / EIGHT_BIT)
    assert tolerance.psnr is not None, "a tolerance has a limit"
    return MetricLimit("mean", full * math.pow(10, -tolerance.psnr / 20))


def open_session(
    content: bytes,
    provider: str = "cpu",
    device: int = 0,
    *,
    precision: str = "fp32",
    optimized: bool = True,
) -> ort.InferenceSession:
    """Load an ONNX model for Polygraphy.

    Args:
        content: The ONNX file.
        provider: A key of `PROVIDERS`.
        device: Index of the GPU.
        precision: Precision of the graph, which decides the options of provider cuda.
        optimized: Whether ONNX Runtime may rewrite the graph.

    Raises:
        ProviderError: If the provider did not start.
        BundleError: If ONNX Runtime cannot load the model.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    options.enable_mem_pattern = False  # as in the runtime
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = provider_list(provider, device, CudaOptions(precision))
    state = ort.capi.onnxruntime_pybind11_state
    try:
        with silenced():
            session = ort.InferenceSession(
                content, options, providers=providers, enable_fallback=0
            )
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
        sessions: Two or more sessions by name.
        feeds: Inputs of each run, at least one.
        tolerances: Accepted differences by name, for every session but the first.

    Returns:
        One comparison for each session but the first.

    Raises:
        ParityError: If Polygraphy could not compare.
    """
    from polygraphy.backend.onnxrt import OnnxrtRunner
    from polygraphy.comparator import Comparator, SimpleCompareFunc

    if len(sessions) < 2 or not feeds:
        raise ParityError(
            "sessions must be at least two and feeds at least one, got "
            f"{len(sessions)} and {len(feeds)}"
        )
    first, *others = sessions
    comparisons = []
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
            accuracy = Comparator.compare_accuracy(
                results, comparisons=[(0, i)], compare_func=compare
            )
            outcomes = [run["output"] for run in accuracy[0][(first, name)]]
            comparisons.append(_comparison(first, name, tolerance, outcomes, len(feeds)))
    return comparisons


def every_tensor(model: onnx.ModelProto, feeds: Feeds) -> dict[str, NDArray[Any]]:
    """Run a model without graph optimizations and return the output of every node.

    Args:
        model: The model; not changed.
        feeds: Inputs by name.

    Returns:
        Tensors by name.

    Raises:
        BundleError: If ONNX Runtime cannot load the model.
        ParityError: If the run failed.
    """
    from polygraphy import constants
    from polygraphy.backend.onnx import modify_outputs
    from polygraphy.backend.onnxrt import OnnxrtRunner

    with _quiet():
        marked = modify_outputs(model, outputs=constants.MARK_ALL, copy=True)
        session = open_session(marked.SerializeToString(), optimized=False)
        with OnnxrtRunner(session) as runner:
            tensors: dict[str, NDArray[Any]] = dict(runner.infer(dict(feeds)))
    return tensors


def _comparison(
    first: str, second: str, tolerance: MetricLimit, outcomes: Sequence[Any], expected: int
) -> Comparison:
    """Summarize the runs of a pair; a run without statistics (other shapes) fails."""
    figures = [run for run in outcomes if hasattr(run, "max_absdiff")]
    sound = len(figures) == expected and all(math.isfinite(run.max_absdiff) for run in figures)
    return Comparison(
        first,
        second,
        len(outcomes),
        tolerance,
        max_abs=max((run.max_absdiff for run in figures), default=math.nan),
        mean_abs=max((run.mean_absdiff for run in figures), default=math.nan),
        passed=sound and all(bool(run) for run in outcomes),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Polygraphy and translate its errors."""
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    try:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):
            yield
    except PolygraphyException as error:
        raise ParityError(f"polygraphy could not compare: {error}") from error
