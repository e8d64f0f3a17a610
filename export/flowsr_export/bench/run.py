"""Measure a bundle on this machine: all backends and scales in one run, interleaved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import Any

import onnx

from flowsr_export.bench.entries import (
    BenchmarkCase,
    ProbeEntry,
    Report,
    Row,
    StageEntry,
    fit_scaling,
    probe_entry,
    row_entry,
)
from flowsr_export.bench.memory import Memory, measure_memory
from flowsr_export.bench.plan import (
    BenchmarkConfig,
    benchmark_cases,
    resolved,
    session_settings,
)
from flowsr_export.bench.stage_profile import stage_seconds
from flowsr_export.bench.targets import LoadedModel, Measures, ModelTarget, load_model
from flowsr_export.bench.timing import Block, interleave
from flowsr_export.inputs.cases import Case
from flowsr_export.inputs.feeds import graph_feeds
from flowsr_export.inputs.run_sizes import padded_run_size
from flowsr_export.machine.libraries import describe_machine
from flowsr_export.machine.load import Clocks, LoadMeter, read_clocks
from flowsr_export.machine.probes import Probe, probes_of
from flowsr_export.onnx_graph.multiply_adds import count_macs
from flowsr_export.parity.candidates import open_each_provider
from flowsr_runtime import Bundle, SessionSettings, embedded_bundle
from flowsr_runtime.backends.session import Choice

__all__ = ["Measurement", "bench"]

STAGE_RUNS = 3

Advance = Callable[[str], None]
Calls = dict[BenchmarkCase, Callable[[], object]]


@dataclass(frozen=True)
class Measurement:
    """The instruments of a benchmark; tests replace them.

    Attributes:
        clock: Return seconds from any origin.
        sleep: Wait for some seconds.
        load_meter: Measures the load of other processes, None for the machine's.
        clocks: Read the clock speeds of the processors.
        load: Load a model.
        probes: Make the probes of the machine.
        memory: Measure memory.
        stages: Profile a graph.
    """

    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    load_meter: LoadMeter | None = None
    clocks: Callable[[], Clocks] = read_clocks
    load: Callable[[ModelTarget], LoadedModel] = load_model
    probes: Callable[[int, set[str], int, str], list[Probe]] = probes_of
    memory: Callable[[ModelTarget, Case, Measures], Memory] = measure_memory
    stages: Callable[..., dict[str, float]] = stage_seconds


def bench(
    config: BenchmarkConfig,
    instruments: Measurement | None = None,
    *,
    choose: Callable[[Choice], None] = lambda choice: None,
    start: Callable[[int], None] = lambda total: None,
    advance: Advance = lambda note: None,
) -> Report:
    """Measure a bundle.

    Args:
        config: Scope and schedule.
        instruments: Instruments, None for the real ones.
        choose: Called once with what backend auto chose.
        start: Called once with the number of steps.
        advance: Called with a note after each step.

    Raises:
        UsageError: If the checkpoint is not the bundle's.
        ScaleError: If the model does not support a scale or a size.
        BackendError: If a backend's library is not installed.
        ProviderError: If the chosen provider, or the CPU, does not start.
        BundleError: If the bundle holds no such model, or it is damaged.
    """
    tools = instruments or Measurement()
    bundle = Bundle.open(embedded_bundle() if config.bundle is None else config.bundle)
    config = resolved(bundle, config, choose)
    sizes = benchmark_cases(bundle, config)
    with ExitStack() as stack:
        models, not_started = _load_models(config, tools, stack)
        calls = _calls(models, sizes)
        places = {target.place for target in models}
        probes = tools.probes(config.threads, places, config.device, config.precision)
        backends = {(target.settings.backend, target.settings.provider) for target in models}
        profiled = sizes if config.stages and ("onnxruntime", "cpu") in backends else []
        timed = (len(calls) + len(probes)) * (config.pace.blocks + 1)
        start(timed + len(profiled) + (len(calls) if config.memory else 0))
        clocks = {"clocks_before": asdict(tools.clocks())}
        blocks = interleave(
            {**calls, **{probe.name: probe.run for probe in probes}},
            config.pace,
            clock=tools.clock,
            sleep=tools.sleep,
            load_meter=tools.load_meter,
            advance=lambda key: advance(str(key)),
        )
        clocks["clocks_after"] = asdict(tools.clocks())
    rates = tuple(probe_entry(probe, blocks[probe.name]) for probe in probes)
    memory = _memory(calls if config.memory else (), tools, advance)
    rows = _rows(bundle, config, {case: blocks[case] for case in calls}, rates, memory)
    return Report(
        bundle=_about(bundle, config),
        settings=config.summary(),
        machine={**describe_machine(), **clocks},
        probes=rates,
        not_started=not_started,
        rows=rows,
        stages=tuple(_stages(bundle, config, tools, *case, advance) for case in profiled),
        growth=fit_scaling(rows) if config.growth else None,
    )


def _memory(
    cases: Iterable[BenchmarkCase], tools: Measurement, advance: Advance
) -> dict[BenchmarkCase, Memory]:
    memory = {}
    for one in cases:
        memory[one] = tools.memory(one.target, one.case, one.measures)
        advance(f"memory {one}")
    return memory


def _load_models(
    config: BenchmarkConfig, tools: Measurement, stack: ExitStack
) -> tuple[dict[ModelTarget, LoadedModel], dict[str, str]]:
    """Load every model; a provider that was not chosen by name may fail to start."""
    models: dict[ModelTarget, LoadedModel] = {}
    not_started: dict[str, str] = {}
    for settings in session_settings(config):
        opened, failed = open_each_provider(
            settings,
            lambda one: stack.enter_context(closing(tools.load(_target(config, one)))),
        )
        models |= {_target(config, one): model for one, model in opened.items()}
        not_started |= failed
    return models, not_started


def _target(config: BenchmarkConfig, settings: SessionSettings) -> ModelTarget:
    return ModelTarget(config.bundle, config.model, config.prior, settings)


def _calls(models: dict[ModelTarget, LoadedModel], sizes: Sequence[tuple[str, Case]]) -> Calls:
    cases = [
        (model, BenchmarkCase(target, scale, case, measures))
        for scale, case in sizes
        for target, model in models.items()
        for measures in model.measures
    ]
    return {case: model.call(case.case, case.measures) for model, case in cases}


def _rows(
    bundle: Bundle,
    config: BenchmarkConfig,
    blocks: dict[BenchmarkCase, list[Block]],
    probes: Sequence[ProbeEntry],
    memory: dict[BenchmarkCase, Memory],
) -> tuple[Row, ...]:
    model = onnx.load_from_string(bundle.model_bytes(config.precision))
    work = {case: _work(bundle, model, case) for case in {case.case for case in blocks}}
    best: dict[str, float] = {}
    for probe in probes:
        if probe.kind == "matmul":
            best[probe.place] = max(probe.best_per_second, best.get(probe.place, 0.0))
    return tuple(
        row_entry(
            case,
            blocks[case],
            config.percentiles,
            work[case.case],
            best.get(case.target.place),
            memory.get(case),
        )
        for case in blocks
    )


def _work(bundle: Bundle, model: onnx.ModelProto, case: Case) -> int:
    run = padded_run_size(bundle.manifest, case.lr, case.size)
    return count_macs(model, *run.shapes(bundle.manifest)).total * case.batch


def _stages(
    bundle: Bundle,
    config: BenchmarkConfig,
    tools: Measurement,
    scale: str,
    case: Case,
    advance: Advance,
) -> StageEntry:
    model = bundle.model_bytes(config.precision)
    feeds = graph_feeds(bundle.manifest, case)
    seconds = tools.stages(model, feeds, config.threads, STAGE_RUNS)
    advance(f"stages {scale}")
    run = padded_run_size(bundle.manifest, case.lr, case.size)
    backend = "onnxruntime", "cpu", config.precision
    return StageEntry(*backend, "profile", scale, run.lr, run.out, case.batch, seconds)


def _about(bundle: Bundle, config: BenchmarkConfig) -> dict[str, Any]:
    name = bundle.model_name(config.precision)
    return {
        "path": "built-in" if config.bundle is None else str(config.bundle),
        "family": bundle.manifest.family,
        "graph": name,
        "sha256": bundle.manifest.files[name].sha256,
        "size_fixed": {
            str(Case(one.lr, one.size, one.batch)): one.file
            for one in bundle.size_fixed(config.precision)
        },
    }
