"""Batches on a Ray cluster: the worker, and two workers of which one is killed."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flowsr_export.upscale.jobs import Job, Request
from flowsr_export.upscale.ray import (
    Cluster,
    PictureMapper,
    WorkerConfig,
    _report,
    upscale_on_ray,
)
from flowsr_runtime import SessionSettings, read_picture
from flowsr_runtime.errors import ProviderError, UsageError

EXAMPLE = Path(__file__).parents[3] / "examples" / "ray_upscale.py"
TWICE = Request("2", None)

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="ray is not installed; pip install 'flowsr-lp[ray]'"
)


def config_of(bundle: Path, request: Request = TWICE) -> WorkerConfig:
    return WorkerConfig(bundle, SessionSettings(), request)


def row(source: Path, target: Path) -> dict[str, object]:
    return {"index": 0, "source": str(source), "target": str(target)}


def test_a_worker_takes_a_row_and_says_what_came_of_it(
    bundle: Path, photo: Path, tmp_path: Path
) -> None:
    answer = PictureMapper(config_of(bundle))(row(photo, tmp_path / "o.png"))
    assert (answer["height"], answer["width"], answer["exit_code"]) == (10, 12, 0)
    assert (answer["skipped"], answer["reason"], answer["warning"]) == (False, "", "")
    assert read_picture(tmp_path / "o.png").rgb.shape == (10, 12, 3)


def test_a_worker_goes_on_after_a_bad_picture(
    bundle: Path, photo: Path, tmp_path: Path
) -> None:
    mapper = PictureMapper(config_of(bundle))
    bad = mapper(row(tmp_path / "none.png", tmp_path / "o.png"))
    assert (bad["exit_code"], "none.png does not exist" in bad["reason"]) == (5, True)
    assert mapper(row(photo, tmp_path / "o.png"))["reason"] == ""


def test_a_target_that_is_there_is_left_unless_forced(
    bundle: Path, photo: Path, tmp_path: Path
) -> None:
    there = tmp_path / "o.png"
    there.write_bytes(b"there")
    assert PictureMapper(config_of(bundle))(row(photo, there))["skipped"] is True
    assert there.read_bytes() == b"there"
    forced = Request("2", None, force=True)
    assert PictureMapper(config_of(bundle, forced))(row(photo, there))["height"] == 10


def test_rows_of_an_answer_have_the_same_types(
    bundle: Path, photo: Path, tmp_path: Path
) -> None:
    mapper = PictureMapper(config_of(bundle))
    answers = [mapper(row(source, tmp_path / "o.png")) for source in (photo, photo)]
    answers.append(mapper(row(tmp_path / "none.png", tmp_path / "p.png")))
    kinds = [{key: type(value) for key, value in answer.items()} for answer in answers]
    assert kinds[0] == kinds[1] == kinds[2]


@pytest.mark.parametrize(
    ("settings", "due"),
    [
        (SessionSettings(), {"num_cpus": 1}),
        (SessionSettings(threads=3), {"num_cpus": 3}),
        (SessionSettings("tensorrt"), {"num_cpus": 1, "num_gpus": 1}),
        (SessionSettings(provider="cuda"), {"num_cpus": 1, "num_gpus": 1}),
    ],
)
def test_a_worker_takes_cores_or_a_gpu(
    settings: SessionSettings, due: dict[str, int], tmp_path: Path
) -> None:
    config = WorkerConfig(tmp_path, settings, TWICE).on_cluster({"CPU": 4})
    assert config.resources == due


def test_backend_auto_takes_a_gpu_per_worker_where_the_cluster_has_some(tmp_path: Path) -> None:
    config = WorkerConfig(tmp_path, SessionSettings(), TWICE).on_cluster({"CPU": 4, "GPU": 2})
    assert config.resources == {"num_cpus": 1, "num_gpus": 1}
    assert config.settings == SessionSettings()


def test_the_report_has_the_order_of_the_jobs(tmp_path: Path) -> None:
    jobs = [Job(Path(name), tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    plain = {"height": 2, "width": 3, "seconds": 0.5, "warning": "", "skipped": False}
    made = {
        jobs[2].target: {**plain, "reason": "", "exit_code": 0},
        jobs[0].target: {**plain, "reason": "a.png is bad", "exit_code": 1},
    }
    report = _report(jobs, made, 2.0)
    assert [done.source.name for done in report.done] == ["c.png"]
    assert [failure.reason for failure in report.failures] == ["a.png is bad"]
    assert report.skipped == (jobs[1].target,)
    assert (report.exit_code, report.seconds) == (1, 2.0)


def test_nothing_is_started_where_nothing_is_left_to_do(tmp_path: Path) -> None:
    (tmp_path / "o.png").write_bytes(b"there")
    told: list[int] = []
    report = upscale_on_ray(
        [Job(tmp_path / "a.png", tmp_path / "o.png")],
        config_of(tmp_path),
        Cluster("192.0.2.1:1"),
        lambda steps, note: told.append(steps),
    )
    assert (report.done, report.skipped) == ((), (tmp_path / "o.png",))
    assert sum(told) == 1


@needs_ray
@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("127.0.0.1:1", ProviderError, "at 127.0.0.1:1: .*refused"),
        ("ray://127.0.0.1:1", ProviderError, "at ray://127.0.0.1:1"),
        ("127.0.0.1:99999", ProviderError, "at 127.0.0.1:99999"),
        ("somewhere", UsageError, "got 'somewhere'"),
    ],
)
@pytest.mark.parametrize("by", ["option", "environment"])
def test_an_address_without_a_cluster_is_refused_at_once(
    address: str,
    error: type[Exception],
    message: str,
    by: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    cluster = {"option": Cluster(address), "environment": Cluster()}[by]
    job = Job(tmp_path / "a.png", tmp_path / "o.png")
    with pytest.raises(error, match=message):
        upscale_on_ray([job], config_of(tmp_path), cluster, lambda steps, note: None)


class Rows:
    """The part of Ray Data that the example uses, in this process."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def map(self, mapper: Any, *, fn_constructor_args: Any, **options: Any) -> "Rows":
        assert options["num_cpus"] == 1
        enlarge = mapper(*fn_constructor_args)
        return Rows([enlarge(row) for row in self.rows])

    def iter_rows(self) -> list[dict[str, Any]]:
        return self.rows


