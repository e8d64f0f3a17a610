"""TensorRT's messages as cause, figure and next command."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flowsr_runtime.errors import (
    BackendError,
    FlowsrError,
    IntegrityError,
    LintError,
    MemoryBudgetError,
    ProviderError,
    UsageError,
)

__all__ = ["BuildContext", "error_from_log", "explain_parse", "mebibytes"]

LONGEST = 200  # characters that are quoted of a message
MIB = 1 << 20


@dataclass(frozen=True)
class BuildContext:
    """What a build was asked for; messages quote it.

    Attributes:
        library: Name and version, such as "tensorrt_rtx 1.7.1.116".
        workspace: Bytes that a kernel may take beside its activations, None for no limit.
        estimates: Activation memory of each profile as bundle.json estimates it, bytes.
        log: Where the whole log is, as messages name it; empty if nowhere.
    """

    library: str
    workspace: int | None
    estimates: tuple[int, ...]
    log: str = ""


def error_from_log(
    errors: Sequence[str], warnings: Sequence[str], situation: BuildContext
) -> FlowsrError:
    """Return the error that a failed build ends with.

    Args:
        errors: TensorRT's messages of severity ERROR, in their order.
        warnings: Those of severity WARNING; they hold figures.
        situation: What was asked for.

    Returns:
        One line: the cause, a figure where there is one, and what to do.
    """
    for pattern, make in RULES:
        for text in errors:
            found = pattern.search(text)
            if found is not None:
                return _with_log(make(found, warnings, situation), situation)
    said = _short(errors[0]) if errors else "it gave no reason"
    return _with_log(FlowsrError(f"{situation.library} cannot build: {said}"), situation)


def explain_parse(problems: Sequence[Mapping[str, str]], library: str) -> LintError:
    """Return the error of a graph that cannot be imported.

    Args:
        problems: For each, `node` and `op` (empty if the parser does not say) and `reason`.
        library: Name and version.
    """
    said = []
    for problem in problems[:3]:
        where = " ".join(part for part in (problem["op"], problem["node"]) if part)
        said.append(f"{where or 'the file'}: {_short(problem['reason'])}")
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    return LintError(
        f"{library} cannot import {'; '.join(said) or 'the file'}{more}; export the bundle "
        "again with this version of flowsr-lp"
    )


def mebibytes(size: float) -> str:
    """Write an amount of memory as messages do."""
    return f"{size / MIB:.0f} MiB"


def _memory(
    found: re.Match[str], warnings: Sequence[str], situation: BuildContext
) -> FlowsrError:
    node = found.groupdict().get("node")
    needs = max((int(n) * MIB for n in _figures(REQUEST_MIB, warnings)), default=0)
    needs = max([needs, *map(int, _figures(REQUEST_BYTES, [*warnings, found.string]))])
    cause = f"no kernel for {_short(node)} fits" if node else "a kernel does not fit"
    limit = "the GPU's memory" if situation.workspace is None else "--workspace "
    if situation.workspace is not None:
        limit += mebibytes(situation.workspace)
    asked = f", which needs {mebibytes(needs)}" if needs else ""
    estimate = mebibytes(max(situation.estimates, default=0))
    return MemoryBudgetError(
        f"out of memory: {cause} in {limit}{asked}; raise --workspace, or ask for smaller "
        f"pictures (the largest profile is estimated at {estimate})"
    )


def _profile(found: re.Match[str], _: Sequence[str], situation: BuildContext) -> FlowsrError:
    return UsageError(
        f"profile does not fit the graph: {_short(found[0])}; see the inputs with "
        "flowsr-export inspect, the profiles with --dry-run"
    )


def _no_device(_: re.Match[str], __: Sequence[str], situation: BuildContext) -> FlowsrError:
    return ProviderError(
        f"{situation.library} finds no CUDA device or driver here; tensorrt builds on the GPU "
        "that it builds for, --flavour tensorrt-rtx builds without one"
    )


def _library(found: re.Match[str], _: Sequence[str], situation: BuildContext) -> FlowsrError:
    return BackendError(
        f"{situation.library} lacks {found['file']}; it comes with the complete TensorRT, or "
        "leave out --version-compatible"
    )


def _device(found: re.Match[str], _: Sequence[str], situation: BuildContext) -> FlowsrError:
    return ProviderError(
        f"{situation.library} does not support this GPU, or not this precision on it: "
        f"{_short(found[0])}; leave that --compute-capability out, or take --precision fp16"
    )


def _version(found: re.Match[str], _: Sequence[str], situation: BuildContext) -> FlowsrError:
    return IntegrityError(
        f"engine is of another version than {situation.library}: {_short(found[0])}; build it "
        "again with flowsr-export build-engine"
    )


def _other_gpu(found: re.Match[str], _: Sequence[str], situation: BuildContext) -> FlowsrError:
    return IntegrityError(
        f"engine was built for another GPU: {_short(found[0])}; build it again with "
        "flowsr-export build-engine"
    )


def _node(found: re.Match[str], _: Sequence[str], situation: BuildContext) -> FlowsrError:
    return FlowsrError(
        f"{situation.library} has no kernel for {_short(found['node'])}; without a limit of "
        "memory that is a gap of the library: try another version, or another precision"
    )


def _no_kernel(
    found: re.Match[str], warnings: Sequence[str], situation: BuildContext
) -> FlowsrError:
    """TensorRT words a workspace that is too small as a missing implementation."""
    short = any(word in text for text in warnings for word in ("nsufficient", "nsuficient"))
    limited = situation.workspace is not None or short
    return (_memory if limited else _node)(found, warnings, situation)


Rule = tuple[
    re.Pattern[str], Callable[[re.Match[str], Sequence[str], BuildContext], FlowsrError]
]
REQUEST_MIB = re.compile(r"request: (\d+)MB", re.IGNORECASE)
REQUEST_BYTES = re.compile(r"[Rr]equested size (?:was|of) (\d+)|requested size of (\d+)")
# In the order in which they are looked for: a cause comes before what follows from it.
RULES: tuple[Rule, ...] = (
    (re.compile(r"Unable to load library: (?P<file>[^:]+):"), _library),
    (
        re.compile(
            r"(missing (values|dimensions)[^.)]*|no optimization profile has been defined|"
            r"Invalid optimization profiles[^.]*|Dimension mismatch for tensor[^)]*|"
            r"Number of dimensions of tensor[^)]*|[^(]*provides number of elements[^)]*|"
            r"profile->isValid\(\))"
        ),
        _profile,
    ),
    (
        re.compile(
            r"Cannot compile (operation|for target)[^.]*|Target GPU SM \S+ is not supp|"
            r"[Uu]nsupported SM[^.)]*"
        ),
        _device,
    ),
    (
        re.compile(r"cudaError (35|100)\b|CUDA initialization failure|no CUDA-capable device"),
        _no_device,
    ),
    (re.compile(r"generated on an incompatible device.*?(?=, please|\)|$)"), _other_gpu),
    (
        re.compile(r"Version tag does not match[^)]*|not compatible with this version[^.]*"),
        _version,
    ),
    (
        re.compile(r"within workspace limit|OutOfMemory|out of memory", re.IGNORECASE),
        _memory,
    ),
    (
        re.compile(r"[Cc]ould not find any implementation for node (?P<node>.+?)[.,]?\)?$"),
        _no_kernel,
    ),
)


def _figures(pattern: re.Pattern[str], texts: Sequence[str]) -> list[str]:
    return [next(filter(None, found.groups())) for t in texts for found in pattern.finditer(t)]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def _with_log(error: FlowsrError, situation: BuildContext) -> FlowsrError:
    return type(error)(f"{error}; log: {situation.log}") if situation.log else error
