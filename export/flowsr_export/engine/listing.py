"""List, match and prune the engines of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flowsr_export.engine.inductor import place_of, target_of_place
from flowsr_export.engine.library import TensorrtVariant, device_here, load_library
from flowsr_export.engine.roofline import Roofline, roofline_of
from flowsr_runtime import Bundle
from flowsr_runtime.bundle.engine_store import (
    Difference,
    EngineEntry,
    EngineStore,
    LoadTarget,
    Removal,
)
from flowsr_runtime.errors import BackendError, IntegrityError, ProviderError

__all__ = [
    "Listed",
    "Match",
    "list_engines",
    "match_engines",
    "prune_engines",
    "qualification_text",
    "record_of",
    "roofline",
]


@dataclass(frozen=True)
class Listed:
    """One engine of a bundle.

    Attributes:
        entry: Description of the engine.
        trouble: Problem of its plan, None if it is intact.
        stale: Whether the bundle no longer has the ONNX file that it was built from.
    """

    entry: EngineEntry
    trouble: str | None
    stale: bool


@dataclass(frozen=True)
class Match:
    """Engines that a GPU can load.

    Attributes:
        library: Name and version of the library.
        compute_capability: Compute capability of the GPU.
        precision: Precision of the graph.
        loads: Engines that load.
        differences: Fields in which the other engines differ, the nearest engine first.
    """

    library: str
    compute_capability: str
    precision: str
    loads: Sequence[EngineEntry]
    differences: Sequence[Difference]


def record_of(entry: EngineEntry) -> dict[str, Any]:
    """Return an engine's description as JSON values."""
    return {
        "engine": entry.name,
        "bytes": entry.size,
        "sha256": entry.sha256,
        "key": entry.key.fields(),
        "facts": dict(entry.facts),
    }


def qualification_text(entry: EngineEntry) -> str:
    """Return whether an engine was run before it was stored, in words."""
    qualified = entry.facts.get("qualified")
    if qualified is None:
        return "not known: built by an earlier version"
    if not qualified:
        return "no: no GPU that runs it was there"
    facts = entry.facts["qualification"]
    golden = facts["golden"]
    pair = "no golden pair of its sizes"
    if golden is not None:
        pair = f"the golden pair to {golden['max_abs']:.2g}"
    return f"yes: {facts['runs']} runs, {pair}"


def roofline(entry: EngineEntry, gpu: str | None = None) -> Roofline | None:
    """Return the least time of an engine's run.

    Args:
        entry: Description of the engine.
        gpu: Name of a GPU in `machine.gpus`, None for one of the engine's.

    Returns:
        The roofline, None for an engine of an earlier version or an unknown GPU.
    """
    return roofline_of(entry.facts, entry.key.compute_capability, gpu)


def list_engines(bundle: Bundle) -> list[Listed]:
    """Check every engine of a bundle.

    Args:
        bundle: The bundle.

    Returns:
        Its engines, ordered by name.

    Raises:
        IntegrityError: If a description is damaged.
    """
    store, models = EngineStore(bundle.path), _digests(bundle)
    return [
        Listed(entry, _trouble(store, entry), entry.key.onnx_sha256 not in models)
        for entry in store.entries()
    ]


def prune_engines(
    bundle: Bundle, *, everything: bool, other_versions: bool, dry_run: bool
) -> list[Removal]:
    """Remove engines that are damaged, incomplete or stale.

    Args:
        bundle: The bundle.
        everything: Remove every engine.
        other_versions: Also remove engines that the installed libraries do not load.
        dry_run: Return the files without removing them.

    Returns:
        Files that were or would be removed.

    Raises:
        OutputError: If a file cannot be removed.
    """
    models = _digests(bundle)
    versions = _versions() if other_versions else {}

    def keep(entry: EngineEntry) -> bool:
        key = entry.key
        installed = versions.get(key.flavour)
        loads = installed is None or key.loads_in(installed)
        return not everything and key.onnx_sha256 in models and loads

    return EngineStore(bundle.path).prune(keep, dry_run=dry_run)


def match_engines(
    bundle: Bundle,
    flavour: TensorrtVariant,
    precision: str,
    compute_capability: str | None = None,
) -> Match:
    """Find the engines that load on a GPU, and the reasons why the others do not.

    Args:
        bundle: The bundle.
        flavour: Library of the engines.
        precision: Precision of the graph.
        compute_capability: Compute capability of another machine's GPU; None for this one's.

    Raises:
        BackendError: If the library is not installed.
        ProviderError: If there is no GPU and no compute capability is given.
        BundleError: If the bundle has no graph of the precision.
        IntegrityError: If a description is damaged.
    """
    gpu = None if flavour == "inductor" else device_here(0)
    library = load_library(flavour, gpu)
    if compute_capability is None and library.is_inductor:
        (compute_capability,) = target_of_place(place_of(None)).compute_capability
    if compute_capability is None:
        if gpu is None:
            message = "compute_capability must be given on a machine without a GPU"
            raise ProviderError(message, option="compute_capability")
        compute_capability = gpu.compute_capability
    name = None if gpu is None else gpu.name
    digest = bundle.manifest.files[bundle.model_name(precision)].sha256
    target = LoadTarget(
        digest, library.flavour, library.version, compute_capability, precision, name
    )
    store = EngineStore(bundle.path)
    return Match(
        library=str(library),
        compute_capability=compute_capability,
        precision=precision,
        loads=store.matching(target),
        differences=store.explain_mismatch(target),
    )


def _digests(bundle: Bundle) -> set[str]:
    files = bundle.manifest.files
    return {entry.sha256 for name, entry in files.items() if name.endswith(".onnx")}


def _versions() -> dict[str, str]:
    """Return the versions of the installed libraries by name."""
    versions: dict[str, str] = {}
    flavours: tuple[TensorrtVariant, ...] = ("tensorrt", "tensorrt_rtx", "inductor")
    for flavour in flavours:
        with suppress(BackendError):
            versions[flavour] = load_library(flavour).version
    return versions


def _trouble(store: EngineStore, entry: EngineEntry) -> str | None:
    try:
        store.read(entry)
    except IntegrityError as error:
        return str(error)
    return None
