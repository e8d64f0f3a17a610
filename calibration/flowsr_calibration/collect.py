"""Run a graph on crops and collect statistics of its tensors."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from flowsr_calibration.crops import CropPlan, Pictures, feeds_of
from flowsr_calibration.statistics import Statistics, load_statistics
from flowsr_runtime.atomic import replace_file
from flowsr_runtime.backends.cores import usable_cores
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.errors import NonFiniteError

__all__ = ["TensorTap", "collect", "statistics_key"]

SAVE_SECONDS: Final = 10.0
FORMAT: Final = 1  # of the statistics; those of another format are collected again


class TensorTap:
    """A graph with inner tensors as additional outputs."""

    def __init__(self, model: ModelProto, tensors: Sequence[str], threads: int | None) -> None:
        """Load `model` on the CPU.

        Args:
            model: The graph; not changed.
            tensors: Names of float32 tensors.
            threads: CPU threads, None for all cores.
        """
        tapped = ModelProto()
        tapped.CopyFrom(model)
        outputs = {value.name for value in tapped.graph.output}
        tapped.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in tensors
            if name not in outputs
        )
        options = ort.SessionOptions()
        options.intra_op_num_threads = usable_cores() if threads is None else threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            tapped.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._names = list(tensors)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Return the tensors of one run by name.

        Raises:
            NonFiniteError: If one contains a value that is not finite.
        """
        outputs = self._session.run(self._names, dict(feeds))
        results = dict(zip(self._names, outputs, strict=True))
        for name, values in results.items():
            if not np.isfinite(values).all():
                raise NonFiniteError(f"tensor {name} of the float32 graph must be finite")
        return results


def statistics_key(
    model_sha256: str, tensors: Sequence[str], plan: CropPlan, pictures: Pictures
) -> str:
    """Return the digest of everything that determines the statistics."""
    about = {
        "format": FORMAT,
        "model": model_sha256,
        "tensors": list(tensors),
        "samples": plan.samples,
        "side": plan.side,
        "scales": [str(scale) for scale in plan.scales],
        "seed": plan.seed,
        "pictures": [pictures.digests[path] for path in pictures.calibration],
    }
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def collect(
    tap: TensorTap,
    manifest: Manifest,
    plan: CropPlan,
    pictures: Sequence[Path],
    *,
    key: str,
    path: Path | None = None,
    per_channel: Collection[str] = (),
    advance: Callable[[int, str], None] = lambda steps, note: None,
) -> Statistics:
    """Run the crops of a plan, continuing an interrupted run.

    Args:
        tap: The graph.
        manifest: Manifest of the bundle.
        plan: The crops.
        pictures: Image files of the crops.
        key: Digest of all this.
        path: File that keeps the statistics, also of an interrupted run.
        per_channel: Tensors with statistics per channel.
        advance: Called with the number of crops since the last call, and the image.

    Returns:
        The statistics of all crops.

    Raises:
        NonFiniteError: If the float32 graph gives a value that is not finite.
    """
    earlier = None if path is None else load_statistics(path, key)
    statistics = earlier or Statistics(key)
    advance(statistics.done, "")
    saved = time.monotonic()
    for crop in plan.crops(pictures, statistics.done):
        statistics.add(tap.run(feeds_of(manifest, crop)), per_channel)
        advance(1, f"{crop.picture.name} ×{crop.scale}")
        if path is not None and time.monotonic() - saved > SAVE_SECONDS:
            replace_file(path, statistics.to_bytes())
            saved = time.monotonic()
    if path is not None:
        replace_file(path, statistics.to_bytes())
    return statistics
