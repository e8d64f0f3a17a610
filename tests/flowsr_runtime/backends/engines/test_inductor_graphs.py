"""CUDA graphs of Inductor's engines, on a stand-in for `torch.cuda`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from flowsr_runtime.backends.engines.inductor_graphs import CapturedRun, capture_graph

torch = pytest.importorskip("torch")
InductorEngine = pytest.importorskip(
    "flowsr_runtime.backends.engines.inductor_engine"
).InductorEngine


class Graph:
    """A graph that repeats the work which was queued while it was captured."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.live = True

    def replay(self) -> None:
        for step in self.work:
            step()

    def reset(self) -> None:
        self.live = False


class Queue:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def wait_stream(self, other: "Queue") -> None:
        self.log.append("wait")


class Cuda:
    """The calls of `torch.cuda` that a capture makes; a run in it is recorded."""

    CUDAGraph = Graph

    def __init__(self) -> None:
        self.log: list[str] = []
        self.capturing: Graph | None = None

    def Stream(self) -> Queue:  # noqa: N802  # the name is PyTorch's
        return Queue(self.log)

    def current_stream(self) -> Queue:
        return Queue(self.log)

    @contextmanager
    def stream(self, stream: Queue) -> Iterator[None]:
        self.log.append("beside")
        yield

    @contextmanager
    def graph(self, graph: Graph) -> Iterator[None]:
        self.capturing = graph
        yield
        self.capturing = None


def captured(cuda: Cuda, inputs: Sequence[Any]) -> CapturedRun:
    def run(given: Sequence[Any]) -> Any:
        output = torch.empty_like(given[0])

        def work() -> None:
            torch.mul(given[0], 2, out=output)

        work()
        cuda.log.append("run")
        if cuda.capturing is not None:
            cuda.capturing.work.append(work)
        return output

    return capture_graph(cuda, run, inputs)


def test_a_run_warms_up_beside_the_main_stream_before_it_is_captured() -> None:
    cuda = Cuda()
    captured(cuda, [torch.ones(3)])
    assert cuda.log == ["wait", "beside", "run", "wait", "run"]


def test_a_replay_reads_the_new_values() -> None:
    graph = captured(Cuda(), [torch.ones(3)])
    assert graph.replay([torch.tensor([1.0, 5.0, 7.0])]).tolist() == [2, 10, 14]


def test_a_result_stays_when_the_graph_runs_again() -> None:
    graph = captured(Cuda(), [torch.ones(2)])
    first = graph.replay([torch.tensor([1.0, 2.0])])
    graph.replay([torch.tensor([8.0, 9.0])])
    assert first.tolist() == [2, 4]


def test_the_callers_input_is_not_the_memory_of_the_graph() -> None:
    given = torch.ones(2)
    graph = captured(Cuda(), [given])
    graph.replay([torch.tensor([3.0, 4.0])])
    assert given.tolist() == [1, 1]


def test_closing_frees_the_graph() -> None:
    graph = captured(Cuda(), [torch.ones(1)])
    graph.close()
    assert not graph._graph.live


@pytest.mark.parametrize(("graphs", "runners"), [(2, 1), (0, 4)])
def test_a_package_that_is_captured_has_one_runner(
    monkeypatch: pytest.MonkeyPatch, graphs: int, runners: int
) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "flowsr_runtime.backends.engines.inductor_engine.load_package",
        lambda path, name, **options: calls.append(options),
    )
    entry: Any = SimpleNamespace(facts={"tensors": []}, key=SimpleNamespace(profiles=[{}]))
    InductorEngine(entry, b"", "cuda:0", patch=3, workers=4, graphs=graphs)
    (options,) = calls
    assert options["num_runners"] == runners
    assert options["run_single_threaded"] is (graphs > 0)
