"""Tiled images of several scales: each tile's features once, and results of separate calls."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowsr_runtime import Bundle, Upscaler, embedded_bundle
from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession
from flowsr_runtime.backends.stages import Features, StageSessions
from flowsr_runtime.bundle.manifest import Memory
from flowsr_runtime.errors import MemoryBudgetError
from flowsr_runtime.geometry import Halo, output_size
from flowsr_runtime.tiling.planner import TilePlanner
from flowsr_runtime.tiling.shared_plan import shared_plans
from flowsr_runtime.upscaling import upscaler as upscaler_module
from flowsr_runtime.upscaling.shared_features import FeatureCache

SCALES: list[Any] = [2, (2.7, "3"), 4]
BUDGET = 40_000
CLOSE = 1e-5


class Kept:
    """Counts the features that sessions compute, and the most that a cache holds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = self.most = 0
        plain, features_of = OnnxRuntimeSession.features, FeatureCache.features_of

        def features(session: OnnxRuntimeSession, feeds: Any) -> Features:
            self.count += 1
            return plain(session, feeds)

        def kept(cache: FeatureCache, image: Any, compute: Any) -> Features:
            found = features_of(cache, image, compute)
            self.most = max(self.most, cache.held)
            return found

        monkeypatch.setattr(OnnxRuntimeSession, "features", features)
        monkeypatch.setattr(FeatureCache, "features_of", kept)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    return Kept(monkeypatch)


