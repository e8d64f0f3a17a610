"""Build a plan with any TensorRT module, real or double, and record its log."""

from typing import Any

from tests.doubles.trt_plan import Plan

__all__ = ["Recorder", "build", "changed", "recorder"]

Profile = dict[str, tuple[Any, Any, Any]]


class Recorder:
    """Messages of a logger."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def said(self, severity: str = "ERROR") -> str:
        return "\n".join(text for name, text in self.lines if name == severity)


def recorder(module: Any) -> tuple[Any, Recorder]:
    """Return a logger of a module and the recorder of its messages."""
    messages = Recorder()

    class RecordingLogger(module.ILogger):  # type: ignore[misc]  # a class of the module
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            messages.lines.append((severity.name, msg))

    return RecordingLogger(), messages


def build(
    module: Any, onnx: bytes, *profiles: Profile, capabilities: tuple[str, ...] = ()
) -> tuple[bytes | None, Recorder]:
    """Return a plan, or None, and the log.

    Args:
        module: `tensorrt`, `tensorrt_rtx` or a double.
        onnx: The ONNX file.
        profiles: (min, opt, max) by input; those of "geometry" are values.
        capabilities: Names such as "SM89"; `tensorrt_rtx` alone.
    """
    logger, messages = recorder(module)
    builder = module.Builder(logger)
    flags = 1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = module.OnnxParser(network, logger)  # kept: it holds the weights
    if not parser.parse(onnx):
        return None, messages
    config = builder.create_builder_config()
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
    return None if plan is None else bytes(plan), messages


def changed(plan: bytes, **facts: Any) -> bytes:
    """Return a double's plan with some fields replaced."""
    unpacked = Plan.unpack(plan)
    assert unpacked is not None
    for name, value in facts.items():
        setattr(unpacked, name, value)
    return unpacked.pack()
