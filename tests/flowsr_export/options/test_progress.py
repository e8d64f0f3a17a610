"""Progress bars: only a terminal shows them."""

import io
import sys

import pytest

from flowsr_export.options.progress import progress


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


def test_a_pipe_sees_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("enlarging", 4) as bar:
        bar.advance(4, "photo.png")
    assert capsys.readouterr() == ("", "")


def test_an_unknown_total_is_borne(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("fetching", 0) as bar:
        bar.advance(7)
    assert "fetching" in terminal.getvalue()
