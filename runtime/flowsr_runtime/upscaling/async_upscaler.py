"""The upscaler for asyncio: awaited, and cancelled with its task."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
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
    """An upscaler whose calls are awaited; the event loop runs on meanwhile.

    Attributes:
        pool: The threads that enlarge.
    """

    def __init__(self, upscaler: Upscaler, workers: int = 1, queue: int = 8) -> None:
        """Make a pool for an upscaler.

        Args:
            upscaler: An open upscaler, which this does not close.
            workers: As for `UpscalerPool`.
            queue: As for `UpscalerPool`.

        Raises:
            UsageError: If a number is not one of these.
        """
        self.pool = UpscalerPool(upscaler, workers, queue)

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
        """Enlarge a picture.

        A task that is cancelled goes on at once with asyncio's `CancelledError`. The thread
        stops at its next tile; until then the picture holds its place in the pool.

        Args:
            image: As for `Upscaler.upscale`; do not change it before the result is there.
            scale: As for `Upscaler.upscale`.
            size: As for `Upscaler.upscale`.
            resample: As for `Upscaler.upscale`.
            clamp: As for `Upscaler.upscale`.
            truncate: As for `Upscaler.upscale`.
            seed: As for `Upscaler.upscale`.
            temperature: As for `Upscaler.upscale`.
            progress: As for `Upscaler.upscale`; called in the thread that enlarges.
            warn: As for `Upscaler.upscale`; called in the thread that enlarges.

        Returns:
            As `Upscaler.upscale`.

        Raises:
            BusyError: If all workers are busy and the queue is full.
            FlowsrError: As `Upscaler.upscale`.
        """
        import asyncio  # 40 ms that a program without an event loop need not spend

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
        """Take no more pictures, without holding the event loop up.

        Args:
            wait: As for `UpscalerPool.close`.
        """
        import asyncio

        await asyncio.to_thread(self.pool.close, wait=wait)

    async def __aenter__(self) -> AsyncUpscaler:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
