"""Upscalers beside other processes: pickled, forked, and while a bundle is replaced."""

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_runtime.backends.session import open_session
from flowsr_runtime.bundle.directory import Bundle, write_bundle
from flowsr_runtime.errors import FlowsrError, UsageError
from flowsr_runtime.upscaling.pool import UpscalerPool
from flowsr_runtime.upscaling.upscaler import Upscaler

Photo = NDArray[np.uint8]


def test_a_pickled_upscaler_is_opened_anew_with_its_settings(
    bundle: Bundle, photo: Photo
) -> None:
    settings: dict[str, Any] = {"threads": 1, "memory_budget": 20_000, "halo": "exact"}
    with (
        Upscaler.open(bundle, **settings) as opened,
        pickle.loads(pickle.dumps(opened)) as other,
    ):
        assert other is not opened
        assert (other.memory_budget, other.halo) == (20_000, "exact")
        np.testing.assert_array_equal(other.upscale(photo, 2), opened.upscale(photo, 2))


def test_an_upscaler_with_a_session_of_its_own_is_not_pickled(bundle: Bundle) -> None:
    words = "open one in each process"
    with (
        Upscaler(bundle, open_session(bundle)) as opened,
        pytest.raises(UsageError, match=words),
    ):
        pickle.dumps(opened)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_gets_an_error_at_once_and_the_parent_goes_on(
    bundle: Bundle, photo: Photo
) -> None:
    with Upscaler.open(bundle) as opened, UpscalerPool(opened) as pool:
        due = pool.submit(photo, 2).result()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:  # no test framework in here
            os.write(writing, _words_in_child(opened, pool, photo))
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as answers:
            words = answers.read().decode()
        os.waitpid(child, 0)
        np.testing.assert_array_equal(pool.submit(photo, 2).result(), due)
    rule = "the upscaler was opened before this process was forked; open one in each process"
    assert words.splitlines() == [rule, rule, "closed"]


def _words_in_child(opened: Upscaler, pool: UpscalerPool, photo: Photo) -> bytes:
    words = []
    for call in (opened.upscale, pool.submit):
        try:
            call(photo, 2)
        except FlowsrError as error:
            words.append(str(error))
    pool.close()
    opened.close()
    return "\n".join([*words, "closed"]).encode()


@pytest.mark.slow
def test_a_bundle_that_others_replace_is_opened_whole(
    bundle: Bundle, manifest: dict[str, Any], photo: Photo, tmp_path: Path
) -> None:
    model = bundle.model_bytes()
    variants = [model, model + b"\x32\x01x"]  # a doc_string, which changes size and hash
    path = write_bundle(tmp_path / "b", manifest, {"model.fp32.onnx": model}).path
    stopped = threading.Event()

    def write(first: int) -> None:
        turn = first
        while not stopped.is_set():
            content = {"model.fp32.onnx": variants[turn % 2]}
            write_bundle(path, manifest, content, force=True)
            turn += 1

    writers = [threading.Thread(target=write, args=(i,)) for i in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(40):
            with Upscaler.open(path, threads=1, backend="onnxruntime") as opened:
                assert opened.upscale(photo, 2).shape[0] == 2 * photo.shape[0]
    finally:
        stopped.set()
        for writer in writers:
            writer.join()


RESIDENT = """
import numpy as np
import onnxruntime
from flowsr_runtime import Upscaler
from flowsr_runtime.tiling.memory import resident_bytes
print(resident_bytes())
with Upscaler.open(provider="cpu", threads=1) as upscaler:
    upscaler.upscale(np.zeros((200, 200, 3), np.uint8), scale=4)
    print(resident_bytes())
print(resident_bytes())
"""


def test_memory_is_given_back_after_the_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True
    )
    before, during, after = map(int, done.stdout.split())
    assert during - before > 200 << 20
    assert after - before < 60 << 20
