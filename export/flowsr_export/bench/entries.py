"""What a report says of a subject, of a probe and of the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from flowsr_export.bench.targets import Measures, ModelTarget
from flowsr_export.bench.timing import Block, summarise, unloaded
from flowsr_export.inputs.cases import Case
from flowsr_export.machine.libraries import examine
from flowsr_export.machine.load import LOADED_SHARE, Clocks
from flowsr_export.machine.probes import Probe

__all__ = ["SCHEMA", "machine_of", "most_others", "probe_entry", "row_entry"]

SCHEMA = 1
DIGITS = 9  # of seconds: nanoseconds


def most_others() -> float:
    """Return the cores that others may take before a block counts as loaded."""
    return LOADED_SHARE * (os.cpu_count() or 1)


def row_entry(
    loading: ModelTarget,
    scale: str,
    case: Case,
    measures: Measures,
    blocks: Sequence[Block],
    percentiles: Sequence[float],
    work: int,
    rate: float | None,
) -> dict[str, Any]:
    """Describe a subject.

    Args:
        loading: The model and its backend.
        scale: As it was typed.
        case: Sizes and batch.
        measures: What was timed.
        blocks: Its blocks.
        percentiles: Which ones beside the median.
        work: Multiply-adds of the graph for the case.
        rate: Multiply-adds a second of the machine's matrix products, None if unknown.
    """
    summary = summarise(unloaded(blocks, most_others()), percentiles)
    median = summary.percentiles[50.0]
    pixels = case.batch * case.size[0] * case.size[1]
    return {
        "backend": loading.backend,
        "provider": loading.provider,
        "device": loading.device,
        "precision": loading.precision,
        "measures": measures,
        "scale": scale,
        "lr": list(case.lr),
        "size": list(case.size),
        "batch": case.batch,
        "seconds": {
            **{f"p{p:g}": round(s, DIGITS) for p, s in summary.percentiles.items()},
            "mean": round(summary.mean, DIGITS),
            "minimum": round(summary.minimum, DIGITS),
        },
        "runs": summary.runs,
        "megapixels_per_second": pixels / 1e6 / median,
        "multiply_adds": work,
        "efficiency": None if rate is None else work / median / rate,
        **_load(blocks),
        "blocks": [_block(block) for block in blocks],
    }


def probe_entry(probe: Probe, blocks: Sequence[Block]) -> dict[str, Any]:
    """Describe a probe of the machine."""
    summary = summarise(unloaded(blocks, most_others()), [])
    return {
        "name": probe.name,
        "kind": probe.kind,
        "place": probe.place,
        "unit": "multiply-adds" if probe.kind == "matmul" else "bytes",
        "best_per_second": probe.amount / summary.minimum,
        "median_per_second": probe.amount / summary.percentiles[50.0],
        "runs": summary.runs,
        **_load(blocks),
        "blocks": [_block(block) for block in blocks],
    }


def machine_of(before: Clocks, after: Clocks) -> dict[str, Any]:
    """Describe the machine, its libraries, and its clocks around the run."""
    found = examine()
    return {
        **asdict(found.device),
        "python": platform.python_version(),
        "flowsr": found.version,
        "libraries": {part.name: part.version for part in found.parts if part.version},
        "clocks_before": asdict(before),
        "clocks_after": asdict(after),
    }


def _load(blocks: Sequence[Block]) -> dict[str, Any]:
    """Say how many blocks had a competing load, and whether it is in the figures."""
    most = most_others()
    loaded = sum(block.loaded(most) for block in blocks)
    if all(block.others is None for block in blocks):
        state = "unknown"
    else:
        state = "quiet" if len(unloaded(blocks, most)) == len(blocks) - loaded else "loaded"
    return {"load": state, "loaded_blocks": loaded}


def _block(block: Block) -> dict[str, Any]:
    return {
        "begin": round(block.begin, DIGITS),
        "seconds": [round(seconds, DIGITS) for seconds in block.seconds],
        "others": None if block.others is None else round(block.others, 3),
        "loaded": block.loaded(most_others()),
    }
