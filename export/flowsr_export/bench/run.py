"""Measure a bundle on this machine: every backend and scale in one run, interleaved."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import onnx

from flowsr_export.bench.entries import SCHEMA, machine_of, probe_entry, row_entry
from flowsr_export.bench.memory import Memory, measure_memory
from flowsr_export.bench.plan import BenchmarkConfig, benchmark_cases, loadings_of, settings_of
from flowsr_export.bench.scaling import growth_of
from flowsr_export.bench.stage_profile import stage_seconds
from flowsr_export.bench.targets import LoadedModel, Measures, ModelTarget, load_engine
from flowsr_export.bench.timing import Block, Meter, TimingSchedule, interleave
from flowsr_export.inputs.cases import Case
from flowsr_export.inputs.feeds import graph_feeds, padded_run
from flowsr_export.machine.load import Clocks, read_clocks
from flowsr_export.machine.probes import Probe, probes_of
from flowsr_export.onnx_graph.multiply_adds import count_macs
from flowsr_runtime import Bundle, ProviderError, embedded_bundle

__all__ = ["Measurement", "bench"]

STAGE_RUNS = 3


@dataclass(frozen=True)
class Measurement:
    """What measures; tests put others in their place.

    Attributes:
        clock: Seconds from any origin.
        rest: Waits.
        meter: Measures the load of others, None for the machine's.
        clocks: Reads the clocks of the processors.
        load: Loads a model.
        probes: Makes the probes of the machine.
        memory: Measures memory.
        stages: Profiles a graph.
    """

    clock: Callable[[], float] = time.perf_counter
    rest: Callable[[float], None] = time.sleep
    meter: Meter | None = None
    clocks: Callable[[], Clocks] = read_clocks
    load: Callable[[ModelTarget], LoadedModel] = load_engine
    probes: Callable[[int, set[str], int, str], list[Probe]] = probes_of
    memory: Callable[[ModelTarget, Case, Measures], Memory] = measure_memory
    stages: Callable[..., dict[str, float]] = stage_seconds


@dataclass(frozen=True)
class BenchmarkCase:
    """One thing that is timed.

    Attributes:
        loading: The model and its backend.
        scale: As it was typed.
        case: Sizes and batch.
        measures: The graph alone, or a picture from array to array.
    """

    loading: ModelTarget
    scale: str
    case: Case
    measures: Measures

    def __str__(self) -> str:
        """Name the subject as a progress bar does."""
        return f"{self.loading.backend} {self.scale}"


def bench(
    config: BenchmarkConfig,
    instruments: Measurement | None = None,
    *,
    start: Callable[[int], None] = lambda total: None,
    advance: Callable[[str], None] = lambda note: None,
) -> dict[str, Any]:
    """Measure a bundle.

    Args:
        config: What to measure.
        instruments: What measures.
        start: Called once with the number of steps.
        advance: Called with a note after each step.

    Returns:
        The report, ready for JSON; docs/bench.md describes it.

    Raises:
        UsageError: If the config contradicts itself or the checkpoint is not the bundle's.
        ScaleError: If the model cannot produce a scale or a size.
        BackendError: If a backend's library is not installed.
        ProviderError: If the provider that was asked for, or the CPU, does not start.
        BundleError: If the bundle holds no such model, or it is damaged.
    """
    tools = instruments or Measurement()
    bundle = Bundle.open(embedded_bundle() if config.bundle is None else config.bundle)
    cases = benchmark_cases(bundle, config)
    with ExitStack() as stack:
        engines, missing = _loaded(config, tools, stack)
        subjects, calls = _subjects(engines, cases)
        places = {loading.place for loading in engines}
        probes = tools.probes(config.threads, places, config.device, config.precision)
        profiled = [case for case in cases if config.stages and _profiles(engines)]
        timed = (len(subjects) + len(probes)) * (config.pace.blocks + 1)
        start(timed + len(profiled) + (len(subjects) if config.memory else 0))
        before = tools.clocks()
        blocks = _timed(calls, probes, config.pace, tools, advance)
        after = tools.clocks()
    measured = [probe_entry(probe, blocks[probe.name]) for probe in probes]
    rows = _rows(bundle, config, subjects, blocks, measured)
    _add_memory(rows, subjects, config, tools, advance)
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "bundle": _about(bundle, config),
        "settings": settings_of(config),
        "machine": machine_of(before, after),
        "probes": measured,
        "not_started": missing,
        "rows": rows,
        "stages": [_stages(bundle, config, tools, *case, advance) for case in profiled],
    }
    if config.growth:
        report["growth"] = growth_of(rows)
    return report


def _timed(
    calls: dict[BenchmarkCase | str, Callable[[], object]],
    probes: Sequence[Probe],
    pace: TimingSchedule,
    tools: Measurement,
    advance: Callable[[str], None],
) -> dict[BenchmarkCase | str, list[Block]]:
    """Time the subjects and, by their names, the probes."""
    return interleave(
        {**calls, **{probe.name: probe.run for probe in probes}},
        pace,
        clock=tools.clock,
        rest=tools.rest,
        meter=tools.meter,
        advance=lambda key: advance(str(key)),
    )


def _loaded(
    config: BenchmarkConfig, tools: Measurement, stack: ExitStack
) -> tuple[dict[ModelTarget, LoadedModel], dict[str, str]]:
    """Load every model; one that was not asked for by name may fail to start."""
    engines: dict[ModelTarget, LoadedModel] = {}
    missing: dict[str, str] = {}
    for loading in loadings_of(config):
        try:
            engines[loading] = tools.load(loading)
        except ProviderError as error:
            if config.provider is not None or loading.provider == "cpu":
                raise
            if loading.backend != "onnxruntime":
                raise
            missing[loading.label] = str(error)
            continue
        stack.callback(engines[loading].close)
    return engines, missing


def _subjects(
    engines: dict[ModelTarget, LoadedModel], cases: Sequence[tuple[str, Case]]
) -> tuple[list[BenchmarkCase], dict[BenchmarkCase | str, Callable[[], object]]]:
    subjects = [
        BenchmarkCase(loading, scale, case, measures)
        for scale, case in cases
        for loading, engine in engines.items()
        for measures in engine.measures
    ]
    calls: dict[BenchmarkCase | str, Callable[[], object]] = {
        subject: engines[subject.loading].call(subject.case, subject.measures)
        for subject in subjects
    }
    return subjects, calls


def _rows(
    bundle: Bundle,
    config: BenchmarkConfig,
    subjects: Sequence[BenchmarkCase],
    blocks: dict[BenchmarkCase | str, list[Block]],
    probes: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    name = bundle.model_name(config.precision)
    model = onnx.load_from_string(bundle.read(name))
    work = {case: _work(bundle, model, case) for case in {s.case for s in subjects}}
    rows = []
    for subject in subjects:
        rates = [
            probe["best_per_second"]
            for probe in probes
            if probe["kind"] == "matmul" and probe["place"] == subject.loading.place
        ]
        rows.append(
            row_entry(
                subject.loading,
                subject.scale,
                subject.case,
                subject.measures,
                blocks[subject],
                config.percentiles,
                work[subject.case],
                max(rates, default=None),
            )
        )
    return rows


def _work(bundle: Bundle, model: onnx.ModelProto, case: Case) -> int:
    feeds = graph_feeds(bundle.manifest, replace(case, batch=1))
    shapes = {name: x.shape for name, x in feeds.items() if name != "geometry"}
    values = {name: x for name, x in feeds.items() if name == "geometry"}
    return count_macs(model, shapes, values).total * case.batch


def _profiles(engines: dict[ModelTarget, LoadedModel]) -> bool:
    return any(
        loading.backend == "onnxruntime" and loading.provider == "cpu" for loading in engines
    )


def _stages(
    bundle: Bundle,
    config: BenchmarkConfig,
    tools: Measurement,
    scale: str,
    case: Case,
    advance: Callable[[str], None],
) -> dict[str, Any]:
    model = bundle.read(bundle.model_name(config.precision))
    feeds = graph_feeds(bundle.manifest, case)
    seconds = tools.stages(model, feeds, config.threads, STAGE_RUNS)
    advance(f"stages {scale}")
    run = padded_run(bundle.manifest, case)
    return {
        "backend": "onnxruntime",
        "provider": "cpu",
        "precision": config.precision,
        "scale": scale,
        "lr": list(run.lr),
        "size": list(run.out),
        "batch": case.batch,
        "seconds": seconds,
    }


def _add_memory(
    rows: Sequence[dict[str, Any]],
    subjects: Sequence[BenchmarkCase],
    config: BenchmarkConfig,
    tools: Measurement,
    advance: Callable[[str], None],
) -> None:
    for row, subject in zip(rows, subjects, strict=True):
        row["memory"] = None
        if config.memory:
            found = tools.memory(subject.loading, subject.case, subject.measures)
            row["memory"] = asdict(found)
            advance(f"memory {subject}")


def _about(bundle: Bundle, config: BenchmarkConfig) -> dict[str, Any]:
    name = bundle.model_name(config.precision)
    return {
        "path": "built-in" if config.bundle is None else str(config.bundle),
        "family": bundle.manifest.family,
        "graph": name,
        "sha256": bundle.manifest.files[name].sha256,
    }