def test_the_example_maps_a_folder_and_names_what_failed(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ModuleType("ray.data")
    data.from_items = lambda rows, override_num_blocks: Rows(rows)  # type: ignore[attr-defined]
    data.ActorPoolStrategy = lambda size: size  # type: ignore[attr-defined]
    library = ModuleType("ray")
    library.data = data  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", library)
    monkeypatch.setitem(sys.modules, "ray.data", data)
    folder = photo.parent / "small"
    folder.mkdir()
    shutil.copy(photo, folder / "a.png")
    (folder / "b.png").write_bytes(b"no picture")
    example = runpy.run_path(str(EXAMPLE))
    words = ["ray_upscale.py", str(folder), "-o", str(tmp_path / "large"), "--scale", "2"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match=r"small/b\.png is not a"):
        example["main"]()
    assert [path.name for path in (tmp_path / "large").iterdir()] == ["a.png"]
    assert read_picture(tmp_path / "large" / "a.png").rgb.shape == (10, 12, 3)


# A worker that is killed once, with picture 3 in its hands. It travels by value, as what a
# program's own file defines does.
PROGRAM = """
import dataclasses, json, os, signal, sys
from pathlib import Path
from flowsr_export.upscale.jobs import Request, plan
from flowsr_export.upscale.ray import Cluster, PictureMapper, WorkerConfig, upscale_on_ray
from flowsr_runtime import SessionSettings

bundle, folder, marks = map(Path, sys.argv[1:])

class Mortal(PictureMapper):
    def __call__(self, row):
        (marks / str(os.getpid())).touch()
        if row["source"].endswith("3.png") and not (marks / "killed").exists():
            (marks / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(row)

jobs = plan([folder], folder.parent / "large")
config = WorkerConfig(bundle, SessionSettings(), Request("2", None))
told = []
report = upscale_on_ray(
    jobs, config, Cluster(workers=2), lambda steps, name: told.append(steps), mapper=Mortal
)
print(json.dumps({**dataclasses.asdict(report), "told": sum(told)}, default=str))
"""


@needs_ray
def test_two_workers_of_which_one_is_killed_make_every_picture(
    bundle: Path, photo: Path, tmp_path: Path
) -> None:
    folder, marks = tmp_path / "small", tmp_path / "marks"
    for path in (folder, marks):
        path.mkdir()
    for i in range(8):
        shutil.copy(photo, folder / f"{i}.png")
    (folder / "5.png").write_bytes(b"no picture")
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "6.png").write_bytes(b"there")
    words = [sys.executable, "-c", PROGRAM, bundle, folder, marks]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [str(word) for word in words], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    names = [Path(each["target"]).name for each in report["done"]]
    assert names == ["0.png", "1.png", "2.png", "3.png", "4.png", "7.png"]
    assert [Path(each["source"]).name for each in report["failures"]] == ["5.png"]
    assert report["skipped"] == [str(tmp_path / "large" / "6.png")]
    assert report["told"] == 8
    assert (marks / "killed").exists()
    assert len(list(marks.iterdir())) >= 3  # two workers and the mark, or the new one too
    assert read_picture(tmp_path / "large" / "3.png").rgb.shape == (10, 12, 3)
