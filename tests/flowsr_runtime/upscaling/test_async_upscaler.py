"""The event loop is not blocked, and a cancelled task stops its thread."""

import asyncio
from collections.abc import Iterator
from threading import Event

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.errors import BusyError, UsageError
from flowsr_runtime.upscaling.async_upscaler import AsyncUpscaler
from flowsr_runtime.upscaling.tile_loop import Progress
from flowsr_runtime.upscaling.upscaler import Upscaler

Photo = NDArray[np.uint8]
SCALES = [1.3, 2, 2.7, 4]


def hold(opened: Event) -> Progress:
    """Return a callback that holds a call until an event."""

    def progress(done: int, tiles: int) -> None:
        opened.wait()

    return progress


@pytest.fixture
def upscaler(bundles: dict[str, Bundle]) -> Iterator[Upscaler]:
    with Upscaler.open(bundles["bilinear"], threads=1, memory_budget=20_000) as opened:
        yield opened


def test_results_are_those_of_the_upscaler(upscaler: Upscaler, photo: Photo) -> None:
    async def run() -> list[Photo]:
        async with AsyncUpscaler(upscaler, workers=2) as awaited:
            return await asyncio.gather(*(awaited.upscale(photo, each) for each in SCALES))

    for result, scale in zip(asyncio.run(run()), SCALES, strict=True):
        np.testing.assert_array_equal(result, upscaler.upscale(photo, scale))


def test_the_loop_runs_on_meanwhile(upscaler: Upscaler, photo: Photo) -> None:
    opened = Event()

    async def run() -> tuple[int, ...]:
        async with AsyncUpscaler(upscaler) as awaited:
            task = asyncio.create_task(awaited.upscale(photo, 4, progress=hold(opened)))
            await asyncio.sleep(0)
            opened.set()  # a loop that is held up would never come here
            return (await task).shape

    assert asyncio.run(run()) == (92, 124, 3)


def test_a_cancelled_task_stops_its_thread(upscaler: Upscaler, photo: Photo) -> None:
    entered, opened, seen = Event(), Event(), []

    def progress(done: int, tiles: int) -> None:
        seen.append((done, tiles))
        entered.set()
        opened.wait()

    async def run() -> None:
        async with AsyncUpscaler(upscaler) as awaited:
            task = asyncio.create_task(awaited.upscale(photo, 4, progress=progress))
            await asyncio.to_thread(entered.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):  # it has no text to match
                await task
            opened.set()

    asyncio.run(run())
    assert [done for done, _ in seen] == [1]
    assert seen[0][1] > 1


def test_a_cancelled_task_that_waits_gives_its_place_free(
    upscaler: Upscaler, photo: Photo
) -> None:
    opened = Event()

    async def run() -> tuple[int, int]:
        async with AsyncUpscaler(upscaler, workers=1, queue=1) as awaited:
            held = awaited.upscale(photo, 4, progress=hold(opened))
            first, second = (
                asyncio.create_task(held),
                asyncio.create_task(awaited.upscale(photo, 4)),
            )
            await asyncio.sleep(0)
            second.cancel()
            await asyncio.wait([second])
            load = awaited.pool.load
            opened.set()
            await first
            return sum(load), len((await awaited.upscale(photo, 2)).shape)

    assert asyncio.run(run()) == (1, 3)


def test_a_full_pool_is_busy(upscaler: Upscaler, photo: Photo) -> None:
    opened = Event()

    async def run() -> None:
        async with AsyncUpscaler(upscaler, workers=1, queue=0) as awaited:
            held = awaited.upscale(photo, 4, progress=hold(opened))
            task = asyncio.create_task(held)
            await asyncio.sleep(0)
            with pytest.raises(BusyError, match="try again later"):
                await awaited.upscale(photo, 4)
            opened.set()
            await task

    asyncio.run(run())
    assert opened.is_set()


def test_a_closed_one_takes_nothing(upscaler: Upscaler, photo: Photo) -> None:
    async def run() -> None:
        awaited = AsyncUpscaler(upscaler)
        await awaited.aclose()
        await awaited.aclose(wait=False)
        await awaited.upscale(photo, 2)

    with pytest.raises(UsageError, match="the pool is closed"):
        asyncio.run(run())
