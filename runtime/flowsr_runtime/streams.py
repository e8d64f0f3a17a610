"""Standard streams of a program that are closed, or that lead to a full disk."""

import os
import sys
from typing import Final

__all__ = ["give_up_full_streams", "open_streams"]

_STREAMS: Final = ("stdin", "stdout", "stderr")


def open_streams() -> None:
    """Let streams that the caller has closed lead nowhere.

    A file that is opened later would take the place of a closed one, and libraries write there.
    """
    for number, name in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            _lead_nowhere(number)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def give_up_full_streams() -> None:
    """Drop what could not be written, which the interpreter would try and report at its end."""
    for number, name in enumerate(_STREAMS[1:], 1):
        stream = getattr(sys, name)
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # closed, or on a full disk
            if stream is getattr(sys, f"__{name}__"):
                _lead_nowhere(number)


def _lead_nowhere(number: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
