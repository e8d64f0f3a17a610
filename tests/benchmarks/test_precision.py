"""The islands can be switched one at a time, and the tables hold what was measured."""

import numpy as np
import pytest
import torch

from benchmarks.precision import (
    ISLANDS,
    Figures,
    IslandGraph,
    exact_outputs,
    figures,
    markdown,
)
from flowsr_export.deployment.families import deployment_of
from flowsr_export.graph.linf.network import LinfGraph
from flowsr_export.inputs.cases import Case
from tests.flowsr_export.networks import small

CASE = Case((12, 15), (31, 38))


def run(graph: torch.nn.Module) -> np.ndarray:
    feeds = deployment_of(small()).feeds(CASE, None)
    with torch.inference_mode():
        inputs = (torch.from_numpy(feeds[name]) for name in ("input", "geometry"))
        return np.asarray(graph(*inputs))


@pytest.mark.parametrize("island", ISLANDS)
def test_an_island_in_its_own_type_changes_nothing(island: str) -> None:
    network = small()
    plain = run(LinfGraph(network, torch.float32).eval())
    switched = run(IslandGraph(network, torch.float32, frozenset({island})).eval())
    tolerance = 1e-3 if island == "geometry" else 1e-5
    np.testing.assert_allclose(switched, plain, atol=tolerance)


@pytest.mark.parametrize("island", ISLANDS)
def test_every_island_in_half_changes_something(island: str) -> None:
    network = small()
    plain = run(LinfGraph(network, torch.float16).eval())
    switched = run(IslandGraph(network, torch.float16, frozenset({island})).eval())
    assert np.isfinite(switched).all()
    assert np.abs(switched - plain).max() > 0


def test_every_scale_has_its_figures() -> None:
    network = small()
    rows = list(figures(network, "fp16", frozenset(), "none", exact_outputs(network, 8)))
    assert [row.scale for row in rows] == ["2", "2.7", "4"]
    assert all(row.psnr > 30 and row.p999_steps <= row.max_steps for row in rows)


def test_the_table_has_a_row_for_each_island() -> None:
    rows = [
        Figures("fp16", island, scale, 51.25, 0.5, 1.25)
        for island in ("none", "flow")
        for scale in ("2", "2.7", "4")
    ]
    lines = markdown(rows, "also in float16").splitlines()
    assert lines[0] == "| also in float16 | ×2 | ×2.7 | ×4 |"
    assert lines[3].startswith("| flow | 51.2 dB, 0.50, 1.2 |")
    assert markdown(rows[:3], "precision").splitlines()[2].startswith("| fp16 |")
