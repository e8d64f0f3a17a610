"""The sizes that an engine's optimization profiles take."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Final, TypeAlias

from flowsr_runtime.bundle.engine_key import Profile
from flowsr_runtime.bundle.manifest import Latent
from flowsr_runtime.errors import BundleError
from flowsr_runtime.geometry import Extent, size_text

__all__ = ["Bounds", "ProfileLimits", "bounds_of"]

BoundsPair: TypeAlias = tuple[int, int]
"""Least and most, both included."""

ANY: Final[BoundsPair] = (0, 2**62)

# Where each number of an axis lies in `geometry`; the columns' follow the rows'.
_PLACES: Final = {"source": 0, "target": 2, "lr_begin": 4, "out_begin": 6, "out_size": 8}


@dataclass(frozen=True)
class Bounds:
    """What one axis of a run may be in one profile; each is named as in `Extent`.

    Attributes:
        lr_size: LR pixels of the tile.
        out_size: Output pixels of the window.
        source: LR pixels of the whole axis.
        target: Output pixels of the whole axis.
        lr_begin: First LR pixel of the tile.
        out_begin: First output pixel of the window.
    """

    lr_size: BoundsPair
    out_size: BoundsPair = ANY
    source: BoundsPair = ANY
    target: BoundsPair = ANY
    lr_begin: BoundsPair = ANY
    out_begin: BoundsPair = ANY

    def covers(self, extent: Extent) -> bool:
        """Return whether the axis of a run lies inside."""
        for item in fields(self):
            least, most = getattr(self, item.name)
            if not least <= getattr(extent, item.name) <= most:
                return False
        return True


@dataclass(frozen=True)
class ProfileLimits:
    """The runs that a session takes, one picture at a time: those of any of its profiles.

    Attributes:
        profiles: Bounds of rows and of columns, by profile.
        build: Facts about the engine to build where none of them takes a size; see
            `FlowsrError.build`.
    """

    profiles: tuple[tuple[Bounds, Bounds], ...]
    build: Mapping[str, object] = field(default_factory=dict)

    def takers(self, axis: int, extents: Iterable[Extent]) -> frozenset[int]:
        """Return which profiles take the pieces of an axis.

        Args:
            axis: 0 for rows, 1 for columns.
            extents: Its pieces.

        Returns:
            A set of bits for each piece, profile 0 the lowest; equal ones once. Two pieces
            make a tile that is taken if they have a bit in common.
        """
        bounds = [profile[axis] for profile in self.profiles]
        return frozenset(
            sum(each.covers(extent) << index for index, each in enumerate(bounds))
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
        facts = {
            "lr_size": source,
            "size": target,
            "scale": (rows, columns),
            "memory_budget": budget,
        }
        return BundleError(
            f"no engine takes {size_text(source)} to {size_text(target)}, whole or in tiles; "
            f"build an engine whose profile takes {size_text(source)}",
            build={**self.build, **facts},
        )


def bounds_of(profile: Profile, latents: Sequence[Latent] = ()) -> tuple[Bounds, Bounds] | None:
    """Return what a profile takes, None if it takes no single picture.

    Args:
        profile: Ranges of `input`, and of `geometry` and latents where the graph has them.
        latents: Inputs of noise; their grids bound the window.

    Returns:
        Bounds of rows and of columns; those of an engine without profiles are open.
    """
    rows_columns: list[Bounds] = []
    for axis in (0, 1):
        spans = {"lr_size": ANY}
        if "input" in profile:
            each = profile["input"]
            if not each.min[0] <= 1 <= each.max[0]:
                return None
            spans["lr_size"] = (each.min[2 + axis], each.max[2 + axis])
        if "geometry" in profile:
            each = profile["geometry"]
            places = {name: place + axis for name, place in _PLACES.items()}
            spans |= {name: (each.min[i], each.max[i]) for name, i in places.items()}
        for latent in latents:
            if latent.name in profile:
                each = profile[latent.name]
                cells = (each.min[2 + axis], each.max[2 + axis])
                windows = ((cells[0] - 1) * latent.patch + 1, cells[1] * latent.patch)
                had = spans.get("out_size", ANY)
                spans["out_size"] = (max(had[0], windows[0]), min(had[1], windows[1]))
        rows_columns.append(Bounds(**spans))
    return rows_columns[0], rows_columns[1]
