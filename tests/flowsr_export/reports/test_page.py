"""Reports as Markdown and as one HTML page."""

import re

from PIL import Image

from flowsr_export.reports.page import Page, Section
from flowsr_export.reports.table import Table

TABLE = Table("Times", ["row", "ms"], "A <note>.", [["a|b", "1"], ["c", "2"]])


def page(passed: bool | None = None) -> Page:
    image = Image.new("RGB", (2, 2))
    section = Section("A chart", "<svg></svg>", ["a > b"], [[(image, 'the "image"')]])
    return Page("Report", "run <x>", ["one"], [TABLE], [section], "End", ["last"], passed)


def test_markdown_has_one_line_for_each_row_with_as_many_cells() -> None:
    lines = page().markdown().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert rows == ["| row | ms |", "| --- | --- |", "| a/b | 1 |", "| c | 2 |"]
    assert lines[:5] == ["# Report", "", "`run <x>`", "", "one"]
    assert lines[-3:] == ["## End", "", "- last"]


def test_html_is_escaped_and_needs_no_other_file() -> None:
    html = page().html()
    assert "run &lt;x&gt;" in html
    assert "<td>a|b</td><td>1</td>" in html
    assert "<svg></svg>" in html
    assert re.findall(r'src="([^"]{10})', html) == ["data:image"]
    assert "<link" not in html
    assert "Report: " not in html


def test_a_verdict_stands_beside_the_title() -> None:
    assert '<span class="passed">passed</span>' in page(True).html()
    assert '<span class="failed">failed</span>' in page(False).html()
