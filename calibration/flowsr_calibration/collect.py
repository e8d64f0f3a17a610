"""Run a graph on crops and see what its tensors hold."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from flowsr_calibration.crops import Crop, CropPlan, Pictures
from flowsr_calibration.feeds import feeds_of
from flowsr_calibration.statistics import Statistics, load_statistics
from flowsr_runtime.backends.cores import usable_cores
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.errors import NonFiniteError

__all__ = ["TensorTap", "collect", "statistics_key"]

SAVE_SECONDS: Final = 10.0
FORMAT: Final = 1  # of the statistics; another one is collected again


class TensorTap:
    """A graph whose inner tensors come out."""

    def __init__(self, model: ModelProto, tensors: Sequence[str], threads: int | None) -> None:
        """Load `model` on the CPU.

        Args:
            model: Not changed.
            tensors: Names of float32 tensors.
            threads: CPU threads, None for all cores.
        """
        tapped = ModelProto()
        tapped.CopyFrom(model)
        held = {value.name for value in tapped.graph.output}
        tapped.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in tensors
            if name not in held
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
            NonFiniteError: If one holds a value that is not finite.
        """
        results = dict(
            zip(self._names, self._session.run(self._names, dict(feeds)), strict=True)
        )
        for name, values in results.items():
            if not np.isfinite(values).all():
                raise NonFiniteError(f"tensor {name} of the float32 graph is not finite")
        return results


def statistics_key(
    model_sha256: str, tensors: Sequence[str], plan: CropPlan, pictures: Pictures
) -> str:
    """Return the digest of everything that decides the statistics."""
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
    channel_axes: Mapping[str, int] | None = None,
    advance: Callable[[int, str], None] = lambda steps, note: None,
) -> Statistics:
    """See every crop of a plan, from where an earlier run ended.

    Args:
        tap: The graph.
        manifest: The bundle's.
        plan: The crops.
        pictures: What they are cut from.
        key: Digest of all this.
        path: File that keeps the statistics, also those of a run that is interrupted.
        channel_axes: Axis of the channels of the tensors whose channels are looked at.
        advance: Called with the crops that are done since the last call, and the picture.

    Returns:
        The statistics of all crops.

    Raises:
        NonFiniteError: If the float32 graph gives a value that is not finite.
    """
    begun = None if path is None else load_statistics(path, key)
    statistics = begun or Statistics(key)
    advance(statistics.done, "")
    saved = time.monotonic()
    for crop in plan.crops(pictures, statistics.done):
        statistics.add(tap.run(feeds_of(manifest, crop)), channel_axes or {})
        advance(1, _name(crop))
        if path is not None and time.monotonic() - saved > SAVE_SECONDS:
            statistics.save(path)
            saved = time.monotonic()
    if path is not None:
        statistics.save(path)
    return statistics


def _name(crop: Crop) -> str:
    return f"{crop.picture.name} ×{crop.scale}"
