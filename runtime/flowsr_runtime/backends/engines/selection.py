"""The engines of a bundle that a device loads, and the choice among them for each run."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.bundle.engine_store import (
    Difference,
    EngineEntry,
    EngineStore,
    LoadTarget,
    Profile,
    Range,
)
from flowsr_runtime.bundle.profile_limits import ProfileLimits, bounds_of
from flowsr_runtime.cuda.dlpack import is_device_array
from flowsr_runtime.errors import BundleError

__all__ = ["EngineSelection"]


class EngineSelection:
    """The engines of a bundle for one library, device and precision.

    Attributes:
        entries: The engines that the device loads, those of one size first.
    """

    def __init__(self, bundle: Bundle, target: LoadTarget, facts: Mapping[str, str]) -> None:
        """Find the engines.

        Args:
            bundle: Bundle with an engine of the model for the device.
            target: Model, library and device.
            facts: Further facts about an engine to build; see `FlowsrError.build`.

        Raises:
            BundleError: If the bundle has no engine for the target.
            IntegrityError: If a description is damaged.
        """
        self._bundle, self._target, self._facts = bundle, target, facts
        self.store = EngineStore(bundle.path)
        # An engine of one size is the fastest for it.
        self.entries = sorted(self._matching(), key=lambda entry: not _is_of_one_size(entry))

    @property
    def limits(self) -> ProfileLimits:
        """The sizes that the engines take."""
        latents = self._bundle.manifest.latents
        profiles = [item for entry in self.entries for item in entry.key.profiles or ({},)]
        bounds = (bounds_of(profile, latents) for profile in profiles)
        return ProfileLimits(tuple(pair for pair in bounds if pair is not None), self._build())

    @property
    def hashes(self) -> list[str]:
        """SHA-256 of the engines."""
        return [entry.sha256 for entry in self.entries]

    def choose(self, feeds: Mapping[str, Any]) -> tuple[EngineEntry, int]:
        """Return the first engine with a profile for these inputs, and the profile's index.

        Args:
            feeds: The graph's inputs by name, on the host or the device; inputs that decide
                shapes are on the host.

        Raises:
            BundleError: If no engine has such a profile.
        """
        sizes = {name: _sizes(value) for name, value in feeds.items()}
        for entry in self.entries:
            for index, profile in enumerate(entry.key.profiles or ({},)):
                if not _outside(profile, sizes):
                    return entry, index
        raise self._miss(sizes)

    def _matching(self) -> list[EngineEntry]:
        target = self._target
        engines = self.store.matching(target)
        if not engines:
            reasons = _summary(self.store.explain_mismatch(target))
            place = target.compute_capability
            if target.gpu_name is not None:
                place = f"{target.gpu_name} ({place})"
            name = self._bundle.model_name(target.precision)
            raise BundleError(
                f"{self._bundle.path} has no engine of {name} for {target.flavour} "
                f"{target.version} on {place}: {reasons}; build an engine for this device",
                build=self._build(),
            )
        return engines

    def _miss(self, sizes: Mapping[str, tuple[int, ...]]) -> BundleError:
        profiles = [(entry, item) for entry in self.entries for item in entry.key.profiles]
        entry, profile = min(profiles, key=lambda pair: len(_outside(pair[1], sizes)))
        wrong = "; ".join(
            f"{name} is {_text(sizes[name])}, it takes {_text(item.min)} to {_text(item.max)}"
            for name, item in _outside(profile, sizes).items()
        )
        return BundleError(
            f"no engine takes these sizes; nearest is {entry.name}: {wrong}; build an engine "
            "whose profile takes them",
            build=self._build(profile, sizes),
        )

    def _build(
        self, profile: Profile | None = None, sizes: Mapping[str, tuple[int, ...]] | None = None
    ) -> dict[str, object]:
        """Return the facts about the missing engine; see `FlowsrError.build`."""
        facts: dict[str, object] = {
            "bundle": str(self._bundle.path),
            "flavour": self._target.flavour,
            "precision": self._target.precision,
            "io": self._bundle.manifest.io,
            **self._facts,
        }
        if profile is not None and sizes is not None and "input" in profile:
            shape, nearest = sizes["input"], profile["input"]
            facts["shapes"] = {
                "min": tuple(map(min, nearest.min, shape)),
                "opt": shape,
                "max": tuple(map(max, nearest.max, shape)),
            }
            if "geometry" in sizes:
                height, width, *target = sizes["geometry"][:4]
                facts["scale"] = Fraction(target[0], height), Fraction(target[1], width)
        return facts


def _is_of_one_size(entry: EngineEntry) -> bool:
    """Return whether no profile of an engine takes a range of sizes."""
    inputs = [profile.get("input") for profile in entry.key.profiles]
    return all(item is not None and item.min == item.max for item in inputs)


def _sizes(value: Any) -> tuple[int, ...]:
    """Return the sizes that a profile bounds: a shape, or the values of a shape tensor."""
    if is_device_array(value):
        interface = getattr(value, "__cuda_array_interface__", None)
        shape = value.shape if interface is None else interface["shape"]
        return tuple(int(size) for size in shape)
    array = np.asarray(value)
    decides_shapes = array.ndim <= 1 and np.issubdtype(array.dtype, np.integer)
    return tuple(map(int, array.ravel() if decides_shapes else array.shape))


def _outside(profile: Profile, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, Range]:
    """Return the ranges of a profile that do not cover their input."""
    return {
        name: item
        for name, item in profile.items()
        if name in sizes and not item.covers(sizes[name])
    }


def _summary(differences: Sequence[Difference]) -> str:
    """Return the differences of the nearest engine, and the number of others."""
    if not differences:
        return "it holds no engine at all"
    nearest = differences[0].name
    reasons = [item for item in differences if item.name == nearest]
    others = len({item.name for item in differences}) - 1
    more = f" (and {others} others)" if others else ""
    fields = ", ".join(
        f"{item.field} is {item.found[:40]}, wanted {item.wanted[:40]}" for item in reasons
    )
    return f"{nearest}: {fields}{more}"


def _text(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
