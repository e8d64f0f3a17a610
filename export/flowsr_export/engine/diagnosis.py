"""Turn TensorRT's messages into one line with cause, amount and remedy."""

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

LONGEST = 200  # quoted characters of a message
MIB = 1 << 20


@dataclass(frozen=True)
class BuildContext:
    """Parameters of a build that messages quote.

    Attributes:
        library: Name and version, such as "tensorrt_rtx 1.7.1.116".
        workspace: Scratch memory limit of one kernel in bytes, None for no limit.
        estimates: Estimated activation memory of each profile in bytes.
        log: Path of the log file, empty without one.
    """

    library: str
    workspace: int | None
    estimates: tuple[int, ...]
    log: str = ""


def error_from_log(
    errors: Sequence[str], warnings: Sequence[str], context: BuildContext
) -> FlowsrError:
    """Return the error of a failed build.

    Args:
        errors: TensorRT's messages of severity ERROR, in order.
        warnings: Messages of severity WARNING, which hold amounts of memory.
        context: Parameters of the build.

    Returns:
        Error with one line: the cause, an amount if there is one, and a remedy.
    """
    for pattern, make in RULES:
        for text in errors:
            found = pattern.search(text)
            if found is not None:
                return _with_log(make(found, warnings, context), context)
    reason = _short(errors[0]) if errors else "it gave no reason"
    return _with_log(FlowsrError(f"{context.library} cannot build: {reason}"), context)


def explain_parse(problems: Sequence[Mapping[str, str]], library: str) -> LintError:
    """Return the error of a graph that cannot be imported.

    Args:
        problems: `node`, `op` (each empty if unknown) and `reason` of each problem.
        library: Name and version.
    """
    lines = []
    for problem in problems[:3]:
        name = " ".join(part for part in (problem["op"], problem["node"]) if part)
        lines.append(f"{name or 'the file'}: {_short(problem['reason'])}")
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    return LintError(
        f"{library} cannot import {'; '.join(lines) or 'the file'}{more}; export the bundle "
        "again with this version of flowsr-lp"
    )


def mebibytes(size: float) -> str:
    """Format an amount of memory for a message."""
    return f"{size / MIB:.0f} MiB"


def _memory(
    found: re.Match[str], warnings: Sequence[str], context: BuildContext
) -> FlowsrError:
    node = found.groupdict().get("node")
    needs = max((int(n) * MIB for n in _figures(REQUEST_MIB, warnings)), default=0)
    needs = max([needs, *map(int, _figures(REQUEST_BYTES, [*warnings, found.string]))])
    cause = f"no kernel for {_short(node)} fits" if node else "a kernel does not fit"
    limit = "the GPU's memory"
    if context.workspace is not None:
        limit = f"a workspace of {mebibytes(context.workspace)}"
    amount = f", which needs {mebibytes(needs)}" if needs else ""
    estimate = mebibytes(max(context.estimates, default=0))
    return MemoryBudgetError(
        f"out of memory: {cause} in {limit}{amount}; raise workspace, or build for smaller "
        f"images (the largest profile is estimated at {estimate})",
        option="workspace",
    )


def _profile(found: re.Match[str], _: Sequence[str], context: BuildContext) -> FlowsrError:
    return UsageError(
        f"profile does not fit the graph: {_short(found[0])}; compare it with the inputs of "
        "the bundle"
    )


def _no_device(_: re.Match[str], __: Sequence[str], context: BuildContext) -> FlowsrError:
    return ProviderError(
        f"{context.library} finds no CUDA device or driver; tensorrt builds on the target "
        "GPU, tensorrt_rtx builds without one",
        option="flavour",
    )


def _library(found: re.Match[str], _: Sequence[str], context: BuildContext) -> FlowsrError:
    return BackendError(
        f"{context.library} lacks {found['file']}; install the complete TensorRT, or build "
        "without version_compatible",
        option="version_compatible",
    )


def _device(found: re.Match[str], _: Sequence[str], context: BuildContext) -> FlowsrError:
    return ProviderError(
        f"{context.library} does not support this GPU, or not this precision on it: "
        f"{_short(found[0])}; build without this compute capability, or in fp16",
        option="compute_capabilities",
    )


def _version(found: re.Match[str], _: Sequence[str], context: BuildContext) -> FlowsrError:
    return IntegrityError(
        f"engine is of another version than {context.library}: {_short(found[0])}; build it "
        "again"
    )


def _other_gpu(found: re.Match[str], _: Sequence[str], context: BuildContext) -> FlowsrError:
    return IntegrityError(
        f"engine was built for another GPU: {_short(found[0])}; build it again"
    )


def _node(found: re.Match[str], _: Sequence[str], context: BuildContext) -> FlowsrError:
    return FlowsrError(
        f"{context.library} has no kernel for {_short(found['node'])}, although memory "
        "is not limited; try another version of the library, or another precision"
    )


def _no_kernel(
    found: re.Match[str], warnings: Sequence[str], context: BuildContext
) -> FlowsrError:
    """Distinguish a small workspace, which TensorRT reports as a missing implementation."""
    short = any(word in text for text in warnings for word in ("nsufficient", "nsuficient"))
    limited = context.workspace is not None or short
    return (_memory if limited else _node)(found, warnings, context)


Rule = tuple[
    re.Pattern[str], Callable[[re.Match[str], Sequence[str], BuildContext], FlowsrError]
]
REQUEST_MIB = re.compile(r"request: (\d+)MB", re.IGNORECASE)
REQUEST_BYTES = re.compile(r"[Rr]equested size (?:was|of) (\d+)|requested size of (\d+)")
# Searched in this order: causes before their consequences.
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


def _with_log(error: FlowsrError, context: BuildContext) -> FlowsrError:
    if not context.log:
        return error
    return type(error)(f"{error}; log: {context.log}", option=error.option)
