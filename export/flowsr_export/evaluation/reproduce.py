"""Reproduce the tables of the papers with the weights and the images that are there."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from flowsr_export.evaluation.dataset import Pair, find_pairs
from flowsr_export.evaluation.metric_set import MetricSet
from flowsr_export.evaluation.model import TORCH, open_model
from flowsr_export.evaluation.protocol import PROTOCOLS, Protocol
from flowsr_export.evaluation.report import means_of
from flowsr_export.evaluation.run import Row, evaluate
from flowsr_export.reports.table import markdown_rows
from flowsr_runtime import SessionSettings
from flowsr_runtime.errors import InputError, PictureError, UsageError

__all__ = [
    "TABLES",
    "Figure",
    "Missing",
    "Work",
    "plan",
    "published_values",
    "reproduce",
    "table_text",
]

DIV2K = ("DIV2K",)
DIV2K_METRICS = ("psnr", "ssim", "lpips", "dists", "lr-psnr")
BENCHMARKS = ("Set5", "Set14", "B100", "Urban100")
DISTANCES: Final = {
    "lpips": {"alexnet": "alexnet-owt-7be5be79.pth", "linear": "alex.pth"},
    "dists": {"vgg16": "vgg16-397923af.pth", "dists_weights": "dists.pt"},
}
"""Metrics that need weights: the arguments of `MetricSet.open` with the files of `fetch`."""
COLUMNS = ("table", "method", "set", "scale", "metric", "value")


@dataclass(frozen=True)
class Method:
    """A row of a table.

    Attributes:
        name: Name in the table.
        model: File of the flow.
        prior: File of its learned prior, None without one.
        temperature: Standard deviation of the noise, None with a learned prior.
    """

    name: str
    model: str
    prior: str | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
        protocol: Key of `PROTOCOLS`.
        sets: Names of the sets, which are the names of their folders.
        scales: Scales.
        metrics: Keys of `METRICS`; those of `DISTANCES` are left out where their weights are
            missing.
        methods: Rows.
    """

    protocol: str
    sets: tuple[str, ...]
    scales: tuple[str, ...]
    metrics: tuple[str, ...]
    methods: tuple[Method, ...]


def _linf(name: str, model: str) -> tuple[Method, ...]:
    """Return LINF at the temperatures of the paper, and with its learned prior."""
    return (
        Method(f"{name}-LINF t=0", f"{model}-linf.pth", temperature=0.0),
        Method(f"{name}-LINF t=0.8", f"{model}-linf.pth", temperature=0.8),
        Method(f"{name}-LINF-LP", f"{model}-linf.pth", f"{model}-linf-LP.pth"),
    )


LINF = (*_linf("EDSR-baseline", "edsr-baseline"), *_linf("RRDB", "rrdb"))

TABLES: Final = {
    "linf-lp": Table("linf-lp", DIV2K, ("4",), DIV2K_METRICS, LINF),
    "linf-lp-arbitrary": Table(
        "linf-lp-arbitrary",
        BENCHMARKS,
        ("2", "3", "4", "6", "8"),
        ("psnr-y", "ssim-y", "lpips", "dists"),
        LINF,
    ),
    "srflow-lp": Table(
        "srflow",
        DIV2K,
        ("4",),
        DIV2K_METRICS,
        (
            Method("SRFlow t=0.9", "SRFlow_DF2K_4X.pth", temperature=0.9),
            Method("SRFlow-LP", "SRFlow_DF2K_4X.pth", "SRFlow-LP.pth"),
        ),
    ),
}
"""Tables of the LINF-LP paper, by name. Their published values come from whoever types them."""


@dataclass(frozen=True)
class Figure:
    """One number of a table.

    Attributes:
        table: Key of `TABLES`.
        method: Row.
        set: Set.
        scale: Scale.
        metric: Metric.
        ours: Value that was computed.
        published: Value of the paper, None if it is not known.
    """

    table: str
    method: str
    set: str
    scale: str
    metric: str
    ours: float
    published: float | None = None

    @property
    def difference(self) -> float | None:
        """Ours minus the published value."""
        return None if self.published is None else self.ours - self.published


@dataclass(frozen=True)
class Missing:
    """A part of a table that cannot be computed.

    Attributes:
        table: Key of `TABLES`.
        part: Method or set.
        reason: File or folder that is missing, and how to get it.
    """

    table: str
    part: str
    reason: str


@dataclass(frozen=True)
class Work:
    """A method that can be evaluated.

    Attributes:
        table: Key of `TABLES`.
        method: Row.
        pairs: Images of all sets and scales.
        metric_set: Metrics.
    """

    table: str
    method: Method
    pairs: tuple[Pair, ...]
    metric_set: MetricSet


def published_values(path: Path) -> dict[tuple[str, ...], float]:
    """Read the values of a paper, typed by whoever has it.

    Args:
        path: CSV with the columns table, method, set, scale, metric and value.

    Returns:
        Values by the other columns.

    Raises:
        UsageError: If a column is missing, a name is unknown or a value is no number.
    """
    try:
        lines = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"published {path} cannot be read: {reason}") from error
    values = {}
    for number, line in enumerate(lines, 2):
        texts = [(line.get(name) or "").strip() for name in COLUMNS]
        if not all(texts):
            raise UsageError(f"published {path}, line {number}, must have {', '.join(COLUMNS)}")
        *key, text = texts
        table = TABLES.get(key[0])
        if table is None or key[1] not in {method.name for method in table.methods}:
            raise UsageError(
                f"published {path}, line {number}: no table {key[0]} with method {key[1]}"
            )
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UsageError(
                f"published {path}, line {number}: value must be a number, got {text}"
            )
        values[tuple(key)] = value
    return values


