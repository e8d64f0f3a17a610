"""The `bench`, `bench serve` and `bench compare` commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from flowsr_export.bench.entries import Report
from flowsr_export.bench.open_loop import RateResult
from tests.flowsr_export.bench.benchmarks import report, row

Run = Callable[..., Result]


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the measurement; holds the configurations."""
    configs: list[Any] = []

    def bench(config: Any, **rest: Any) -> Report:
        configs.append(config)
        return report([row([0.01] * 5)])

    monkeypatch.setattr("flowsr_export.bench.run.bench", bench)
    return configs


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two reports; the second takes twice as long."""
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path, seconds in zip(paths, (0.01, 0.02), strict=True):
        path.write_text(json.dumps(report([row([seconds] * 10)]).as_dict()), encoding="utf-8")
    return paths


def test_the_report_is_printed_and_written(
    run: Run, configs: list[Any], tmp_path: Path
) -> None:
    done = run("bench", "-o", tmp_path / "report")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("# flowsr-export bench\n")
    suffixes = {path.suffix for path in tmp_path.glob("report.*")}
    assert suffixes == {".html", ".json", ".md"}


def test_json_is_one_object(run: Run, configs: list[Any], tmp_path: Path) -> None:
    done = run("bench", "-o", tmp_path / "report", "--json")
    assert json.loads(done.stdout)["schema"] == 1


def test_options_become_a_configuration(run: Run, configs: list[Any], tmp_path: Path) -> None:
    options = ["--backend", "torch", "--backend", "onnxruntime", "--scale", "1.5,2x3"]
    options += [
        "--lr-size",
        "64x48",
        "--duration",
        "1s",
        "--warm-up",
        "100ms",
        "--batch",
        "1,2",
    ]
    options += ["--threads", "1", "--percentile", "75", "--no-memory", "--no-stages"]
    options += ["--streams", "1,4", "--cuda-graphs", "3", "--min-runs", "64"]
    done = run("bench", "some.bundle", *options, "-o", tmp_path / "report")
    assert done.exit_code == 0
    (config,) = configs
    assert config.bundle == Path("some.bundle")
    assert config.backends == ("torch", "onnxruntime")
    assert config.scales == ("1.5", ("3", "2"))
    assert config.lr_sizes == ((48, 64),)
    assert (config.pace.duration, config.pace.warm_up) == (1.0, pytest.approx(0.1))
    assert (config.batches, config.threads, config.percentiles) == ((1, 2), 1, (75.0,))
    assert (config.streams, config.cuda_graphs, config.pace.min_runs) == ((1, 4), 3, 64)
    assert (config.memory, config.stages, config.growth) == (False, False, False)


def test_a_sweep_takes_several_sizes(run: Run, configs: list[Any], tmp_path: Path) -> None:
    assert run("bench", "--sweep", "-o", tmp_path / "report").exit_code == 0
    assert configs[0].growth
    assert len(configs[0].lr_sizes) > 3


def test_a_report_that_is_there_is_refused_before_the_run(
    run: Run, configs: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text("old", encoding="utf-8")
    done = run("bench", "-o", tmp_path / "report")
    assert (done.exit_code, configs) == (1, [])
    assert "report.html" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "64x64", "--sweep"], "--size"),
        (["--prior", "x.pth"], "--prior needs --model"),
        (["--duration", "soon"], "'soon'"),
        (["--percentile", "100"], "'100'"),
    ],
)
def test_a_wrong_option_is_one_line(
    run: Run, configs: list[Any], tmp_path: Path, options: list[str], message: str
) -> None:
    done = run("bench", *options, "-o", tmp_path / "report")
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_slower_report_ends_with_7(run: Run, pair: tuple[Path, Path]) -> None:
    done = run("bench", "compare", *pair)
    assert done.exit_code == 7
    assert done.stdout.startswith("worse         2.000 (2.000 to 2.000)")
    assert done.stderr.startswith("flowsr-export: 1 of 1 rows became slower")


def test_a_larger_threshold_accepts_it(run: Run, pair: tuple[Path, Path]) -> None:
    assert run("bench", "compare", *pair, "--threshold", "1.5").exit_code == 0


def test_a_faster_report_is_better(run: Run, pair: tuple[Path, Path]) -> None:
    done = run("bench", "compare", *reversed(pair), "--json")
    assert done.exit_code == 0
    assert [v["word"] for v in json.loads(done.stdout)["verdicts"]] == ["better"]


def test_a_bundle_named_like_a_command_can_be_measured(
    run: Run, configs: list[Any], tmp_path: Path
) -> None:
    for name in ("compare", "serve"):
        assert run("bench", name, "-o", tmp_path / name).exit_code == 0
        assert configs[-1].bundle == Path(name)


def test_each_help_is_that_of_its_command(run: Run) -> None:
    assert " bench [OPTIONS] [BUNDLE]" in run("bench", "--help").stdout
    assert "flowsr-export bench compare" in run("bench", "compare", "--help").stdout
    assert "flowsr-export bench serve" in run("bench", "serve", "--help").stdout


def test_a_size_without_pixels_is_refused(run: Run, tmp_path: Path) -> None:
    done = run("bench", "-o", tmp_path / "report", "--lr-size", "0x5")
    assert done.exit_code == 2
    assert "'--lr-size': size must be at least 1x1, got 0x5" in done.stderr


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the offering of requests; holds the loads. Rates to 10 hold."""
    loads: list[Any] = []

    def offer(load: Any, rate: float, limit: Any) -> RateResult:
        loads.append(load)
        times: dict[str, float | None] = {"p50": 0.01, "p99": None}
        return RateResult(rate, 64, 64, {"200": 64}, times, holds=rate <= 10)

    monkeypatch.setattr("flowsr_export.bench.open_loop.offer", offer)
    monkeypatch.setattr("flowsr_export.bench.open_loop.service_time", lambda load: 0.1)
    return loads


