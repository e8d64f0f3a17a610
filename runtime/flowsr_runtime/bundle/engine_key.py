"""The key of an engine: everything that decides whether a plan may be used again."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from flowsr_runtime.errors import UsageError

__all__ = ["FLAVOURS", "EngineKey", "Option", "Profile", "Range", "canonical"]

FLAVOURS: Final = ("tensorrt", "tensorrt_rtx")
"""Libraries whose plans are kept; each loads its own plans only."""

Option: TypeAlias = str | int | bool

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_CAPABILITY: Final = re.compile(r"[1-9]\d?\.\d")
_TEXT: Final = re.compile(r".+")
_PRECISION: Final = re.compile(r"[a-z0-9]{1,16}")
_PORTABLE_FROM: Final = (8, 0)
"""Lowest compute capability of a portable engine."""

_NOT_IN_RTX: Final = frozenset({"9.0"})
"""Above that, and not a GPU of TensorRT for RTX: H100 and H200."""

_MOST_SHAPES: Final = 40
"""Characters of shapes in a file name; the digest behind them tells the rest apart."""


@dataclass(frozen=True)
class Range:
    """What one input may be in one profile.

    Attributes:
        min: Smallest shape, or for an int64 shape tensor its smallest values.
        opt: The shape or values that the engine is tuned for.
        max: Largest shape or values.
    """

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("min", "opt", "max"):
            object.__setattr__(self, name, _whole_numbers(name, getattr(self, name)))
        ordered = all(
            least <= best <= most
            for least, best, most in zip(self.min, self.opt, self.max, strict=False)
        )
        if not (len(self.min) == len(self.opt) == len(self.max) and ordered):
            raise UsageError(
                f"a range must have min <= opt <= max in every dimension, "
                f"got {self.min}, {self.opt}, {self.max}"
            )

    def covers(self, values: Sequence[int]) -> bool:
        """Return whether a shape, or a shape tensor's values, lie in the range."""
        return len(values) == len(self.min) and all(
            least <= value <= most
            for least, value, most in zip(self.min, values, self.max, strict=True)
        )


Profile: TypeAlias = Mapping[str, Range]
"""Ranges by the name of the input; one optimization profile of an engine."""


