"""Turn TensorRT's messages into one line with cause, amount and remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flowsr_export.reports.table import mebibytes
from flowsr_runtime.errors import (
    BackendError,
    FlowsrError,
    IntegrityError,
    LintError,
    MemoryBudgetError,
    ProviderError,
    UsageError,
)

__all__ = ["BuildContext", "error_from_log", "explain_parse"]

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
    error = _known_error(errors, warnings, context)
    if error is None:
        reason = _short(errors[0]) if errors else "it gave no reason"
        error = FlowsrError(f"{context.library} cannot build: {reason}")
    log = f"; log: {context.log}" if context.log else ""
    return type(error)(f"{error}{log}", option=error.option)


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


def _known_error(
    errors: Sequence[str], warnings: Sequence[str], context: BuildContext
) -> FlowsrError | None:
    """Return the error of the first rule that a message meets."""
    library = context.library
    for pattern, error_type, line, option in RULES:
        found = _search(pattern, errors)
        if found is not None:
            words = {name: _short(text) for name, text in found.groupdict().items()}
            message = line.format(library=library, text=_short(found[0]), **words)
            return error_type(message, option=option)
    found = _search(OUT_OF_MEMORY, errors)
    if found is not None:
        return _memory(found, warnings, context)
    found = _search(NO_KERNEL, errors)
    if found is None:
        return None
    # TensorRT reports a small workspace as a missing implementation.
    short = any(word in text for text in warnings for word in ("nsufficient", "nsuficient"))
    if context.workspace is not None or short:
        return _memory(found, warnings, context)
    return FlowsrError(
        f"{library} has no kernel for {_short(found['node'])}, although memory is not limited; "
        "try another version of the library, or another precision"
    )


def _search(pattern: str, texts: Sequence[str]) -> re.Match[str] | None:
    return next(filter(None, (re.search(pattern, text) for text in texts)), None)


REQUEST_MIB = re.compile(r"request: (\d+)MB", re.IGNORECASE)
REQUEST_BYTES = re.compile(r"[Rr]equested size (?:was|of) (\d+)|requested size of (\d+)")
OUT_OF_MEMORY = r"(?i:within workspace limit|OutOfMemory|out of memory)"
NO_KERNEL = r"[Cc]ould not find any implementation for node (?P<node>.+?)[.,]?\)?$"
# Pattern, error, message and option, searched in this order: causes before consequences.
RULES: tuple[tuple[str, type[FlowsrError], str, str | None], ...] = (
    (
        r"Unable to load library: (?P<file>[^:]+):",
        BackendError,
        "{library} lacks {file}; install the complete TensorRT, or build without "
        "version_compatible",
        "version_compatible",
    ),
    (
        r"missing (values|dimensions)[^.)]*|no optimization profile has been defined|"
        r"Invalid optimization profiles[^.]*|Dimension mismatch for tensor[^)]*|"
        r"Number of dimensions of tensor[^)]*|[^(]*provides number of elements[^)]*|"
        r"profile->isValid\(\)",
        UsageError,
        "profile does not fit the graph: {text}; compare it with the inputs of the bundle",
        None,
    ),
    (
        r"Cannot compile (operation|for target)[^.]*|Target GPU SM \S+ is not supp|"
        r"[Uu]nsupported SM[^.)]*",
        ProviderError,
        "{library} does not support this GPU, or not this precision on it: {text}; build "
        "without this compute capability, or in fp16",
        "compute_capabilities",
    ),
    (
        r"cudaError (35|100)\b|CUDA initialization failure|no CUDA-capable device",
        ProviderError,
        "{library} finds no CUDA device or driver; tensorrt builds on the target GPU, "
        "tensorrt_rtx builds without one",
        "flavour",
    ),
    (
        r"generated on an incompatible device.*?(?=, please|\)|$)",
        IntegrityError,
        "engine was built for another GPU: {text}; build it again",
        None,
    ),
    (
        r"Version tag does not match[^)]*|not compatible with this version[^.]*",
        IntegrityError,
        "engine is of another version than {library}: {text}; build it again",
        None,
    ),
)


def _figures(pattern: re.Pattern[str], texts: Sequence[str]) -> list[str]:
    return [next(filter(None, found.groups())) for t in texts for found in pattern.finditer(t)]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
