"""The two files of a certificate."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flowsr_export.certificate.certify import Pictured
from flowsr_export.certificate.page import (
    amplification,
    as_html,
    certificate_paths,
    write_certificate,
)
from flowsr_runtime.errors import OutputError
from tests.flowsr_export.certificate.certificates import certificate, check

RNG = np.random.default_rng(5)


def pictures_in(page: str) -> list[NDArray[np.uint8]]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_the_page_needs_no_other_file() -> None:
    page = as_html(certificate(), "verify <x>")
    assert "verify &lt;x&gt;" in page
    assert page.count("src=") == page.count('src="data:image/png;base64,') == 6
    assert "<link" not in page
    assert "<script" not in page


def test_the_page_says_the_verdict_and_what_was_not_compared() -> None:
    page = as_html(certificate(), "x")
    assert 'Parity certificate: <span class="green">passed</span>' in page
    assert "Not compared, half precision on a GPU: not measured." in page
    assert "2.13.0" in page


def test_the_page_of_a_failure_says_why() -> None:
    bad = check(outcome="missed", why=["max error must be at most 0.0001, got 0.5"], used=5e3)
    page = as_html(
        certificate(
            checks=[bad],
            passed=False,
            totals={"planned": 1, "passed": 0, "missed": 1, "not_run": 0, "seconds": 1.0},
        ),
        "x",
    )
    assert '<span class="red">failed</span>' in page
    assert "1 of 1 comparisons missed their bar" in page
    assert "max error must be at most 0.0001, got 0.5" in page


def test_a_comparison_without_figures_is_shown() -> None:
    fields = ("max_abs", "p999_steps", "psnr", "max_steps", "used", "at")
    none = dict.fromkeys(fields)
    bad = check(outcome="not run", why=["no memory"], **none)
    page = as_html(certificate([], checks=[bad], passed=False), "x")
    assert "No comparison gave a picture." in page
    assert "not run; no memory" in page


def test_reference_result_and_difference_are_pictured_and_the_place_marked() -> None:
    reference = RNG.random((3, 40, 50), np.float32)
    output = reference.copy()
    output[1, 30, 44] += np.float32(0.01)
    bad = check(at=[0, 1, 30, 44], max_abs=0.01, used=100.0)
    page = as_html(certificate([Pictured(bad, reference, output)], checks=[bad]), "x")
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
    reference = np.zeros((3, 500, 333), np.float32)
    output = reference.copy()
    output[0, 401, 7] = 1
    bad = check(at=[0, 0, 401, 7], max_abs=1.0, used=1e4)
    page = as_html(certificate([Pictured(bad, reference, output)], checks=[bad]), "x")
    difference = pictures_in(page)[2]
    assert max(difference.shape) <= 160
    assert (255, 0, 0) in {tuple(p) for p in difference.reshape(-1, 3)}


def test_what_is_no_number_is_magenta() -> None:
    reference = np.zeros((3, 6, 8), np.float32)
    output = reference.copy()
    output[0, 2, 3] = np.nan
    bad = check(at=[0, 0, 2, 3], max_abs=None, used=None)
    page = as_html(certificate([Pictured(bad, reference, output)], checks=[bad]), "x")
    assert "no number" in page
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
    read = json.loads(paths[0].read_text(encoding="utf-8"))
    assert read == {"command": "a command", **certificate().content}


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "certificate.html").write_text("old", encoding="utf-8")
    with pytest.raises(OutputError, match=r"certificate\.html exists"):
        certificate_paths(tmp_path, force=False)
    with pytest.raises(OutputError, match=r"certificate\.html exists"):
        write_certificate(certificate(), tmp_path, "x")
    write_certificate(certificate(), tmp_path, "x", force=True)
    assert (tmp_path / "certificate.html").read_text(encoding="utf-8") != "old"


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot be written"):
        write_certificate(certificate(), tmp_path / "file", "x")
