"""Plan an engine, and build it into a bundle's store."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flowsr_export.engine.builder import Built, Settings, build_plan, check_settings
from flowsr_export.engine.inductor import (
    build_package,
    check_request,
    key_options,
    open_package,
    target_of_place,
)
from flowsr_export.engine.library import (
    Library,
    Target,
    TensorrtVariant,
    load_library,
    target_of,
)
from flowsr_export.engine.profiles import (
    Shapes,
    compiled_profile,
    estimated_memory,
    explicit_profile,
    profile_of,
    profiles_for,
)
from flowsr_export.inputs.run_sizes import Scale, default_runs, run_sizes_for
from flowsr_export.reports.files import prepare_files, write_files
from flowsr_runtime import Bundle
from flowsr_runtime.bundle.engine_store import EngineEntry, EngineKey, EngineStore, Profile
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.errors import (
    BackendError,
    FlowsrError,
    IntegrityError,
    ProviderError,
    UsageError,
)
from flowsr_runtime.geometry import size_text
from flowsr_runtime.tiling.memory import ENGINE_MEMORY_BUDGET

if TYPE_CHECKING:
    from onnx import ModelProto

    from flowsr_export.engine.precision_audit import PrecisionAudit
    from flowsr_export.onnx_graph.multiply_adds import MacCount
    from flowsr_lp import Checkpoint
    from flowsr_runtime.cuda.device import Device

__all__ = [
    "EnginePlan",
    "EngineRequest",
    "EngineResult",
    "LayerFiles",
    "SizeSpec",
    "build_engine",
    "has_graph",
    "plan_engine",
    "profiles_of",
]

Size = tuple[int, int]
PROFILED_RUNS = 20


@dataclass(frozen=True)
class SizeSpec:
    """Image sizes that an engine must accept.

    Attributes:
        pictures: Low-resolution sizes (h, w).
        outputs: Output sizes (H, W).
        scales: Scales, each combined with every size.
        memory_budget: Bytes of one run above which the runtime tiles an image; None for
            `ENGINE_MEMORY_BUDGET`, or the bundle's own limit if that is larger.
        halo: Overlap of tiles, "default" or "exact".
        exact: Accept these sizes only, instead of every image up to them.
        explicit: Minimum, optimal and maximum shapes of each profile, instead of sizes.
    """

    pictures: tuple[Size, ...] = ()
    outputs: tuple[Size, ...] = ()
    scales: tuple[Scale, ...] = ()
    memory_budget: int | None = None
    halo: Literal["default", "exact"] = "default"
    exact: bool = False
    explicit: tuple[tuple[Shapes, Shapes, Shapes], ...] = ()


@dataclass(frozen=True)
class EngineRequest:
    """Specification of an engine.

    Attributes:
        precision: Precision of the bundle's graph.
        sizes: Image sizes that it must accept.
        settings: Settings of the builder.
        least_share: Minimum share of the multiply-adds with weights that must run in the
            precision; None for the default of the model's family.
        place: Device that Inductor compiles for, "cpu" or "cuda:N".
        kernels: Whether Inductor's engine for a GPU has the project's own Triton kernels.
    """

    precision: str
    sizes: SizeSpec
    settings: Settings
    least_share: float | None = None
    place: str = "cpu"
    kernels: bool = True


@dataclass(frozen=True)
class EnginePlan:
    """An engine to be built, as far as this machine can determine it.

    Attributes:
        request: Specification of the engine.
        device: GPU of this machine, None without one.
        library: TensorRT library, None if it is not installed.
        target: GPUs that the engine runs on, None if they are unknown.
        profiles: Optimization profiles.
        estimates: Estimated activation memory of each profile in bytes.
        needs_export: Whether the bundle lacks the graph.
        obstacles: Errors that keep this machine from building.
        key: Key of the engine, None if a part of it is unknown.
        existing: The store's intact engine with this key, None without one.
    """

    request: EngineRequest
    device: Device | None
    library: Library | None
    target: Target | None
    profiles: tuple[Profile, ...]
    estimates: tuple[int, ...]
    needs_export: bool
    obstacles: tuple[FlowsrError, ...]
    key: EngineKey | None = None
    existing: EngineEntry | None = None

    @property
    def unknown(self) -> tuple[str, ...]:
        """Reasons why the key is not known."""
        missing = f"the {self.request.precision} graph: it is not exported yet"
        return (*map(str, self.obstacles), *([missing] if self.needs_export else []))

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each profile that takes one size of images only."""
        lines = []
        for index, profile in enumerate(self.profiles):
            shape = profile["input"]
            if shape.min[2:] == shape.max[2:]:
                size = size_text((shape.max[2], shape.max[3]))
                lines.append(
                    f"profile {index} takes images of {size} only, and no tile of another size"
                )
        return tuple(lines)

    def check(self) -> None:
        """Raise the first obstacle.

        Raises:
            BackendError: If the library is not installed.
            ProviderError: If the library needs a GPU and there is none.
        """
        if self.obstacles:
            raise self.obstacles[0]


