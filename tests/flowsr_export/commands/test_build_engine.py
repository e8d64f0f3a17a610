"""The commands for engines, with the real tensorrt_rtx, which needs no GPU."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from flowsr_export.engine import build as engine_module
from flowsr_runtime import Bundle, write_bundle
from flowsr_runtime.bundle.engine_store import EngineStore
from tests.flowsr_export.conftest import small_manifest
from tests.flowsr_export.engine.engines import convolving_bundle

Run = Callable[..., Result]
SMALL = ("--lr-size", "32x24", "--scale", "2", "--flavor", "tensorrt-rtx")

HERE = ("--flavor", "tensorrt-rtx", "--compute-capability", "8.9")


@pytest.fixture
def both(tmp_path: Path) -> Path:
    return convolving_bundle(tmp_path / "both.bundle", "fp32", "fp16")


def test_a_bundle_gets_its_engine(both: Path, run: Run) -> None:
    done = run("build-engine", both, *SMALL, "--compute-capability", "8.9")
    assert done.exit_code == 0, done.output
    (entry,) = EngineStore(both).entries()
    assert entry.key.compute_capability == ("8.9",)
    assert entry.name in done.stdout
    assert "100.0% in the file, 100.0% in the engine" in done.stdout
    assert "input      geometry int64 10" in done.stdout
    (log,) = both.parent.glob("both.bundle.*.build.log")
    assert log.name == f"both.bundle.{entry.key.digest()[:12]}.build.log"


def test_the_same_again_is_kept(both: Path, run: Run) -> None:
    first = json.loads(run("build-engine", both, *SMALL, "--json").stdout)
    second = json.loads(run("build-engine", both, *SMALL, "--json").stdout)
    assert (first["reused"], second["reused"]) == (False, True)
    assert first["sha256"] == second["sha256"]
    assert "kept" in run("build-engine", both, *SMALL).stdout


def test_layers_go_to_a_file_and_later_settings_into_the_key(
    both: Path, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "layers.json"
    more = ("--max-aux-streams", "1", "--tiling-optimization-level", "fast")
    done = run("build-engine", both, *SMALL, *more, "--export-layer-info", path)
    assert done.exit_code == 0, done.output
    assert "qualified  no: no GPU that runs it was there" in done.stdout
    assert json.loads(path.read_text())["Layers"]
    (entry,) = EngineStore(both).entries()
    options = entry.key.options
    assert (options["max_aux_streams"], options["tiling_optimization_level"]) == (1, "fast")
    assert "qualified: no" in run("engines", "list", both).stdout
    found = run("inspect", both, "--engine", "--precision", "fp16", *HERE, "--json")
    assert list(json.loads(found.stdout)["qualified"].values()) == [False]
    assert "qualified           no:" in run("inspect", both, "--engine", *HERE).stdout


def test_a_dry_run_says_what_would_be_built_and_builds_nothing(both: Path, run: Run) -> None:
    before = sorted(both.parent.rglob("*"))
    done = run("build-engine", both, *SMALL, "--dry-run", "--json")
    seen = json.loads(done.stdout)
    assert sorted(both.parent.rglob("*")) == before
    assert seen["there"] is False
    assert seen["profiles"][0]["input"]["max"] == [1, 3, 24, 32]
    assert seen["estimated_bytes"][0] > 0
    run("build-engine", both, *SMALL)
    again = json.loads(run("build-engine", both, *SMALL, "--dry-run", "--json").stdout)
    assert again == {**seen, "there": True}


def test_a_dry_run_is_text_for_people(both: Path, run: Run) -> None:
    lines = run("build-engine", both, *SMALL, "--dry-run").stdout.splitlines()
    assert lines[0].startswith("library    tensorrt_rtx 1.7")
    assert lines[1] == "target     compute capability 8.0 and above"
    assert lines[3] == "  input    1x3x16x16 … 1x3x24x32 … 1x3x24x32"
    assert lines[4] == "  window   16x16 … 48x64 … 48x64"
    assert lines[-1].endswith("would be built")


@pytest.mark.parametrize(
    "sizes",
    [("--picture", "32x24", "--scale", "2", "--exact"), ("--opt-shapes", "input:1x3x24x32")],
)
def test_a_profile_of_one_size_is_warned_about(
    sizes: tuple[str, ...], both: Path, run: Run
) -> None:
    done = run("build-engine", both, *sizes, "--flavour", "tensorrt-rtx", "--dry-run")
    assert done.exit_code == 0
    assert done.stderr == (
        "flowsr-export: profile 0 takes images of 32x24 only, and no tile of another size\n"
    )
    wide = run("build-engine", both, *SMALL, "--dry-run")
    assert (wide.exit_code, wide.stderr) == (0, "")


def test_it_ends_with_the_command_that_runs_the_engine(both: Path, run: Run) -> None:
    due = f"flowsr-export upscale {both} photo.png --scale 2"
    done = run("build-engine", both, *SMALL)
    assert done.stdout.splitlines()[-1] == f"run it     {due}"
    assert json.loads(run("build-engine", both, *SMALL, "--json").stdout)["run"] == due
    other = run("build-engine", both, *SMALL, "--precision", "fp32")
    assert other.stdout.splitlines()[-1] == f"run it     {due} --precision fp32"


def test_another_bundle_gets_the_engine(both: Path, run: Run) -> None:
    other = both.parent / "other.bundle"
    arguments = ("build-engine", both, *SMALL, "-o", other)
    assert run(*arguments).exit_code == 0
    assert run(*arguments, "--compute-capability", "8.9").exit_code == 0
    assert EngineStore(both).entries() == []
    assert len(EngineStore(other).entries()) == 2
    Bundle.open(other).check_files()


def test_a_bundle_of_another_model_is_not_touched(both: Path, run: Run) -> None:
    other = small_manifest(model={"model_sha256": "another"})
    files = {"model.fp32.onnx": b"another"}
    place = write_bundle(both.parent / "other.bundle", other, files).path
    done = run("build-engine", both, *SMALL, "-o", place)
    assert done.exit_code == 1
    assert "holds another model" in done.stderr
    assert not (place / "engines").exists()
    assert run("build-engine", both, *SMALL, "-o", place, "--force").exit_code == 0
    assert len(EngineStore(place).entries()) == 1


def test_an_interruption_leaves_nothing(
    both: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    before = sorted(both.parent.rglob("*"))
    monkeypatch.setattr(engine_module, "build_plan", interrupt)
    done = run("build-engine", both, *SMALL)
    assert (done.exit_code, done.stderr) == (130, "flowsr-export: interrupted\n")
    assert sorted(both.parent.rglob("*")) == before


REFUSED = {
    "no place": (SMALL, 2, "output must be given without a bundle"),
    "prior alone": ((*SMALL, "--prior", "x"), 2, "prior needs model"),
    "unknown GPU": (("{both}", *SMALL, "--compute-capability", "9.0"), 4, "got 9.0"),
    "RTX with timings": (("{both}", *SMALL, "--timing-cache", "t"), 2, "(--timing-cache)"),
    "fixed scale of a bundle": (("{both}", *SMALL, "--fixed-scale", "2"), 2, "fixed_scale"),
    "eight bits of a bundle": (("{both}", *SMALL, "--io", "uint8"), 2, "io is"),
    "scale": (("{both}", "--lr-size", "8x8", "--scale", "0.5"), 2, "scale must be at least 1"),
    "shape": (("{both}", "--opt-shapes", "input:3x8x8"), 2, "got 3x8x8"),
    "budget": (("{both}", *SMALL, "--max-memory", "100"), 6, "memory_budget must be"),
    "no bundle": (("nothing", *SMALL), 5, "bundle nothing does not exist"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_request_is_one_line_and_leaves_nothing(
    case: str, both: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, code, line = REFUSED[case]
    monkeypatch.chdir(both.parent)
    before = sorted(both.parent.rglob("*"))
    done = run("build-engine", *(each.format(both=both) for each in arguments))
    assert done.exit_code == code, done.stderr
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(both.parent.rglob("*")) == before


def test_engines_are_listed(both: Path, run: Run) -> None:
    assert run("engines", "list", both).stdout == "no engine\n"
    run("build-engine", both, *SMALL)
    text = run("engines", "list", both).stdout
    assert text.startswith("ok      engines/tensorrt_rtx-portable-fp16-1x3x24x32-")
    assert "fp16, compute capability 8.0 and above, 1 profile" in text
    (row,) = json.loads(run("engines", "list", both, "--json").stdout)["engines"]
    assert row["state"] == "ok"
    assert row["facts"]["precision"]["engine"] == {"fp16": 1.0}


def test_a_damaged_engine_ends_with_5_and_is_pruned(both: Path, run: Run) -> None:
    run("build-engine", both, *SMALL)
    plan = next(both.glob("engines/*.engine"))
    plan.write_bytes(b"damaged")
    done = run("engines", "list", both)
    assert done.exit_code == 5
    assert "DAMAGED" in done.stdout
    assert "would remove 2 files" in run("engines", "prune", both, "--dry-run").stdout
    removed = json.loads(run("engines", "prune", both, "--json").stdout)
    assert {row["reason"] for row in removed["removed"]} == {"damaged"}
    assert run("engines", "list", both).stdout == "no engine\n"


def test_inspect_explains_a_miss_field_by_field(both: Path, run: Run) -> None:
    run("build-engine", both, *SMALL, "--compute-capability", "8.9")
    looking = ("inspect", both, "--engine", "--flavor", "tensorrt-rtx", "--compute-capability")
    loads = run(*looking, "8.9")
    assert loads.exit_code == 0
    assert loads.stdout.startswith("loads      engines/tensorrt_rtx-sm89-fp16")
    misses = run(*looking, "12.0")
    assert misses.exit_code == 5
    assert "  compute_capability  is 8.9, must be 12.0" in misses.stdout
    assert "build one with flowsr-export build-engine" in misses.stderr
    found = json.loads(run(*looking, "12.0", "--json").stdout)
    assert [each["field"] for each in found["differences"]] == ["compute_capability"]
