"""The version, and the command that adds a library to this copy."""

import importlib
import json
from importlib.metadata import version
from pathlib import Path

import pytest

from flowsr_runtime.installation import pip_command


class Distribution:
    """An installed distribution with a `direct_url.json`, or without one."""

    def __init__(self, origin: object) -> None:
        self._origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self._origin is None else json.dumps(self._origin)


@pytest.mark.parametrize(
    ("folder", "origin", "command"),
    [
        ("", None, "pip install 'flowsr-lp[cpu,serve]'"),
        (
            "",
            {"url": "https://a/b.whl", "archive_info": {}},
            "pip install 'flowsr-lp[cpu,serve]'",
        ),
        ("gone", {"dir_info": {}}, "pip install 'flowsr-lp[cpu,serve]'"),
        ("a b", {"dir_info": {}}, "pip install '.[cpu,serve]' in {folder}"),
        ("a b", {"dir_info": {"editable": True}}, "pip install -e '.[cpu,serve]' in {folder}"),
    ],
)
def test_the_command_is_that_of_the_installation(
    folder: str,
    origin: dict[str, object] | None,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "a b").mkdir()
    place = tmp_path / folder
    if folder and origin is not None:
        origin = {"url": place.as_uri(), **origin}
    name = "flowsr_runtime.installation.distributions"
    monkeypatch.setattr(name, lambda name: [Distribution(None), Distribution(origin)])
    assert pip_command("cpu", "serve") == command.format(folder=place)


def test_in_the_clone_no_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = {"url": tmp_path.as_uri(), "dir_info": {}}
    name = "flowsr_runtime.installation.distributions"
    monkeypatch.setattr(name, lambda name: [Distribution(None), Distribution(origin)])
    monkeypatch.chdir(tmp_path)
    assert pip_command() == "pip install '.'"


def test_a_source_tree_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowsr_runtime.installation.distributions", lambda name: [])
    assert pip_command("cpu") == "pip install 'flowsr-lp[cpu]'"


@pytest.mark.parametrize(
    "package", ["flowsr_runtime", "flowsr_calibration", "flowsr_lp", "flowsr_export"]
)
def test_every_package_has_the_version(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__version__ == version("flowsr-lp")
    assert "__version__" in module.__all__
