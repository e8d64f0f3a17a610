"""Read a bundle's manifest and check each of its files, without any inference library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from flowsr_runtime.bundle.directory import Bundle, embedded_bundle
from flowsr_runtime.bundle.manifest import Latent, Manifest, Tiling
from flowsr_runtime.errors import BundleError
from flowsr_runtime.geometry import Halo

__all__ = ["Inspection", "flatten", "inspect_bundle", "summary"]


@dataclass(frozen=True)
class Inspection:
    """What a bundle says of itself, and whether its files are the ones it lists.

    Attributes:
        bundle: The bundle.
        troubles: For each file, in the manifest's order, what is wrong with it or None.
    """

    bundle: Bundle
    troubles: Mapping[str, str | None]

    @property
    def damaged(self) -> list[str]:
        """What is wrong with the files, one line each."""
        return [trouble for trouble in self.troubles.values() if trouble is not None]


def inspect_bundle(path: Path | None) -> Inspection:
    """Open a bundle and verify every file's hash.

    Args:
        path: Bundle directory, or None for the built-in one.

    Returns:
        The manifest and the state of each file.

    Raises:
        BundleError: If it is not a bundle that this version reads.
    """
    bundle = Bundle.open(embedded_bundle() if path is None else path)
    return Inspection(bundle, {name: _trouble(bundle, name) for name in bundle.manifest.files})


def summary(manifest: Manifest) -> list[tuple[str, str]]:
    """Return the manifest as (heading, text) rows for people to read."""
    raw, memory = manifest.raw, manifest.memory
    rows = [
        ("family", manifest.family),
        ("scale", _scale(manifest.scale)),
        ("pictures", _pictures(manifest.io)),
        ("inputs", ", ".join(sorted(manifest.inputs))),
        ("latents", _latents(manifest.latents)),
        *([("border", str(raw["border"]))] if "border" in raw else []),
        ("sides", _sides(manifest.multiple)),
        *_tiling(manifest.tiling),
        (
            "memory",
            f"{memory.base_bytes / 2**20:.0f} MiB + "
            f"{memory.bytes_per_pixel / 1024:.1f} KiB per LR pixel + "
            f"{memory.bytes_per_patch / 1024:.1f} KiB per output patch",
        ),
    ]
    conditions = raw.get("condition_numbers")
    if isinstance(conditions, list) and conditions:
        largest = f"{len(conditions)} linear layers of the flow, largest {max(conditions):.3g}"
        rows.append(("conditions", largest))
    for heading in ("model", "tool", "verification"):
        rows += _block(heading, raw.get(heading))
    return rows


def flatten(value: object, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested objects as (dotted key, text) rows; lists stay in one row."""
    if not isinstance(value, dict):
        return [(prefix, _text(value))]
    return [
        row
        for key, inner in value.items()
        for row in flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    ]


def _scale(fixed: Fraction | None) -> str:
    if fixed is None:
        return "any from 1, per axis"
    return f"{float(fixed):g} only; upscale --resample reaches others after it"


def _pictures(io: str) -> str:
    if io == "float32":
        return "float32 in [0, 1]"
    return "uint8, rounded in the graph; values of an exploding inverse cannot be seen"


def _latents(latents: tuple[Latent, ...]) -> str:
    if not latents:
        return "learned prior"
    drawn = [f"{x.name} {x.channels} channels of {x.patch}x{x.patch} pixels" for x in latents]
    return f"drawn with a temperature: {', '.join(drawn)}"


def _sides(multiple: int) -> str:
    if multiple == 1:
        return "any"
    return f"any; padded to multiples of {multiple} for the graph, and cropped after it"


def _tiling(tiling: Tiling) -> list[tuple[str, str]]:
    if tiling.whole_only:
        return [("tiling", "none: whole pictures only")]
    halo, seam = tiling.halo, tiling.seam_steps
    stated = "not measured" if seam is None else f"{seam:g} steps of 255"
    return [
        ("tiling", f"windows at multiples of {halo.align} output pixels"),
        ("  default", f"halo {_reach(halo)}, seam {stated}"),
        ("  exact", f"halo {_reach(tiling.exact)}"),
    ]


def _reach(halo: Halo) -> str:
    pixels = f"{halo.pixels} LR pixels"
    return pixels if halo.ratio is not None else f"{halo.patches} patches + {pixels}"


def _block(heading: str, value: object) -> list[tuple[str, str]]:
    if value is None:
        return [(heading, "none")]
    return [(heading, ""), *((f"  {key}", text) for key, text in flatten(value))]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(_text(item) for item in value) if isinstance(value, list) else str(value)


def _trouble(bundle: Bundle, name: str) -> str | None:
    try:
        bundle.read(name)
    except BundleError as error:
        return str(error)
    return None
