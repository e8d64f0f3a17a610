"""An engine of a bundle: what would be built, and the build into the bundle's store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flowsr_export.engine.builder import Built, Settings, build_engine, check_settings
from flowsr_export.engine.library import (
    Library,
    Target,
    TensorrtVariant,
    load_library,
    target_of,
)
from flowsr_export.engine.profiles import (
    Shapes,
    estimated_memory,
    explicit_profile,
    profile_of,
    profiles_for,
)
from flowsr_export.inputs.run_sizes import Scale, default_runs, run_sizes_for
from flowsr_runtime import Bundle
from flowsr_runtime.bundle.engine_store import EngineEntry, EngineKey, EngineStore, Profile
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.errors import BackendError, IntegrityError, UsageError
from flowsr_runtime.tiling.memory import DEFAULT_MEMORY_BUDGET

if TYPE_CHECKING:
    from flowsr_export.engine.precision_audit import PrecisionAudit
    from flowsr_runtime.cuda.device import Device

__all__ = [
    "Forecast",
    "EngineResult",
    "SizeSpec",
    "EngineRequest",
    "forecast",
    "has_graph",
    "key_of",
    "make_engine",
    "profiles_of",
]

Size = tuple[int, int]


@dataclass(frozen=True)
class SizeSpec:
    """What an engine must take.

    Attributes:
        pictures: Low-resolution sizes (h, w).
        outputs: Output sizes (H, W).
        scales: Each of them is taken at each scale.
        budget: Bytes above which the runtime cuts a picture into tiles; None for the
            bundle's own.
        halo: What the tiles overlap by, "default" or "exact".
        explicit: Least, best and largest shapes of each profile, in place of all these.
    """

    pictures: tuple[Size, ...] = ()
    outputs: tuple[Size, ...] = ()
    scales: tuple[Scale, ...] = ()
    budget: int | None = None
    halo: Literal["default", "exact"] = "default"
    explicit: tuple[tuple[Shapes, Shapes, Shapes], ...] = ()


@dataclass(frozen=True)
class EngineRequest:
    """What to build.

    Attributes:
        precision: Which of the bundle's graphs.
        sizes: What it must take.
        settings: How to build.
        least: Share of the multiply-adds with weights that must be in the precision; None
            for that of the model's family.
    """

    precision: str
    sizes: SizeSpec
    settings: Settings
    least: float | None = None


@dataclass(frozen=True)
class EngineResult:
    """An engine in a store.

    Attributes:
        entry: Its description.
        built: What the build gave; None if the store had it.
        truth: In which precision it computes; None if the store had it.
    """

    entry: EngineEntry
    built: Built | None
    truth: PrecisionAudit | None


def profiles_of(manifest: Manifest, sizes: SizeSpec) -> list[Profile]:
    """Choose the profiles of an engine.

    Args:
        manifest: The bundle's.
        sizes: What it must take.

    Returns:
        Explicit profiles as they are; else the fewest that cover every picture and its tiles;
        without a picture one from a small square to the largest that the budget allows.

    Raises:
        UsageError: If explicit shapes do not go together, or with pictures.
        ScaleError: If the model cannot produce a scale or a size.
        MemoryBudgetError: If even the smallest tile does not fit the budget.
    """
    asked = (*sizes.pictures, *sizes.outputs)
    if sizes.explicit:
        if asked:
            raise UsageError("give either pictures and sizes or explicit shapes, not both")
        return [explicit_profile(manifest, each, sizes.scales) for each in sizes.explicit]
    budget = sizes.budget or manifest.memory.budget_bytes or DEFAULT_MEMORY_BUDGET
    if not asked:
        least, usual, largest = default_runs(manifest, sizes.scales, budget=budget)
        return [profile_of(manifest, [least, usual, largest], best=usual)]
    runs = run_sizes_for(
        manifest,
        pictures=sizes.pictures,
        sizes=sizes.outputs,
        scales=sizes.scales,
        budget=budget,
        halo=sizes.halo,
    )
    return profiles_for(manifest, runs)


def has_graph(bundle: Bundle, precision: str) -> bool:
    """Return whether a bundle holds the graph of a precision."""
    return any(
        name.endswith(".onnx") and entry.precision == precision
        for name, entry in bundle.manifest.files.items()
    )


def key_of(
    bundle: Bundle,
    library: Library,
    target: Target,
    wanted: EngineRequest,
    profiles: Sequence[Profile],
) -> EngineKey:
    """Return the key of an engine: what decides whether a plan may be used again.

    Args:
        bundle: Holds the ONNX file.
        library: The builder's.
        target: The GPUs that it runs on.
        wanted: What to build.
        profiles: Its profiles.

    Raises:
        BundleError: If the bundle has no graph of the precision.
    """
    name = bundle.model_name(wanted.precision)
    options = wanted.settings.options()
    if library.lacks_gemm(wanted.settings.compute_capabilities):
        options["float32_gemm"] = "rewritten"
    return EngineKey(
        onnx_sha256=bundle.manifest.files[name].sha256,
        flavour=library.flavour,
        version=library.version,
        compute_capability=target.compute_capability,
        gpu_name=target.gpu_name,
        precision=wanted.precision,
        profiles=tuple(profiles),
        options=options,
    )


def make_engine(
    bundle: Bundle,
    library: Library,
    wanted: EngineRequest,
    *,
    device: Device | None = None,
    log: Path | None = None,
    report: Callable[[float, str], None] = lambda share, phase: None,
) -> EngineResult:
    """Build an engine into the bundle's store, unless the store has it.

    Args:
        bundle: Holds the graph.
        library: The builder's.
        wanted: What to build.
        device: The GPU that is here, None for none; `tensorrt` needs it.
        log: File for everything that the library says.
        report: Called about five times a second with the share that is done and the phase.

    Returns:
        The engine.

    Raises:
        PrecisionError: If it would not compute, or does not, in the precision asked for.
        FlowsrError: As `build_engine`, `profiles_of` and `target_of`.
    """
    settings = wanted.settings
    check_settings(library, settings)
    target = target_of(
        library, settings.compute_capabilities, settings.hardware_compatibility, device
    )
    profiles = profiles_of(bundle.manifest, wanted.sizes)
    key, store = key_of(bundle, library, target, wanted, profiles), EngineStore(bundle.path)
    there = _sound(store, key)
    if there is not None:
        return EngineResult(there, None, None)
    estimates = [estimated_memory(bundle.manifest, profile) for profile in profiles]

    def compiled(content: bytes) -> Built:
        return build_engine(
            *(library, content, profiles, settings),
            device=device,
            log=log,
            estimates=estimates,
            report=report,
        )

    built, truth = _built(bundle, library, wanted, profiles[-1], compiled, device is not None)
    return EngineResult(
        store.add(key, built.plan, _facts(built, truth, estimates, device)), built, truth
    )


def _built(
    bundle: Bundle,
    library: Library,
    wanted: EngineRequest,
    profile: Profile,
    compiled: Callable[[bytes], Built],
    on_device: bool,
) -> tuple[Built, PrecisionAudit]:
    """Build, and refuse what would not compute, or does not, in the precision asked for."""
    import onnx

    from flowsr_export.engine.precision_audit import (
        audit,
        layers_of,
        least_share,
        require_precision,
        work_at,
    )
    from flowsr_export.onnx_graph.gemm_rewrite import without_float32_gemm

    precision, least = wanted.precision, wanted.least
    content = bundle.model_bytes(precision)
    model = onnx.load_from_string(content)
    work = work_at(model, profile)
    if least is None:
        least = least_share(precision, bundle.manifest.family, work)
    require_precision(audit(work, [], precision, least))  # before the slow part
    if library.lacks_gemm(wanted.settings.compute_capabilities):
        content = without_float32_gemm(model).SerializeToString()
    built = compiled(content)
    truth = audit(work, layers_of(library.module, built, on_device=on_device), precision, least)
    require_precision(truth)
    return built, truth


def _sound(store: EngineStore, key: EngineKey) -> EngineEntry | None:
    """The engine of a key if it is there and whole; what is damaged is built again."""
    try:
        entry = store.find(key)
        if entry is not None:
            store.read(entry)
    except IntegrityError:
        return None
    return entry


def _facts(
    built: Built, truth: PrecisionAudit, estimates: Sequence[int], device: Device | None
) -> Mapping[str, Any]:
    return {
        "tool": version("flowsr-lp"),
        "build_seconds": round(built.seconds, 3),
        "scratch_bytes": list(built.scratch),
        "estimated_bytes": list(estimates),
        "driver": None if device is None else device.driver,
        "tensors": [
            {"name": t.name, "input": t.is_input, "dtype": t.dtype, "shape": list(t.shape)}
            for t in built.tensors
        ],
        "precision": {
            "least": truth.least,
            "onnx": dict(truth.onnx),
            "engine": None if truth.engine is None else dict(truth.engine),
            "everything": dict(truth.everything),
            "layers": None if truth.layers is None else dict(truth.layers),
        },
        "warnings": list(built.warnings),
    }


@dataclass(frozen=True)
class Forecast:
    """What would be built.

    Attributes:
        library: Name and version, or why there is none.
        target: The GPUs, or why they are not known.
        profiles: The profiles.
        estimates: Activation memory of each as bundle.json estimates it, bytes.
        key: The engine's; None if something that decides it is not known yet.
        unknown: What is not known yet.
        there: The engine, if the store has it.
    """

    library: str
    target: str
    profiles: tuple[Profile, ...]
    estimates: tuple[int, ...]
    key: EngineKey | None
    unknown: tuple[str, ...]
    there: EngineEntry | None


def forecast(
    manifest: Manifest,
    bundle: Bundle | None,
    flavour: TensorrtVariant,
    wanted: EngineRequest,
    device: Device | None,
) -> Forecast:
    """Say what would be built; that needs neither a GPU nor the library.

    Args:
        manifest: Of the bundle as it is or would be.
        bundle: The bundle, None if it is not made yet.
        flavour: Which library.
        wanted: What to build.
        device: The GPU that is here, None for none.

    Raises:
        FlowsrError: As `profiles_of`; or if what is asked for cannot be built.
    """
    profiles = tuple(profiles_of(manifest, wanted.sizes))
    estimates = tuple(estimated_memory(manifest, profile) for profile in profiles)
    settings, unknown = wanted.settings, list[str]()
    library: Library | None = None
    target: Target | None = None
    key, there = None, None
    try:
        library = load_library(flavour, device)
        check_settings(library, settings)
    except BackendError as error:
        unknown.append(str(error))
    if library is not None and (library.is_rtx or device is not None):
        target = target_of(
            library, settings.compute_capabilities, settings.hardware_compatibility, device
        )
    elif library is not None:
        unknown.append("the GPU: tensorrt builds for the one that is here, and there is none")
    if bundle is None or not has_graph(bundle, wanted.precision):
        unknown.append(f"the {wanted.precision} graph: it is not exported yet")
    elif library is not None and target is not None:
        key = key_of(bundle, library, target, wanted, profiles)
        there = _sound(EngineStore(bundle.path), key)
    return Forecast(
        library="none" if library is None else str(library),
        target="not known" if target is None else str(target),
        profiles=profiles,
        estimates=estimates,
        key=key,
        unknown=tuple(unknown),
        there=there,
    )
