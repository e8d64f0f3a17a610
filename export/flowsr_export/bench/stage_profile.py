"""Time of each stage of a run: ONNX Runtime's profile, summed by the stages of the model.

ONNX Runtime renames and fuses nodes, but what they give keeps
its name; so the graph that it writes after its optimisations leads back to the exported one.
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

__all__ = [
    "stage_seconds",
]


KERNEL = "_kernel_time"
BLOCKED = "_nchwc"


def stage_seconds(
    model: bytes, feeds: Mapping[str, NDArray[Any]], threads: int, runs: int = 3
) -> dict[str, float]:
    """Profile a graph on ONNX Runtime's CPU provider.

    Args:
        model: ONNX file.
        feeds: Its inputs.
        threads: CPU threads.
        runs: Runs to average, after one that is not counted.

    Returns:
        Seconds of one run by stage, in the order of `STAGES`: the sum of the kernels, less
        than the time of the run by what ONNX Runtime does between them. "other" is what could
        not be led back to the exported graph.
    """
    exported = onnx.load_from_string(model)
    stages = stages_of(exported)
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # as the runtime has it
        options.log_severity_level = 3
        options.optimized_model_filepath = str(optimised)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(runs + 1):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        names = _renamed(exported, onnx.load(optimised), stages)
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith(KERNEL)]
    kernels = kernels[len(kernels) // (runs + 1) :]
    seconds: dict[str, float] = defaultdict(float)
    for event in kernels:
        stage = names.get(event["name"].removesuffix(KERNEL), OTHER)
        seconds[stage] += event["dur"] / 1e6 / runs
    return {stage: seconds[stage] for stage in STAGES if stage in seconds}


def _renamed(
    exported: onnx.ModelProto, optimised: onnx.ModelProto, stages: Mapping[str, str]
) -> dict[str, str]:
    """Stages by node of the graph that ONNX Runtime runs.

    A node in its blocked layout is named after what the exported node gave, with a suffix. One
    that ONNX Runtime put in, such as a change of layout, has the stage of what it reads.
    """
    tensors = dict(stages)
    by_node = {node.name: stages.get(node.output[0], OTHER) for node in exported.graph.node}
    nodes = {}
    for node in optimised.graph.node:
        named = [tensors[name] for name in node.output if name in tensors]
        blocked = stages.get(node.name.removesuffix(BLOCKED))
        read = [tensors[name] for name in node.input if name in tensors]
        found = [*named, blocked, by_node.get(node.name), *read[:1], OTHER]
        stage = next(stage for stage in found if stage is not None)
        for name in node.output:
            tensors.setdefault(name, stage)
        nodes[node.name] = stage
    return nodes
