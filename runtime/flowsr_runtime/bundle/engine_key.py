"""The key of an engine: everything that decides whether a plan can be reused."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

from flowsr_runtime.errors import UsageError

__all__ = [
    "CPU_PREFIX",
    "FLAVOURS",
    "GRID",
    "SUFFIXES",
    "EngineKey",
    "LoadTarget",
    "Option",
    "Profile",
    "Range",
    "canonical",
]

FLAVOURS: Final = ("tensorrt", "tensorrt_rtx", "inductor")
"""Libraries whose engines a store holds; each loads only its own."""

SUFFIXES: Final = (".engine", ".pt2")
"""Endings of engine files: plans of TensorRT, and packages of PyTorch's Inductor."""

CPU_PREFIX: Final = "cpu-"
"""Begin of the compute capability of an engine for a CPU, which is its instruction set."""

GRID: Final = ("rows", "columns")
"""Inputs of a package for a range of sizes; their lengths are the window's patches."""

Option: TypeAlias = str | int | bool

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_CAPABILITY: Final = re.compile(rf"[1-9]\d?\.\d|{CPU_PREFIX}[a-z0-9_-]+")
_TEXT: Final = re.compile(r".+")
_PRECISION: Final = re.compile(r"[a-z0-9]{1,16}")
_PORTABLE_FROM: Final = (8, 0)
"""Lowest compute capability of a portable engine."""

_NOT_IN_RTX: Final = frozenset({"9.0"})
"""Later compute capabilities that TensorRT for RTX does not support: H100 and H200."""

_MOST_SHAPES: Final = 40
"""Characters of shapes in a file name; the digest makes it unique."""


@dataclass(frozen=True)
class Range:
    """Range of one input in one profile.

    Attributes:
        min: Smallest shape, or for an int64 shape tensor its smallest values.
        opt: Shape or values that the engine is optimized for.
        max: Largest shape or values.
    """

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("min", "opt", "max"):
            object.__setattr__(self, name, _whole_numbers(name, getattr(self, name)))
        sizes = self.min, self.opt, self.max
        ordered = all(list(row) == sorted(row) for row in zip(*sizes, strict=False))
        if len(set(map(len, sizes))) > 1 or not ordered:
            raise UsageError(
                "a range must have min <= opt <= max in every dimension, "
                f"got {', '.join(map(str, sizes))}"
            )

    def covers(self, values: Sequence[int]) -> bool:
        """Return whether a shape, or a shape tensor's values, lie in the range."""
        return len(values) == len(self.min) and all(
            least <= value <= most
            for least, value, most in zip(self.min, values, self.max, strict=True)
        )


Profile: TypeAlias = Mapping[str, Range]
"""One optimization profile of an engine: ranges by input name."""


@dataclass(frozen=True)
class LoadTarget:
    """A model, the library and the device that load an engine of it.

    Attributes:
        onnx_sha256: Digest of the bundle's ONNX file.
        flavour: One of `FLAVOURS`.
        version: Version of the installed library.
        compute_capability: Compute capability of the device, such as "8.9", or the
            instruction set of a CPU, such as "cpu-x86_64-avx512-0f1e2d3c".
        precision: Precision of the ONNX file.
        gpu_name: Name of the device, None if unknown.
    """

    onnx_sha256: str
    flavour: str
    version: str
    compute_capability: str
    precision: str
    gpu_name: str | None = None


