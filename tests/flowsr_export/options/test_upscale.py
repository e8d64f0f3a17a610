"""Options for memory, devices and clusters, and the summary of `upscale`."""

import json
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from flowsr_runtime import Bundle, SessionSettings
from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession
from flowsr_runtime.errors import MemoryBudgetError
from flowsr_runtime.installation import pip_command
from tests.flowsr_export.commands.test_upscale import RUNS_ON, assert_refused, size_of

Run = Callable[..., Result]


@pytest.fixture
def upscale(bundle: Path, photo: Path, tmp_path: Path, run: Run) -> Run:
    """Upscale a photo of 6x5 pixels into `o.png`."""
    return lambda *options: run("upscale", bundle, photo, "-o", tmp_path / "o.png", *options)


def test_the_last_line_sums_up(upscale: Run) -> None:
    number = r"\d+\.\d+"
    assert re.fullmatch(
        rf"1 image, 0\.0 megapixels in {number} s, {number} megapixels/s; "
        rf"{number} GiB peak memory",
        upscale("--scale", "2").stdout.splitlines()[-1],
    )


def test_the_json_has_the_rate_and_the_peak(upscale: Run) -> None:
    report = json.loads(upscale("--scale", "20", "--json").stdout)
    assert (report["pictures"], report["megapixels"]) == (1, 0.012)
    assert report["megapixels_per_second"] == pytest.approx(0.012 / report["seconds"], 1e-3)
    assert report["peak_bytes"] > 10_000_000


def test_a_dry_run_says_tiles_and_memory_and_writes_nothing(
    bundle: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    options = ("--scale", "40", "--dry-run")
    done = run("upscale", bundle, photo, tmp_path / "none.png", "-o", tmp_path / "o", *options)
    assert done.exit_code == 5
    assert re.fullmatch(
        r".*o/photo\.png  240x200  1 tile of 240x200  \d\.\d\d GiB, 0\.00 per run\n",
        done.stdout,
    )
    assert "none.png does not exist" in done.stderr
    assert not (tmp_path / "o").exists()


def test_the_memory_that_is_allowed_is_not_foreseen_to_be_exceeded(
    bundle: Path, upscale: Run
) -> None:
    manifest = bundle / "bundle.json"
    hungry = manifest.read_text().replace('"bytes_per_patch": 64', '"bytes_per_patch": 4000000')
    manifest.write_text(hungry)
    done = upscale("--scale", "40", "--max-memory", "8G", "--dry-run", "--json")
    (planned,) = json.loads(done.stdout)["planned"]
    assert planned["tiles"] > 1
    assert planned["run_bytes"] < planned["peak_bytes"] <= 8 << 30


def test_memory_that_runs_out_is_one_line_and_the_picture_is_written(
    photo: Path, tmp_path: Path, upscale: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_whole = OnnxRuntimeSession.run

    def scarce(session: OnnxRuntimeSession, feeds: Any) -> Any:
        if int(feeds["geometry"][-1]) > 130:
            raise MemoryBudgetError("cpu ran out of memory")
        return run_whole(session, feeds)

    monkeypatch.setattr(OnnxRuntimeSession, "run", scarce)
    done = upscale("--scale", "40", "--json")
    (enlarged,) = json.loads(done.stdout)["done"]
    assert done.exit_code == 0
    assert re.findall(r"\d+x\d+", enlarged["warning"]) == [
        "240x200",
        "132x108",
        "132x108",
        "72x60",
    ]
    lines = [f"flowsr-export: {photo}: {line}\n" for line in enlarged["warning"].split("; ")]
    assert done.stderr == "".join([*lines, RUNS_ON])  # each when it happens
    assert size_of(tmp_path / "o.png") == (240, 200)


def test_memory_that_runs_out_with_the_smallest_tile_ends_with_6(
    tmp_path: Path, upscale: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(session: OnnxRuntimeSession, feeds: Any) -> Any:
        raise MemoryBudgetError("cpu ran out of memory")

    monkeypatch.setattr(OnnxRuntimeSession, "run", scarce)
    done = upscale("--scale", "40")
    *warnings, refusal = done.stderr.splitlines()
    assert done.exit_code == 6
    assert all("out of memory with tiles of" in line for line in warnings)
    assert "out of memory: cpu ran out of memory; there are no tiles smaller" in refusal
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--devices", "0,1", "--backend", "onnxruntime"), "uses none (--devices)"),
        (("--devices", "0,1", "--device", "cpu"), "give at most one of --device and --devices"),
        (("--devices", "0,1", "--provider", "openvino"), "uses none (--devices)"),
        (("--devices", "0,1", "--device", "0"), "give at most one of --device and --devices"),
        (("--ray-workers", "2"), "--ray-address and --ray-workers need --ray"),
        (("--ray", "--devices", "0,1"), "--devices is not for --ray"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: tuple[str, ...], words: str, upscale: Run
) -> None:
    assert_refused(upscale("--scale", "2", *options), 2, words)


def test_memory_of_gpus_does_not_keep_them_from_working_at_once(
    bundle: Path, pictures: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier = threading.Barrier(2)

    class OnGpu(OnnxRuntimeSession):
        def run(self, feeds: Any) -> Any:
            if feeds["input"].shape[-1] > 4:  # not the golden picture
                barrier.wait(30)
            return super().run(feeds)

    def open_on(settings: SessionSettings, bundle: Bundle) -> OnnxRuntimeSession:
        session = OnGpu.open(bundle, threads=1)
        session.provider = "cuda"
        return session

    monkeypatch.setattr(SessionSettings, "start", open_on)
    (pictures / "a.png").unlink()
    words = ("--scale", "2", "--backend", "tensorrt", "--devices", "0,1", "--max-memory", "1G")
    done = run("upscale", bundle, pictures, "-o", tmp_path / "out", *words)
    assert done.exit_code == 0
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_missing_ray_is_refused(upscale: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert_refused(upscale("--scale", "2", "--ray"), 4, pip_command("ray"))


def test_ray_is_not_asked_where_every_output_is_there(
    tmp_path: Path, upscale: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "o.png").write_bytes(b"there")
    done = upscale("--scale", "2", "--ray")
    assert done.exit_code == 0
    assert "0 made, 1 was there" in done.stdout
    assert (tmp_path / "o.png").read_bytes() == b"there"
