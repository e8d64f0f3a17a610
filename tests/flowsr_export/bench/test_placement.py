"""Nodes are counted by provider, and copies apart from them."""

from pathlib import Path
from typing import Any

import pytest

from flowsr_export.bench.placement import Placement, count_nodes, placement_of
from flowsr_export.inputs.cases import Case
from flowsr_runtime import Bundle, ProviderError, SessionSettings

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def kernel(name: str, op: str, provider: str) -> dict[str, Any]:
    """Return an event of ONNX Runtime's profile."""
    facts = {"op_name": op, "provider": provider}
    return {"cat": "Node", "name": f"{name}_kernel_time", "args": facts}


def test_nodes_are_counted_once_and_copies_apart() -> None:
    runs = [
        kernel("conv", "Conv", CUDA),
        kernel("gather", "Gather", CPU),
        kernel("shape", "Shape", CPU),
        kernel("shape2", "Shape", CPU),
        kernel("copy", "MemcpyToHost", CUDA),
        kernel("back", "MemcpyFromHost", CUDA),
    ]
    fence = {"cat": "Node", "name": "conv_fence_before", "args": {"op_name": "Conv"}}
    session = {"cat": "Session", "name": "model_run", "args": {}}
    nodes, kinds, copies = count_nodes([session, fence, *runs, *runs], CUDA)
    assert nodes == {CPU: 3, CUDA: 1}
    assert kinds == {"Shape": 2, "Gather": 1}
    assert copies == 2


def test_a_graph_on_the_cpu_has_no_copies(bundle: Path) -> None:
    settings = SessionSettings("onnxruntime", "cpu", precision="fp32")
    placement = placement_of(Bundle.open(bundle), settings, Case((8, 8), (16, 16)))
    assert (list(placement.nodes), placement.copies, placement.kinds) == ([CPU], 0, {})
    assert placement.nodes[CPU] >= 1
    assert not placement.tf32
    assert placement.lines()[1] == "copies  0 between host and device"


def test_a_provider_that_is_missing_is_refused(bundle: Path) -> None:
    settings = SessionSettings("onnxruntime", "openvino", precision="fp32")
    with pytest.raises(ProviderError, match="provider openvino is not in the installed"):
        placement_of(Bundle.open(bundle), settings, Case((8, 8), (16, 16)))


def test_what_runs_elsewhere_is_named() -> None:
    placement = Placement("cuda", "fp16", True, {CUDA: 5, CPU: 2}, {"Shape": 2}, 3)
    assert placement.lines() == [
        f"nodes   5 on {CUDA}, 2 on {CPU}; not on cuda: 2 Shape",
        "copies  3 between host and device",
        "float32 products in TF32",
    ]
