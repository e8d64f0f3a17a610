"""The two files of a certificate, and its summary."""

import base64
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flowsr_export.certificate.certify import Certificate, WorstCase
from flowsr_export.certificate.page import (
    amplification,
    page_of,
    summary_lines,
    write_certificate,
)
from tests.flowsr_export.certificate.certificates import GRAPH, certificate, check

RNG = np.random.default_rng(5)


def page_of_difference(
    reference: NDArray[np.float32], at: tuple[int, int, int], added: float
) -> str:
    """Return the page of an output that differs in one channel of one pixel."""
    output = reference.copy()
    output[at] += np.float32(added)
    bad = check(at=(0, *at), max_abs=added, used=100.0 if math.isfinite(added) else math.inf)
    return html(certificate((bad,), [WorstCase(bad, reference, output)]))


def html(certificate: Certificate) -> str:
    return page_of(certificate, "x").html()


def pictures_in(page: str) -> list[NDArray[np.uint8]]:
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in images]


def test_the_page_shows_the_verdict_and_the_worst_case() -> None:
    page = html(certificate())
    assert '<span class="passed">passed</span>' in page
    assert "Not compared, half precision on a GPU: not measured." in page
    assert "2.13.0" in page
    assert len(pictures_in(page)) == 6


def test_the_page_of_a_failure_states_the_reason() -> None:
    bad = check(outcome="missed", why=("max error must be at most 0.0001, got 0.5",), used=5e3)
    page = html(certificate((bad,)))
    assert '<span class="failed">failed</span>' in page
    assert "1 of 1 comparisons exceeded their tolerance" in page
    assert "at most 0.0001, got 0.5" in page


def test_a_comparison_without_an_output_is_shown() -> None:
    names = ("max_abs", "p999_steps", "psnr", "max_steps", "at")
    bad = check(outcome="not run", why=("no memory",), used=math.inf, **dict.fromkeys(names))
    page = html(certificate((bad,), []))
    assert "No comparison gave an image." in page
    assert "not run; no memory" in page


def test_the_summary_has_a_line_for_each_part() -> None:
    lines = summary_lines(certificate().record)
    assert lines[1].split() == [*GRAPH.split(), "1", "1", "0.01"]
    assert f"{GRAPH}, not optimized against {GRAPH}: within 0.0001" in lines
    assert "weights of model.fp32.onnx: 2 tensors, 0 changed" in lines
    assert "not compared, half precision on a GPU: not measured" in lines
    assert lines[-1].startswith("1 of 1 comparisons within")


def test_reference_result_and_difference_are_pictured_and_the_place_marked() -> None:
    page = page_of_difference(RNG.random((3, 40, 50), np.float32), (1, 30, 44), 0.01)
    assert "row 30, column 44, green, marked" in page
    assert "difference, ×64" in page
    whole, _, difference, detail, _, amplified = pictures_in(page)
    assert whole.shape == difference.shape == (120, 150, 3)
    assert detail.shape == amplified.shape == (33 * 8, 33 * 8, 3)
    assert (difference[90:93, 132:135] == [0, round(0.64 * 255), 0]).all()
    assert {tuple(p) for p in difference.reshape(-1, 3)} == {(0, 0, 0), (0, 163, 0), MARK}
    assert MARK in {tuple(p) for p in amplified.reshape(-1, 3)}


MARK = (255, 196, 61)


def test_a_single_wrong_pixel_of_a_large_picture_is_seen() -> None:
    page = page_of_difference(np.zeros((3, 500, 333), np.float32), (0, 401, 7), 1.0)
    difference = pictures_in(page)[2]
    assert max(difference.shape) <= 160
    assert (255, 0, 0) in {tuple(p) for p in difference.reshape(-1, 3)}


def test_what_is_no_number_is_magenta() -> None:
    page = page_of_difference(np.zeros((3, 6, 8), np.float32), (0, 2, 3), math.nan)
    assert "none of its tolerance" in page
    for picture in pictures_in(page)[1:3]:
        assert (255, 0, 255) in {tuple(p) for p in picture.reshape(-1, 3)}


@pytest.mark.parametrize(
    ("largest", "factor"),
    [(0.0, 1), (1.0, 1), (7.0, 1), (0.25, 4), (0.0011, 512), (1e-9, 1 << 20)],
)
def test_differences_are_amplified_to_nearly_full_range(largest: float, factor: int) -> None:
    assert amplification(np.array([0.0, largest, np.nan])) == factor


def test_both_files_are_written(tmp_path: Path) -> None:
    paths = write_certificate(certificate(), tmp_path / "new" / "folder", "a command")
    assert [path.name for path in paths] == ["certificate.json", "certificate.html"]
    content = json.loads(paths[0].read_text(encoding="utf-8"))
    assert content == {"command": "a command", **certificate().record.as_dict()}
