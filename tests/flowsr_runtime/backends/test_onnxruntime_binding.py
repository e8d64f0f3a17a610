"""Arrays stay on the device; the CPU stands for it, with the same bindings."""

import gc
import threading
from typing import Any, cast

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.dlpack import from_dlpack

from flowsr_runtime.backends import onnxruntime_session
from flowsr_runtime.backends.onnxruntime_binding import GraphRunner, OrtArray
from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.cuda import dlpack
from flowsr_runtime.cuda.dlpack import CUDA, lend
from flowsr_runtime.cuda.graph_cache import GraphCounters
from flowsr_runtime.errors import ProviderError, ShapeError
from tests.doubles.rig import expected, feeds_of


class OnDevice:
    """An array of a GPU that is not there."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, 1

    def __dlpack__(self, **_: object) -> object:
        return lend(4096, (1, 3, 4, 5), np.dtype(np.float32), device=(CUDA, 1), owner=self)


@pytest.fixture
def session(bundle: Bundle) -> OnnxRuntimeSession:
    return OnnxRuntimeSession.open(bundle)


def tensors_of(*sizes: int) -> dict[str, Any]:
    """Return feeds whose picture is a PyTorch tensor."""
    feeds: dict[str, Any] = feeds_of(*sizes)
    return {**feeds, "input": torch.from_numpy(feeds["input"])}


def test_a_tensor_is_read_where_it_lies(session: OnnxRuntimeSession, bundle: Bundle) -> None:
    result = session.run_device(tensors_of(4, 5))
    assert isinstance(result, OrtArray)
    assert (result.shape, result.dtype.name) == ((1, 3, 8, 10), "float32")
    np.testing.assert_array_equal(result.numpy(), expected(bundle, feeds_of(4, 5)))


def test_a_result_is_taken_by_other_libraries_without_a_copy(
    session: OnnxRuntimeSession,
) -> None:
    result = session.run_device(feeds_of(4, 5))
    tensor, array = from_dlpack(result), np.from_dlpack(result)
    assert tensor.data_ptr() == array.ctypes.data
    np.testing.assert_array_equal(array, result.numpy())


def test_a_result_lives_as_long_as_what_was_made_of_it(session: OnnxRuntimeSession) -> None:
    tensor = from_dlpack(session.run_device(feeds_of(4, 5)))
    kept = tensor.clone()
    session.run_device(feeds_of(4, 5, salt=1))
    session.close()
    gc.collect()
    assert torch.equal(tensor, kept)


def test_a_result_is_written_to_an_array_that_is_given(
    session: OnnxRuntimeSession, bundle: Bundle
) -> None:
    out = torch.full((1, 3, 8, 10), -1.0)
    assert session.run_device(tensors_of(4, 5), out) is out
    np.testing.assert_array_equal(out.numpy(), expected(bundle, feeds_of(4, 5)))


def test_what_was_borrowed_is_given_back(session: OnnxRuntimeSession) -> None:
    result = session.run_device(feeds_of(4, 5))
    gc.collect()
    before = len(dlpack._lent)
    session.run_device({"input": result, "geometry": feeds_of(8, 10)["geometry"]})
    gc.collect()
    assert len(dlpack._lent) == before


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (OnDevice(), "input must be on DLPack device 1:0, got 2:1"),
        (torch.zeros(1, 3, 5, 4).transpose(2, 3), "input must be contiguous, got strides"),
        ([1, 2], "input must be an array with __dlpack__, got list"),
    ],
)
def test_an_array_that_cannot_be_read_is_refused(
    session: OnnxRuntimeSession, value: Any, message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        session.run_device({**feeds_of(4, 5), "input": value})


def test_an_array_that_cannot_be_written_is_refused(session: OnnxRuntimeSession) -> None:
    with pytest.raises(ShapeError, match="out must be on DLPack device 1:0, got 2:1"):
        session.run_device(feeds_of(4, 5), OnDevice())
    with pytest.raises(ProviderError, match=r"^cpu failed: [^\n]*shape[^\n]*$"):
        session.run_device(feeds_of(4, 5), torch.zeros(1, 3, 8, 9))


class Recorder:
    """A session of ONNX Runtime that notes the options of its runs."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.options: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, names: Any, feeds: Any, options: Any = None) -> Any:
        self.options.append(options)
        return self._session.run(names, feeds, options)

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        self.options.append(options)
        self._session.run_with_iobinding(binding, options)


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("way", ["run", "run_device", "features", "outputs"])
def test_every_run_frees_the_arena_where_memory_is_limited(
    session: OnnxRuntimeSession, way: str, limited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_session, "has_memory_limit", lambda: limited)
    recorder = Recorder(session._session)
    monkeypatch.setattr(session, "_session", recorder)
    getattr(session, way)(feeds_of(4, 5))
    (options,) = recorder.options
    key = "memory.enable_memory_arena_shrinkage"
    found = None if options is None else options.get_run_config_entry(key)
    assert found == ("cpu:0" if limited else None)