def test_bench_serve_finds_the_highest_rate_that_holds(run: Run, offered: list[Any]) -> None:
    words = ("--url", "http://127.0.0.1:1", "--limit", "p99:200ms", "--rate", "20,5,10")
    done = run("bench", "serve", *words, "--lr-size", "32x16")
    assert (done.exit_code, done.stderr) == (0, "")
    assert (
        "holds         5 per second  64 of 64 answered, p50 10.0 ms, p99 unknown" in done.stdout
    )
    assert done.stdout.endswith("highest rate that holds: 10 requests per second\n")
    found = json.loads(run("bench", "serve", *words, "--arrivals", "constant", "--json").stdout)
    assert found["highest_rate"] == 10
    assert [rate["holds"] for rate in found["rates"]] == [True, True, False]
    assert found["limit"] == {"percentile": 99.0, "seconds": 0.2}
    assert [load.arrivals for load in offered] == ["poisson"] * 3 + ["constant"] * 3
    assert b"POST /upscale?scale=4 HTTP/1.1" in offered[0].request


def test_no_rate_that_holds_ends_with_7(run: Run, offered: list[Any]) -> None:
    words = ("--url", "http://127.0.0.1:1", "--limit", "p90:1s", "--rate", "50")
    done = run("bench", "serve", *words)
    assert done.exit_code == 7
    assert "no rate that was offered keeps the limit, p90 of 1000 ms" in done.stderr


def test_bench_serve_starts_a_server_of_the_bundle(run: Run, bundle: Path) -> None:
    words = ("--limit", "p90:60s", "--rate", "200", "--duration", "100ms", "--lr-size", "8x8")
    more = ("--threads", "1", "--queue", "99", "--precision", "fp32", "--json")
    done = run("bench", "serve", bundle, *words, *more)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["server"]["runs_on"] == "onnxruntime cpu, fp32"
    assert found["rates"][0]["statuses"] == {"200": 64}
    assert found["highest_rate"] == 200
