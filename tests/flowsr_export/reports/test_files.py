"""Files of reports: existing ones are kept, folders are made, errors name the path."""

from pathlib import Path

import pytest

from flowsr_export.reports.files import prepare_files, report_paths, write_files
from flowsr_runtime.errors import OutputError

SUFFIXES = (".json", ".md")


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_a_suffix_is_replaced_and_other_dots_stay(tmp_path: Path) -> None:
    assert names(report_paths(tmp_path / "a.md", SUFFIXES, force=False)) == ["a.json", "a.md"]
    assert names(report_paths(tmp_path / "v1.5", SUFFIXES, force=False))[0] == "v1.5.json"


def test_a_folder_gets_files_of_a_fixed_name(tmp_path: Path) -> None:
    paths = report_paths(tmp_path, SUFFIXES, force=False, name="evaluation")
    assert paths[0] == tmp_path / "evaluation.json"


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match=r"a\.md") as caught:
        report_paths(tmp_path / "a", SUFFIXES, force=False)
    assert caught.value.option == "force"
    write_files(dict.fromkeys(report_paths(tmp_path / "a", SUFFIXES, force=True), "new"))
    assert (tmp_path / "a.md").read_text(encoding="utf-8") == "new"


def test_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    prepare_files([path], force=False)
    write_files({path: b"\xff"})
    assert path.read_bytes() == b"\xff"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"/file "):
        prepare_files([tmp_path / "file" / "a.json"], force=False)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OutputError, match=r"a\.json"):
        write_files({tmp_path / "a.json": "text"})
