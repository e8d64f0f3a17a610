"""Curves of a training run: one chart a figure, and files that are none."""

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from flowsr_export.reports.training_curves import draw_training_curves
from flowsr_runtime.errors import CheckpointError


def log(folder: Path, validated: bool) -> Path:
    lines = [
        {
            "step": step,
            "nll": 3.0 / step,
            "l1": 0.1,
            **({"validation": {"nll": 4.0 / step, "l1": 0.2}} if validated else {}),
        }
        for step in (50, 100, 150)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("validated", [False, True])
def test_each_figure_is_a_chart(tmp_path: Path, validated: bool) -> None:
    svg = draw_training_curves(log(tmp_path, validated))
    words = [text.text for text in ElementTree.fromstring(svg).findall(".//{*}text")]
    assert {"nll", "l1"} <= set(words)
    assert words.count("training") == 2
    assert words.count("validation") == 2 * validated


def test_a_png_holds_the_same_charts(tmp_path: Path) -> None:
    content = draw_training_curves(log(tmp_path, validated=True), png=True)
    assert isinstance(content, bytes)
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (260, 720, 3)  # two charts beside each other, 100 pixels an inch
    assert pixels.std() > 10


@pytest.mark.parametrize("text", ["", "{", '{"step": 1}', '{"nll": 1}', "[]"])
def test_a_log_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(CheckpointError, match=r"log\.jsonl is empty or damaged"):
        draw_training_curves(tmp_path)


def test_a_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"{tmp_path} is not a training run"):
        draw_training_curves(tmp_path)
