"""State which backend, provider and precision were chosen, and how to run a result."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from flowsr_export.options.speech import note, program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowsr_export.inputs.run_sizes import Scale
    from flowsr_runtime import Bundle, SessionSettings
    from flowsr_runtime.backends.session import Choice

__all__ = ["choice_record", "run_command", "say_choice"]


def say_choice(
    choice: Choice | None, asked: SessionSettings, say: Callable[[str], None] = note
) -> None:
    """Print one line on stderr, unless backend and precision were named and tested.

    Args:
        choice: How the bundle is run, None if no bundle is.
        asked: Settings of the command line.
        say: Writer of a note; see `speaker` for other threads.
    """
    if choice is None:
        return
    untested = "" if choice.self_test.passed else str(choice.self_test)
    if "auto" in (asked.backend, asked.precision):
        reasons = "".join(f"; not {name}: {why}" for name, why in choice.passed_over.items())
        say(f"runs on {choice}{f', {untested}' if untested else ''}{reasons}")
    elif untested:
        say(untested)


def choice_record(choice: Choice | None) -> dict[str, Any] | None:
    """Return the choice as the `runs_on` of `--json`."""
    return None if choice is None else choice.as_dict()


def run_command(bundle: Bundle, precision: str, scales: Sequence[Scale] = ()) -> str:
    """Return the command line that upscales an image with a new graph or engine.

    Args:
        bundle: Bundle that holds it.
        precision: Its precision; named unless it is what the bundle runs by itself.
        scales: Scales that it was made for.
    """
    from flowsr_runtime import SessionSettings
    from flowsr_runtime.geometry import exact_scale

    words = [program(), "upscale", str(bundle.path), "photo.png"]
    pair = scales[0] if len(scales) == 1 and bundle.manifest.scale is None else None
    if pair is not None:
        rows, columns = pair if isinstance(pair, tuple) else (pair, pair)
        texts = [f"{float(exact_scale(side)):g}" for side in (columns, rows)]
        words += ["--scale", texts[0] if texts[0] == texts[1] else "x".join(texts)]
    if bundle.manifest.latents:
        words += ["--temperature", "0"]
    if SessionSettings().candidates(bundle)[0].precision != precision:
        words += ["--precision", precision]
    return shlex.join(words)
