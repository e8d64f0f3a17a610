"""Workers reuse memory, check types, and replay CUDA graphs."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_runtime.backends.engines.tensorrt_session import TensorrtSession
from flowsr_runtime.cuda.device import Device
from flowsr_runtime.cuda.device_array import DeviceArray
from flowsr_runtime.errors import BundleError, ShapeError
from tests.doubles.rig import SMALL, TOLERANCE, Rig, expected, feeds_of, profile, real_session


def test_memory_is_reused(eleven: Rig, session: TensorrtSession) -> None:
    session.run(feeds_of(8, 8))
    calls = len(eleven.cuda.calls)
    for salt in range(3):
        session.run(feeds_of(8, 8, salt=salt))
        session.run(feeds_of(4, 5, salt=salt))
    assert len(eleven.cuda.calls) == calls


def test_a_result_is_not_overwritten_by_the_next(session: TensorrtSession) -> None:
    first = session.run(feeds_of(4, 5, salt=1))
    kept = first.copy()
    session.run(feeds_of(4, 5, salt=2))
    np.testing.assert_array_equal(first, kept)


def test_an_output_whose_shape_is_computed_is_allocated_in_the_run(rig: Rig) -> None:
    rig.add(data_dependent=True)
    session = rig.open()
    runs = [feeds_of(4, 5), feeds_of(9, 9, 3), feeds_of(2, 2)]
    for feeds in runs:
        np.testing.assert_allclose(
            session.run(feeds), expected(rig.bundle, feeds), atol=TOLERANCE
        )
    session.close()
    assert rig.cuda.leaks() == {}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("input", np.zeros((1, 3, 4, 5)), "input must be float32, got float64"),
        ("geometry", np.zeros(10, np.int32), "geometry must be int64, got int32"),
        ("extra", np.zeros(1), r"takes \['geometry', 'input'\], got \['extra', 'geometry'"),
    ],
)
def test_a_wrong_input_is_refused(
    eleven: Rig, name: str, value: NDArray[Any], message: str
) -> None:
    eleven.add(eleven.key({"input": SMALL["input"], "geometry": profile(0, 9)["geometry"]}))
    session = eleven.open()
    feeds = {**feeds_of(4, 5), name: value.astype(value.dtype)}
    feeds["geometry"] = np.maximum(feeds["geometry"], 1)
    with pytest.raises(ShapeError, match=message):
        session.run(feeds)
    session.run(feeds_of(4, 5))
    session.close()


def test_arrays_of_the_device_are_neither_copied_in_nor_out(
    rig: Rig, opened: TensorrtSession
) -> None:
    feeds: dict[str, Any] = feeds_of(4, 5)
    first = opened.run_device(feeds)
    assert isinstance(first, DeviceArray)
    np.testing.assert_allclose(first.numpy(), expected(rig.bundle, feeds), atol=TOLERANCE)
    again: dict[str, Any] = {"input": first, "geometry": feeds_of(8, 10)["geometry"]}
    second = opened.run_device(again)
    both = {**again, "input": first.numpy()}
    np.testing.assert_allclose(second.numpy(), expected(rig.bundle, both), atol=TOLERANCE)


def test_a_run_writes_to_an_array_of_the_device(eleven: Rig, session: TensorrtSession) -> None:
    out = session.run_device(feeds_of(4, 5, salt=1))
    address = out.address
    assert session.run_device(feeds_of(4, 5, salt=2), out) is out
    assert out.address == address
    np.testing.assert_allclose(
        out.numpy(), expected(eleven.bundle, feeds_of(4, 5, salt=2)), atol=TOLERANCE
    )
    with pytest.raises(ShapeError, match=r"out must be float32 of shape \(1, 3, 8, 8\), got"):
        session.run_device(feeds_of(4, 4), out)


def test_what_decides_shapes_stays_on_the_host(eleven: Rig) -> None:
    eleven.add(eleven.key({"input": SMALL["input"], "geometry": profile(1, 9)["geometry"]}))
    session = eleven.open()
    array = session.run_device(feeds_of(4, 5))
    with pytest.raises(BundleError, match="geometry is 1x3x8x10, it takes"):
        session.run({**feeds_of(4, 5), "geometry": array})
    worker = session._loaded[session.engines[0]]._idle[0]
    with pytest.raises(ShapeError, match="geometry must be an array on the host"):
        worker.run(0, {**feeds_of(4, 5), "geometry": array}, "output")
    session.close()


def test_the_third_run_of_a_size_is_one_launch(eleven: Rig, graphs: TensorrtSession) -> None:
    for salt in range(5):
        feeds = feeds_of(4, 5, salt=salt)
        np.testing.assert_allclose(graphs.run(feeds), expected(eleven.bundle, feeds), atol=1e-6)
    counters = graphs.graph_counters
    assert (counters.plain, counters.captures, counters.hits) == (2, 1, 3)
    assert eleven.cuda.calls.count("cudaGraphLaunch") == 3


def test_sizes_take_turns_with_a_graph_for_each(eleven: Rig, graphs: TensorrtSession) -> None:
    runs = [feeds_of(9, 9, 3), feeds_of(4, 5), feeds_of(20, 30), feeds_of(4, 5, 3)]
    graphs.run(feeds_of(40, 40, 3))  # the largest first, so that memory does not move later
    for salt in range(4):
        for each in runs:
            feeds = {**each, "input": np.roll(each["input"], salt)}
            result = graphs.run(feeds)
            np.testing.assert_allclose(result, expected(eleven.bundle, feeds), atol=TOLERANCE)
    counters = graphs.graph_counters
    assert (counters.captures, counters.hits, counters.evictions) == (4, 8, 0)


def test_the_least_used_graph_makes_room(eleven: Rig) -> None:
    eleven.add()
    session = eleven.open(graphs=1)
    session.run(feeds_of(9, 9, 3))
    for feeds in [feeds_of(4, 5), feeds_of(3, 5)] * 3:
        session.run(feeds)
    counters = session.graph_counters
    assert counters.captures == counters.evictions + 1 == 4
    assert counters.hits == 0
    session.close()
    assert eleven.cuda.leaks() == {}


def test_windows_of_one_size_have_graphs_of_their_own(
    eleven: Rig, graphs: TensorrtSession
) -> None:
    whole = feeds_of(8, 8)
    windows = [np.array([8, 8, 16, 16, 4 * y, 0, 8 * y, 0, 8, 16]) for y in range(2)]
    tiles = [
        {"input": whole["input"][:, :, 4 * y : 4 * y + 4], "geometry": windows[y]}
        for y in (0, 1)
    ]
    for _ in range(4):
        for feeds in tiles:
            result = graphs.run(feeds)
            np.testing.assert_allclose(result, expected(eleven.bundle, feeds), atol=TOLERANCE)
    assert graphs.graph_counters.hits == 4


def test_memory_that_moves_takes_its_graphs_along(eleven: Rig, graphs: TensorrtSession) -> None:
    for feeds in [feeds_of(4, 5)] * 3 + [feeds_of(30, 30)] + [feeds_of(4, 5)] * 3:
        result = graphs.run(feeds)
        np.testing.assert_allclose(result, expected(eleven.bundle, feeds), atol=TOLERANCE)
    counters = graphs.graph_counters
    assert (counters.captures, counters.evictions, counters.hits) == (2, 1, 3)


def test_an_array_that_is_written_again_and_again_has_a_graph(
    eleven: Rig, graphs: TensorrtSession
) -> None:
    feeds: dict[str, Any] = feeds_of(4, 5)
    feeds["input"] = graphs.run_device(feeds_of(2, 3, salt=3), None)
    feeds["geometry"] = feeds_of(4, 6)["geometry"]
    out = graphs.run_device(feeds)
    for _ in range(4):
        graphs.run_device(feeds, out)
    host = {**feeds, "input": feeds["input"].numpy()}
    np.testing.assert_allclose(out.numpy(), expected(eleven.bundle, host), atol=TOLERANCE)
    assert (graphs.graph_counters.captures, graphs.graph_counters.hits) == (1, 2)


def test_new_arrays_of_the_device_have_no_graph(eleven: Rig, graphs: TensorrtSession) -> None:
    feeds = feeds_of(4, 5)
    right = expected(eleven.bundle, feeds)
    for _ in range(3):
        graphs.run(feeds)
    arrays = [graphs.run_device(feeds) for _ in range(3)]
    for array in arrays:
        np.testing.assert_allclose(array.numpy(), right, atol=TOLERANCE)
    assert (graphs.graph_counters.plain, graphs.graph_counters.captures) == (5, 1)


def test_an_array_of_the_device_does_not_bring_a_graph_about(
    eleven: Rig, graphs: TensorrtSession
) -> None:
    feeds = feeds_of(4, 5)
    for _ in range(3):
        graphs.run_device(feeds)
    assert graphs.graph_counters.captures == 0
    np.testing.assert_allclose(graphs.run(feeds), expected(eleven.bundle, feeds), atol=1e-6)


def test_what_cannot_be_captured_runs_plainly_and_says_so(
    eleven: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    eleven.add(data_dependent=True)
    session = eleven.open(graphs=4)
    for _ in range(3):
        session.run(feeds_of(4, 5))
    assert session.graph_counters.plain == 3
    assert caplog.text.count("CUDA graphs are not used: the shape of output") == 1
    session.close()


def test_a_capture_that_fails_is_said_once_and_costs_no_result(
    eleven: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    invalid = (type(eleven.cuda).cudaError_t.cudaErrorStreamCaptureInvalidated, None)
    eleven.add()
    session = eleven.open(graphs=4)
    end = eleven.cuda.cudaStreamEndCapture
    monkeypatch.setattr(eleven.cuda, "cudaStreamEndCapture", lambda s: end(s) and invalid)
    for _ in range(4):
        feeds = feeds_of(4, 5)
        np.testing.assert_allclose(
            session.run(feeds), expected(eleven.bundle, feeds), atol=1e-6
        )
    assert session.graph_counters.plain == 4
    assert "CUDA error 901" in caplog.text
    assert caplog.text.count("CUDA graphs are not used") == 1
    session.close()


def test_rtx_captures_by_itself(bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig("tensorrt-rtx", bundle, monkeypatch)
    rig.add()
    session = rig.open(graphs=4)
    for _ in range(3):
        session.run(feeds_of(4, 5))
    assert session.graph_counters.plain == 3
    config = session._loaded[session.engines[0]]._config
    assert config.cuda_graph_strategy == rig.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    session.close()


def test_a_run_that_fails_gives_back_what_it_borrowed(session: TensorrtSession) -> None:
    array = session.run_device(feeds_of(4, 5))
    worker = session._loaded[session.engines[0]]._idle[0]
    feeds = {"input": array, "geometry": feeds_of(8, 10)["geometry"].astype(np.float32)}
    with pytest.raises(ShapeError, match="geometry must be int64, got float32"):
        worker.run(0, feeds, "output")


@pytest.mark.gpu
def test_a_real_gpu_repeats_a_run_as_a_graph(gpu: Device, bundle: Any) -> None:
    session = real_session(bundle, gpu, graphs=4)
    feeds = feeds_of(12, 15, 3)
    results = [session.run(feeds) for _ in range(4)]
    np.testing.assert_array_equal(results[0], results[-1])
    assert session.backend == "tensorrt_rtx" or session.graph_counters.hits == 2
    session.close()
