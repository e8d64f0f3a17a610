"""Mutations of good files, and the settings of a short and of a long run."""

import os
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

__all__ = ["FUZZ", "MOST_BYTES", "SECONDS", "mutated", "refusal"]

EXAMPLES: Final = int(os.environ.get("FLOWSR_FUZZ_EXAMPLES", "300"))
"""Examples of each test; `make fuzz` sets more."""

SECONDS: Final = 20.0
"""Longest time for one example, on a busy machine."""

MOST_BYTES: Final = 300 << 20
"""Memory that the examples of a test may add to the process."""

FUZZ: Final = settings(
    max_examples=EXAMPLES,
    deadline=None,  # each test measures its own, with the mutated file in hand
    derandomize="FLOWSR_FUZZ_EXAMPLES" not in os.environ,  # a short run is the same each time
    database=None,
    suppress_health_check=list(HealthCheck),
)

EXTREMES: Final = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**31 - 1,
    2**32 - 1,
)


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Draw a good file with up to eight changes: flips, cuts, repeats, extreme numbers."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 8))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        _change(
            draw,
            data,
            at,
            draw(st.sampled_from(["flip", "set", "number", "cut", "drop", "repeat"])),
        )
    return bytes(data)


def refusal(call: Callable[[], object], *errors: type[Exception]) -> str | None:
    """Return the message of one of the expected errors of a call, None without one."""
    try:
        call()
    except errors as error:
        return str(error)
    return None


def _change(draw: st.DrawFn, data: bytearray, at: int, kind: str) -> None:
    if kind == "flip":
        data[at] ^= 1 << draw(st.integers(0, 7))
    elif kind == "set":
        data[at] = draw(st.integers(0, 255))
    elif kind == "number":
        form = draw(st.sampled_from(["<H", ">H", "<I", ">I"]))
        size = struct.calcsize(form)
        value: Any = draw(st.sampled_from(EXTREMES)) % (1 << 8 * size)
        data[at : at + size] = struct.pack(form, value)
    elif kind == "cut":
        del data[at:]
    else:
        end = at + draw(st.integers(1, 64))
        part = data[at:end]
        data[at:end] = b"" if kind == "drop" else part * draw(st.integers(2, 20))
