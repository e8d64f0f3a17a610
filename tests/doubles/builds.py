"""Build a plan with any TensorRT module, real or double, as a program would."""

from typing import Any

from tests.doubles.trt_plan import Plan

__all__ = ["Recorder", "GEOMETRY", "INPUT", "build", "changed", "recorder"]

INPUT = ((1, 3, 1, 1), (1, 3, 16, 16), (2, 3, 64, 64))
GEOMETRY = ((1,) * 4 + (0,) * 4 + (1,) * 2, (16,) * 10, (4096,) * 10)
Profile = dict[str, tuple[Any, Any, Any]]


class Recorder:
    """What a logger heard."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def said(self, severity: str = "ERROR") -> str:
        return "\n".join(text for name, text in self.lines if name == severity)


def recorder(module: Any) -> tuple[Any, Recorder]:
    """Return a logger of a module and what it hears."""
    heard = Recorder()

    class RecordingLogger(module.ILogger):  # type: ignore[misc]  # a class of the module
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            heard.lines.append((severity.name, msg))

    return RecordingLogger(), heard


def build(
    module: Any,
    onnx: bytes,
    *profiles: Profile,
    workspace: int | None = None,
    capabilities: tuple[str, ...] = (),
    flags: tuple[str, ...] = (),
    monitor: Any = None,
    typed: bool = True,
) -> tuple[bytes | None, Recorder]:
    """Return a plan, or None, and what was logged.

    Args:
        module: `tensorrt`, `tensorrt_rtx` or a double.
        onnx: The ONNX file.
        profiles: (min, opt, max) by input; those of "geometry" are values.
        workspace: Limit in bytes.
        capabilities: Names such as "SM89"; RTX alone.
        flags: Builder flags.
        monitor: Progress monitor.
        typed: Whether the types are those of the file.
    """
    logger, heard = recorder(module)
    builder = module.Builder(logger)
    kinds = module.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(kinds.STRONGLY_TYPED) if typed else 0)
    parser = module.OnnxParser(network, logger)  # kept: it holds the weights
    if not parser.parse(onnx):
        return None, heard
    config = builder.create_builder_config()
    config.progress_monitor = monitor
    for name in flags:
        config.set_flag(getattr(module.BuilderFlag, name))
    if workspace is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, workspace)
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, name in enumerate(capabilities):
            config.set_compute_capability(getattr(module.ComputeCapability, name), index)
    for ranges in profiles:
        profile = builder.create_optimization_profile()
        for name, sizes in ranges.items():
            setter = profile.set_shape_input if name == "geometry" else profile.set_shape
            setter(name, *sizes)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    return None if plan is None else bytes(plan), heard


def changed(plan: bytes, **facts: Any) -> bytes:
    """Return a double's plan of which some facts are others."""
    unpacked = Plan.unpack(plan)
    assert unpacked is not None
    for name, value in facts.items():
        setattr(unpacked, name, value)
    return unpacked.pack()