@dataclass(frozen=True, eq=False)
class EngineKey:
    """What an engine was built of and for; two keys are equal if their digests are.

    Attributes:
        onnx_sha256: Digest of the ONNX file that was compiled.
        flavour: "tensorrt" or "tensorrt_rtx".
        version: Version of that library.
        compute_capability: Devices that it runs on, such as ("8.9",); empty for a portable
            engine, which runs on 8.0 and above.
        gpu_name: Name of the only GPU that it is for, None where the capability decides.
        precision: Precision of the ONNX file, such as "fp16".
        profiles: Optimization profiles in the order of their indices.
        options: Every builder option that changes the plan.
    """

    onnx_sha256: str
    flavour: str
    version: str
    compute_capability: tuple[str, ...]
    gpu_name: str | None
    precision: str
    profiles: tuple[Profile, ...]
    options: Mapping[str, Option]

    def __post_init__(self) -> None:
        _check("onnx_sha256", self.onnx_sha256, _SHA256, "64 hexadecimal digits")
        _check("precision", self.precision, _PRECISION, "lower-case letters and digits")
        if self.flavour not in FLAVOURS:
            raise UsageError(f"flavour must be {' or '.join(FLAVOURS)}, got {self.flavour!r}")
        _check("version", self.version, _TEXT, "a text")
        if self.gpu_name is not None:
            _check("gpu_name", self.gpu_name, _TEXT, "a text or None")
        object.__setattr__(self, "compute_capability", _capabilities(self.compute_capability))
        object.__setattr__(self, "profiles", tuple(dict(item) for item in self.profiles))
        object.__setattr__(self, "options", dict(self.options))
        _check_profiles(self.profiles)
        for name, option in self.options.items():
            if not isinstance(option, (str, int)):
                raise UsageError(f"option {name} must be text or a number, got {option!r}")

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> "EngineKey":
        """Read what `fields` gave, after a way through JSON.

        Args:
            raw: Value by field.

        Returns:
            The key.

        Raises:
            UsageError: If a value is not one that a key takes.
            KeyError: If a field is missing.
            TypeError: If a value is of another type.
        """
        profiles = tuple(
            {name: Range(item["min"], item["opt"], item["max"]) for name, item in each.items()}
            for each in raw["profiles"]
        )
        return cls(
            onnx_sha256=raw["onnx_sha256"],
            flavour=raw["flavour"],
            version=raw["version"],
            compute_capability=tuple(raw["compute_capability"]),
            gpu_name=raw["gpu_name"],
            precision=raw["precision"],
            profiles=profiles,
            options=raw["options"],
        )

    def fields(self) -> dict[str, Any]:
        """Return the key as JSON takes it."""
        profiles = [
            {
                name: {"min": list(each.min), "opt": list(each.opt), "max": list(each.max)}
                for name, each in profile.items()
            }
            for profile in self.profiles
        ]
        return {
            "onnx_sha256": self.onnx_sha256,
            "flavour": self.flavour,
            "version": self.version,
            "compute_capability": list(self.compute_capability),
            "gpu_name": self.gpu_name,
            "precision": self.precision,
            "profiles": profiles,
            "options": dict(self.options),
        }

    def digest(self) -> str:
        """Return the sha256 of the key's canonical JSON."""
        return hashlib.sha256(canonical(self.fields())).hexdigest()

    def file_name(self) -> str:
        """Return the path of the engine inside its bundle, of safe characters only."""
        devices = "_".join(f"sm{each.replace('.', '')}" for each in self.compute_capability)
        shapes = "-".join(
            "_".join(
                "x".join(map(str, each.opt)) for name, each in item.items() if name == "input"
            )
            for item in self.profiles
        )
        parts = (
            self.flavour,
            devices[:_MOST_SHAPES] or "portable",
            self.precision,
            shapes[:_MOST_SHAPES].strip("-") or "static",
            self.digest()[:12],
        )
        return f"engines/{'-'.join(parts)}.engine"

    def flat(self) -> dict[str, str]:
        """Return the key as texts by field, `profiles[0].input.max` and so on."""
        return dict(_flatten("", self.fields()))

    def incompatibilities(
        self,
        *,
        onnx_sha256: str,
        flavour: str,
        version: str,
        compute_capability: str,
        precision: str,
        gpu_name: str | None = None,
    ) -> dict[str, tuple[str, str]]:
        """Return why a device cannot load the engine.

        Args:
            onnx_sha256: Digest of the bundle's ONNX file.
            flavour: "tensorrt" or "tensorrt_rtx".
            version: Version of the library that is installed.
            compute_capability: The device's, such as "8.9".
            precision: Precision of the ONNX file.
            gpu_name: The device's name.

        Returns:
            (wanted, found) by field; empty if the device loads it.
        """
        plain = {"onnx_sha256": onnx_sha256, "flavour": flavour, "precision": precision}
        pairs = {name: (wanted, str(getattr(self, name))) for name, wanted in plain.items()}
        if not self.loads_in(version):
            pairs["version"] = (version, self.version)
        if not self._runs_on(compute_capability):
            pairs["compute_capability"] = (compute_capability, self._devices())
        if self.gpu_name is not None:
            pairs["gpu_name"] = (gpu_name or "any", self.gpu_name)
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def loads_in(self, version: str) -> bool:
        """Return whether a library of a version loads it.

        Args:
            version: The same always does; a later one of its major if it was built for that.
        """
        if self.version == version or self.options.get("version_compatible") is not True:
            return self.version == version
        built, here = _numbers(self.version), _numbers(version)
        return built[:1] == here[:1] and built <= here

    def _devices(self) -> str:
        if self.compute_capability:
            return ", ".join(self.compute_capability)
        exceptions = f", no {', '.join(_NOT_IN_RTX)}" if self.flavour == "tensorrt_rtx" else ""
        return f"portable (8.0 up{exceptions})"

    def _runs_on(self, compute_capability: str) -> bool:
        if self.compute_capability:
            return compute_capability in self.compute_capability
        if self.flavour == "tensorrt_rtx" and compute_capability in _NOT_IN_RTX:
            return False
        return tuple(_numbers(compute_capability)) >= _PORTABLE_FROM

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EngineKey) and self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())


def canonical(value: object) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _flatten(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name in sorted(value):
            yield from _flatten(f"{prefix}.{name}" if prefix else name, value[name])
    elif prefix == "profiles" and isinstance(value, list):
        yield prefix, str(len(value))
        for index, item in enumerate(value):
            yield from _flatten(f"{prefix}[{index}]", item)
    elif isinstance(value, list):
        parts = [str(part) for part in value]
        yield prefix, ("x" if prefix.startswith("profiles") else ", ").join(parts) or "any"
    elif prefix.startswith("options."):
        yield prefix, json.dumps(value)
    else:
        yield prefix, "any" if value is None else str(value)


def _check(name: str, value: object, pattern: re.Pattern[str], rule: str) -> None:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise UsageError(f"{name} must be {rule}, got {value!r}")


def _whole_numbers(name: str, values: object) -> tuple[int, ...]:
    numbers = tuple(values) if isinstance(values, (tuple, list)) else ()
    if not numbers or any(type(each) is not int or each < 0 for each in numbers):
        raise UsageError(f"{name} of a range must be whole numbers from 0, got {values!r}")
    return numbers


def _capabilities(values: tuple[str, ...]) -> tuple[str, ...]:
    for each in values:
        _check("compute_capability", each, _CAPABILITY, "like 8.9")
    return tuple(sorted(set(values), key=_numbers))


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def _check_profiles(profiles: tuple[Profile, ...]) -> None:
    for profile in profiles:
        for name, each in profile.items():
            if not isinstance(name, str) or not isinstance(each, Range):
                raise UsageError(f"profile must hold ranges by input, got {name!r}: {each!r}")
