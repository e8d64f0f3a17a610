"""Inputs of a bundle's graph for a test case."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowsr_export.inputs.cases import TEMPERATURE, Case, sample_pictures
from flowsr_export.inputs.run_sizes import padded_run_size
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.geometry import Window
from flowsr_runtime.pictures.depth import to_depth
from flowsr_runtime.tiling.graph_inputs import graph_inputs

__all__ = ["graph_feeds"]


def graph_feeds(manifest: Manifest, case: Case) -> dict[str, NDArray[Any]]:
    """Return the inputs of the graph: photographs, and without a prior noise of seed 0."""
    run = padded_run_size(manifest, case.lr, case.size)
    padding = [(0, 0), (0, 0), *((0, n - m) for n, m in zip(run.lr, case.lr, strict=True))]
    rgb = np.pad(sample_pictures(case), padding, mode="reflect")
    return graph_inputs(
        to_depth(rgb, 8) if manifest.io == "uint8" else rgb,
        Window.whole(run.lr, run.out),
        latents=manifest.latents,
        geometry=manifest.geometry,
        temperature=TEMPERATURE,
    )
