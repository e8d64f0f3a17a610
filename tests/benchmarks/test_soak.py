"""The soak, with few calls: what it runs, what it counts, and what it says."""

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.serving.soak import (
    Agreement,
    agreement,
    growth,
)
from flowsr_runtime import Upscaler


@pytest.fixture
def upscaler() -> Iterator[Upscaler]:
    with Upscaler.open(threads=1) as opened:
        yield opened


def test_threads_agree(upscaler: Upscaler) -> None:
    assert agreement(upscaler, threads=8, calls=10) == Agreement(8, 10, 0)


def test_a_difference_is_counted(upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([np.full((2, 2), k // 96) for k in range(200)])
    monkeypatch.setattr(Upscaler, "upscale", lambda *_: next(answers))
    assert agreement(upscaler, threads=1, calls=4) == Agreement(1, 4, 4)


def test_memory_is_read_over_the_calls(upscaler: Upscaler) -> None:
    grown = growth(upscaler, calls=30)
    assert grown.calls == 30
    assert 0 < grown.begin <= grown.peak
    assert grown.share == pytest.approx(grown.end / grown.begin - 1)
