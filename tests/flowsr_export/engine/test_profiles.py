"""Profiles cover all requested sizes, and are as few as possible."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowsr_export.engine.build import SizeSpec, profiles_of
from flowsr_export.engine.profiles import (
    SPARE,
    compiled_profile,
    estimated_memory,
    explicit_profile,
    fewest_groups,
    profile_of,
    profiles_for,
)
from flowsr_export.inputs.run_sizes import RunSize, run_sizes_for, union
from flowsr_runtime.bundle.directory import Bundle, embedded_bundle
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.bundle.profile_limits import ProfileLimits, bounds_of
from flowsr_runtime.errors import BundleError, UsageError
from flowsr_runtime.geometry import MAX_SIDE, size_for
from flowsr_runtime.tiling.memory import ENGINE_MEMORY_BUDGET
from flowsr_runtime.tiling.planner import TilePlanner
from tests.flowsr_export.manifests import linf_manifest, srflow_manifest

ANY, FIXED, SRFLOW = linf_manifest(), linf_manifest("4"), srflow_manifest()
LATENT, SAMPLED = linf_manifest(latent=True), srflow_manifest(latents=True)
SIDES = st.integers(8, 200)
BUILD = {"bundle": "own", "flavour": "tensorrt", "precision": "fp16", "io": "float32"}
SIZES = st.tuples(SIDES, SIDES)
RUNS = st.builds(RunSize, SIZES, SIZES)
SCALES = st.sampled_from(["1", "1.3", "2", "2.7", "4"])
BUDGETS = st.integers(1_500_000, 20_000_000)


def partings(runs: list[RunSize]) -> Iterator[list[list[RunSize]]]:
    """Every way to part runs into groups."""
    if not runs:
        yield []
        return
    for rest in partings(runs[1:]):
        yield [[runs[0]], *rest]
        for i, group in enumerate(rest):
            yield [*rest[:i], [runs[0], *group], *rest[i + 1 :]]


@settings(deadline=None, max_examples=60)
@given(st.lists(SIZES, min_size=1, max_size=4), st.lists(SCALES, max_size=2), BUDGETS)
def test_every_whole_picture_and_every_tile_lies_in_a_profile(
    pictures: list[tuple[int, int]], scales: list[str], budget: int
) -> None:
    runs = run_sizes_for(ANY, pictures=pictures, scales=scales, budget=budget)
    profiles = profiles_for(ANY, runs)
    for lr in pictures:
        for scale in scales or ["4"]:
            out = size_for(lr, scale=scale, size=None)
            halo = ANY.tiling.halo
            cutter = TilePlanner(lr, out, halo=halo, memory=ANY.memory, fade=12)
            for tile in cutter.plan(budget).tiles():
                h, w = tile.window.rows.lr_size, tile.window.columns.lr_size
                geometry = [int(n) for n in tile.window.geometry()]
                assert any(
                    profile["input"].covers((1, 3, h, w))
                    and profile["geometry"].covers(geometry)
                    for profile in profiles
                )


@settings(deadline=None)
@given(st.lists(RUNS, min_size=1, max_size=6))
def test_no_parting_has_fewer_groups(runs: list[RunSize]) -> None:
    groups = fewest_groups(ANY, runs)
    limit = SPARE * max(run.memory(ANY) for run in runs)
    fewest = min(
        len(parting)
        for parting in partings(list(dict.fromkeys(runs)))
        if all(union(group).memory(ANY) <= limit for group in parting)
    )
    assert len(groups) == fewest
    assert all(union(group).memory(ANY) <= limit for group in groups)
    assert sorted(r for group in groups for r in map(str, group)) == sorted(
        map(str, dict.fromkeys(runs))
    )


def test_tall_and_wide_pictures_need_a_profile_each() -> None:
    runs = run_sizes_for(ANY, pictures=[(480, 270), (270, 480)], budget=10**12)
    assert [profile["input"].max[2:] for profile in profiles_for(ANY, runs)] == [
        (270, 480),
        (480, 270),
    ]


def test_small_pictures_share_the_profile_of_a_large_one() -> None:
    runs = run_sizes_for(ANY, pictures=[(64, 64), (270, 480), (100, 30)], budget=10**12)
    (profile,) = profiles_for(ANY, runs)
    (exact,) = profiles_for(ANY, runs, exact=True)
    assert (profile["input"].min, exact["input"].min) == ((1, 3, 16, 16), (1, 3, 64, 30))
    assert profile["input"].opt == profile["input"].max == (1, 3, 270, 480)


def test_the_first_profile_is_the_cheapest() -> None:
    runs = run_sizes_for(ANY, pictures=[(600, 40), (40, 500)], budget=10**12)
    first, second = profiles_for(ANY, runs)
    assert estimated_memory(ANY, first) < estimated_memory(ANY, second)


def test_a_profile_serves_tiles_of_larger_pictures() -> None:
    profile = profile_of(ANY, [RunSize((64, 64), (256, 256))])
    values = [5000, 5000, 20_000, 20_000, 4000, 4002, 16_000, 16_008, 256, 256]
    assert profile["geometry"].covers(values)
    assert profile["geometry"].opt == (64, 64, 256, 256, 0, 0, 0, 0, 256, 256)


def test_a_fixed_scale_has_the_input_alone() -> None:
    profile = profile_of(FIXED, [RunSize((8, 8), (32, 32)), RunSize((64, 48), (256, 192))])
    assert set(profile) == {"input"}
    assert profile["input"].max == (1, 3, 64, 48)


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        (LATENT, {"latent": (1, 27, 27, 43)}),
        (SAMPLED, {"latent0": (1, 6, 40, 64), "latent1": (1, 96, 10, 16)}),
    ],
)
def test_latents_have_the_grid_of_the_window(
    manifest: Manifest, expected: dict[str, tuple[int, ...]]
) -> None:
    profile = profile_of(manifest, [RunSize((20, 32), (80, 128))])
    assert {name: profile[name].max for name in expected} == expected


@pytest.mark.parametrize("manifest", [ANY, FIXED, SRFLOW, SAMPLED])
def test_the_estimate_is_that_of_the_longest_sides(manifest: Manifest) -> None:
    runs = [RunSize((16, 48), (64, 192)), RunSize((48, 16), (192, 64))]
    profile = profile_of(manifest, runs)
    assert estimated_memory(manifest, profile) == union(runs).memory(manifest)


def test_inductor_compiles_a_range_from_two_cells_of_the_prior() -> None:
    manifest = linf_manifest()
    (wide,) = profiles_of(manifest, SizeSpec(((40, 40),), scales=(Fraction(2),)))
    compiled = compiled_profile(manifest, wide)
    least = 2 * manifest.tiling.halo.align
    assert least > wide["geometry"].min[8]
    assert compiled["geometry"].min[8:] == (least, least)
    assert compiled["input"] == wide["input"]


def test_inductor_compiles_each_exact_size_for_itself() -> None:
    manifest = linf_manifest()
    sizes = SizeSpec(((40, 40), (44, 40)), scales=(Fraction(2),), exact=True)
    apart = profiles_of(manifest, sizes, apart=True)
    assert len(profiles_of(manifest, sizes)) < len(apart)
    assert [profile["input"].opt[2:] for profile in apart] == [(40, 40), (44, 40)]
    assert [compiled_profile(manifest, profile) for profile in apart] == apart


def test_inductor_compiles_a_range_of_one_scale_from_two_cells_of_the_prior() -> None:
    manifest = srflow_manifest()
    (wide, *_) = profiles_of(manifest, SizeSpec(((40, 48),)))
    compiled = compiled_profile(manifest, wide)
    assert manifest.scale is not None
    side = int(2 * manifest.tiling.halo.align / manifest.scale)
    assert wide["input"].min[2:] == (16, 16)
    assert compiled["input"].min[2:] == (min(side, 40), min(side, 48))
    assert (compiled["input"].opt, compiled["input"].max) == (
        wide["input"].opt,
        wide["input"].max,
    )


def test_an_explicit_profile_is_kept_as_it_is() -> None:
    values = (64, 64, 256, 256, 0, 0, 0, 0, 256, 256)
    shapes = {"input": (1, 3, 64, 64), "geometry": values}
    profile = explicit_profile(ANY, (shapes, shapes, shapes))
    assert profile["geometry"].min == profile["geometry"].max == values


def test_what_is_left_out_of_an_explicit_profile_follows_from_the_scales() -> None:
    low, best, high = ({"input": (2, 3, n, n)} for n in (8, 64, 100))
    profile = explicit_profile(LATENT, (low, best, high), ["1.5", "3"])
    assert profile["geometry"].min == (1,) * 4 + (0,) * 4 + (12, 12)
    assert profile["geometry"].opt == (64, 64, 192, 192, 0, 0, 0, 0, 192, 192)
    assert profile["geometry"].max == (MAX_SIDE,) * 8 + (300, 300)
    assert profile["latent"].max == (2, 27, 100, 100)
    assert estimated_memory(LATENT, profile) == 2 * RunSize((100, 100), (300, 300)).memory(
        LATENT
    )


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ({"input": (1, 3, 8, 8)}, {"picture": (1, 3, 8, 8)}, "got input and picture"),
        ({"input": (1, 3, 8)}, {"input": (1, 3, 8, 8)}, "got 1x3x8"),
        ({"input": (1, 3, 0, 8)}, {"input": (1, 3, 8, 8)}, "got 1x3x0x8"),
        ({"input": (1, 3, 9, 8)}, {"input": (1, 3, 8, 8)}, r"got \(1, 3, 9, 8\)"),
    ],
)
def test_a_wrong_explicit_profile_is_refused(
    low: dict[str, tuple[int, ...]], high: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        explicit_profile(ANY, (low, {"input": (1, 3, 8, 8)}, high))


def test_an_input_that_the_graph_lacks_is_refused() -> None:
    shapes = {"input": (1, 3, 8, 8), "latent": (1, 27, 3, 3)}
    with pytest.raises(UsageError, match="got input, latent"):
        explicit_profile(ANY, (shapes, shapes, shapes))


# Low-resolution sizes (h, w), from an icon to 1080p.
COMMON = [(64, 64), (96, 96), (128, 128), (120, 160), (256, 256), (180, 320), (240, 320)]
COMMON += [(270, 480), (512, 512), (360, 640), (480, 640), (1024, 1024), (720, 1280)]
COMMON += [(1080, 1920)]


def taken(manifest: Manifest, sizes: SizeSpec) -> list[tuple[tuple[int, int], str]]:
    """Return the common sizes and scales that the runtime's planner finds tiles for."""
    bounds = [bounds_of(profile, manifest.latents) for profile in profiles_of(manifest, sizes)]
    limits = ProfileLimits(tuple(pair for pair in bounds if pair is not None), BUILD)
    found = []
    for lr in COMMON:
        for scale in ("2", "4"):
            planner = TilePlanner(
                lr,
                size_for(lr, scale=scale, size=None),
                halo=manifest.tiling.halo,
                memory=manifest.memory,
                fade=manifest.tiling.halo.align,
                limits=limits,
            )
            with suppress(BundleError):
                planner.plan(ENGINE_MEMORY_BUDGET)
                found.append((lr, scale))
    return found


def test_the_engine_of_the_readme_takes_nearly_every_size_and_scale() -> None:
    manifest = Bundle.open(embedded_bundle()).manifest
    sizes = SizeSpec(outputs=((1080, 1920),), scales=("4",))
    assert len(taken(manifest, sizes)) >= 27
    assert taken(manifest, replace(sizes, exact=True)) == [((270, 480), "4")]


def test_a_1080p_result_is_one_run_by_default() -> None:
    manifest = Bundle.open(embedded_bundle()).manifest
    (profile,) = profiles_of(manifest, SizeSpec(outputs=((1080, 1920),)))
    assert profile["input"].opt == profile["input"].max == (1, 3, 270, 480)
    assert profile["input"].min == (1, 3, 16, 16)
    assert estimated_memory(manifest, profile) < 24 * 2**30 / 2


@pytest.mark.parametrize("manifest", [FIXED, SRFLOW, LATENT, SAMPLED])
def test_every_family_takes_pictures_up_to_the_size(manifest: Manifest) -> None:
    (profile,) = profiles_of(manifest, SizeSpec(outputs=((256, 320),), scales=("4",)))
    assert profile["input"].min == (1, 3, 16, 16)
    assert profile["input"].max == (1, 3, 64, 80)