@dataclass(frozen=True)
class EngineResult:
    """An engine in a store.

    Attributes:
        entry: Description of the engine.
        built: Output of the build; None if the engine existed.
    """

    entry: EngineEntry
    built: Built | None


@dataclass(frozen=True)
class LayerFiles:
    """Files about the layers of an engine, None for those that are not written.

    Attributes:
        information: Layers, as trtexec's --exportLayerInfo writes them.
        profile: Time of each layer, as trtexec's --exportProfile writes it.
        force: Whether existing files are overwritten.
    """

    information: Path | None = None
    profile: Path | None = None
    force: bool = False

    @property
    def wanted(self) -> bool:
        """Whether any file is written, which needs a new build."""
        return self.information is not None or self.profile is not None

    def check(self, plan: EnginePlan) -> None:
        """Check that this machine can write the files.

        Raises:
            ProviderError: If times are to be measured and there is no GPU.
                UsageError: If the engine is a package of Inductor.
            OutputError: As `prepare_files`.
        """
        if self.wanted and plan.library is not None and plan.library.is_inductor:
            name = "export_layer_info" if self.information else "export_profile"
            raise UsageError(f"{name} is for tensorrt and tensorrt_rtx", option=name)
        prepare_files(filter(None, (self.information, self.profile)), force=self.force)
        if self.profile is not None and plan.device is None:
            message = "export_profile needs a GPU that runs the engine"
            raise ProviderError(message, option="export_profile")


def profiles_of(manifest: Manifest, sizes: SizeSpec, *, apart: bool = False) -> list[Profile]:
    """Choose the profiles of an engine.

    Args:
        manifest: Manifest of the bundle.
        sizes: Image sizes that the engine must accept.
        apart: Whether each exact size has a profile of its own, for which it is compiled.

    Returns:
        Explicit profiles unchanged; else the fewest profiles that cover every image and its
        tiles; without sizes one profile, from a small square to the largest within the budget.

    Raises:
        UsageError: If explicit shapes do not fit together, or are mixed with sizes.
        ScaleError: If the model does not support a scale or a size.
        MemoryBudgetError: If the smallest tile exceeds the budget.
    """
    asked = (*sizes.pictures, *sizes.outputs)
    if sizes.explicit:
        if asked:
            raise UsageError("give either pictures and sizes or explicit shapes, not both")
        return [explicit_profile(manifest, shapes, sizes.scales) for shapes in sizes.explicit]
    own = max(manifest.memory.budget_bytes or 0, ENGINE_MEMORY_BUDGET)
    budget = sizes.memory_budget or own
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
    if apart and sizes.exact:
        return [profile_of(manifest, [run]) for run in runs]
    return profiles_for(manifest, runs, exact=sizes.exact)


def has_graph(bundle: Bundle, precision: str) -> bool:
    """Return whether a bundle holds the graph of a precision."""
    return any(
        name.endswith(".onnx") and entry.precision == precision
        for name, entry in bundle.manifest.files.items()
    )


def plan_engine(
    manifest: Manifest,
    bundle: Bundle | None,
    flavour: TensorrtVariant | Library,
    request: EngineRequest,
    device: Device | None = None,
) -> EnginePlan:
    """Plan an engine; this needs neither a GPU nor a TensorRT library.

    Args:
        manifest: Manifest of the bundle, existing or not.
        bundle: The bundle, None if it does not exist yet.
        flavour: Library that builds it, or a loaded one.
        request: Specification of the engine.
        device: GPU of this machine, None without one.

    Returns:
        The plan; its `obstacles` hold a missing library or GPU.

    Raises:
        FlowsrError: As `profiles_of`, or if the library cannot build the requested engine.
    """
    compiles = flavour == "inductor" if isinstance(flavour, str) else flavour.is_inductor
    profiles = tuple(profiles_of(manifest, request.sizes, apart=compiles))
    if compiles:
        profiles = tuple(compiled_profile(manifest, profile) for profile in profiles)
    estimates = tuple(estimated_memory(manifest, profile) for profile in profiles)
    obstacles: list[FlowsrError] = []
    library: Library | None = None
    target: Target | None = None
    try:
        library = load_library(flavour, device) if isinstance(flavour, str) else flavour
        target = _target(library, request, device)
    except BackendError as error:
        obstacles.append(error)
    except ProviderError as error:
        if library is None or library.flavour != "tensorrt" or device is not None:
            raise
        obstacles.append(error)
    needs_export = bundle is None or not has_graph(bundle, request.precision)
    key, existing = None, None
    if bundle is not None and library is not None and target is not None and not needs_export:
        key = _key(bundle, library, target, request, profiles)
        existing = _intact(EngineStore(bundle.path), key)
    return EnginePlan(
        *(request, device, library, target, profiles, estimates),
        *(needs_export, tuple(obstacles), key, existing),
    )


