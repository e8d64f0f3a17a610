"""Islands and parts can be switched one at a time, and tables hold what was measured."""

import numpy as np
import pytest
import torch

from benchmarks.precision import fused, linf, srflow
from benchmarks.precision.figures import Figures, exact_outputs, graph_figures, markdown
from flowsr_export.graph.linf.network import LinfGraph
from flowsr_runtime import Window
from tests.flowsr_export.networks import small, small_srflow
from tests.stand_in import tensor


def run(graph: torch.nn.Module) -> np.ndarray:
    geometry = torch.from_numpy(Window.whole((12, 15), (31, 38)).geometry())
    with torch.inference_mode():
        return np.asarray(graph(tensor(12, 15), geometry))


@pytest.mark.parametrize("island", linf.ISLANDS)
def test_an_island_in_its_own_type_changes_nothing(island: str) -> None:
    network = small()
    plain = run(LinfGraph(network, torch.float32).eval())
    switched = run(linf.IslandGraph(network, torch.float32, frozenset({island})).eval())
    tolerance = 1e-3 if island == "geometry" else 1e-5
    np.testing.assert_allclose(switched, plain, atol=tolerance)


@pytest.mark.parametrize("island", linf.ISLANDS)
def test_every_island_in_half_changes_something(island: str) -> None:
    network = small()
    plain = run(LinfGraph(network, torch.float16).eval())
    switched = run(linf.IslandGraph(network, torch.float16, frozenset({island})).eval())
    assert np.isfinite(switched).all()
    assert np.abs(switched - plain).max() > 0


def test_no_fused_part_in_half_changes_nothing() -> None:
    graph = LinfGraph(small()).eval()
    none = fused.PartGraph(graph, frozenset())
    np.testing.assert_allclose(run(none), run(graph), atol=2e-5)


@pytest.mark.parametrize("part", fused.PARTS)
def test_every_fused_part_in_half_changes_something_small(part: str) -> None:
    graph = LinfGraph(small()).eval()
    difference = np.abs(run(fused.PartGraph(graph, frozenset({part}))) - run(graph))
    assert 1e-6 < difference.max() < 4e-3


@pytest.mark.parametrize("fuse", [False, True])
def test_every_scale_has_its_figures(fuse: bool) -> None:
    network = small()
    graph: torch.nn.Module = LinfGraph(network, torch.float16).eval()
    if fuse:
        plain = LinfGraph(network).eval()
        graph = fused.PartGraph(plain, frozenset(fused.PARTS)).eval()
    rows = graph_figures(network, graph, exact_outputs(network, 8), "fp16", "all")
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


@pytest.fixture(scope="module")
def srflow_rows() -> dict[str, Figures]:
    return {row.island: row for row in srflow.island_figures(small_srflow(), 8)}


@pytest.mark.parametrize("part", list(srflow.PARTS)[1:])
def test_a_part_of_srflow_in_float16_changes_the_picture(
    part: str, srflow_rows: dict[str, Figures]
) -> None:
    assert srflow_rows[part].psnr != srflow_rows["none, as deployed"].psnr


def test_all_of_srflow_in_float16_is_worse_than_what_is_deployed(
    srflow_rows: dict[str, Figures],
) -> None:
    assert srflow_rows["all of them"].psnr < srflow_rows["none, as deployed"].psnr
