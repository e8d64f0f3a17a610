"""Time of each stage of a run: ONNX Runtime's profile, summed by the stages of the model.

ONNX Runtime renames and fuses nodes but keeps the names of their outputs, so its optimized
graph can be traced back to the exported one.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from flowsr_export.onnx_graph.stages import OTHER, STAGES, stages_of

__all__ = ["stage_seconds"]

KERNEL = "_kernel_time"
BLOCKED = "_nchwc"


def stage_seconds(
    model: bytes, feeds: Mapping[str, NDArray[Any]], threads: int, runs: int = 3
) -> dict[str, float]:
    """Profile a graph on ONNX Runtime's CPU provider.

    Args:
        model: ONNX file.
        feeds: Inputs of the graph.
        threads: CPU threads.
        runs: Runs to average, after one warm-up run.

    Returns:
        Kernel seconds of one run by stage, in the order of `STAGES`; the overhead between
        kernels is not included. "other" holds kernels that match no exported node.
    """
    exported = onnx.load_from_string(model)
    stages = stages_of(exported)
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # as in the runtime
        options.log_severity_level = 3
        options.optimized_model_filepath = str(optimized)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(runs + 1):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        names = _renamed(exported, onnx.load(optimized), stages)
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith(KERNEL)]
    kernels = kernels[len(kernels) // (runs + 1) :]
    seconds: dict[str, float] = defaultdict(float)
    for event in kernels:
        stage = names.get(event["name"].removesuffix(KERNEL), OTHER)
        seconds[stage] += event["dur"] / 1e6 / runs
    return {stage: seconds[stage] for stage in STAGES if stage in seconds}


def _renamed(
    exported: onnx.ModelProto, optimized: onnx.ModelProto, stages: Mapping[str, str]
) -> dict[str, str]:
    """Return the stage of each node of the graph that ONNX Runtime runs.

    A node in a blocked layout is named after the output of the exported node, with a suffix.
    An inserted node, such as a change of layout, has the stage of its input.
    """
    tensors = dict(stages)
    by_node = {node.name: stages.get(node.output[0], OTHER) for node in exported.graph.node}
    nodes = {}
    for node in optimized.graph.node:
        named = [tensors[name] for name in node.output if name in tensors]
        blocked = stages.get(node.name.removesuffix(BLOCKED))
        read = [tensors[name] for name in node.input if name in tensors]
        candidates = [*named, blocked, by_node.get(node.name), *read[:1], OTHER]
        stage = next(stage for stage in candidates if stage is not None)
        for name in node.output:
            tensors.setdefault(name, stage)
        nodes[node.name] = stage
    return nodes
