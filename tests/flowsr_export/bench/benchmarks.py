"""Clocks, sessions and reports for the tests of the benchmark; nothing here takes time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flowsr_export.bench.memory import Memory
from flowsr_export.bench.run import Measurement
from flowsr_export.bench.targets import Measures, ModelTarget
from flowsr_export.inputs.cases import Case
from flowsr_export.machine.load import Clocks
from flowsr_export.machine.probes import Probe

__all__ = ["FakeEngine", "FakeMeter", "FakeTime", "instruments", "report", "row"]

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
class FakeMeter:
    """Says that others keep `cores` busy."""

    cores: float | None = 0.0

    def start(self) -> None:
        pass

    def stop(self) -> float | None:
        return self.cores


@dataclass
class FakeEngine:
    """A model whose run takes one microsecond per output pixel."""

    loading: ModelTarget
    time: FakeTime
    closed: list[ModelTarget] = field(default_factory=list)
    measures: tuple[Measures, ...] = ("graph", "end-to-end")

    def call(self, case: Case, measures: Measures) -> Callable[[], object]:
        seconds = case.batch * case.size[0] * case.size[1] * 1e-6
        return lambda: self.time.pass_by(seconds)

    def close(self) -> None:
        self.closed.append(self.loading)


def instruments(time: FakeTime, **changes: Any) -> Measurement:
    """Return instruments that measure nothing real."""
    gemm = Probe("gemm", "matmul", "cpu", 10**9, lambda: time.pass_by(0.01))
    fakes: dict[str, Any] = {
        "clock": time,
        "rest": time.pass_by,
        "meter": FakeMeter(),
        "clocks": lambda: CLOCKS,
        "load": lambda loading: FakeEngine(loading, time),
        "probes": lambda threads, places, device, precision: [gemm],
        "memory": lambda loading, case, measures: Memory(3 << 20, 1 << 20),
        "stages": lambda model, feeds, threads, runs: {"encoder": 0.002, "fold": 0.001},
    }
    return Measurement(**{**fakes, **changes})


def row(
    medians: list[float], scale: str = "2", side: int = 8, **changes: Any
) -> dict[str, Any]:
    """Return a row of a report with one run in each block."""
    blocks = [{"begin": 0.0, "seconds": [m], "others": 0.0, "loaded": False} for m in medians]
    seconds = {"p50": medians[0], "p99": medians[0], "mean": medians[0], "minimum": medians[0]}
    size = int(side * float(scale))
    return {
        "backend": "onnxruntime",
        "provider": "cpu",
        "device": 0,
        "precision": "fp32",
        "measures": "graph",
        "scale": scale,
        "lr": [side, side],
        "size": [size, size],
        "batch": 1,
        "seconds": seconds,
        "runs": len(medians),
        "megapixels_per_second": 1.0,
        "multiply_adds": 1000,
        "efficiency": 0.5,
        "load": "quiet",
        "loaded_blocks": 0,
        "memory": {
            "host_bytes": 3 << 20,
            "libraries_bytes": 1 << 20,
            "device_bytes": None,
            "trouble": None,
        },
        "blocks": blocks,
        **changes,
    }


def report(rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Return a report with some rows."""
    clocks = {"cpu_mhz": [2000.0], "cpu_throttled": None, "temperature": None, "gpus": []}
    machine = {"cpu": "a processor", "cores": 2, "gpus": [], "libraries": {"onnxruntime": "1"}}
    stages = {key: rows[0][key] for key in ("scale", "lr", "size", "batch", "precision")}
    stages |= {"backend": "onnxruntime", "provider": "cpu", "seconds": {"encoder": 0.01}}
    return {
        "schema": 1,
        "bundle": {
            "path": "built-in",
            "family": "linf-lp",
            "graph": "model.fp32.onnx",
            "sha256": "ab",
        },
        "settings": {
            "threads": 2,
            "warm_up_seconds": 0.2,
            "duration_seconds": 3.0,
            "blocks": 10,
            "seed": 0,
            "batch": 1,
            "percentiles": [99.0],
        },
        "machine": {**machine, "clocks_before": clocks, "clocks_after": clocks},
        "probes": [],
        "not_started": {},
        "rows": rows,
        "stages": [stages],
        **changes,
    }