@dataclass(frozen=True, eq=False)
class EngineKey:
    """Source and target of an engine build; two keys are equal if their digests are.

    Attributes:
        onnx_sha256: Digest of the compiled ONNX file; a package of Inductor is compiled from
            the same module.
        flavour: One of `FLAVOURS`.
        version: Version of the library.
        compute_capability: Devices that it runs on, such as ("8.9",), or the instruction set
            of a CPU; empty for a portable engine, which runs on 8.0 and above.
        gpu_name: Name of the only GPU model it runs on, None for any of the capability.
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
            names = f"{', '.join(FLAVOURS[:-1])} or {FLAVOURS[-1]}"
            raise UsageError(f"flavour must be {names}, got {self.flavour!r}")
        _check("version", self.version, _TEXT, "a text")
        if self.gpu_name is not None:
            _check("gpu_name", self.gpu_name, _TEXT, "a text or None")
        object.__setattr__(self, "compute_capability", _capabilities(self.compute_capability))
        object.__setattr__(self, "profiles", tuple(dict(item) for item in self.profiles))
        object.__setattr__(self, "options", dict(self.options))
        for name, item in (pair for profile in self.profiles for pair in profile.items()):
            if not isinstance(name, str) or not isinstance(item, Range):
                raise UsageError(f"profile must hold ranges by input, got {name!r}: {item!r}")
        for name, option in self.options.items():
            if not isinstance(option, (str, int)):
                raise UsageError(f"option {name} must be text or a number, got {option!r}")

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> "EngineKey":
        """Create a key from the result of `fields`, decoded from JSON.

        Args:
            raw: Value by field.

        Returns:
            The key.

        Raises:
            UsageError: If a value is invalid.
            TypeError: If a field is missing or of another type.
        """
        profiles = tuple(
            {name: Range(**item) for name, item in profile.items()}
            for profile in raw["profiles"]
        )
        return cls(**{**raw, "profiles": profiles})

    def fields(self) -> dict[str, Any]:
        """Return the key as JSON values."""
        fields: dict[str, Any] = json.loads(canonical(asdict(self)))
        return fields

    def digest(self) -> str:
        """Return the sha256 of the key's canonical JSON."""
        return hashlib.sha256(canonical(self.fields())).hexdigest()

    def file_name(self) -> str:
        """Return the path of the engine inside its bundle, in safe characters."""
        devices = "_".join(
            item if item.startswith(CPU_PREFIX) else f"sm{item.replace('.', '')}"
            for item in self.compute_capability
        )
        shapes = "-".join(
            "_".join(
                "x".join(map(str, shape.opt))
                for name, shape in profile.items()
                if name == "input"
            )
            for profile in self.profiles
        )
        parts = (
            self.flavour,
            devices[:_MOST_SHAPES] or "portable",
            self.precision,
            shapes[:_MOST_SHAPES].strip("-") or "static",
            self.digest()[:12],
        )
        return f"engines/{'-'.join(parts)}{SUFFIXES[self.flavour == 'inductor']}"

    def incompatibilities(self, target: LoadTarget) -> dict[str, tuple[str, str]]:
        """Return the reasons why a target cannot load the engine.

        Args:
            target: Model, library and device.

        Returns:
            (expected, actual) by field; empty if the engine loads.
        """
        names = ("onnx_sha256", "flavour", "precision")
        pairs = {name: (str(getattr(target, name)), str(getattr(self, name))) for name in names}
        if not self.loads_in(target.version):
            pairs["version"] = (target.version, self.version)
        if not self._runs_on(target.compute_capability):
            pairs["compute_capability"] = (target.compute_capability, self._devices())
        if self.gpu_name is not None:
            pairs["gpu_name"] = (target.gpu_name or "any", self.gpu_name)
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    @property
    def on_cpu(self) -> bool:
        """Whether the engine runs on a CPU."""
        return any(item.startswith(CPU_PREFIX) for item in self.compute_capability)

    def loads_in(self, version: str) -> bool:
        """Return whether a version of the library loads the engine.

        Args:
            version: The version of the build, or a later one of the same major version if the
                engine is version compatible.
        """
        if self.version == version or self.options.get("version_compatible") is not True:
            return self.version == version
        built, installed = _numbers(self.version), _numbers(version)
        return built[:1] == installed[:1] and built <= installed

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
    """Return the canonical JSON text of a value: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _check(name: str, value: object, pattern: re.Pattern[str], rule: str) -> None:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise UsageError(f"{name} must be {rule}, got {value!r}")


def _whole_numbers(name: str, values: object) -> tuple[int, ...]:
    numbers = tuple(values) if isinstance(values, (tuple, list)) else ()
    if not numbers or any(type(number) is not int or number < 0 for number in numbers):
        raise UsageError(f"{name} of a range must be whole numbers from 0, got {values!r}")
    return numbers


def _capabilities(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        _check("compute_capability", value, _CAPABILITY, "like 8.9")
    return tuple(sorted(set(values), key=_numbers))


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]
