"""Entries of a benchmark's report: rows, probes, stages, and a fit of time over size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flowsr_export.bench.memory import Memory
from flowsr_export.bench.placement import Placement
from flowsr_export.bench.targets import Measures, ModelTarget
from flowsr_export.bench.timing import Block, summarize, unloaded
from flowsr_export.inputs.cases import Case
from flowsr_export.machine.probes import Probe
from flowsr_runtime.geometry import size_text

__all__ = [
    "SCHEMA",
    "BenchmarkCase",
    "ProbeEntry",
    "Report",
    "Row",
    "RowKey",
    "ScalingFit",
    "StageEntry",
    "Start",
    "Work",
    "fit_scaling",
    "probe_entry",
    "row_entry",
]

SCHEMA = 1
DIGITS = 9  # of seconds: nanoseconds
DEPARTURE = 0.15  # relative difference from the fit above which a row is reported
MIN_FIT_ROWS = 4
COSTS = 3  # per run, input pixel and output pixel

Load = Literal["quiet", "loaded", "unknown"]


@dataclass(frozen=True)
class BenchmarkCase:
    """One model at one size and scale, timed in one way.

    Attributes:
        target: Model and backend.
        scale: Scale as it was typed.
        case: Sizes and batch.
        measures: Kind of run.
        streams: Runs at once.
    """

    target: ModelTarget
    scale: str
    case: Case
    measures: Measures
    streams: int = 1

    def __str__(self) -> str:
        """Name of the case in a progress bar."""
        return f"{self.target.settings.backend} {self.scale}"

    @property
    def key(self) -> RowKey:
        """Identity of the row."""
        settings, case = self.target.settings, self.case
        backend = settings.backend, settings.provider or "cuda", settings.precision
        return RowKey(
            *(*backend, self.measures, self.scale, case.lr, case.size, case.batch),
            streams=self.streams,
            cuda_graph=settings.cuda_graphs > 0,
        )


@dataclass(frozen=True)
class RowKey:
    """Everything by which rows of two reports are matched.

    Attributes:
        backend: Backend.
        provider: Provider.
        precision: Precision of the graph.
        measures: Kind of run, or "profile".
        scale: Scale as it was typed.
        lr: Low-resolution size (h, w).
        size: Output size (H, W).
        batch: Images in one run.
        streams: Runs at once.
        cuda_graph: Whether the run is a captured CUDA graph.
    """

    backend: str
    provider: str
    precision: str
    measures: str
    scale: str
    lr: tuple[int, int]
    size: tuple[int, int]
    batch: int
    streams: int = field(default=1, kw_only=True)
    cuda_graph: bool = field(default=False, kw_only=True)

    def __str__(self) -> str:
        """Name of the row in tables."""
        batch = f", batch {self.batch}" if self.batch > 1 else ""
        sizes = f"{size_text(self.lr)} to {size_text(self.size)}"
        return f"{self.series}, ×{self.scale}, {sizes}{batch}"

    @property
    def series(self) -> str:
        """Name of all rows that differ in size only."""
        graph = ", CUDA graph" if self.cuda_graph else ""
        streams = f", {self.streams} streams" if self.streams > 1 else ""
        backend = f"{self.backend} {self.provider} {self.precision}"
        return f"{backend}, {self.measures}{graph}{streams}"

    @property
    def images(self) -> int:
        """Images of all runs at once."""
        return self.batch * self.streams

    @property
    def pixels(self) -> tuple[int, int]:
        """Input and output pixels of all images."""
        (h, w), (height, width) = self.lr, self.size
        return self.images * h * w, self.images * height * width

    @property
    def key(self) -> RowKey:
        """The identity alone."""
        return RowKey(**{each.name: getattr(self, each.name) for each in fields(RowKey)})


@dataclass(frozen=True)
class Timed:
    """Blocks of runs and their load.

    Attributes:
        runs: Number of runs that count.
        load: Whether disturbed blocks had to be counted.
        loaded_blocks: Number of blocks under a load of other processes.
        blocks: All blocks.
        throttled_blocks: Number of blocks during which the GPU was throttled.
    """

    runs: int
    load: Load
    loaded_blocks: int
    blocks: tuple[Block, ...]
    throttled_blocks: int = field(default=0, kw_only=True)


@dataclass(frozen=True)
class Row(Timed, RowKey):
    """Measurements of one benchmark case.

    Attributes:
        device: GPU index.
        seconds: Percentiles, mean and minimum of the time of a run, or of all runs at once; a
            percentile is None where there are too few runs.
        megapixels_per_second: Output at the median.
        multiply_adds: Multiply-adds of one run, or of all runs at once.
        efficiency: Share of the machine's rate of multiply-adds, None if that is unknown.
        bandwidth: Share of the machine's rate of copies that the bytes of an engine's layers
            take, None if they are unknown; with `efficiency` it is the roofline.
        memory: Peak memory, None if it was not measured.
        load_seconds: Time to load the model, None in an older report.
        first_call_seconds: Time of the first run, None in an older report.
        joules_per_megapixel: Energy of the GPU for a megapixel of output, None if unknown.
    """

    device: int
    seconds: dict[str, float | None]
    megapixels_per_second: float
    multiply_adds: int
    efficiency: float | None
    memory: Memory | None
    load_seconds: float | None = field(default=None, kw_only=True)
    first_call_seconds: float | None = field(default=None, kw_only=True)
    joules_per_megapixel: float | None = field(default=None, kw_only=True)
    bandwidth: float | None = field(default=None, kw_only=True)

    @property
    def median(self) -> float:
        """Median time, which every row has."""
        return self.seconds["p50"] or 0.0

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Row:
        """Read a row of a report's JSON file; an older one lacks the later fields.

        Raises:
            KeyError: If a field is missing.
            TypeError: If a field of a block is missing.
        """
        values = {
            each.name: entry[each.name]
            for each in fields(cls)
            if each.default is MISSING or each.name in entry
        }
        blocks = [{**block, "seconds": tuple(block["seconds"])} for block in values["blocks"]]
        values["blocks"] = tuple(Block(**block) for block in blocks)
        values["memory"] = values["memory"] and Memory(**values["memory"])
        return cls(**values | {name: tuple(values[name]) for name in ("lr", "size")})


@dataclass(frozen=True)
class ProbeEntry(Timed):
    """Speed of the machine itself.

    Attributes:
        name: Library and precision.
        kind: "matmul" or "copy".
        place: "cpu" or "cuda".
        unit: "multiply-adds" or "bytes".
        best_per_second: Rate of the fastest run.
        median_per_second: Rate of the median run.
    """

    name: str
    kind: str
    place: str
    unit: str
    best_per_second: float
    median_per_second: float


@dataclass(frozen=True)
class StageEntry(RowKey):
    """Kernel time of each stage of one run, seconds."""

    seconds: dict[str, float]


@dataclass(frozen=True)
class Departure:
    """A row far from the fit.

    Attributes:
        scale: Scale as it was typed.
        lr: Low-resolution size (h, w).
        size: Output size (H, W).
        ratio: Measured over fitted time.
    """

    scale: str
    lr: tuple[int, int]
    size: tuple[int, int]
    ratio: float


@dataclass(frozen=True)
class ScalingFit:
    """Time of a run as a + b · input pixels + c · output pixels.

    Attributes:
        backend: Backend.
        provider: Provider.
        precision: Precision of the graph.
        measures: Kind of run.
        seconds: Constant cost; None like the other values if there is no fit.
        seconds_per_input_pixel: Cost of an input pixel.
        seconds_per_output_pixel: Cost of an output pixel.
        worst: Largest relative difference of a row.
        departures: Rows that differ by more than `DEPARTURE`.
        trouble: Reason why there is no fit.
    """

    backend: str
    provider: str
    precision: str
    measures: str
    seconds: float | None = None
    seconds_per_input_pixel: float | None = None
    seconds_per_output_pixel: float | None = None
    worst: float | None = None
    departures: tuple[Departure, ...] = ()
    trouble: str | None = None


@dataclass(frozen=True)
class Report:
    """Everything that a benchmark measured; docs/measuring/bench.md describes its JSON form.

    Attributes:
        bundle: Path, family, graph and hash.
        settings: Schedule and threads.
        machine: Hardware, libraries, clocks before and after.
        probes: Speed of the machine itself.
        not_started: Reasons why providers were not measured, by label.
        rows: Measurements.
        stages: Profiles.
        growth: Fits of time over size, None if they were not requested.
        placements: Where the nodes of ONNX Runtime's graphs run.
        schema: Version of this format.
    """

    bundle: dict[str, Any]
    settings: dict[str, Any]
    machine: dict[str, Any]
    probes: tuple[ProbeEntry, ...]
    not_started: dict[str, str]
    rows: tuple[Row, ...]
    stages: tuple[StageEntry, ...]
    growth: tuple[ScalingFit, ...] | None = None
    placements: tuple[Placement, ...] = ()
    schema: int = SCHEMA

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        report = {"schema": self.schema, **asdict(self)}
        if self.growth is None:
            del report["growth"]
        return report


@dataclass(frozen=True)
class Work:
    """Work of one run of a case, and the rates of the machine in the same benchmark.

    Attributes:
        multiply_adds: Multiply-adds of the graph.
        bytes: Bytes that the layers of an engine move, None if unknown.
        product_rate: Multiply-adds per second of the machine, None if unknown.
        copy_rate: Bytes per second that it reads and writes, None if unknown.
    """

    multiply_adds: int
    bytes: int | None
    product_rate: float | None
    copy_rate: float | None


@dataclass(frozen=True)
class Start:
    """Times before a row was measured.

    Attributes:
        load: Seconds to load the model.
        first_call: Seconds of the first run.
    """

    load: float
    first_call: float


def row_entry(
    case: BenchmarkCase,
    blocks: Sequence[Block],
    percentiles: Sequence[float],
    work: Work,
    memory: Memory | None,
    start: Start,
) -> Row:
    """Summarize the blocks of a case.

    Args:
        case: The case.
        blocks: Interleaved measurements.
        percentiles: Percentiles beside the median.
        work: Work of one run, and the rates of the machine.
        memory: Peak memory, None if it was not measured.
        start: Times of loading and of the first run.
    """
    kept = unloaded(blocks)
    seconds = summarize(kept, percentiles)
    key, median = case.key, seconds["p50"]
    assert median is not None, "the median needs one run"
    megapixels, rate = key.pixels[1] / 1e6, key.streams / median
    energy = [(block.joules, len(block.seconds)) for block in kept if block.joules is not None]
    joules = None
    if energy:
        joules = sum(each * runs for each, runs in energy) / sum(runs for _, runs in energy)
    return Row(
        **vars(key),
        device=case.target.settings.index,
        seconds={name: _rounded(value) for name, value in seconds.items()},
        megapixels_per_second=megapixels / median,
        multiply_adds=work.multiply_adds * key.streams,
        efficiency=_share(work.multiply_adds, rate, work.product_rate),
        bandwidth=_share(work.bytes, rate, work.copy_rate),
        memory=memory,
        load_seconds=_rounded(start.load),
        first_call_seconds=_rounded(start.first_call),
        joules_per_megapixel=None if joules is None else joules / megapixels,
        **_timed(kept, blocks),
    )


def probe_entry(probe: Probe, blocks: Sequence[Block]) -> ProbeEntry:
    """Summarize the blocks of a probe."""
    kept = unloaded(blocks)
    seconds = summarize(kept, [])
    fastest, median = seconds["minimum"], seconds["p50"]
    assert fastest is not None, "a probe has runs"
    assert median is not None, "a probe has runs"
    return ProbeEntry(
        name=probe.name,
        kind=probe.kind,
        place=probe.place,
        unit="multiply-adds" if probe.kind == "matmul" else "bytes",
        best_per_second=probe.amount / fastest,
        median_per_second=probe.amount / median,
        **_timed(kept, blocks),
    )


def fit_scaling(rows: Sequence[Row]) -> tuple[ScalingFit, ...]:
    """Fit the median times of each backend over sizes and scales.

    The fit minimizes relative errors, so small images count as much as large ones; no cost is
    negative.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.series, []).append(row)
    return tuple(_fit(members) for members in groups.values())


