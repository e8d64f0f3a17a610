"""Engines load or explain why not, serve threads, and cache RTX kernels."""

import sys
import threading
from typing import Any

import numpy as np
import pytest
import tensorrt_rtx
from cuda.bindings import runtime as real
from numpy.typing import NDArray

from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.errors import MemoryBudgetError, ProviderError, UsageError
from tests.doubles.builds import build
from tests.doubles.cuda_runtime import Gpu
from tests.doubles.rig import TOLERANCE, WIDE, Rig, expected, feeds_of


def test_a_version_compatible_engine_may_run_its_code(rig: Rig) -> None:
    rig.add(rig.key(options={"version_compatible": True}), version_compatible=True)
    session = rig.open()
    result = session.run(feeds_of(4, 5))
    np.testing.assert_allclose(result, expected(rig.bundle, feeds_of(4, 5)), atol=TOLERANCE)
    session.close()


@pytest.mark.parametrize(
    ("facts", "message"), [({"version": "1.0"}, "Version tag"), ({"flavour": "x"}, "Magic tag")]
)
def test_an_engine_that_does_not_load_says_why(
    rig: Rig, facts: dict[str, Any], message: str
) -> None:
    rig.add(**facts)
    with pytest.raises(ProviderError, match=rf"failed to load engines/.*{message} does not"):
        rig.open()


@pytest.mark.parametrize(
    ("facts", "sizes"), [({}, (60, 60, 4)), ({"data_dependent": True}, (4, 4, 50))]
)
def test_memory_that_does_not_suffice_is_a_budget_error(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], sizes: Any
) -> None:
    rig = Rig("tensorrt-11", bundle, monkeypatch, [Gpu(name="NVIDIA L4", memory=100_000)])
    rig.add(**facts)
    session = rig.open()
    with pytest.raises(MemoryBudgetError, match=r"out of memory for .* MiB more"):
        session.run(feeds_of(*sizes))
    session.run(feeds_of(4, 5))
    session.close()
    assert rig.cuda.leaks() == {}


