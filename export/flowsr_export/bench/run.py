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
    Start,
    Work,
    fit_scaling,
    probe_entry,
    row_entry,
)
from flowsr_export.bench.memory import Memory, measure_memory
from flowsr_export.bench.placement import Placement, placement_of
from flowsr_export.bench.plan import (
    BenchmarkConfig,
    benchmark_cases,
    resolved,
    session_settings,
)
from flowsr_export.bench.stage_profile import stage_seconds
from flowsr_export.bench.targets import (
    TORCH_BACKENDS,
    LoadedModel,
    Measures,
    ModelTarget,
    check_target,
    load_model,
)
from flowsr_export.bench.timing import Block, at_once, interleave
from flowsr_export.inputs.cases import Case
from flowsr_export.inputs.feeds import graph_feeds
from flowsr_export.inputs.run_sizes import padded_run_size
from flowsr_export.machine.libraries import describe_machine
from flowsr_export.machine.load import Clocks, LoadMeter, read_clocks
from flowsr_export.machine.nvml import GpuMeter, open_gpu_meter
from flowsr_export.machine.probes import Probe, probes_of
from flowsr_export.onnx_graph.multiply_adds import count_macs
from flowsr_export.parity.candidates import open_each_provider
from flowsr_runtime import Bundle, SessionSettings, embedded_bundle
from flowsr_runtime.backends.session import Choice
from flowsr_runtime.bundle.engine_store import EngineStore

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
        gpu_meter: Open the meter of a GPU's energy and throttling, None without one.
        clocks: Read the clock speeds of the processors.
        test: Run the golden pair of a model's bundle.
        load: Load a model.
        probes: Make the probes of the machine.
        memory: Measure memory.
        stages: Profile a graph.
        placement: Count the nodes of a graph by provider.
    """

    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    load_meter: LoadMeter | None = None
    gpu_meter: Callable[[int], GpuMeter | None] = open_gpu_meter
    clocks: Callable[[], Clocks] = read_clocks
    test: Callable[[ModelTarget], None] = check_target
    load: Callable[[ModelTarget], LoadedModel] = load_model
    probes: Callable[[int, set[str], int, str], list[Probe]] = probes_of
    memory: Callable[[ModelTarget, Case, Measures], Memory] = measure_memory
    stages: Callable[..., dict[str, float]] = stage_seconds
    placement: Callable[[Bundle, SessionSettings, Case], Placement] = placement_of


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
        models, loading, not_started = _load_models(config, tools, stack)
        calls = _calls(models, sizes, config.streams)
        places = {target.place for target in models}
        probes = tools.probes(config.threads, places, config.device, config.precision)
        backends = {(target.settings.backend, target.settings.provider) for target in models}
        profiled = sizes if config.stages and ("onnxruntime", "cpu") in backends else []
        weighed = [case for case in calls if config.memory and case.streams == 1]
        timed = (len(calls) + len(probes)) * (config.pace.blocks + 1)
        start(len(calls) + timed + len(profiled) + len(weighed))
        clocks = {"clocks_before": asdict(tools.clocks())}
        starts = _first_calls(calls, loading, tools, advance)
        blocks = _blocks(calls, probes, config, tools, advance)
        clocks["clocks_after"] = asdict(tools.clocks())
    rates = tuple(probe_entry(probe, blocks[probe.name]) for probe in probes)
    memory = _memory(weighed, tools, advance)
    rows = _rows(bundle, config, {case: blocks[case] for case in calls}, rates, memory, starts)
    return Report(
        bundle=_about(bundle, config),
        settings=config.summary(),
        machine={**describe_machine(), **clocks},
        probes=rates,
        not_started=not_started,
        rows=rows,
        stages=tuple(_stages(bundle, config, tools, *case, advance) for case in profiled),
        growth=fit_scaling(rows) if config.growth else None,
        placements=_placements(bundle, tools, models, sizes[0][1]),
    )


def _placements(
    bundle: Bundle, tools: Measurement, targets: Iterable[ModelTarget], case: Case
) -> tuple[Placement, ...]:
    """Count the nodes of every target of ONNX Runtime."""
    named = [one.settings for one in targets if one.settings.backend == "onnxruntime"]
    return tuple(tools.placement(bundle, settings, case) for settings in named)


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
) -> tuple[dict[ModelTarget, LoadedModel], dict[ModelTarget, float], dict[str, str]]:
    """Load every model; a provider that was not chosen by name may fail to start.

    Each meets the golden pair first, in a session of its own that is not timed.

    Returns:
        Models, the seconds to load each, and the reasons why others did not start.
    """
    models: dict[ModelTarget, LoadedModel] = {}
    seconds: dict[ModelTarget, float] = {}
    not_started: dict[str, str] = {}

    def load(settings: SessionSettings) -> LoadedModel:
        target = _target(config, settings)
        if config.self_test:
            tools.test(target)
        began = tools.clock()
        model = stack.enter_context(closing(tools.load(target)))
        seconds[target] = tools.clock() - began
        return model

    for settings in session_settings(config):
        opened, failed = open_each_provider(settings, load)
        models |= {_target(config, one): model for one, model in opened.items()}
        not_started |= failed
    return models, seconds, not_started


def _target(config: BenchmarkConfig, settings: SessionSettings) -> ModelTarget:
    return ModelTarget(config.bundle, config.model, config.prior, settings)


def _calls(
    models: dict[ModelTarget, LoadedModel],
    sizes: Sequence[tuple[str, Case]],
    streams: Sequence[int],
) -> Calls:
    """Return the function of every case; several streams are runs of a session's graph."""
    calls: Calls = {}
    for scale, case in sizes:
        for target, model in models.items():
            for measures in model.measures:
                alone = measures == "end-to-end" or target.settings.backend in TORCH_BACKENDS
                for count in dict.fromkeys([1] if alone else streams):
                    runs = [model.call(case, measures) for _ in range(count)]
                    row = BenchmarkCase(target, scale, case, measures, count)
                    calls[row] = runs[0] if count == 1 else at_once(runs)
    return calls


