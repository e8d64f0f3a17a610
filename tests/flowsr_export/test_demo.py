"""The demo: included photographs, the contact sheet, the figures."""

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from click.testing import Result
from PIL import Image

from flowsr_export.demo import PICTURES, demonstrate
from flowsr_runtime import Upscaler

Run = Callable[..., Result]


def test_the_command_writes_the_sheet_and_the_figures(
    bundle: Path, tmp_path: Path, run: Run
) -> None:
    done = run("demo", "--bundle", bundle, "-o", tmp_path / "demo", "--threads", "1")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == str(tmp_path / "demo" / "demo.png")
    with Image.open(tmp_path / "demo" / "demo.png") as sheet:
        assert sheet.width > sheet.height > 1000
    document = json.loads((tmp_path / "demo" / "demo.json").read_text())
    four, other = document["comparisons"]
    assert (four["scale"], four["input"], four["output"]) == ("4", [64, 64], [256, 256])
    assert (other["scale"], other["input"], other["output"]) == ("2.7", [90, 90], [243, 243])


def test_the_figures_are_measured(bundle: Path, tmp_path: Path) -> None:
    with Upscaler.open(bundle, threads=1) as upscaler:
        four, _ = demonstrate(upscaler, tmp_path, ("coffee", "coffee"))
    assert four.seconds > 0
    assert 15 < four.psnr_flowsr < four.psnr_bicubic < 40  # the small bundle is linear


def test_nothing_is_overwritten_without_force(bundle: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "demo.json").write_text("mine")
    done = run("demo", "--bundle", bundle, "-o", tmp_path)
    assert done.exit_code == 1
    assert "demo.json exists" in done.stderr
    assert (tmp_path / "demo.json").read_text() == "mine"


def test_every_shipped_photograph_has_its_licence_line() -> None:
    folder = files("flowsr_export") / "inputs" / "pictures"
    licences = (folder / "LICENSES.md").read_text(encoding="utf-8")
    shipped = {entry.name for entry in folder.iterdir() if entry.name.endswith(".png")}
    assert shipped == {f"{name}_256.png" for name in PICTURES}
    assert all(name in licences for name in shipped)


def test_json_has_the_figures(bundle: Path, tmp_path: Path, run: Run) -> None:
    done = run("demo", bundle, "-o", tmp_path / "demo", "--threads", "1", "--json")
    record = json.loads(done.stdout)
    assert record["path"] == str(tmp_path / "demo" / "demo.png")
    assert [row["scale"] for row in record["pictures"]] == ["4", "2.7"]
