"""The manifest of a bundle: bundle.json, schema 1, checked and typed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any, Final

from flowsr_runtime.errors import BundleError, ScaleError
from flowsr_runtime.geometry import Halo, exact_scale

__all__ = ["SCHEMA", "FileEntry", "Manifest", "Memory", "Tiling"]

SCHEMA: Final = 1
"""Newest schema that this runtime reads."""

_MISSING: Final = object()


@dataclass(frozen=True)
class FileEntry:
    """One file of a bundle.

    Attributes:
        sha256: Lower-case hexadecimal digest of its content.
        bytes: Its size.
        precision: "fp32", "fp16" or "int8" for a model, None for anything else.
    """

    sha256: str
    bytes: int
    precision: str | None


@dataclass(frozen=True)
class Tiling:
    """How a picture may be cut.

    Attributes:
        halo: Surroundings with which a seam stays below one eight-bit step.
        exact: Surroundings that hold the whole receptive field.
        seam_steps: Measured seam of `halo` in eight-bit steps, None if not measured.
    """

    halo: Halo
    exact: Halo
    seam_steps: float | None


@dataclass(frozen=True)
class Memory:
    """Peak activation memory of one run.

    Attributes:
        base_bytes: Bytes whatever the size.
        bytes_per_pixel: Bytes per LR pixel of the tile.
        bytes_per_patch: Bytes per output patch of the window.
    """

    base_bytes: float
    bytes_per_pixel: float
    bytes_per_patch: float

    def estimate(self, pixels: int, patches: int) -> int:
        """Return the peak activation memory of one run.

        Args:
            pixels: LR pixels of the tile.
            patches: Output patches of the window.

        Returns:
            Bytes.
        """
        growth = pixels * self.bytes_per_pixel + patches * self.bytes_per_patch
        return math.ceil(self.base_bytes + growth)


@dataclass(frozen=True)
class Manifest:
    """What a runtime needs of bundle.json.

    Attributes:
        family: Model family, such as "linf-lp".
        scale: The only scale that the graph produces, None for any.
        latent_channels: Channels of the `latent` input, None with a learned prior.
        tiling: How a picture may be cut.
        memory: Peak activation memory.
        files: Files by relative path with forward slashes.
        raw: The whole manifest, unknown keys included.
    """

    family: str
    scale: Fraction | None
    latent_channels: int | None
    tiling: Tiling
    memory: Memory
    files: Mapping[str, FileEntry]
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def parse(cls, raw: object) -> "Manifest":
        """Check a decoded bundle.json.

        Args:
            raw: What `json.loads` gave.

        Returns:
            The manifest.

        Raises:
            BundleError: If the schema is newer, or a key is missing or wrong.
        """
        if not isinstance(raw, dict):
            raise BundleError("bundle.json must hold an object")
        _check_schema(_whole(raw, "schema", least=1))
        return cls(
            family=_text(raw, "family"),
            scale=_scale(raw),
            latent_channels=_latent_channels(raw),
            tiling=_tiling(raw),
            memory=Memory(
                base_bytes=_real(raw, "memory.base_bytes"),
                bytes_per_pixel=_real(raw, "memory.bytes_per_pixel"),
                bytes_per_patch=_real(raw, "memory.bytes_per_patch"),
            ),
            files=_files(raw),
            raw=raw,
        )


def _check_schema(schema: int) -> None:
    if schema > SCHEMA:
        raise BundleError(
            f"bundle schema {schema} is newer than this runtime reads ({SCHEMA}); "
            "upgrade flowsr-lp"
        )


def _get(raw: Mapping[str, Any], key: str) -> Any:
    value: Any = raw
    for part in key.split("."):
        value = value.get(part, _MISSING) if isinstance(value, dict) else _MISSING
        if value is _MISSING:
            raise BundleError(f"bundle.json lacks {key}")
    return value


def _whole(raw: Mapping[str, Any], key: str, *, least: int) -> int:
    value = _get(raw, key)
    if type(value) is not int or value < least:
        raise BundleError(
            f"{key} in bundle.json must be a whole number of at least {least}, got {value!r}"
        )
    return value


def _real(raw: Mapping[str, Any], key: str) -> float:
    value = _get(raw, key)
    if type(value) not in (int, float) or not (math.isfinite(value) and value >= 0):
        raise BundleError(f"{key} in bundle.json must be a number of at least 0, got {value!r}")
    return float(value)


def _text(raw: Mapping[str, Any], key: str) -> str:
    value = _get(raw, key)
    if not isinstance(value, str):
        raise BundleError(f"{key} in bundle.json must be a string, got {value!r}")
    return value


def _scale(raw: Mapping[str, Any]) -> Fraction | None:
    kind = _get(raw, "scale.kind")
    if kind == "any":
        return None
    if kind != "fixed":
        raise BundleError(f"scale.kind in bundle.json must be any or fixed, got {kind!r}")
    try:
        return exact_scale(_text(raw, "scale.value"))
    except ScaleError as error:
        raise BundleError(f"scale.value in bundle.json: {error}") from error


def _latent_channels(raw: Mapping[str, Any]) -> int | None:
    return None if _get(raw, "latent") is None else _whole(raw, "latent.channels", least=1)


def _tiling(raw: Mapping[str, Any]) -> Tiling:
    patch = _whole(raw, "tiling.patch", least=1)
    align = _whole(raw, "tiling.align", least=1)
    if align % patch:
        raise BundleError(
            f"tiling.align in bundle.json must be a multiple of the patch {patch}, got {align}"
        )

    def halo(kind: str) -> Halo:
        return Halo(
            patch=patch,
            align=align,
            lr_align=_whole(raw, "tiling.lr_align", least=1),
            patches=_whole(raw, f"tiling.{kind}_patches", least=0),
            pixels=_whole(raw, f"tiling.{kind}_pixels", least=0),
        )

    seam = _get(raw, "tiling.seam_steps")
    return Tiling(
        halo=halo("halo"),
        exact=halo("exact"),
        seam_steps=None if seam is None else _real(raw, "tiling.seam_steps"),
    )


def _files(raw: Mapping[str, Any]) -> dict[str, FileEntry]:
    files = _get(raw, "files")
    if not isinstance(files, dict):
        raise BundleError("files in bundle.json must be an object")
    return {name: _entry(name, entry) for name, entry in files.items()}


def _entry(name: str, entry: object) -> FileEntry:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or str(path) != name:
        raise BundleError(f"file name in bundle.json must lie inside the bundle, got {name!r}")
    if name in (".", "bundle.json"):
        raise BundleError(f"file name in bundle.json must not be {name!r}")
    if not isinstance(entry, dict):
        raise BundleError(f"file {name} in bundle.json must be an object, got {entry!r}")
    digest, precision = entry.get("sha256"), entry.get("precision")
    if not isinstance(digest, str) or len(digest) != 64:
        raise BundleError(f"sha256 of {name} in bundle.json must be 64 digits, got {digest!r}")
    if precision is not None and not isinstance(precision, str):
        raise BundleError(f"precision of {name} must be a string, got {precision!r}")
    size = entry.get("bytes")
    if type(size) is not int or size < 0:
        raise BundleError(
            f"bytes of {name} in bundle.json must be a whole number, got {size!r}"
        )
    return FileEntry(digest.lower(), size, precision)
