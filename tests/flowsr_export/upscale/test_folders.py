"""Folders: which images are read, and where their outputs go."""

from pathlib import Path

import pytest
from PIL import Image

from flowsr_export.upscale.folders import earlier_outputs, images_of, with_subfolders
from flowsr_export.upscale.inputs import STREAM
from flowsr_export.upscale.jobs import Job, Request, plan
from flowsr_runtime.errors import PictureError, UsageError

TREE = ("a.jpg", "below/b.png", "below/deep/c.tif", "below/.hidden/d.png", "out/e.png")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with folders in it, one of them hidden and one for outputs."""
    for name in TREE:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    return tmp_path / "in"


DEEP = Request("2", None, recursive=True)


def test_folders_in_a_folder_are_searched_and_kept_in_the_output(tree: Path) -> None:
    jobs = plan([tree], tree / "out", DEEP)
    found = [job.target.relative_to(tree / "out").as_posix() for job in jobs]
    assert found == ["a.png", "below/b.png", "below/deep/c.png"]
    assert (tree / "out" / "below" / "deep").is_dir()


def test_outputs_beside_images_of_a_tree_are_left_out_of_it(tree: Path) -> None:
    jobs = plan([tree / "below"], None, DEEP)
    assert [job.target.name for job in jobs] == ["b_x2.png", "c_x2.tif"]
    for job in jobs:
        job.target.touch()
    assert plan([tree / "below"], None, DEEP) == jobs
    folders = with_subfolders([tree / "below"], recursive=True, output=None)
    assert earlier_outputs(folders) == [job.target for job in jobs]


def test_a_link_to_a_folder_above_has_an_end(tree: Path) -> None:
    (tree / "below" / "up").symlink_to(tree)
    found = images_of(tree, recursive=True)
    assert len(found) == 4


def test_a_tree_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in" / "below").mkdir(parents=True)
    with pytest.raises(PictureError, match=r"folder .*in holds no image"):
        images_of(tmp_path / "in", recursive=True)


def test_a_format_names_the_outputs(tree: Path) -> None:
    request = Request("2", None, format="webp")
    assert [job.target.name for job in plan([tree], tree / "o", request)] == ["a.webp"]
    assert [job.target.name for job in plan([tree], None, request)] == ["a_x2.webp"]


def test_an_output_in_the_folder_of_its_image_is_named_as_beside_it(tree: Path) -> None:
    jobs = plan([tree], tree, Request("2", None))
    assert [job.target for job in jobs] == [tree / "a_x2.png"]
    jobs[0].target.touch()
    assert plan([tree], tree, Request("2", None)) == jobs


def test_an_output_that_is_an_input_too_is_refused(tree: Path) -> None:
    other = tree / "below" / "a.png"
    Image.new("RGB", (4, 4)).save(other)
    with pytest.raises(UsageError, match=r"output .*below/a\.png of .*a\.jpg is an input too"):
        plan([tree / "a.jpg", other], tree / "below", Request("2", None))


@pytest.mark.parametrize(
    ("size", "name"),
    [((None, 320), "a_320w.png"), ((300, None), "a_300h.png"), ((300, 320), "a_320x300.png")],
)
def test_one_side_names_the_output_and_it_is_left_out_the_next_time(
    tree: Path, size: tuple[int | None, int | None], name: str
) -> None:
    (job,) = plan([tree], None, Request(None, size))
    assert job.target.name == name
    job.target.touch()
    assert earlier_outputs([tree]) == [job.target]


def test_stdin_goes_to_stdout_to_a_file_and_into_a_folder(tree: Path) -> None:
    assert plan([STREAM], None) == [Job(STREAM, STREAM)]
    assert plan([STREAM], Path("o.png")) == [Job(STREAM, Path("o.png"))]
    assert plan([STREAM], tree) == [Job(STREAM, tree / "stdin.png")]
    assert plan([tree / "a.jpg"], STREAM) == [Job(tree / "a.jpg", STREAM)]


@pytest.mark.parametrize(
    ("inputs", "output"), [(("-", "a.jpg"), "out"), (("a.jpg", "b.jpg"), "-"), ((".",), "-")]
)
def test_stdin_and_stdout_are_for_one_image(inputs: tuple[str, ...], output: str) -> None:
    with pytest.raises(UsageError, match="for one image alone"):
        plan([Path(name) for name in inputs], Path(output))
