"""An upscaler, a pool that the test controls, and an app with small limits.

The server's libraries are imported in the fixtures: without them pytest still collects.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flowsr_runtime import Upscaler
from flowsr_runtime.upscaling.pool import UpscalerPool

if TYPE_CHECKING:
    from fastapi import FastAPI

    from tests.flowsr_export.serve.serving import HeldPool


@pytest.fixture
def upscaler(bundle: Path) -> Iterator[Upscaler]:
    with Upscaler.open(bundle, threads=1) as opened:
        yield opened


@pytest.fixture
def held(upscaler: Upscaler) -> HeldPool:
    from tests.flowsr_export.serve.serving import HeldPool

    return HeldPool(upscaler)


@pytest.fixture
def app(upscaler: Upscaler) -> Iterator[FastAPI]:
    from flowsr_export.serve.admission import ServeLimits
    from flowsr_export.serve.app import create_app

    limits = ServeLimits(max_body=100_000, max_pixels=10_000, max_output_pixels=40_000)
    with UpscalerPool(upscaler) as pool:
        yield create_app(pool, limits)