def _fit(rows: Sequence[Row]) -> ScalingFit:
    first = rows[0]
    identity = first.backend, first.provider, first.precision, first.measures
    sizes = np.array([row.pixels for row in rows])
    times = np.array([row.median for row in rows])
    matrix = np.concatenate([np.ones((len(rows), 1)), sizes], axis=1)
    if len(rows) < MIN_FIT_ROWS or np.linalg.matrix_rank(matrix / matrix.max(0)) < COSTS:
        trouble = f"a fit needs at least {MIN_FIT_ROWS} rows of several sizes and scales"
        return ScalingFit(*identity, trouble=trouble)
    costs = _least_squares(matrix / times[:, None])
    ratios = times / (matrix @ costs)
    constant, inner, outer = map(float, costs)
    return ScalingFit(
        *identity,
        seconds=constant,
        seconds_per_input_pixel=inner,
        seconds_per_output_pixel=outer,
        worst=float(np.abs(ratios - 1).max()),
        departures=tuple(
            Departure(row.scale, row.lr, row.size, float(ratio))
            for row, ratio in zip(rows, ratios, strict=True)
            if abs(ratio - 1) > DEPARTURE
        ),
    )


def _least_squares(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return costs x ≥ 0 with `matrix @ x` nearest to one: the best subset of columns."""
    scale = matrix.max(0)
    best, least = np.zeros(len(scale)), np.inf
    for subset in range(1, 2 ** len(scale)):
        columns = [i for i in range(len(scale)) if subset >> i & 1]
        part = matrix[:, columns] / scale[columns]
        costs, *_ = np.linalg.lstsq(part, np.ones(len(matrix)), rcond=None)
        error = float(np.square(part @ costs - 1).sum())
        if (costs >= 0).all() and error < least:
            best, least = np.zeros(len(scale)), error
            best[columns] = costs / scale[columns]
    return best


def _share(amount: int | None, rate: float, best: float | None) -> float | None:
    """Return the share of the machine's best rate at which an amount is done."""
    return None if amount is None or best is None else amount * rate / best


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, DIGITS)


def _timed(kept: Sequence[Block], blocks: Sequence[Block]) -> dict[str, Any]:
    """Return the fields of `Timed` from the blocks that count, and all of them."""
    entries = tuple(
        replace(
            block,
            begin=round(block.begin, DIGITS),
            seconds=tuple(round(seconds, DIGITS) for seconds in block.seconds),
            others=None if block.others is None else round(block.others, 3),
        )
        for block in blocks
    )
    disturbed = sum(entry.disturbed for entry in entries)
    load: Load = "quiet" if len(kept) == len(blocks) - disturbed else "loaded"
    if all(block.others is None for block in blocks):
        load = "unknown"
    return {
        "runs": sum(len(block.seconds) for block in kept),
        "load": load,
        "loaded_blocks": sum(entry.loaded for entry in entries),
        "throttled_blocks": sum(entry.throttled for entry in entries),
        "blocks": entries,
    }