def _blocks(
    calls: Calls,
    probes: Sequence[Probe],
    config: BenchmarkConfig,
    tools: Measurement,
    advance: Advance,
) -> dict[BenchmarkCase | str, list[Block]]:
    """Time all cases and the probes of the machine, which are keyed by name."""
    on_gpu = {case for case in calls if case.target.place == "cuda"}
    return interleave(
        {**calls, **{probe.name: probe.run for probe in probes}},
        config.pace,
        counted=calls,
        on_gpu=on_gpu,
        clock=tools.clock,
        sleep=tools.sleep,
        load_meter=tools.load_meter,
        gpu_meter=tools.gpu_meter(config.device) if on_gpu else None,
        advance=lambda key: advance(str(key)),
    )


def _first_calls(
    calls: Calls, loading: dict[ModelTarget, float], tools: Measurement, advance: Advance
) -> dict[BenchmarkCase, Start]:
    """Time the first run of every case, which compiles, chooses kernels and takes memory."""
    starts = {}
    for case, run in calls.items():
        began = tools.clock()
        run()
        starts[case] = Start(loading[case.target], tools.clock() - began)
        advance(f"first {case}")
    return starts


def _rows(
    bundle: Bundle,
    config: BenchmarkConfig,
    blocks: dict[BenchmarkCase, list[Block]],
    probes: Sequence[ProbeEntry],
    memory: dict[BenchmarkCase, Memory],
    starts: dict[BenchmarkCase, Start],
) -> tuple[Row, ...]:
    model = onnx.load_from_string(bundle.model_bytes(config.graph_precision))
    work = {case: _work(bundle, model, case) for case in {case.case for case in blocks}}
    best: dict[tuple[str, str], float] = {}
    for probe in probes:
        place = probe.kind, probe.place
        best[place] = max(probe.best_per_second, best.get(place, 0.0))
    return tuple(
        row_entry(
            case,
            blocks[case],
            config.percentiles,
            Work(
                work[case.case],
                _bytes_moved(bundle, case),
                best.get(("matmul", case.target.place)),
                best.get(("copy", case.target.place)),
            ),
            memory.get(case),
            starts[case],
        )
        for case in blocks
    )


def _work(bundle: Bundle, model: onnx.ModelProto, case: Case) -> int:
    run = padded_run_size(bundle.manifest, case.lr, case.size)
    return count_macs(model, *run.shapes(bundle.manifest)).total * case.batch


def _bytes_moved(bundle: Bundle, case: BenchmarkCase) -> int | None:
    """Return the bytes that the layers of an engine for this size alone move, if counted."""
    settings = case.target.settings
    run = padded_run_size(bundle.manifest, case.case.lr, case.case.size)
    shape = (case.case.batch, 3, *run.lr)
    for entry in EngineStore(bundle.path).entries():
        key, work = entry.key, entry.facts.get("work") or {}
        fits = (key.flavour, key.precision) == (settings.backend, settings.precision)
        fits = fits and [profile["input"].opt for profile in key.profiles] == [shape]
        if fits and work.get("bytes_read") is not None:
            return int(work["bytes_read"] + work["bytes_written"])
    return None


def _stages(
    bundle: Bundle,
    config: BenchmarkConfig,
    tools: Measurement,
    scale: str,
    case: Case,
    advance: Advance,
) -> StageEntry:
    model = bundle.model_bytes(config.graph_precision)
    feeds = graph_feeds(bundle.manifest, case)
    seconds = tools.stages(model, feeds, config.threads, STAGE_RUNS)
    advance(f"stages {scale}")
    run = padded_run_size(bundle.manifest, case.lr, case.size)
    backend = "onnxruntime", "cpu", config.precision
    return StageEntry(*backend, "profile", scale, run.lr, run.out, case.batch, seconds)


def _about(bundle: Bundle, config: BenchmarkConfig) -> dict[str, Any]:
    name = bundle.model_name(config.graph_precision)
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
