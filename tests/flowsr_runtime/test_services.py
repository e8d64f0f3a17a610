"""Services: threads agree, memory stays flat, and nothing global changes."""

import gc
import json
import os
import re
import subprocess
import sys
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.pictures.files import encode_picture, read_picture
from flowsr_runtime.upscaling.pool import UpscalerPool
from flowsr_runtime.upscaling.upscaler import Upscaler
from tests.doubles.doubling import Doubling
from tests.flowsr_runtime.pictures.picture_files import picture_file

Photo = NDArray[np.uint8]
THREADS = 8
# Python's own caches grow by some kilobytes; a picture that was kept would be 36 each.
KEPT_BYTES = 64 * 1024

GLOBAL = """
import json, logging, os, signal, sys, threading, warnings
import numpy, onnxruntime
from PIL import Image

def state():
    signals = {int(s): repr(signal.getsignal(s)) for s in signal.valid_signals()}
    loggers = [logging.getLogger(name) for name in ("", "flowsr_runtime")]
    return {
        "signals": signals,
        "logging": [[repr(l.handlers), l.level, l.disabled, l.filters] for l in loggers],
        "logging classes": [repr(logging.getLoggerClass()), logging.root.manager.disable],
        "warnings": repr(warnings.filters),
        "environment": dict(os.environ),
        "hooks": [repr(sys.excepthook), repr(threading.excepthook), repr(sys.unraisablehook)],
        "numpy": [numpy.geterr(), repr(numpy.get_printoptions())],
        "pillow": [Image.MAX_IMAGE_PIXELS, os.getcwd(), sys.getrecursionlimit()],
        "threads": [thread.name for thread in threading.enumerate()],
    }

before = state()
import flowsr_runtime
picture = numpy.zeros((9, 7, 4), numpy.uint8)
with flowsr_runtime.Upscaler.open(threads=1) as upscaler:
    large = upscaler.upscale(picture, 2)
    with flowsr_runtime.UpscalerPool(upscaler) as pool:
        pool.submit(picture, 2).result()
for kind in ("png", "tiff", "webp", "avif"):
    flowsr_runtime.read_picture(flowsr_runtime.encode_picture(large, kind))
after = state()
changed = [key for key in before if before[key] != after[key]]
print(json.dumps([[key, before[key], after[key]] for key in changed]))
"""


def test_nothing_global_changes() -> None:
    path = os.pathsep.join(each for each in sys.path if each)
    done = subprocess.run(
        [sys.executable, "-c", GLOBAL],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=True,
        text=True,
    )
    assert json.loads(done.stdout) == []
    assert done.stderr == ""


def test_threads_agree_with_one_bit_by_bit(bundles: dict[str, Bundle]) -> None:
    rng = np.random.default_rng(11)
    images = [
        rng.integers(0, 256, (3 + k % 7, 4 + k % 5, 1 + k % 4), dtype=np.uint8)
        for k in range(40)
    ]
    with Upscaler.open(bundles["bilinear"], threads=1, memory_budget=20_000) as upscaler:
        due = [upscaler.upscale(image, 2.7) for image in images]
        with ThreadPoolExecutor(THREADS) as threads:
            found = list(
                threads.map(lambda k: upscaler.upscale(images[k % 40], 2.7), range(320))
            )
    for k, result in enumerate(found):
        np.testing.assert_array_equal(result, due[k % 40])


def test_calls_leave_nothing_behind(bundles: dict[str, Bundle]) -> None:
    image = np.zeros((60, 50, 3), np.uint8)

    def calls(count: int) -> None:
        for _ in range(count):
            pool.submit(image).result()
            read_picture(encode_picture(image, "png"))

    with UpscalerPool(Upscaler(bundles["fixed"], Doubling()), workers=2) as pool:
        calls(50)
        gc.collect()
        tracemalloc.start()
        calls(10)
        gc.collect()
        first = tracemalloc.get_traced_memory()[0]
        calls(200)
        gc.collect()
        last = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert last - first < KEPT_BYTES


def test_reading_in_threads_leaves_the_filters_of_warnings(
    photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # Image.open would warn of each
    files = [picture_file(photo, kind) for kind in ("PNG", "JPEG", "WEBP", "BMP")]
    before = list(warnings.filters)
    with ThreadPoolExecutor(THREADS) as threads:
        pictures = list(threads.map(lambda k: read_picture(files[k % 4]), range(200)))
    assert {picture.rgb.shape for picture in pictures} == {photo.shape}
    assert list(warnings.filters) == before


def test_closing_waits_for_the_calls_that_run(bundles: dict[str, Bundle]) -> None:
    session = Doubling()
    upscaler = Upscaler(bundles["fixed"], session)
    image = np.zeros((30, 30), np.uint8)
    with UpscalerPool(upscaler, workers=4, queue=60) as pool:
        pending = [pool.submit(image) for _ in range(60)]
        pending[0].result()
        upscaler.close()
    ended = [each.exception() for each in pending]
    assert session.closed == 1
    assert {str(error) for error in ended if error is not None} <= {"the upscaler is closed"}


def test_the_python_of_the_page_on_services_runs() -> None:
    page = Path(__file__).parents[2] / "docs" / "guides" / "services.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    held: list[dict[str, Any]] = [{} for _ in blocks]
    for block, names in zip(blocks, held, strict=True):
        exec(compile(block, page.name, "exec"), names)
    assert held[0]["large"].shape == (128, 96, 3)
    assert len(held) == 2
