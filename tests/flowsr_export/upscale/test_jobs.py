"""Output files of a batch, and its report."""

from pathlib import Path

import pytest
from PIL import Image

from flowsr_export.upscale.folders import earlier_outputs
from flowsr_export.upscale.jobs import Done, Failure, Job, Report, failure_of, plan
from flowsr_runtime.errors import OutputError, PictureError, UsageError


def save(path: Path, width: int = 4, height: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (40, 90, 140)).save(path)
    return path


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


def test_a_folder_is_not_made_where_it_need_not_be(tmp_path: Path) -> None:
    assert len(plan([Path("a.jpg"), Path("b.png")], tmp_path / "new", make=False)) == 2
    assert not (tmp_path / "new").exists()


def test_a_folder_means_the_pictures_directly_in_it(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "below/c.png"):
        save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").touch()
    jobs = plan([tmp_path / "in"], tmp_path / "out")
    assert [job.source.name for job in jobs] == ["a.png", "b.JPG"]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a.jpg", "a_x4.png"),
        ("a.tif", "a_x4.tif"),
        ("a.TIFF", "a_x4.TIFF"),
        ("a.webp", "a_x4.png"),
    ],
)
def test_without_an_output_each_result_lies_beside_its_picture(
    source: str, target: str
) -> None:
    assert plan([Path("in") / source], None) == [Job(Path("in") / source, Path("in") / target)]


def test_two_pictures_for_one_file_beside_them_are_refused() -> None:
    with pytest.raises(UsageError, match=r"a\.jpg and a\.png have the same output a_x4\.png"):
        plan([Path("a.jpg"), Path("a.png")], None)


def test_earlier_outputs_in_a_folder_are_left_out_unless_they_are_named(tmp_path: Path) -> None:
    for name in ("a.jpg", "a_x4.png", "a_1920x1080.png", "b_x4.png"):
        save(tmp_path / name)
    outputs = [tmp_path / "a_1920x1080.png", tmp_path / "a_x4.png"]
    jobs = plan([tmp_path], None)
    assert [job.source.name for job in jobs] == ["a.jpg", "b_x4.png"]
    assert earlier_outputs([tmp_path]) == outputs
    both = [tmp_path, outputs[1]]
    assert earlier_outputs(both) == outputs[:1]
    assert [job.source.name for job in plan(both, tmp_path / "out")][-1] == "a_x4.png"


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="holds no image"):
        plan([tmp_path], tmp_path / "out")


def test_two_pictures_for_one_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a/x\.png and b/x\.jpg"):
        plan([Path("a/x.png"), Path("b/x.jpg")], tmp_path)


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/out"):
        plan([Path("a.png"), Path("b.png")], tmp_path / "file" / "out")


def failure(exit_code: int) -> Failure:
    return Failure(Path("a.png"), "a.png is bad", exit_code)


@pytest.mark.parametrize(("codes", "due"), [((), 0), ((2, 2), 2), ((1, 6), 1)])
def test_failures_with_one_code_keep_it(codes: tuple[int, ...], due: int) -> None:
    assert Report((), tuple(failure(code) for code in codes)).exit_code == due


def test_every_reason_names_its_picture() -> None:
    job = Job(Path("in/a.png"), Path("out/a.png"))
    assert failure_of(job, PictureError("no memory")).reason == "in/a.png: no memory"
    assert failure_of(job, PictureError("in/a.png is bad")).reason == "in/a.png is bad"


def test_the_rate_is_of_output_pixels_by_the_time_of_the_whole_batch() -> None:
    done = Done(Path("a.png"), Path("b.png"), 2000, 3000, seconds=1.0)
    report = Report((done, done), (), seconds=4.0)
    assert (report.megapixels, report.megapixels_per_second) == (12.0, 3.0)
    assert Report((), ()).megapixels_per_second == 0
