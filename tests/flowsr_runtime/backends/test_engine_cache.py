"""What a library finds in its folder is what was there when the folder was sealed."""

from pathlib import Path

import pytest

from flowsr_runtime.backends.engine_cache import record_hashes, remove_unrecorded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sealed folder of two files."""
    for name in ("a.engine", "b.engine"):
        (tmp_path / name).write_bytes(name.encode())
    record_hashes(tmp_path)
    return tmp_path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_sealed_stays(folder: Path) -> None:
    assert remove_unrecorded(folder) == []
    assert names_in(folder) == ["a.engine", "b.engine", "sealed.json"]


def test_a_changed_file_goes_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "a.engine").write_bytes(b"a.enginf")
    assert remove_unrecorded(folder) == ["a.engine"]
    assert names_in(folder) == ["b.engine", "sealed.json"]
    assert "a.engine changed" in caplog.text


def test_a_file_that_nobody_saw_goes(folder: Path) -> None:
    (folder / "c.engine").write_bytes(b"c")
    assert remove_unrecorded(folder) == ["c.engine"]


def test_a_link_is_never_one_that_was_seen(folder: Path, tmp_path: Path) -> None:
    target = tmp_path.parent / "elsewhere"
    target.write_bytes(b"a.engine")
    (folder / "a.engine").unlink()
    (folder / "a.engine").symlink_to(target)
    record_hashes(folder)
    assert remove_unrecorded(folder) == ["a.engine"]
    assert target.read_bytes() == b"a.engine"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a.engine": 3}', "[" * 100_000])
def test_without_a_sound_seal_everything_goes(folder: Path, text: str) -> None:
    (folder / "sealed.json").write_text(text)
    assert remove_unrecorded(folder) == ["a.engine", "b.engine"]


def test_folders_are_left_alone(folder: Path) -> None:
    (folder / "inner").mkdir()
    record_hashes(folder)
    assert remove_unrecorded(folder) == []
    assert (folder / "inner").is_dir()


def test_a_folder_that_cannot_be_sealed_is_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record_hashes(tmp_path / "gone")
    assert "gone cannot be reused: No such file or directory" in caplog.text
