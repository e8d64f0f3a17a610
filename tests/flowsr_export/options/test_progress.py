"""Progress: a bar on a terminal, lines elsewhere."""

import io
import re
import sys
from threading import Event

import pytest

from flowsr_export.options.progress import item_lines, progress


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_what_is_done_and_how_far(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("enlarging", 4) as bar:
        bar.advance(3, "photo.png")
    assert "enlarging" in terminal.getvalue()
    assert "75%" in terminal.getvalue()
    assert "photo.png" in terminal.getvalue()


def test_work_done_before_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("fetching", 1000, done=500):
        pass
    assert "50%" in terminal.getvalue()


def test_a_long_note_is_cut_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("enlarging", 2) as bar:
        bar.advance(1, "x" * 100 + "end.png")
    assert "x" * 25 + "end.png" in terminal.getvalue()
    assert "x" * 26 not in terminal.getvalue()


def test_a_note_is_shown_without_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("building", 4) as bar:
        bar.advance(1)
        bar.say("phase 3 s")
        assert terminal.getvalue().rstrip().endswith("phase 3 s")
        assert "25%" in terminal.getvalue()
        assert "50%" not in terminal.getvalue()


def test_a_pipe_sees_nothing_of_short_work(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("enlarging", 4) as bar:
        bar.advance(4, "photo.png")
    assert capsys.readouterr() == ("", "")


def test_a_pipe_sees_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Event()
    monkeypatch.setattr("flowsr_export.options.progress.LINE_SECONDS", 0.01)

    def echo(line: str, file: io.StringIO) -> None:
        file.write(f"{line}\n")
        written.set()

    monkeypatch.setattr("flowsr_export.options.progress.click.echo", echo)
    with progress("enlarging", 4) as bar:
        bar.advance(3, "photo.png")
        written.clear()
        assert written.wait(30)
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"enlarging 75%, after 0 s, photo\.png", lines[-1])


def test_a_pipe_sees_each_of_several_items(capsys: pytest.CaptureFixture[str]) -> None:
    line, only = item_lines(2), item_lines(1)
    line("a.png")
    line("b.png")
    only("c.png")
    assert capsys.readouterr().err.splitlines() == [
        "flowsr-export: a.png, 1 of 2",
        "flowsr-export: b.png, 2 of 2",
    ]


def test_a_terminal_sees_the_bar_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    item_lines(2)("a.png")
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_quiet_sees_nothing(monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]) -> None:
    stderr = stream()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr("flowsr_export.options.progress.is_quiet", lambda: True)
    monkeypatch.setattr("flowsr_export.options.speech.is_quiet", lambda: True)
    with progress("enlarging", 2) as bar:
        bar.advance(1, "a.png")
        item_lines(2)("a.png")
    assert stderr.getvalue() == ""


def test_an_unknown_total_is_borne(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("fetching", 0) as bar:
        bar.advance(7)
    assert "fetching" in terminal.getvalue()
