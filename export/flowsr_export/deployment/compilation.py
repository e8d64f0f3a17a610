"""Compile a deployment module ahead of time with PyTorch's Inductor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import UserError
from torch._inductor import aot_compile
from torch._inductor.exc import InductorError
from torch._inductor.package.package import package_aoti

from flowsr_export.deployment.interface import DTYPES, Compilable, Deployment, Precision
from flowsr_export.deployment.tracing import tracing
from flowsr_runtime.backends.engines.inductor_engine import model_names
from flowsr_runtime.bundle.engine_key import Profile
from flowsr_runtime.bundle.manifest import Io
from flowsr_runtime.errors import BackendError, FlowsrError

__all__ = ["Package", "compile_package", "triton_version"]

WHITE = 255
LONGEST_REASON = 300  # characters of a message of the compiler, which may span pages
OPTIONS: dict[str, Any] = {
    "aot_inductor.package": True,
    # Else the number of threads of this machine would be in the code.
    "cpp.dynamic_threads": True,
}
ON_GPU: dict[str, Any] = {
    # Little of a GPU's package runs on the CPU, and trying its vector instructions takes a
    # minute. PyTorch keeps the answer: later packages of this process have none either.
    "cpp.vec_isa_ok": False,
}


@dataclass(frozen=True)
class Package:
    """A compiled package.

    Attributes:
        content: The file.
        tensors: Inputs in order, then the output, as JSON: "name", "input", "dtype" such as
            "float32" and "shape" with -1 for a dynamic side.
    """

    content: bytes
    tensors: tuple[dict[str, Any], ...]


def triton_version() -> str:
    """Return the version of Triton, which compiles the kernels for a GPU, or "none"."""
    try:
        import triton
    except ImportError:
        return "none"
    return str(triton.__version__)


def compile_package(
    deployment: Deployment,
    precision: Precision,
    scale: Fraction | None,
    profiles: Sequence[Profile],
    *,
    io: Io,
    device: str,
    fuse: bool = False,
    report: Callable[[int], None] = lambda index: None,
) -> Package:
    """Compile a deployment module for each profile into one package.

    Args:
        deployment: The network.
        precision: Type of the heavy layers.
        scale: Fixed scale of the bundle's graph, None for any.
        profiles: Ranges by input; profiles of one size are compiled for it alone.
        io: Type of the images.
        device: "cpu" or "cuda:N".
        fuse: Use the project's own Triton kernels where the network has any.
        report: Called with the index of each profile when its compilation begins.

    Returns:
        The package.

    Raises:
        BackendError: If there is no C++ compiler, or no Triton for a GPU.
        FlowsrError: If the compiler fails otherwise.
    """
    files: dict[str, Any] = {}
    tensors: tuple[dict[str, Any], ...] = ()
    for index, (name, profile) in enumerate(
        zip(model_names(len(profiles)), profiles, strict=True)
    ):
        report(index)
        compilable = deployment.compilable(DTYPES[precision], scale, profile, fuse=fuse)
        if io == "uint8":
            compilable = _with_uint8(compilable)
        tensors = _tensors(compilable)
        files[name] = _compiled(compilable, torch.device(device), fuse=fuse)
    with TemporaryDirectory(prefix="flowsr-build-") as folder:
        path = Path(folder) / "engine.pt2"
        package_aoti(str(path), files)
        return Package(path.read_bytes(), tensors)


def _compiled(compilable: Compilable, device: torch.device, *, fuse: bool) -> Any:
    """Export and compile a module; return the paths of its files."""
    module = compilable.module.eval().to(device)
    with tracing("torch._inductor"), torch.no_grad():
        example = tuple(item.to(device) for item in compilable.example.values())
        try:
            exported = torch.export.export(
                module,
                example,
                dynamic_shapes=compilable.vary,
                strict=False,
                # PyTorch cannot prove that a whole number of windows divides their pixels.
                prefer_deferred_runtime_asserts_over_guards=True,
            )
            options = OPTIONS if device.type == "cpu" else OPTIONS | ON_GPU
            return aot_compile(exported.module(check_guards=False), example, options=options)
        except (InductorError, UserError) as error:
            reason = " ".join(str(error).split())[:LONGEST_REASON]
            is_missing = "compiler" in reason.lower() or "triton" in reason.lower()
            if fuse and triton_version() != "none":
                reason += "; --no-kernels builds without the project's own Triton kernels"
            if is_missing:
                raise BackendError(f"inductor cannot compile here: {reason}") from error
            raise FlowsrError(f"inductor cannot compile the model: {reason}") from error


class _Uint8(nn.Module):
    """A module whose images are uint8, as in the bundle's graph; it rounds half up."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, input: Tensor, *others: Tensor) -> Tensor:
        output = self.module(input.float() / WHITE, *others)
        return torch.floor(output.clamp(0, 1) * WHITE + 0.5).to(torch.uint8)


def _with_uint8(compilable: Compilable) -> Compilable:
    example = dict(compilable.example)
    example["input"] = (example["input"] * WHITE).to(torch.uint8)
    vary = compilable.vary
    if vary is not None:
        first, *others = vary.values()
        vary = {"input": first, "others": tuple(others)}
    return Compilable(_Uint8(compilable.module), example, vary)


def _tensors(compilable: Compilable) -> tuple[dict[str, Any], ...]:
    """Describe the inputs and the output."""
    vary = compilable.vary or {}
    if "others" in vary:
        names = list(compilable.example)
        vary = dict(zip(names, (vary["input"], *vary["others"]), strict=True))
    records: list[dict[str, Any]] = [
        {
            "name": name,
            "input": True,
            "dtype": str(item.dtype).removeprefix("torch."),
            "shape": [
                -1 if index in (vary.get(name) or {}) else side
                for index, side in enumerate(item.shape)
            ],
        }
        for name, item in compilable.example.items()
    ]
    output = {"name": "output", "input": False, "dtype": records[0]["dtype"]}
    return (*records, {**output, "shape": [records[0]["shape"][0], 3, -1, -1]})
