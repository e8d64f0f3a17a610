"""The jobs that this machine can do now, and what the others need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flowsr_export.machine.libraries import Environment, Part
from flowsr_runtime.installation import pip_command

__all__ = ["Ability", "abilities_of"]

RUN = ("numpy", "PIL", "onnxruntime")
CUDA = (*RUN, "cudnn")
EXPORT = ("torch", "onnx", "onnxscript", "safetensors", "onnxruntime")
NO_GPU = "no NVIDIA GPU was found; it needs one and its driver"
RTX = "tensorrt_rtx"


@dataclass(frozen=True)
class Ability:
    """A job, and what it needs on this machine.

    Attributes:
        job: The job, as a verb.
        missing: What it still needs, with the remedies; empty if it can be done now.
    """

    job: str
    missing: tuple[str, ...] = ()


def abilities_of(environment: Environment) -> list[Ability]:
    """Return every job, in the order in which a user meets them.

    Args:
        environment: Libraries and hardware of the machine.
    """
    parts = {part.name: part for part in environment.parts}
    no_gpu = () if environment.device.gpus else (NO_GPU,)

    def ability(job: str, names: Sequence[str], *more: str) -> Ability:
        lacking = [parts[name] for name in names if parts[name].version is None]
        needs = [f"{part.name} is missing" for part in lacking]
        remedies = dict.fromkeys(part.remedy for part in lacking)
        return Ability(job, (*needs, *remedies, *more))

    return [
        ability("upscale on the CPU", RUN),
        ability("upscale on the CPU with OpenVINO", ("numpy", "PIL", "openvino")),
        ability("upscale on CUDA", CUDA, *_without_cuda(parts["onnxruntime"]), *no_gpu),
        ability("upscale on a TensorRT engine", _engine_library(parts), *no_gpu),
        ability("build engines for GeForce and RTX, without a GPU too", (RTX, "onnx")),
        ability("build engines for the GPU of this machine", ("tensorrt", "onnx"), *no_gpu),
        ability("export and verify", EXPORT),
        ability("calibrate to eight bits", ("onnx", "onnxruntime", "matplotlib")),
        ability("train", ("torch", "safetensors")),
        ability("evaluate", RUN),
        ability("benchmark", ("onnx", "onnxruntime", "matplotlib", "psutil", "jinja2")),
        ability("serve over HTTP", (*RUN, "fastapi", "uvicorn")),
        ability("upscale on a Ray cluster", (*RUN, "ray")),
    ]


def _without_cuda(onnxruntime: Part) -> tuple[str, ...]:
    """Return the remedy of an ONNX Runtime without CUDA, nothing if it has CUDA."""
    if onnxruntime.version is None or "CUDAExecutionProvider" in onnxruntime.providers:
        return ()
    return ("the installed onnxruntime has no CUDA", pip_command("gpu"))


def _engine_library(parts: dict[str, Part]) -> tuple[str, ...]:
    """Return the library that runs engines: the installed one, else TensorRT for RTX."""
    return ("tensorrt",) if parts["tensorrt"].version is not None else (RTX,)
