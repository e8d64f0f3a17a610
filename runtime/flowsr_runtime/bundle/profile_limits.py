"""The sizes that an engine's optimization profiles take."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Final, TypeAlias

from flowsr_runtime.bundle.engine_key import Profile
from flowsr_runtime.bundle.manifest import Latent
from flowsr_runtime.errors import BundleError
from flowsr_runtime.geometry import Extent, size_text

__all__ = ["AxisBounds", "ProfileLimits", "bounds_of"]

Interval: TypeAlias = tuple[int, int]
"""Smallest and largest value, both included."""

ANY: Final[Interval] = (0, 2**62)

# Index of each number of the row axis in `geometry`; that of the column axis follows.
_INDICES: Final = {"source": 0, "target": 2, "lr_begin": 4, "out_begin": 6, "out_size": 8}


@dataclass(frozen=True)
class AxisBounds:
    """Bounds that one profile puts on one axis of a run; the names are those of `Extent`.

    Attributes:
        lr_size: LR pixels of the tile.
        out_size: Output pixels of the window.
        source: LR pixels of the whole axis.
        target: Output pixels of the whole axis.
        lr_begin: First LR pixel of the tile.
        out_begin: First output pixel of the window.
    """

    lr_size: Interval
    out_size: Interval = ANY
    source: Interval = ANY
    target: Interval = ANY
    lr_begin: Interval = ANY
    out_begin: Interval = ANY

    def covers(self, extent: Extent) -> bool:
        """Return whether the axis of a run lies within the bounds."""
        bounds = {item.name: getattr(self, item.name) for item in fields(self)}
        return all(
            least <= getattr(extent, name) <= most for name, (least, most) in bounds.items()
        )


@dataclass(frozen=True)
class ProfileLimits:
    """The runs that a session takes, one image at a time: those of any of its profiles.

    Attributes:
        profiles: Bounds of rows and of columns, by profile.
        build: Facts about the engine to build for other sizes; see
            `FlowsrError.build`.
    """

    profiles: tuple[tuple[AxisBounds, AxisBounds], ...]
    build: Mapping[str, object] = field(default_factory=dict)

    def matching_profiles(self, axis: int, extents: Iterable[Extent]) -> frozenset[int]:
        """Return the profiles that take each piece of an axis.

        Args:
            axis: 0 for rows, 1 for columns.
            extents: Pieces of the axis.

        Returns:
            One bit mask for each piece, profile 0 the lowest bit; equal masks once. A profile
            takes a tile if the masks of its two pieces have a bit in common.
        """
        bounds = [profile[axis] for profile in self.profiles]
        return frozenset(
            sum(bound.covers(extent) << index for index, bound in enumerate(bounds))
            for extent in extents
        )

    def missing(
        self, source: tuple[int, int], target: tuple[int, int], budget: int
    ) -> BundleError:
        """Return the error of a picture that no profile takes, whole or in tiles.

        Args:
            source: LR size (h, w).
            target: Output size (H, W).
            budget: Bytes that one run may take.
        """
        rows, columns = (Fraction(*pair) for pair in zip(target, source, strict=True))
        facts = {"lr_size": source, "size": target, "scale": (rows, columns)}
        return BundleError(
            f"no engine takes {size_text(source)} to {size_text(target)}, whole or in tiles; "
            f"build an engine whose profile takes {size_text(source)}, or use backend "
            "onnxruntime",
            build={**self.build, **facts, "memory_budget": budget},
        )


def bounds_of(
    profile: Profile, latents: Sequence[Latent] = ()
) -> tuple[AxisBounds, AxisBounds] | None:
    """Return the bounds of a profile, None if it takes no single image.

    Args:
        profile: Ranges of `input`, and of `geometry` and latents if the graph has them.
        latents: Noise inputs; their grids bound the window.

    Returns:
        Bounds of rows and of columns; open for an engine without profiles.
    """
    rows_columns: list[AxisBounds] = []
    for axis in (0, 1):
        intervals = {"lr_size": ANY}
        if "input" in profile:
            shape = profile["input"]
            if not shape.min[0] <= 1 <= shape.max[0]:
                return None
            intervals["lr_size"] = (shape.min[2 + axis], shape.max[2 + axis])
        if "geometry" in profile:
            values = profile["geometry"]
            indices = {name: index + axis for name, index in _INDICES.items()}
            intervals |= {name: (values.min[i], values.max[i]) for name, i in indices.items()}
        for latent in latents:
            if latent.name in profile:
                grid = profile[latent.name]
                least = (grid.min[2 + axis] - 1) * latent.patch + 1
                most = grid.max[2 + axis] * latent.patch
                window = intervals.get("out_size", ANY)
                intervals["out_size"] = (max(window[0], least), min(window[1], most))
        rows_columns.append(AxisBounds(**intervals))
    return rows_columns[0], rows_columns[1]
