"""Parts of the fused stage can be switched one at a time."""

import numpy as np
import pytest
import torch

from benchmarks.precision import exact_outputs
from benchmarks.precision_fused import PARTS, PartGraph, part_figures
from flowsr_export.graph.linf.network import LinfGraph
from flowsr_runtime import Window
from tests.flowsr_export.networks import small
from tests.stand_in import tensor


def run(graph: torch.nn.Module) -> np.ndarray:
    geometry = torch.from_numpy(Window.whole((12, 15), (31, 38)).geometry())
    with torch.inference_mode():
        return np.asarray(graph(tensor(12, 15), geometry))


def test_no_part_in_half_changes_nothing() -> None:
    graph = LinfGraph(small()).eval()
    np.testing.assert_allclose(run(PartGraph(graph, frozenset())), run(graph), atol=2e-5)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_in_half_changes_something_small(part: str) -> None:
    graph = LinfGraph(small()).eval()
    difference = np.abs(run(PartGraph(graph, frozenset({part}))) - run(graph))
    assert 1e-6 < difference.max() < 4e-3


def test_every_scale_has_its_figures() -> None:
    network = small()
    graph = PartGraph(LinfGraph(network).eval(), frozenset(PARTS)).eval()
    rows = list(part_figures(network, "all", graph, exact_outputs(network, 8)))
    assert [row.scale for row in rows] == ["2", "2.7", "4"]
    assert all(row.psnr > 30 and row.p999_steps <= row.max_steps for row in rows)
