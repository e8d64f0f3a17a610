"""Capture a run of an Inductor package as a CUDA graph."""

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["CapturedRun", "capture_graph"]


class CapturedRun:
    """A captured run, its inputs and its output, whose memory belongs to the graph.

    Attributes:
        inputs: Tensors that the graph reads.
        output: Tensor that it writes; the next run overwrites it.
    """

    output: Any

    def __init__(self, graph: Any, inputs: Sequence[Any]) -> None:
        """Copy the inputs to memory that stays where it is."""
        self._graph = graph
        self.inputs = [item.clone() for item in inputs]

    def replay(self, inputs: Sequence[Any]) -> Any:
        """Run the graph on other values of the same shapes.

        Args:
            inputs: Tensors on the device.

        Returns:
            A copy of the output, which later runs leave alone.
        """
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self.output.clone()

    def close(self) -> None:
        """Free the graph."""
        self._graph.reset()


def capture_graph(
    cuda: Any, run: Callable[[Sequence[Any]], Any], inputs: Sequence[Any]
) -> CapturedRun:
    """Capture a run as a CUDA graph.

    Args:
        cuda: The module `torch.cuda`.
        run: Function of the inputs that queues the work and returns the output.
        inputs: Tensors on the device.

    Returns:
        The captured run.
    """
    captured = CapturedRun(cuda.CUDAGraph(), inputs)
    # A first run outside: libraries allocate and choose their kernels in it.
    stream = cuda.Stream()
    stream.wait_stream(cuda.current_stream())
    with cuda.stream(stream):
        run(captured.inputs)
    cuda.current_stream().wait_stream(stream)
    with cuda.graph(captured._graph):
        captured.output = run(captured.inputs)
    return captured
