"""`--quiet` and `--verbose`: what a command says besides its result."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from flowsr_export.options.speech import PACKAGES

Run = Callable[..., Result]


@pytest.mark.parametrize("words", [("-q", "upscale"), ("upscale", "--quiet")])
def test_quiet_prints_results_alone(
    words: tuple[str, ...], exploding: Path, pictures: Path, tmp_path: Path, run: Run
) -> None:
    files = (exploding, pictures, "-o", tmp_path / "out")
    loud, quiet = run("upscale", *files), run(*words, *files, "--force")
    assert loud.stderr.count("the inverse of the flow may have exploded") == 3
    assert "flowsr-export: a.png, 1 of 3\n" in loud.stderr
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    assert quiet.stdout.count("\n") == loud.stdout.count("\n") == 4


def test_quiet_prints_errors(tmp_path: Path, run: Run) -> None:
    done = run("upscale", "none.png", "-o", tmp_path / "o.png", "--scale", "2", "-q")
    assert (done.exit_code, done.stderr) == (5, "flowsr-export: none.png does not exist\n")


def test_verbose_prints_versions_the_time_and_the_traceback(run: Run) -> None:
    done = run("-v", "inspect", "none")
    lines = done.stderr.splitlines()
    assert lines[0].startswith("flowsr-export: flowsr-lp 0.")
    assert "Traceback (most recent call last):" in lines
    assert "flowsr-export: bundle none does not exist" in lines
    assert lines[-1].startswith("flowsr-export: ended after 0.")


def test_verbose_prints_the_log_and_leaves_no_trace(run: Run, bundle: Path) -> None:
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    done = run("inspect", bundle, "--verbose")
    assert (done.exit_code, done.stderr.count("\n")) == (0, 2)
    assert [(logger.level, list(logger.handlers)) for logger in loggers] == before


def test_a_group_takes_a_flag_once(run: Run, bundle: Path) -> None:
    done = run("-v", "inspect", bundle, "-v")
    assert (done.exit_code, done.stderr.count("\n")) == (0, 2)
    assert run("-q", "inspect", bundle, "-v").exit_code == 2
