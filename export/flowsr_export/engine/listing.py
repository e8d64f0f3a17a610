"""The engines that a bundle holds: which are sound, which load here, which can go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flowsr_export.engine.library import TensorrtVariant, device_here, load_library
from flowsr_runtime import Bundle
from flowsr_runtime.bundle.engine_store import (
    Difference,
    EngineEntry,
    EngineStore,
    LoadTarget,
    Removal,
)
from flowsr_runtime.errors import BackendError, IntegrityError, ProviderError

__all__ = ["Listed", "Match", "list_engines", "match_engines", "prune_engines"]


@dataclass(frozen=True)
class Listed:
    """One engine of a bundle.

    Attributes:
        entry: Its description.
        trouble: What is wrong with its plan, None if it is sound.
        stale: Whether the bundle no longer holds the ONNX file that it was built of.
    """

    entry: EngineEntry
    trouble: str | None
    stale: bool


@dataclass(frozen=True)
class Match:
    """What a device could load.

    Attributes:
        library: Name and version.
        compute_capability: The device's.
        precision: Of the graph.
        loads: Engines that it loads.
        differences: Field by field, why it does not load the others; the nearest first.
    """

    library: str
    compute_capability: str
    precision: str
    loads: Sequence[EngineEntry]
    differences: Sequence[Difference]


def list_engines(bundle: Bundle) -> list[Listed]:
    """Check every engine of a bundle.

    Args:
        bundle: The bundle.

    Returns:
        Its engines by name.

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
    """Remove what is damaged, half written, or built of a graph that is no longer there.

    Args:
        bundle: The bundle.
        everything: Remove every engine.
        other_versions: Remove those, too, that the libraries here do not load.
        dry_run: Remove nothing, only say what would go.

    Returns:
        The files that were or would be removed.

    Raises:
        OutputError: If the disk refuses.
    """
    models = _digests(bundle)
    versions = _versions() if other_versions else {}

    def keep(entry: EngineEntry) -> bool:
        key = entry.key
        here = versions.get(key.flavour)
        loads = here is None or key.loads_in(here)
        return not everything and key.onnx_sha256 in models and loads

    return EngineStore(bundle.path).prune(keep, dry_run=dry_run)


def match_engines(
    bundle: Bundle,
    flavour: TensorrtVariant,
    precision: str,
    compute_capability: str | None = None,
    device: int = 0,
) -> Match:
    """Say which engines load on a device, and of the others why not.

    Args:
        bundle: The bundle.
        flavour: Which library.
        precision: Of the graph.
        compute_capability: Of a device that is not here; None for the one that is.
        device: Index of the GPU that is here.

    Raises:
        BackendError: If the library is not installed.
        ProviderError: If there is no GPU and no compute capability is given.
        BundleError: If the bundle has no graph of the precision.
        IntegrityError: If a description is damaged.
    """
    gpu = device_here(device)
    library = load_library(flavour, gpu)
    if compute_capability is None:
        if gpu is None:
            raise ProviderError(
                "no GPU here; say with --compute-capability which one the engines are for"
            )
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
    """Version of each library that is here."""
    found: dict[str, str] = {}
    flavours: tuple[TensorrtVariant, ...] = ("tensorrt", "tensorrt_rtx")
    for flavour in flavours:
        try:
            found[flavour] = load_library(flavour).version
        except BackendError:
            continue
    return found


def _trouble(store: EngineStore, entry: EngineEntry) -> str | None:
    try:
        store.read(entry)
    except IntegrityError as error:
        return str(error)
    return None
