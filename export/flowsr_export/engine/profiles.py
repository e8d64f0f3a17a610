"""Optimization profiles: the fewest that cover all requested sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from flowsr_export.inputs.run_sizes import (
    LEAST_SIDE,
    RunSize,
    Scale,
    intersection,
    padded_run_size,
    scales_of,
    union,
)
from flowsr_runtime.bundle.engine_store import Profile, Range
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.errors import UsageError
from flowsr_runtime.geometry import MAX_SIDE, output_size, size_for

__all__ = [
    "Shapes",
    "compiled_profile",
    "estimated_memory",
    "explicit_profile",
    "fewest_groups",
    "profile_of",
    "profiles_for",
]

Shapes = Mapping[str, tuple[int, ...]]

# A profile needs the memory of its longest sides combined. Runs share a profile while that
# is at most this multiple of the memory of the largest run.
SPARE = 1.25
RANKS = {"input": 4, "geometry": 10}
LATENT_RANK = 4
WINDOW = slice(8, 10)  # size of the window in `geometry`


def profiles_for(
    manifest: Manifest, runs: Sequence[RunSize], *, exact: bool = False
) -> list[Profile]:
    """Choose the fewest profiles that cover every run.

    Args:
        manifest: Manifest of the bundle.
        runs: Sizes of all runs of the graph, at least one.
        exact: Begin at the smallest run, instead of at `LEAST_SIDE` pixels a side.

    Returns:
        Profiles in the order of their memory: the first one that covers a shape is the
        cheapest.
    """
    groups = fewest_groups(manifest, runs)
    groups.sort(key=lambda group: union(group).memory(manifest))
    if not exact:
        groups = [[*group, _least(manifest, group)] for group in groups]
    return [profile_of(manifest, group) for group in groups]


def fewest_groups(manifest: Manifest, runs: Sequence[RunSize]) -> list[list[RunSize]]:
    """Partition runs into the fewest groups that need little more memory than one run.

    Args:
        manifest: Manifest with the memory estimate.
        runs: At least one run.

    Returns:
        Groups that contain every run once.
    """
    limit = SPARE * max(run.memory(manifest) for run in runs)

    def fit(group: Sequence[RunSize]) -> bool:
        return union(group).memory(manifest) <= limit

    distinct = list(dict.fromkeys(runs))
    # A run within another one adds no memory to its group.
    inside = {run for run in distinct if any(run.within(o) for o in distinct if o != run)}
    outer = sorted((run for run in distinct if run not in inside), key=lambda r: (r.lr, r.out))
    apart: list[RunSize] = []  # no two of these fit into one group
    for run in outer:
        if not any(fit([run, other]) for other in apart):
            apart.append(run)
    count = len(apart)
    while (groups := _partition(outer, count, fit)) is None:
        count += 1
    for run in (run for run in distinct if run in inside):
        homes = [group for group in groups if run.within(union(group))]
        min(homes, key=lambda group: union(group).memory(manifest)).append(run)
    return groups


def profile_of(
    manifest: Manifest, runs: Sequence[RunSize], best: RunSize | None = None
) -> Profile:
    """Return the profile that covers some runs.

    The position of tile and window in the image, and the image size, affect no shape inside
    the graph. Their range is unlimited, so the profile also covers tiles of larger images.

    Args:
        manifest: Manifest of the bundle.
        runs: At least one run.
        best: Run to optimize for, None for the largest one.

    Returns:
        Shapes of `input` and of every latent, values of `geometry`.
    """
    best = best or max(runs, key=lambda run: run.memory(manifest))
    low, high = intersection(runs).feeds(manifest), union(runs).feeds(manifest)
    return _ranges(_anywhere(low, 1, 0), best.feeds(manifest), _anywhere(high, MAX_SIDE))


def explicit_profile(
    manifest: Manifest, bounds: tuple[Shapes, Shapes, Shapes], scales: Sequence[Scale] = ()
) -> Profile:
    """Return a profile from explicit shapes; `geometry` and latents are optional.

    Args:
        manifest: Manifest of the bundle.
        bounds: Minimum, optimal and maximum shapes by input; values for `geometry`.
        scales: Scales that bound the window if `geometry` is left out; by default the
            model's own, or 4.

    Returns:
        The profile.

    Raises:
        UsageError: If an input is unknown or missing, has a wrong number of sizes, or if the
            bounds are not in order.
    """
    names = set(bounds[1])
    for given in bounds:
        _check(manifest, given, names)
    exact = scales_of(manifest, scales)
    ends = [
        tuple(choose(pair[axis] for pair in exact) for axis in (0, 1))
        for choose in (min, max, max)
    ]
    low, best, high = (
        _completed(manifest, given, (scale[0], scale[1]))
        for given, scale in zip(bounds, ends, strict=True)
    )
    if "geometry" not in names:
        low, high = _anywhere(low, 1, 0), _anywhere(high, MAX_SIDE)
    return _ranges(low, best, high)


def compiled_profile(manifest: Manifest, profile: Profile) -> Profile:
    """Return a profile as Inductor compiles it.

    Args:
        manifest: Manifest of the bundle.
        profile: Ranges by input.

    Returns:
        The profile; of a range of windows the smallest is two cells of the prior's deepest
        level, because code for one cell differs.
    """
    bounds, images = profile.get("geometry"), profile["input"]
    fixed_window = bounds is None or bounds.min[WINDOW] == bounds.max[WINDOW]
    if images.min == images.max and fixed_window:
        return profile
    least = 2 * manifest.tiling.halo.align
    if manifest.scale is None:
        assert bounds is not None
        window = (max(side, least) for side in bounds.min[WINDOW])
        low = bounds.min[: WINDOW.start] + tuple(map(min, window, bounds.opt[WINDOW]))
        return {**profile, "geometry": Range(low, bounds.opt, bounds.max)}
    return _from_cells(manifest, profile, least)


def _from_cells(manifest: Manifest, profile: Profile, least: int) -> Profile:
    """Return a range of a model of one scale from windows of `least` pixels a side up."""
    scale, images = manifest.scale, profile["input"]
    assert scale is not None
    multiple = manifest.multiple
    side = -(-math.ceil(least / scale) // multiple) * multiple
    h, w = (
        min(max(low, side), usual)
        for low, usual in zip(images.min[2:], images.opt[2:], strict=True)
    )
    window = output_size(h, scale), output_size(w, scale)
    ranges = {"input": Range((*images.min[:2], h, w), images.opt, images.max)}
    if "geometry" in profile:
        bounds = profile["geometry"]
        low = (*bounds.min[: WINDOW.start], *window)
        ranges["geometry"] = Range(low, bounds.opt, bounds.max)
    for latent in manifest.latents:
        bounds = profile[latent.name]
        low = (*bounds.min[:2], *latent.grid(window))
        ranges[latent.name] = Range(low, bounds.opt, bounds.max)
    return ranges


def estimated_memory(manifest: Manifest, profile: Profile) -> int:
    """Estimate the activation memory of a profile.

    Args:
        manifest: Manifest with the memory estimate.
        profile: Profile; its maximum shapes count.

    Returns:
        Bytes.
    """
    batch, _, h, w = profile["input"].max
    if "geometry" in profile:
        out_h, out_w = profile["geometry"].max[WINDOW]
    else:
        out_h, out_w = size_for((h, w), scale=manifest.scale, size=None)
    return batch * RunSize((h, w), (out_h, out_w)).memory(manifest)


def _least(manifest: Manifest, group: Sequence[RunSize]) -> RunSize:
    """Return the smallest run from which a profile that covers some runs begins."""
    lr = tuple(min(LEAST_SIDE, side) for side in intersection(group).lr)
    out = tuple(min(LEAST_SIDE, side) for side in intersection(group).out)
    if manifest.scale is not None:
        return padded_run_size(manifest, (lr[0], lr[1]), (out[0], out[1]))
    return RunSize((lr[0], lr[1]), (out[0], out[1]))


def _partition(
    runs: Sequence[RunSize], count: int, fit: Callable[[Sequence[RunSize]], bool]
) -> list[list[RunSize]] | None:
    """Partition runs into at most `count` groups that fit; None if that is impossible."""
    groups: list[list[RunSize]] = []

    def place(index: int) -> bool:
        if index == len(runs):
            return True
        for group in groups:
            if fit([*group, runs[index]]):
                group.append(runs[index])
                if place(index + 1):
                    return True
                group.pop()
        if len(groups) < count:
            groups.append([runs[index]])
            if place(index + 1):
                return True
            groups.pop()
        return False

    return groups if place(0) else None


def _check(manifest: Manifest, given: Shapes, names: set[str]) -> None:
    inputs = ", ".join(sorted(manifest.inputs))
    if "input" not in names or not names <= manifest.inputs:
        given_names = ", ".join(sorted(names))
        raise UsageError(f"shapes must be of {inputs}, including input, got {given_names}")
    if set(given) != names:
        both = f"{', '.join(sorted(names))} and {', '.join(sorted(given)) or 'none'}"
        raise UsageError(f"all bounds of a profile must be of the same inputs, got {both}")
    for name, numbers in given.items():
        rank = RANKS.get(name, LATENT_RANK)
        if len(numbers) != rank or min(numbers) < (0 if name == "geometry" else 1):
            text = "x".join(map(str, numbers))
            raise UsageError(f"{name} must have {rank} positive numbers, got {text}")


def _completed(manifest: Manifest, given: Shapes, scale: tuple[Fraction, Fraction]) -> Shapes:
    """Add the inputs that follow from the input size and the window or scale."""
    batch, _, h, w = given["input"]
    if "geometry" in given:
        out = (given["geometry"][8], given["geometry"][9])
    else:
        out = size_for((h, w), scale=scale, size=None)
    feeds = RunSize((h, w), out).feeds(manifest)
    full = {
        name: numbers if name == "geometry" else (batch, *numbers[1:])
        for name, numbers in feeds.items()
    }
    return {**full, **given}


def _anywhere(feeds: Shapes, side: int, origin: int | None = None) -> Shapes:
    """Set the image sides and the origins, which affect no shape."""
    if "geometry" not in feeds:
        return feeds
    origins = (side if origin is None else origin,) * 4
    return {**feeds, "geometry": (side,) * 4 + origins + feeds["geometry"][WINDOW]}


def _ranges(low: Shapes, best: Shapes, high: Shapes) -> Profile:
    try:
        return {name: Range(low[name], numbers, high[name]) for name, numbers in best.items()}
    except UsageError as error:
        raise UsageError(f"shapes do not fit together: {error}") from error