def plan(
    tables: Sequence[str], weights: Path, data: Path, limit: int | None = None
) -> tuple[list[Work], list[Missing]]:
    """Find out for which numbers the weights and the images are there.

    Args:
        tables: Keys of `TABLES`.
        weights: Folder of checkpoints under their released names, and of weights of LPIPS and
            DISTS.
        data: Folder with a folder for each set, of originals, or of pairs as for `find_pairs`.
        limit: Images of each set and scale, None for all.

    Returns:
        Work to do, and what is missing.

    Raises:
        InputError: If no number of any table can be computed.
    """
    works, missing = [], []
    for name in tables:
        table = TABLES[name]
        metric_set = _metrics(table, weights)
        for metric in [metric for metric in table.metrics if metric not in metric_set.metrics]:
            judges = " or ".join(DISTANCES[metric].values())
            reason = f"{weights} lacks {judges}; flowsr-export fetch has them"
            missing.append(Missing(name, metric, reason))
        pairs: list[Pair] = []
        for folder in table.sets:
            found = _pairs(data / folder, table, metric_set.protocol, limit)
            if isinstance(found, str):
                missing.append(Missing(name, folder, found))
            else:
                pairs += found
        for method in table.methods:
            files = [file for file in (method.model, method.prior) if file is not None]
            absent = [file for file in files if not (weights / file).is_file()]
            if absent:
                command = f"flowsr-export fetch {absent[0]} -o {weights}"
                reason = f"{weights / absent[0]} does not exist; {command}"
                missing.append(Missing(name, method.name, reason))
            elif pairs:
                works.append(Work(name, method, tuple(pairs), metric_set))
    if not works:
        nearest = min(tables, key=lambda name: len(_needs(name, missing)))
        needs = "; and ".join(_needs(nearest, missing))
        raise InputError(f"no table can be computed: for {nearest} {needs}")
    return works, missing


def reproduce(
    work: Work,
    weights: Path,
    published: Mapping[tuple[str, ...], float],
    *,
    threads: int | None = None,
    advance: Callable[[str], None] = lambda note: None,
) -> list[Figure]:
    """Compute the numbers of a method.

    Args:
        work: Method and images, as from `plan`.
        weights: Folder of checkpoints.
        published: Values of the papers, as from `published_values`.
        threads: Threads of PyTorch, None for its own choice.
        advance: Called with the name of each image after it.

    Raises:
        FlowsrError: If a file is damaged, or an image cannot be upscaled.
    """
    rows = list(_rows(work, weights, threads, advance))
    figures = []
    for mean in means_of(rows):
        for metric, value in mean.figures.items():
            key = (work.table, work.method.name, mean.dataset, mean.scale, metric)
            figures.append(Figure(*key, ours=value, published=published.get(key)))
    return figures


def table_text(figures: Sequence[Figure], missing: Sequence[Missing]) -> str:
    """Return the numbers as a Markdown table, and what is missing below it."""
    cells = [
        [
            *(f.table, f.method, f.set, f"×{f.scale}", f.metric),
            *(_number(f.published), _number(f.ours), _number(f.difference, sign=True)),
        ]
        for f in figures
    ]
    head = ["table", "method", "set", "scale", "metric", "published", "ours", "difference"]
    lines = markdown_rows(head, cells)
    if missing:
        lines += ["", "Missing:", ""]
        lines += [f"- {each.table}, {each.part}: {each.reason}." for each in missing]
    return "\n".join(lines) + "\n"


def _needs(name: str, missing: Sequence[Missing]) -> list[str]:
    """Return the first reason of each kind, weights and images, that leaves a table empty."""
    table, reasons = TABLES[name], {m.part: m.reason for m in missing if m.table == name}
    kinds = ([method.name for method in table.methods], table.sets)
    return [reasons[kind[0]] for kind in kinds if set(kind) <= reasons.keys()]


def _metrics(table: Table, weights: Path) -> MetricSet:
    """Open a table's metrics, without those whose weights are missing."""
    metrics = list(table.metrics)
    files: dict[str, Any] = {}
    for metric, names in DISTANCES.items():
        paths = {argument: weights / name for argument, name in names.items()}
        if all(path.is_file() for path in paths.values()):
            files |= paths
        else:
            metrics.remove(metric)
    return MetricSet.open(metrics, protocol=PROTOCOLS[table.protocol], **files)


def _pairs(
    folder: Path, table: Table, protocol: Protocol, limit: int | None
) -> list[Pair] | str:
    """Return the images of a set, or what is missing."""
    if not folder.is_dir():
        return f"{folder} does not exist; docs/guides/weights.md says where the set is"
    pairs: list[Pair] = []
    for scale in table.scales:
        try:  # partners beside their originals
            found = find_pairs([folder], [folder], [scale], protocol)
        except PictureError:
            try:
                found = find_pairs([folder], [], [scale], protocol)
            except PictureError as error:
                return str(error)
        pairs += found[:limit]
    return pairs


def _rows(
    work: Work, weights: Path, threads: int | None, advance: Callable[[str], None]
) -> Iterator[Row]:
    """Evaluate a method on all images of its table."""
    method, protocol = work.method, work.metric_set.protocol
    prior = None if method.prior is None else weights / method.prior
    with open_model(
        SessionSettings(TORCH, threads=threads),
        model=weights / method.model,
        prior=prior,
        temperature=method.temperature,
        truncate=protocol.values == "truncated",
        border=protocol.border,
    ) as model:
        named = replace(model, name=method.name)
        for result in evaluate(work.pairs, [named], work.metric_set, advance=advance):
            yield result.row


def _number(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:+.4f}" if sign else f"{value:.4f}"
