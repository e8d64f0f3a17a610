"""A whole benchmark on fake clocks, and its report."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowsr_export.bench.entries import Row
from flowsr_export.bench.plan import BenchmarkConfig, benchmark_cases, session_settings
from flowsr_export.bench.report import as_markdown
from flowsr_export.bench.run import bench
from flowsr_export.bench.targets import LoadedModel, ModelTarget
from flowsr_export.bench.timing import TimingSchedule
from flowsr_export.machine.probes import Probe
from flowsr_runtime import Bundle, ParityError, ProviderError, ScaleError
from flowsr_runtime.backends.session import Choice
from flowsr_runtime.bundle.engine_store import EngineKey, EngineStore, Range
from tests.flowsr_export.bench.benchmarks import (
    PLACED,
    FakeMeter,
    FakeModel,
    FakeTime,
    instruments,
)


def config(bundle: Path, **changes: Any) -> BenchmarkConfig:
    """A short measurement of a small size."""
    small: dict[str, Any] = {
        "scales": ("2", "4"),
        "lr_sizes": ((8, 10),),
        "pace": TimingSchedule(0.01, 0.1, 5),
        "provider": "cpu",
    }
    return BenchmarkConfig(threads=1, bundle=bundle, **{**small, **changes})


def test_rows_have_sizes_times_and_a_share_of_the_machines_rate(bundle: Path) -> None:
    report = bench(config(bundle), instruments(FakeTime()))
    rows = [(row.measures, row.scale, row.size) for row in report.rows]
    assert rows == [
        ("graph", "2", (16, 20)),
        ("end-to-end", "2", (16, 20)),
        ("graph", "4", (32, 40)),
        ("end-to-end", "4", (32, 40)),
    ]
    row = report.rows[0]
    assert row.seconds == {
        name: pytest.approx(320e-6) for name in ("p50", "p90", "p95", "mean", "minimum")
    } | {"p99": None}  # it needs 662 runs
    assert row.megapixels_per_second == pytest.approx(1.0)
    assert row.efficiency == pytest.approx(row.multiply_adds / 320e-6 / (10**9 / 0.01))


def test_the_report_is_json(bundle: Path) -> None:
    report = bench(config(bundle, growth=True), instruments(FakeTime()))
    document = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert [Row.from_json(entry) for entry in document["rows"]] == list(report.rows)
    assert (document["schema"], len(document["growth"])) == (1, 2)


def test_the_report_says_where_the_nodes_run(bundle: Path) -> None:
    report = bench(config(bundle), instruments(FakeTime()))
    assert report.placements == (PLACED,)
    assert report.as_dict()["placements"][0]["nodes"] == {"CPUExecutionProvider": 40}
    assert "| cpu fp32 | 40 CPUExecutionProvider | none | 0 | float32 |" in as_markdown(
        report, "bench"
    )


def test_each_target_meets_the_golden_pair_before_it_is_loaded(bundle: Path) -> None:
    order: list[str] = []
    time = FakeTime()

    def load(target: ModelTarget) -> LoadedModel:
        order.append("load")
        return FakeModel(target, time)

    tools = instruments(time, load=load, test=lambda target: order.append("test"))
    bench(config(bundle, backends=("onnxruntime",)), tools)
    assert order == ["test", "load"]
    bench(config(bundle, backends=("onnxruntime",), self_test=False), tools)
    assert order == ["test", "load", "load"]


def test_a_provider_that_misses_the_golden_pair_is_not_measured(bundle: Path) -> None:
    def miss(target: ModelTarget) -> None:
        raise ParityError("misses the golden pair")

    with pytest.raises(ParityError, match="misses the golden pair"):
        bench(config(bundle), instruments(FakeTime(), test=miss))


def test_an_engine_of_one_size_has_a_share_of_the_machines_copies(bundle: Path) -> None:
    time, opened = FakeTime(), Bundle.open(bundle)
    shape = (1, 3, 8, 10)
    key = EngineKey(
        onnx_sha256=opened.manifest.files["model.fp32.onnx"].sha256,
        flavour="tensorrt",
        version="10.13",
        compute_capability=("8.9",),
        gpu_name=None,
        precision="fp32",
        profiles=({"input": Range(shape, shape, shape)},),
        options={},
    )
    facts = {"work": {"operations": {}, "bytes_read": 3000, "bytes_written": 1000}}
    EngineStore(bundle).add(key, b"plan", facts)
    copy = Probe("copy", "copy", "cuda", 10**9, lambda: time.pass_by(0.1))
    fakes = instruments(time, probes=lambda *arguments: [copy], gpu_meter=lambda index: None)
    asked = config(bundle, backends=("tensorrt",), precision="fp32", scales=("2",))
    found = {row.measures: row for row in bench(asked, fakes).rows}
    assert found["graph"].seconds["p50"] == pytest.approx(320e-6)
    assert found["graph"].bandwidth == pytest.approx(4000 / 320e-6 / 1e10)
    other = bench(replace(asked, lr_sizes=((8, 8),)), fakes)
    assert {row.bandwidth for row in other.rows} == {None}


def test_without_a_probe_there_is_no_efficiency(bundle: Path) -> None:
    report = bench(config(bundle), instruments(FakeTime(), probes=lambda *arguments: []))
    assert [row.efficiency for row in report.rows] == [None] * 4


def test_a_competing_load_is_marked(bundle: Path) -> None:
    report = bench(config(bundle), instruments(FakeTime(), load_meter=FakeMeter(64.0)))
    assert {(row.load, row.loaded_blocks) for row in report.rows} == {("loaded", 5)}
    quiet = bench(config(bundle), instruments(FakeTime(), load_meter=FakeMeter(None)))
    assert {row.load for row in quiet.rows} == {"unknown"}


def test_every_step_is_told(bundle: Path) -> None:
    totals: list[int] = []
    notes: list[str] = []
    bench(config(bundle), instruments(FakeTime()), start=totals.append, advance=notes.append)
    assert totals == [len(notes)]


def test_models_are_closed(bundle: Path) -> None:
    closed: list[ModelTarget] = []
    time = FakeTime()
    load = instruments(time, load=lambda target: FakeModel(target, time, closed))
    bench(config(bundle), load)
    assert [target.settings.provider for target in closed] == ["cpu"]


def test_a_provider_that_does_not_start_is_stated(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "flowsr_export.parity.candidates.present_providers", lambda: ["cpu", "cuda"]
    )
    time = FakeTime()

    def load(target: ModelTarget) -> LoadedModel:
        assert target.settings.provider in ("cpu", "cuda")
        return FakeModel(target, time) if target.settings.provider == "cpu" else refuse()

    asked = config(bundle, backends=("onnxruntime",), provider=None)
    report = bench(asked, instruments(time, load=load))
    assert report.not_started == {"onnxruntime cuda fp32": "no such device"}
    with pytest.raises(ProviderError, match="no such device"):
        bench(replace(asked, provider="cuda"), instruments(time, load=load))


def test_backend_auto_measures_the_one_that_upscale_takes(bundle: Path) -> None:
    time = FakeTime()
    loaded: list[ModelTarget] = []
    choices: list[Choice] = []

    def load(target: ModelTarget) -> LoadedModel:
        loaded.append(target)
        return FakeModel(target, time)

    bench(config(bundle, provider=None), instruments(time, load=load), choose=choices.append)
    (settings,) = {target.settings for target in loaded}
    assert (settings.backend, settings.provider, settings.precision) == (
        "onnxruntime",
        "cpu",
        "fp32",
    )
    assert [str(choice) for choice in choices] == ["onnxruntime cpu, fp32"]


def refuse() -> LoadedModel:
    raise ProviderError("no such device")


def test_a_bundle_of_one_scale_has_its_own(fourfold: Path) -> None:
    opened = Bundle.open(fourfold)
    (found,) = benchmark_cases(opened, config(fourfold, scales=()))
    assert (found[0], found[1].size) == ("4", (32, 40))
    with pytest.raises(ScaleError, match="scale 4, got 2x2"):
        benchmark_cases(opened, config(fourfold, scales=("2",)))


def test_an_output_size_finds_its_input(bundle: Path, fourfold: Path) -> None:
    opened = Bundle.open(bundle)
    cases = [case for _, case in benchmark_cases(opened, config(bundle, output_size=(37, 41)))]
    assert [(case.lr, case.size) for case in cases] == [
        ((19, 21), (37, 41)),
        ((9, 10), (37, 41)),
    ]
    with pytest.raises(ScaleError, match="4, got 41x37"):
        benchmark_cases(
            Bundle.open(fourfold), config(fourfold, scales=(), output_size=(37, 41))
        )


def test_scales_may_differ_by_axis(bundle: Path) -> None:
    (found,) = benchmark_cases(Bundle.open(bundle), config(bundle, scales=(("3", "2"),)))
    assert (found[0], found[1].size) == ("2x3", (24, 20))


def test_every_backend_runs_on_its_device_in_the_precision_that_it_has(bundle: Path) -> None:
    backends = ("torch", "published", "published-compiled", "onnxruntime", "tensorrt")
    both = config(bundle, backends=backends, provider="tensorrt", precision="fp16", device=1)
    settings = session_settings(both)
    assert [(one.backend, one.provider, one.precision, one.device) for one in settings] == [
        ("torch", "cuda", "fp16", 1),
        ("published", "cuda", "fp32", 1),
        ("published-compiled", "cuda", "autocast-fp16", 1),
        ("onnxruntime", "tensorrt", "fp16", 1),
        ("tensorrt", "cuda", "fp16", 1),
    ]