def build_engine(
    bundle: Bundle,
    plan: EnginePlan,
    *,
    log: Path | None = None,
    files: LayerFiles | None = None,
    checkpoint: Callable[[], Checkpoint] | None = None,
    report: Callable[[float, str], None] = lambda share, phase: None,
) -> EngineResult:
    """Build an engine into the bundle's store, unless the store has it.

    An engine that this machine can load is run before it is stored. An engine in the store
    that never ran is built again where it can run.

    Args:
        bundle: Bundle with the graph.
        plan: Plan for this bundle.
        log: File for the builder's log.
        files: Files about its layers, for which the engine is built again; None for none.
        checkpoint: Returns the checkpoint of the bundle, which Inductor compiles.
        report: Called about five times a second with the completed share and the phase.

    Returns:
        The engine.

    Raises:
        PrecisionError: If the graph or the engine does not compute in the requested precision.
        ParityError: If the engine fails in a run, or misses the golden pair.
        ProviderError: If the times of layers are to be measured and no GPU runs the engine.
        FlowsrError: As `EnginePlan.check` and `build_plan`.
    """
    from flowsr_export.engine.qualification import loads_here

    files = files or LayerFiles()
    plan.check()
    files.check(plan)
    assert plan.key is not None
    assert plan.library is not None
    compiles = plan.library.is_inductor
    runs_here = compiles or loads_here(plan.key, plan.library, plan.device)
    if plan.existing is not None and not files.wanted:
        untested = plan.existing.facts.get("qualified") is False
        if not (untested and runs_here):
            return EngineResult(plan.existing, None)
    if compiles:
        assert checkpoint is not None
        built, audit, work = _compiled(bundle, plan, checkpoint(), report)
        tested = _tested_package(bundle, plan, built)
    else:
        built, audit, work = _build(bundle, plan, log, report)
        tested = _tested(bundle, plan, built, files, runs_here)
    facts = {**_facts(built, audit, plan), "work": work, **tested}
    return EngineResult(EngineStore(bundle.path).add(plan.key, built.plan, facts), built)


def _key(
    bundle: Bundle,
    library: Library,
    target: Target,
    request: EngineRequest,
    profiles: tuple[Profile, ...],
) -> EngineKey:
    """Return the key of an engine, which decides whether it can be reused."""
    options = request.settings.options()
    if library.is_inductor:
        options = key_options(request.place, kernels=request.kernels)
    if library.lacks_gemm(request.settings.compute_capabilities):
        options["float32_gemm"] = "rewritten"
    return EngineKey(
        onnx_sha256=bundle.manifest.files[bundle.model_name(request.precision)].sha256,
        flavour=library.flavour,
        version=library.version,
        compute_capability=target.compute_capability,
        gpu_name=target.gpu_name,
        precision=request.precision,
        profiles=profiles,
        options=options,
    )


def _target(library: Library, request: EngineRequest, device: Device | None) -> Target:
    """Return the devices that the engine will run on, once the settings are checked."""
    settings = request.settings
    if library.is_inductor:
        check_request(request.precision, settings, request.place, kernels=request.kernels)
        return target_of_place(request.place)
    if not request.kernels:
        message = f"kernels must be on with {library.flavour}, got off"
        raise UsageError(message, option="kernels")
    check_settings(library, settings)
    return target_of(
        library, settings.compute_capabilities, settings.hardware_compatibility, device
    )


def _audited(
    bundle: Bundle, plan: EnginePlan, model: ModelProto
) -> tuple[MacCount, PrecisionAudit]:
    """Count the graph's work and audit its precision, before the slow part."""
    from flowsr_export.engine.precision_audit import (
        audit,
        least_share,
        require_precision,
        work_at,
    )

    precision, least = plan.request.precision, plan.request.least_share
    work = work_at(model, plan.profiles[-1])
    if least is None:
        least = least_share(precision, bundle.manifest.family, work)
    result = audit(work, [], precision, least)
    require_precision(result)
    return work, result


