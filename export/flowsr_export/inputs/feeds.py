"""Inputs of a bundle's graph for a test case."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowsr_export.inputs.cases import Case, latents_for, sample_pictures
from flowsr_export.inputs.run_sizes import RunSize, padded_run_size
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.pictures.depth import to_depth

__all__ = ["graph_feeds", "padded_run"]


def padded_run(manifest: Manifest, case: Case) -> RunSize:
    """Return the sizes that the graph takes for a whole image."""
    return padded_run_size(manifest, case.lr, case.size)


def graph_feeds(manifest: Manifest, case: Case) -> dict[str, NDArray[Any]]:
    """Return the inputs of the graph: photographs, and without a prior noise of seed 0."""
    run = padded_run(manifest, case)
    padding = [(0, 0), (0, 0), *((0, n - m) for n, m in zip(run.lr, case.lr, strict=True))]
    rgb = np.pad(sample_pictures(case), padding, mode="reflect")
    feeds: dict[str, NDArray[Any]] = {
        "input": to_depth(rgb, 8) if manifest.io == "uint8" else rgb
    }
    if manifest.geometry:
        feeds["geometry"] = np.array(run.feeds(manifest)["geometry"], np.int64)
    return feeds | latents_for(manifest.latents, run.out, case.batch)
