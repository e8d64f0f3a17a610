"""An upscaler for asyncio."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.geometry import Number
from flowsr_runtime.upscaling.pool import UpscalerPool
from flowsr_runtime.upscaling.tile_loop import Progress
from flowsr_runtime.upscaling.upscaler import Upscaler

__all__ = ["AsyncUpscaler"]

PixelT = TypeVar("PixelT", np.uint8, np.uint16, np.float32)


class AsyncUpscaler:
    """An upscaler whose calls are awaited, in the threads of a pool.

    Attributes:
        pool: Pool of the threads.
    """

    def __init__(self, upscaler: Upscaler, workers: int = 1, queue: int = 8) -> None:
        """Make a pool for an upscaler.

        Args:
            upscaler: An open upscaler; its owner closes it.
            workers: As for `UpscalerPool`.
            queue: As for `UpscalerPool`.

        Raises:
            UsageError: If a number is too small.
        """
        self.pool = UpscalerPool(upscaler, workers, queue)

    def __repr__(self) -> str:
        return f"<AsyncUpscaler on {self.pool!r}>"

    async def upscale(
        self,
        image: NDArray[PixelT],
        scale: Number | tuple[Number, Number] | None = None,
        *,
        size: tuple[int, int] | None = None,
        resample: bool = False,
        clamp: bool = True,
        truncate: bool = False,
        seed: int = 0,
        temperature: float | None = None,
        progress: Progress | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> NDArray[PixelT]:
        """Upscale a picture.

        A cancelled task gets asyncio's `CancelledError` at once. The thread stops at its next
        tile; until then the picture occupies its worker.

        Args:
            image: As for `Upscaler.upscale`; do not change it before the result arrives.
            scale: As for `Upscaler.upscale`.
            size: As for `Upscaler.upscale`.
            resample: As for `Upscaler.upscale`.
            clamp: As for `Upscaler.upscale`.
            truncate: As for `Upscaler.upscale`.
            seed: As for `Upscaler.upscale`.
            temperature: As for `Upscaler.upscale`.
            progress: As for `Upscaler.upscale`; called in the thread of the pool.
            warn: As for `Upscaler.upscale`; called in the thread of the pool.

        Returns:
            As `Upscaler.upscale`.

        Raises:
            BusyError: If all workers are busy and the queue is full.
            FlowsrError: As `Upscaler.upscale`.
        """
        import asyncio  # takes 40 ms, which programs without an event loop save

        pending = self.pool.submit(
            image,
            scale,
            size=size,
            resample=resample,
            clamp=clamp,
            truncate=truncate,
            seed=seed,
            temperature=temperature,
            progress=progress,
            warn=warn,
        )
        return await asyncio.wrap_future(pending)

    async def aclose(self, *, wait: bool = True) -> None:
        """Refuse further pictures, without blocking the event loop.

        Args:
            wait: As for `UpscalerPool.close`.
        """
        import asyncio

        await asyncio.to_thread(self.pool.close, wait=wait)

    async def __aenter__(self) -> AsyncUpscaler:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