def test_an_engine_that_does_not_fit_is_a_budget_error(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig("tensorrt-11", bundle, monkeypatch, [Gpu(name="NVIDIA L4", memory=100)])
    rig.add()
    with pytest.raises(MemoryBudgetError, match="tensorrt ran out of memory"):
        rig.open()


def test_the_second_gpu_is_used_from_any_thread(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = [Gpu(name="old", major=7, minor=5), Gpu(name="NVIDIA L4")]
    rig = Rig("tensorrt-rtx", bundle, monkeypatch, gpus)
    rig.add()
    session = rig.open(device=1)
    session.run(feeds_of(4, 5))  # makes the worker that the thread gets
    results: list[NDArray[np.float32]] = []
    thread = threading.Thread(target=lambda: results.append(session.run(feeds_of(4, 5))))
    thread.start()
    thread.join()
    np.testing.assert_allclose(results[0], expected(rig.bundle, feeds_of(4, 5)), atol=TOLERANCE)
    session.close()
    assert rig.cuda.leaks() == {}


def test_threads_run_at_once_and_do_not_mix_their_pictures(eleven: Rig) -> None:
    eleven.add()
    session = eleven.open(workers=3)
    runs = [feeds_of(3 + salt % 4, 5, salt=salt) for salt in range(24)]
    results: dict[int, NDArray[np.float32]] = {}

    def work(first: int) -> None:
        for salt in range(first, len(runs), 6):
            results[salt] = session.run(runs[salt])

    threads = [threading.Thread(target=work, args=(first,)) for first in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(runs)
    for salt, feeds in enumerate(runs):
        np.testing.assert_allclose(
            results[salt], expected(eleven.bundle, feeds), atol=TOLERANCE
        )
    session.close()
    assert eleven.cuda.leaks() == {}


def test_rtx_keeps_the_kernels_that_it_compiled(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig("tensorrt-rtx", bundle, monkeypatch)
    entry = rig.add()
    with_session(rig, feeds_of(4, 5))
    cache = next(iter((bundle.path / "engines").glob("*.cache")))
    assert cache.name.startswith(f"{entry.name.split('/')[1]}.")
    kept = cache.read_bytes()
    assert b"(1, 3, 4, 5)" in kept
    with_session(rig, feeds_of(4, 5))
    assert cache.read_bytes() == kept
    with_session(rig, feeds_of(2, 2))
    assert b"(1, 3, 4, 5)" in cache.read_bytes()
    assert b"(1, 3, 2, 2)" in cache.read_bytes()
    cache.write_bytes(kept[:-1] + b"x")
    with_session(rig, feeds_of(2, 2))
    assert "is damaged; kernels are compiled again" in caplog.text
    assert b"(1, 3, 4, 5)" not in cache.read_bytes()


def with_session(rig: Rig, feeds: dict[str, NDArray[Any]]) -> None:
    session = rig.open()
    session.run(feeds)
    session.close()


def test_kernels_go_with_their_engine(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig("tensorrt-rtx", bundle, monkeypatch)
    rig.add()
    with_session(rig, feeds_of(4, 5))
    assert rig.store.prune() == []
    reasons = [each.reason for each in rig.store.prune(lambda entry: False)]
    assert reasons == ["not kept", "not kept", "kernels of a missing engine"]
    assert list((bundle.path / "engines").iterdir()) == []


def test_no_more_workers_are_made_than_may_be(eleven: Rig) -> None:
    eleven.add()
    session = eleven.open(workers=2)
    engine = session._loaded[session.engines[0]]
    order: list[str] = []

    def third() -> None:
        with engine.worker():
            order.append("third")

    with engine.worker() as first, engine.worker() as second:
        assert first is not second
        thread = threading.Thread(target=third)
        thread.start()
        thread.join(0.1)
        order.append("waited")
    thread.join()
    assert order == ["waited", "third"]
    session.close()
    assert eleven.cuda.leaks() == {}


def test_a_worker_that_is_at_work_is_freed_when_it_is_done(eleven: Rig) -> None:
    eleven.add()
    session = eleven.open()
    engine = session._loaded[session.engines[0]]
    with engine.worker() as worker:
        session.close()
        worker.run(0, feeds_of(4, 5), "output")
        assert eleven.cuda.leaks() != {}
    assert eleven.cuda.leaks() == {}
    with pytest.raises(UsageError, match="the session is closed"), engine.worker():
        pass


def test_a_worker_that_cannot_be_made_leaves_its_place_free(eleven: Rig) -> None:
    eleven.add()
    session = eleven.open(workers=1)
    engine = session._loaded[session.engines[0]]
    message = "create an execution context: no reason"
    loaded, engine._engine = engine._engine, _Refusing()
    with pytest.raises(ProviderError, match=message):
        session.run(feeds_of(4, 5))
    engine._engine = loaded
    results: list[NDArray[np.float32]] = []
    thread = threading.Thread(
        target=lambda: results.append(session.run(feeds_of(4, 5))), daemon=True
    )
    thread.start()
    thread.join(10)
    assert len(results) == 1
    session.close()


class _Refusing:
    """An engine that makes no context."""

    def create_execution_context(self, _: Any) -> None:
        return None


def test_kernels_that_cannot_be_kept_are_said_so(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    rig = Rig("tensorrt-rtx", bundle, monkeypatch)
    rig.add()
    monkeypatch.setattr("flowsr_runtime.backends.engines.tensorrt_engine.replace_file", full)
    with_session(rig, feeds_of(4, 5))
    assert "cannot be written: No space left on device" in caplog.text


@pytest.mark.skipif(int(real.cudaGetDeviceCount()[0]) == 0, reason="there is a GPU")
def test_the_real_library_says_why_it_cannot_load_an_engine(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = {name: (each.min, each.opt, each.max) for name, each in WIDE.items()}
    rig = Rig("tensorrt-rtx", bundle, monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", tensorrt_rtx)
    plan, _ = build(tensorrt_rtx, bundle.model_bytes(), ranges, capabilities=("SM89",))
    rig.store.add(rig.key(WIDE), plan or b"", {})
    message = r"tensorrt_rtx failed to load engines/.* CUDA driver version is insufficient"
    with pytest.raises(ProviderError, match=message):
        rig.open()
