"""Fake clocks, models and reports for the tests of the benchmark."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowsr_export.bench.compare import SavedReport, read_report
from flowsr_export.bench.entries import Report, Row, StageEntry
from flowsr_export.bench.memory import Memory
from flowsr_export.bench.placement import Placement
from flowsr_export.bench.run import Measurement
from flowsr_export.bench.targets import Measures, ModelTarget
from flowsr_export.bench.timing import Block
from flowsr_export.inputs.cases import Case
from flowsr_export.machine.load import Clocks, LoadMeter
from flowsr_export.machine.probes import Probe

__all__ = ["FakeModel", "FakeMeter", "FakeTime", "instruments", "report", "row", "saved"]

PLACED = Placement("cpu", "fp32", False, {"CPUExecutionProvider": 40}, {}, 0)
CLOCKS = Clocks((2000.0,), None, None, ())


@dataclass
class FakeTime:
    """A clock that moves only when something is run or waited for."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class FakeMeter(LoadMeter):
    """Reports that other processes keep `cores` busy."""

    cores: float | None = 0.0

    def start(self) -> None:
        pass

    def stop(self) -> float | None:
        return self.cores


@dataclass
class FakeModel:
    """A model whose run takes one microsecond per output pixel."""

    target: ModelTarget
    time: FakeTime
    closed: list[ModelTarget] = field(default_factory=list)
    measures: tuple[Measures, ...] = ("graph", "end-to-end")

    def call(self, case: Case, measures: Measures) -> Callable[[], object]:
        seconds = case.batch * case.size[0] * case.size[1] * 1e-6
        return lambda: self.time.pass_by(seconds)

    def close(self) -> None:
        self.closed.append(self.target)


def instruments(time: FakeTime, **changes: Any) -> Measurement:
    """Return fake instruments."""
    gemm = Probe("gemm", "matmul", "cpu", 10**9, lambda: time.pass_by(0.01))
    fakes: dict[str, Any] = {
        "clock": time,
        "sleep": time.pass_by,
        "load_meter": FakeMeter(),
        "clocks": lambda: CLOCKS,
        "test": lambda target: None,
        "load": lambda target: FakeModel(target, time),
        "probes": lambda threads, places, device, precision: [gemm],
        "memory": lambda target, case, measures: Memory(3 << 20, 1 << 20),
        "placement": lambda bundle, settings, case: PLACED,
        "stages": lambda model, feeds, threads, runs: {"encoder": 0.002, "fold": 0.001},
    }
    return Measurement(**{**fakes, **changes})


def row(medians: list[float], scale: str = "2", side: int = 8, **changes: Any) -> Row:
    """Return a row of a report with one run in each block."""
    size = int(side * float(scale))
    values: dict[str, Any] = {
        **{"backend": "onnxruntime", "provider": "cpu", "device": 0, "precision": "fp32"},
        **{"measures": "graph", "scale": scale, "lr": (side, side), "size": (size, size)},
        "batch": 1,
        "seconds": dict.fromkeys(("p50", "p99", "mean", "minimum"), medians[0]),
        "runs": len(medians),
        "megapixels_per_second": 1.0,
        "multiply_adds": 1000,
        "efficiency": 0.5,
        "load": "quiet",
        "loaded_blocks": 0,
        "memory": Memory(3 << 20, 1 << 20),
        "blocks": tuple(Block(0.0, (m,), 0.0) for m in medians),
    }
    return Row(**values | changes)


def report(rows: list[Row], **changes: Any) -> Report:
    """Return a report with some rows."""
    clocks = {"cpu_mhz": [2000.0], "cpu_throttled": None, "temperature": None, "gpus": []}
    machine = {"cpu": "a processor", "cores": 2, "gpus": [], "libraries": {"onnxruntime": "1"}}
    first = rows[0]
    sizes = first.scale, first.lr, first.size, first.batch
    profile = StageEntry("onnxruntime", "cpu", "fp32", "profile", *sizes, {"encoder": 0.01})
    values: dict[str, Any] = {
        "bundle": {
            **{"path": "built-in", "family": "linf-lp", "graph": "model.fp32.onnx"},
            "sha256": "ab",
        },
        "settings": {
            **{"threads": 2, "warm_up_seconds": 0.2, "duration_seconds": 3.0, "blocks": 10},
            **{"seed": 0, "batch": 1, "percentiles": [99.0]},
        },
        "machine": {**machine, "clocks_before": clocks, "clocks_after": clocks},
        "probes": (),
        "not_started": {},
        "rows": tuple(rows),
        "stages": (profile,),
    }
    return Report(**values | changes)


def saved(report: Report, folder: Path) -> SavedReport:
    """Write a report's JSON and read it for a comparison."""
    path = folder / "report.json"
    path.write_text(json.dumps(report.as_dict()), encoding="utf-8")
    return read_report(path)