@pytest.fixture
def image(photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    """An image that needs tiles at every scale, (46, 62, 3) float32."""
    large: NDArray[np.float32] = np.tile(photo, (2, 2, 1)).astype(np.float32) / np.float32(255)
    return large


def test_tiles_of_all_scales_share_their_features(
    staged: Bundle, image: NDArray[np.float32], kept: Kept
) -> None:
    steps: list[tuple[int, int]] = []
    lines: list[str] = []
    with Upscaler.open(staged, halo="exact", memory_budget=BUDGET) as upscaler:
        separate = [upscaler.upscale(image, scale, clamp=False) for scale in SCALES]
        together = upscaler.upscale(
            image,
            scales=SCALES,
            clamp=False,
            warn=lines.append,
            progress=lambda *step: steps.append(step),
        )
    tiles = steps[-1][1] // len(SCALES)
    assert tiles > 1
    assert steps == [(i + 1, 3 * tiles) for i in range(3 * tiles)]
    assert (kept.count, lines) == (tiles, [])
    assert 0 < kept.most < image.nbytes / 2  # of one tile
    for one, other in zip(separate, together, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=CLOSE)


def test_scales_that_fit_stay_whole_beside_those_that_share_tiles(
    staged: Bundle, image: NDArray[np.float32], kept: Kept
) -> None:
    scales: list[Any] = [4, 1, 3]
    with Upscaler.open(staged, halo="exact", memory_budget=80_000) as upscaler:
        plans = [len(upscaler.plan(image.shape[:2], scale)) for scale in scales]
        assert [tiles > 1 for tiles in plans] == [True, False, True]
        together = upscaler.upscale(image, scales=scales)
        for scale, large in zip(scales, together, strict=True):
            np.testing.assert_allclose(
                large, upscaler.upscale(image, scale), rtol=0, atol=CLOSE
            )


def test_with_the_default_halo_tiles_are_those_of_separate_calls(
    staged: Bundle, image: NDArray[np.float32], kept: Kept
) -> None:
    lines: list[str] = []
    with Upscaler.open(staged, memory_budget=BUDGET) as upscaler:
        together = upscaler.upscale(image, scales=[2, 4], warn=lines.append)
        np.testing.assert_array_equal(together[1], upscaler.upscale(image, 4))
    assert kept.count == 0
    assert [line.startswith("scale 2, 4 needs tiles") for line in lines] == [True]


def test_a_scale_that_runs_out_of_memory_goes_on_with_smaller_tiles(
    staged: Bundle,
    image: NDArray[np.float32],
    kept: Kept,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    query, failures = StageSessions.query, [MemoryBudgetError("no memory")]

    def failing(stages: Any, features: Any, feeds: Any) -> Any:
        if failures and feeds["geometry"][2] == 4 * image.shape[0]:
            raise failures.pop()
        return query(stages, features, feeds)

    with Upscaler.open(staged, halo="exact", memory_budget=BUDGET) as upscaler:
        separate = [upscaler.upscale(image, scale) for scale in SCALES]
        monkeypatch.setattr(StageSessions, "query", failing)
        together = upscaler.upscale(image, scales=SCALES, warn=lines.append)
    assert len(lines) == 1
    assert "out of memory with tiles of" in lines[0]
    for one, other in zip(separate, together, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=CLOSE)


def test_where_no_tiles_fit_with_their_features_scales_run_one_by_one(
    staged: Bundle, image: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(upscaler_module, "shared_plans", lambda *_: None)
    with Upscaler.open(staged, halo="exact", memory_budget=BUDGET) as upscaler:
        together = upscaler.upscale(image, scales=[2, 4], warn=lines.append)
        np.testing.assert_array_equal(together[0], upscaler.upscale(image, 2))
    assert [line.startswith("scale 2, 4 needs tiles") for line in lines] == [True]


def test_the_built_in_model_gives_what_separate_calls_do(kept: Kept) -> None:
    rng = np.random.default_rng(3)
    coarse = rng.random((12, 40, 3), np.float32)
    image = coarse.repeat(4, axis=0).repeat(10, axis=1)
    scales = [3, 3.5, 4]
    steps: list[tuple[int, int]] = []
    options: dict[str, Any] = {"halo": "exact", "memory_budget": 110 << 20}
    with Upscaler.open(embedded_bundle(), **options) as upscaler:
        assert all(len(upscaler.plan(image.shape[:2], scale)) > 1 for scale in scales)
        together = upscaler.upscale(
            image, scales=scales, progress=lambda *step: steps.append(step)
        )
        for scale, large in zip(scales, together, strict=True):
            np.testing.assert_allclose(
                large, upscaler.upscale(image, scale), rtol=0, atol=CLOSE
            )
    assert kept.count == steps[-1][1] // len(scales) > 1


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.lists(st.sampled_from(["1", "1.5", "2", "2.7", "4", "8"]), min_size=2, max_size=4),
    st.integers(0, 40),
    st.integers(0, 20),
    st.integers(10_000, 3_000_000),
    st.sampled_from([(1.0, 0.0), (2.0, 1.0), (1.0, 10.0)]),
)
@settings(max_examples=100, deadline=None)
def test_shared_tiles_cover_every_output_and_read_the_same_pixels(
    source: tuple[int, int],
    scales: list[str],
    patches: int,
    pixels: int,
    budget: int,
    work: tuple[float, float],
) -> None:
    memory = Memory(1000, 12, 108)
    halo = Halo(3, 12, 3, patches, pixels)
    planners = [
        TilePlanner(
            source,
            (output_size(source[0], scale), output_size(source[1], scale)),
            halo=halo,
            memory=memory,
            fade=0,
        )
        for scale in scales
    ]
    try:
        plans = shared_plans(planners, budget, work)
    except MemoryBudgetError:  # not even separate tiles fit
        plans = None
    for planner, plan in zip(planners, plans or [], strict=bool(plans)):
        for axis, pieces in enumerate((plan.rows, plan.columns)):
            begins = [piece.begin for piece in pieces]
            assert begins == [0, *(piece.end for piece in pieces)][:-1]
            assert pieces[-1].end == planner.target[axis]
            for piece in pieces:
                extent = piece.extent
                due = type(extent).around(
                    piece.begin, piece.end, extent.source, extent.target, halo
                )
                assert extent.lr_begin <= due.lr_begin
                assert due.lr_end <= extent.lr_end
                assert extent.lr_begin % halo.lr_align == 0
        assert plan.run_bytes <= budget
    reads = {
        tuple((p.extent.lr_begin, p.extent.lr_end) for p in (*plan.rows, *plan.columns))
        for plan in plans or []
    }
    assert len(reads) == bool(plans)
