"""Which picture goes where, and a batch that goes on past a bad picture."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from flowsr_export.batch import STEPS, Job, Request, enlarge_all, plan
from flowsr_runtime import Upscaler
from flowsr_runtime.errors import OutputError, PictureError, UsageError

TWICE = Request(scale="2", size=None)


def save(path: Path, width: int = 4, height: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (40, 90, 140)).save(path)
    return path


def ignore(steps: int, note: str) -> None:
    pass


@pytest.fixture
def upscaler(bundle: Path) -> Iterator[Upscaler]:
    with Upscaler.open(bundle, threads=1) as opened:
        yield opened


def test_one_picture_goes_to_the_file_that_is_named(tmp_path: Path) -> None:
    assert plan([tmp_path / "a.jpg"], tmp_path / "b.webp") == [
        Job(tmp_path / "a.jpg", tmp_path / "b.webp")
    ]


def test_one_picture_goes_into_a_folder_that_is_there(tmp_path: Path) -> None:
    assert plan([Path("a.jpg")], tmp_path) == [Job(Path("a.jpg"), tmp_path / "a.png")]


def test_several_pictures_go_into_a_folder_that_is_made(tmp_path: Path) -> None:
    jobs = plan([Path("a.jpg"), Path("b.png")], tmp_path / "new" / "large")
    assert [job.target.name for job in jobs] == ["a.png", "b.png"]
    assert (tmp_path / "new" / "large").is_dir()


def test_a_folder_means_the_pictures_directly_in_it(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "below/c.png"):
        save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").touch()
    jobs = plan([tmp_path / "in"], tmp_path / "out")
    assert [job.source.name for job in jobs] == ["a.png", "b.JPG"]


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="holds no picture"):
        plan([tmp_path], tmp_path / "out")


def test_two_pictures_for_one_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a/x\.png and b/x\.jpg would both become"):
        plan([Path("a/x.png"), Path("b/x.jpg")], tmp_path)


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"folder .*file/out cannot be made"):
        plan([Path("a.png"), Path("b.png")], tmp_path / "file" / "out")


def test_a_bad_picture_does_not_stop_the_others(upscaler: Upscaler, tmp_path: Path) -> None:
    sources = [save(tmp_path / "a.png"), tmp_path / "none.png", save(tmp_path / "c.png")]
    report = enlarge_all(plan(sources, tmp_path / "out"), upscaler, TWICE, ignore)
    assert [done.target.name for done in report.done] == ["a.png", "c.png"]
    assert [failure.source.name for failure in report.failures] == ["none.png"]
    assert report.exit_code == 1


def test_failures_with_one_code_keep_it(upscaler: Upscaler, tmp_path: Path) -> None:
    sources = [save(tmp_path / "a.png"), save(tmp_path / "b.png")]
    smaller = Request(scale=None, size=(2, 2))
    report = enlarge_all(plan(sources, tmp_path / "out"), upscaler, smaller, ignore)
    assert report.exit_code == 2


def test_failures_with_several_codes_end_with_1(upscaler: Upscaler, tmp_path: Path) -> None:
    sources = [save(tmp_path / "a.png"), tmp_path / "none.png"]
    smaller = Request(scale=None, size=(2, 2))
    report = enlarge_all(plan(sources, tmp_path / "out"), upscaler, smaller, ignore)
    assert report.exit_code == 1


def test_every_reason_names_its_picture(upscaler: Upscaler, tmp_path: Path) -> None:
    sources = [save(tmp_path / "a.png"), tmp_path / "none.png"]
    smaller = Request(scale=None, size=(2, 2))
    report = enlarge_all(plan(sources, tmp_path / "out"), upscaler, smaller, ignore)
    assert all(str(failure.source) in failure.reason for failure in report.failures)


def test_what_every_picture_would_meet_stops_the_batch(
    upscaler: Upscaler, tmp_path: Path
) -> None:
    warm = Request(scale="2", size=None, temperature=0.8)
    with pytest.raises(UsageError, match="temperature"):
        enlarge_all([Job(save(tmp_path / "a.png"), tmp_path / "b.png")], upscaler, warm, ignore)


def test_an_exploded_picture_is_done_with_a_warning(exploding: Path, tmp_path: Path) -> None:
    sources = [save(tmp_path / "a.png"), save(tmp_path / "b.png")]
    with Upscaler.open(exploding, threads=1) as upscaler:
        jobs = plan(sources, tmp_path / "out")
        report = enlarge_all(jobs, upscaler, Request(scale=None, size=None), ignore)
    assert report.exit_code == 0
    assert [done.target.is_file() for done in report.done] == [True, True]
    assert ["exploded: 512 of 768 values" in str(done.warning) for done in report.done] == [
        True,
        True,
    ]


def test_a_sound_picture_has_no_warning(upscaler: Upscaler, tmp_path: Path) -> None:
    jobs = plan([save(tmp_path / "a.png")], tmp_path / "b.png")
    (done,) = enlarge_all(jobs, upscaler, TWICE, ignore).done
    assert done.warning is None


def test_the_bar_gets_equal_steps_for_each_picture(upscaler: Upscaler, tmp_path: Path) -> None:
    told: list[tuple[int, str]] = []
    sources = [save(tmp_path / "a.png"), tmp_path / "none.png"]
    jobs = plan(sources, tmp_path / "out")
    enlarge_all(jobs, upscaler, TWICE, lambda steps, note: told.append((steps, note)))
    assert sum(steps for steps, note in told if note == "a.png") == STEPS
    assert sum(steps for steps, note in told if note == "none.png") == STEPS
