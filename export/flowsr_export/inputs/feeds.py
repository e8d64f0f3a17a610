"""Inputs of a bundle's graph for a test case."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowsr_export.inputs.cases import Case, latents_for, sample_pictures
from flowsr_export.inputs.run_sizes import RunSize
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.geometry import output_size

__all__ = ["graph_feeds", "padded_run", "to_uint8"]

EIGHT_BIT = 255


def padded_run(manifest: Manifest, case: Case) -> RunSize:
    """Return the sizes that the graph takes for a whole picture."""
    if manifest.scale is None:
        return RunSize(case.lr, case.size)
    h, w = (-(-n // manifest.multiple) * manifest.multiple for n in case.lr)
    return RunSize((h, w), (output_size(h, manifest.scale), output_size(w, manifest.scale)))


def graph_feeds(manifest: Manifest, case: Case) -> dict[str, NDArray[Any]]:
    """Inputs of the graph for a case: photographs, and noise of seed 0 without a prior."""
    run = padded_run(manifest, case)
    right = [(0, 0), (0, 0), *((0, n - m) for n, m in zip(run.lr, case.lr, strict=True))]
    rgb = np.pad(sample_pictures(case), right, mode="reflect")
    feeds: dict[str, NDArray[Any]] = {"input": to_uint8(rgb) if manifest.io == "uint8" else rgb}
    if manifest.geometry:
        feeds["geometry"] = np.array(run.feeds(manifest)["geometry"], np.int64)
    return feeds | latents_for(manifest.latents, run.out, case.batch)


def to_uint8(rgb: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round values in [0, 1] to eight bits."""
    return np.rint(rgb * EIGHT_BIT).astype(np.uint8)
