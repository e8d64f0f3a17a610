"""A dry run plans the upscale that follows."""

from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from flowsr_export.upscale.dry_run import plan_all
from flowsr_export.upscale.jobs import Job, Request
from flowsr_export.upscale.pipeline import upscale_file
from flowsr_runtime import Upscaler, read_picture

TWICE = Request("2.5", None)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    Image.new("RGB", (70, 40), (40, 90, 140)).save(tmp_path / "a.png")
    return Job(tmp_path / "a.png", tmp_path / "b.png")


def test_the_tiles_are_those_that_are_run(bundle: Path, job: Job) -> None:
    with Upscaler.open(bundle, threads=1, memory_budget=90_000) as upscaler:
        (planned,), failures = plan_all([job], upscaler, TWICE)
        runs: list[tuple[int, int]] = []
        image = upscaler.upscale(
            read_picture(job.source).rgb,
            "2.5",
            progress=lambda done, tiles: runs.append((done, tiles)),
        )
    assert failures == []
    assert (planned.height, planned.width) == image.shape[:2] == (100, 175)
    assert runs[-1] == (planned.tiles, planned.tiles)
    assert planned.run_bytes <= 90_000 < planned.peak_bytes


def test_nothing_is_written(bundle: Path, job: Job) -> None:
    with Upscaler.open(bundle, threads=1) as upscaler:
        plan_all([job], upscaler, TWICE)
        assert not job.target.exists()
        upscale_file(job, upscaler, TWICE)
        planned, (failure,) = plan_all([job], upscaler, TWICE)
    assert planned == []
    assert "b.png exists" in failure.reason


def test_a_picture_that_does_not_fit_is_named(bundle: Path, job: Job) -> None:
    with Upscaler.open(bundle, threads=1, max_memory=1000) as upscaler:
        _, (failure,) = plan_all([job], upscaler, TWICE)
    assert failure.exit_code == 6
    assert failure.reason.startswith(f"{job.source}: max_memory must be at lea")


def test_a_deeper_picture_is_foreseen_to_take_more(bundle: Path, job: Job) -> None:
    with Upscaler.open(bundle, threads=1, max_memory=2**40) as upscaler:
        (plain,), _ = plan_all([job], upscaler, TWICE)
        (deep,), _ = plan_all([job], upscaler, Request("2.5", None, depth=16))
    area = 40 * 70 * 2 + 100 * 175 * 4  # what is read counts twice, what is written four times
    assert deep.peak_bytes - plain.peak_bytes == 3 * area


def test_metadata_that_would_be_left_out_are_named(
    bundle: Path, job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta>" + "h" * 70_000)
    Image.new("RGB", (7, 4)).save(job.source, pnginfo=info)
    with Upscaler.open(bundle, threads=1) as upscaler:
        plan_all([Job(job.source, tmp_path / "b.jpg")], upscaler, TWICE)
    assert caplog.messages == ["JPEG holds no XMP of this size; it is not kept"]