def runner_of(bundle: Bundle, limit: int) -> GraphRunner:
    """Return a runner on the CPU, where a graph is one binding that is used again."""
    session = ort.InferenceSession(bundle.model_bytes(), providers=["CPUExecutionProvider"])
    return GraphRunner(ort, session, "output", ("cpu", 0), limit)


def fixed_feeds(side: int, salt: int = 0) -> dict[str, NDArray[Any]]:
    return {"input": feeds_of(side, side, salt=salt)["input"]}


def test_the_second_run_of_a_size_is_bound_and_then_used_again(
    bundles: dict[str, Bundle],
) -> None:
    runner, fixed = runner_of(bundles["fixed"], 2), bundles["fixed"]
    for salt in range(4):
        feeds = fixed_feeds(4, salt)
        np.testing.assert_array_equal(runner.run(feeds), expected(fixed, feeds))
    assert runner.counters == GraphCounters(hits=2, captures=1, plain=1)


def test_no_more_graphs_are_captured_than_may_be_kept(bundles: dict[str, Bundle]) -> None:
    runner, fixed = runner_of(bundles["fixed"], 2), bundles["fixed"]
    for _ in range(3):
        for side in (3, 4, 5):
            feeds = fixed_feeds(side)
            np.testing.assert_array_equal(runner.run(feeds), expected(fixed, feeds))
    assert runner.counters == GraphCounters(hits=2, captures=2, plain=5)


def test_a_result_is_not_overwritten_by_the_next(bundles: dict[str, Bundle]) -> None:
    runner = runner_of(bundles["fixed"], 2)
    results = [runner.run(fixed_feeds(4, salt)) for salt in range(4)]
    again = runner_of(bundles["fixed"], 0)
    for salt, result in enumerate(results):
        np.testing.assert_array_equal(result, again.run(fixed_feeds(4, salt)))


def test_threads_do_not_mix_their_pictures(bundles: dict[str, Bundle]) -> None:
    runner, fixed = runner_of(bundles["fixed"], 2), bundles["fixed"]
    results: dict[int, NDArray[Any]] = {}

    def work(first: int) -> None:
        for salt in range(first, 20, 4):
            results[salt] = runner.run(fixed_feeds(4, salt))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    for salt, result in results.items():
        np.testing.assert_array_equal(result, expected(fixed, fixed_feeds(4, salt)))


class Replaying:
    """A session that replays graphs as CUDA's provider does: into the memory of the capture.

    A run that may use a graph and whose output has no memory of its own gives an output that
    was never allocated, from the second run on.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._inner = ort.InferenceSession(
            bundle.model_bytes(), providers=["CPUExecutionProvider"]
        )
        self.graphs: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        graph = "0" if options is None else options.get_run_config_entry("gpu_graph_id")
        self.graphs.append(graph)
        self._inner.run_with_iobinding(binding)


def test_arrays_of_the_device_are_run_without_a_graph(bundles: dict[str, Bundle]) -> None:
    session = OnnxRuntimeSession.open(bundles["fixed"])
    replaying = Replaying(bundles["fixed"])
    session._session = cast("Any", replaying)
    session._graphs = GraphRunner(ort, replaying, "output", ("cpu", 0), 2)
    for _ in range(3):
        session.run_device(fixed_feeds(4))
    assert replaying.graphs == ["-1"] * 3
    for salt in range(3):
        session.run(fixed_feeds(4, salt))
    assert replaying.graphs[3:] == ["1", "1"]


def test_a_graph_is_captured_into_memory_that_was_allocated_before(
    bundles: dict[str, Bundle],
) -> None:
    replaying = Replaying(bundles["fixed"])
    runner = GraphRunner(ort, replaying, "output", ("cpu", 0), 2)
    addresses = set()
    for salt in range(4):
        runner.run(fixed_feeds(4, salt))
        addresses |= {bound.output.data_ptr() for bound in runner._bound.values()}
        for bound in runner._bound.values():
            assert bound.binding.get_outputs()[0].data_ptr() == bound.output.data_ptr()
    assert len(addresses) == 1


@pytest.mark.gpu
def test_a_real_gpu_takes_arrays_and_captures_graphs(
    gpu: Any, bundles: dict[str, Bundle]
) -> None:
    session = OnnxRuntimeSession.open(bundles["fixed"], provider="cuda", cuda_graphs=2)
    for salt in range(4):
        feeds = fixed_feeds(4, salt)
        np.testing.assert_allclose(
            session.run(feeds), expected(bundles["fixed"], feeds), atol=1e-5
        )
    assert session.graph_counters.hits == 2
    result = session.run_device(fixed_feeds(4))
    again = session.run_device({"input": result})
    assert again.shape == (1, 3, 16, 16)