def _compiled(
    bundle: Bundle,
    plan: EnginePlan,
    checkpoint: Checkpoint,
    report: Callable[[float, str], None],
) -> tuple[Built, PrecisionAudit, dict[str, Any]]:
    """Compile the package; its layers are not known, so the graph is audited alone."""
    import onnx

    from flowsr_export.engine.roofline import roofline_facts

    assert plan.key is not None
    model = onnx.load_from_string(bundle.model_bytes(plan.request.precision))
    work, result = _audited(bundle, plan, model)
    built = build_package(bundle, plan.key, checkpoint, plan.request.place, report)
    return built, result, roofline_facts(work, [], len(plan.profiles))


def _tested_package(bundle: Bundle, plan: EnginePlan, built: Built) -> dict[str, Any]:
    """Run a package on the device that it was compiled for; return the facts."""
    from flowsr_export.engine.qualification import qualify

    assert plan.key is not None
    with open_package(bundle, plan.key, built, plan.request.place) as engine:
        return {"qualified": True, "qualification": qualify(bundle, plan.key, engine)}


def _build(
    bundle: Bundle, plan: EnginePlan, log: Path | None, report: Callable[[float, str], None]
) -> tuple[Built, PrecisionAudit, dict[str, Any]]:
    """Build the plan, audit its precision before and after, and count its work."""
    import onnx

    from flowsr_export.engine.layers import layers_of
    from flowsr_export.engine.precision_audit import audit, require_precision
    from flowsr_export.engine.roofline import roofline_facts
    from flowsr_export.onnx_graph.gemm_rewrite import without_float32_gemm

    request, library = plan.request, plan.library
    assert library is not None
    content = bundle.model_bytes(request.precision)
    model = onnx.load_from_string(content)
    work, before = _audited(bundle, plan, model)
    if library.lacks_gemm(request.settings.compute_capabilities):
        content = without_float32_gemm(model).SerializeToString()
    built = build_plan(
        *(library, content, plan.profiles, request.settings),
        device=plan.device,
        log=log,
        estimates=plan.estimates,
        report=report,
    )
    layers = layers_of(library.module, built, on_device=plan.device is not None)
    result = audit(work, layers, request.precision, before.least)
    require_precision(result)
    return built, result, roofline_facts(work, layers, len(plan.profiles))


def _tested(
    bundle: Bundle, plan: EnginePlan, built: Built, files: LayerFiles, runs_here: bool
) -> dict[str, Any]:
    """Run an engine where it can run, write the files about its layers; return the facts."""
    from flowsr_export.engine.layer_files import layer_information, layer_profile
    from flowsr_export.engine.qualification import (
        OUTPUT,
        bound_feeds,
        open_engine,
        qualify,
    )

    key, library, device = plan.key, plan.library, plan.device
    assert key is not None
    assert library is not None
    if files.information is not None:
        content = layer_information(library.module, built, on_device=runs_here)
        write_files({files.information: json.dumps(content, indent=1) + "\n"})
    if not runs_here or device is None:
        if files.profile is not None:
            message = (
                f"export_profile needs a GPU that runs the engine, it is for {plan.target}"
            )
            raise ProviderError(message, option="export_profile")
        return {"qualified": False}
    with open_engine(key, built.plan, library, device) as engine:
        facts = qualify(bundle, key, engine)
        if files.profile is not None:
            feeds = bound_feeds(bundle.manifest, key.profiles[0], "opt")
            with engine.worker() as worker:
                times = worker.layer_times(0, feeds, OUTPUT, PROFILED_RUNS)
            text = json.dumps(layer_profile(times), indent=1) + "\n"
            write_files({files.profile: text})
    return {"qualified": True, "qualification": facts}


def _intact(store: EngineStore, key: EngineKey) -> EngineEntry | None:
    """Return the store's engine with a key, None if it is missing or damaged."""
    try:
        entry = store.find(key)
        if entry is not None:
            store.read(entry)
    except IntegrityError:
        return None
    return entry


def _facts(built: Built, audit: PrecisionAudit, plan: EnginePlan) -> Mapping[str, Any]:
    precision = asdict(audit)
    del precision["precision"]  # the key has it
    return {
        "tool": version("flowsr-lp"),
        "build_seconds": round(built.seconds, 3),
        "scratch_bytes": list(built.scratch),
        "estimated_bytes": list(plan.estimates),
        "driver": None if plan.device is None else plan.device.driver,
        "tensors": list(built.tensors),
        "precision": precision,
        "warnings": list(built.warnings),
    }
