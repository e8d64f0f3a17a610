"""What a machine can do follows from its libraries and its hardware."""

from dataclasses import replace

import pytest

from flowsr_export.machine.abilities import NO_GPU, abilities_of
from flowsr_export.machine.libraries import Environment, examine
from flowsr_export.machine.nvidia_smi import Gpu
from flowsr_runtime.installation import pip_command

GPU = Gpu("NVIDIA L4", "8.9", 24_576, "580.1")


@pytest.fixture
def here() -> Environment:
    """This machine without a GPU, with every library and a CUDA build of ONNX Runtime."""
    found = examine()
    parts = [replace(one, version="1.0", trouble=None) for one in found.parts]
    both = ("CUDAExecutionProvider", "CPUExecutionProvider")
    parts = [replace(p, providers=both) if p.name == "onnxruntime" else p for p in parts]
    return replace(found, parts=tuple(parts), device=replace(found.device, gpus=()))


def without(environment: Environment, *names: str) -> Environment:
    """Return the machine without some libraries."""
    parts = (replace(p, version=None) if p.name in names else p for p in environment.parts)
    return replace(environment, parts=tuple(parts))


def missing(environment: Environment) -> dict[str, tuple[str, ...]]:
    """Return what each job needs that cannot be done."""
    return {one.job: one.missing for one in abilities_of(environment) if one.missing}


def test_a_machine_with_everything_can_do_everything(here: Environment) -> None:
    assert missing(replace(here, device=replace(here.device, gpus=(GPU,)))) == {}


def test_without_a_gpu_the_jobs_on_one_are_left(here: Environment) -> None:
    assert missing(here) == {
        "upscale on CUDA": (NO_GPU,),
        "upscale on a TensorRT engine": (NO_GPU,),
        "build engines for the GPU of this machine": (NO_GPU,),
    }


def test_a_machine_without_cudnn_cannot_upscale_on_cuda(here: Environment) -> None:
    bare = replace(without(here, "cudnn"), device=replace(here.device, gpus=(GPU,)))
    remedy = "pip install nvidia-cudnn-cu13 (nvidia-cudnn-cu12 for CUDA 12)"
    assert missing(bare) == {"upscale on CUDA": ("cudnn is missing", remedy)}


def test_all_missing_libraries_are_named_at_once_with_each_remedy_once(
    here: Environment,
) -> None:
    assert missing(without(here, "torch", "onnx"))["export and verify"] == (
        "torch is missing",
        "onnx is missing",
        pip_command("export"),
    )


def test_an_onnx_runtime_without_cuda_is_told(here: Environment) -> None:
    parts = (replace(part, providers=("CPUExecutionProvider",)) for part in here.parts)
    gpu = replace(here.device, gpus=(GPU,))
    assert missing(replace(here, parts=tuple(parts), device=gpu)) == {
        "upscale on CUDA": (
            "the installed onnxruntime has no CUDA",
            pip_command("gpu"),
        )
    }


def test_either_tensorrt_runs_engines(here: Environment) -> None:
    machine = replace(here, device=replace(here.device, gpus=(GPU,)))
    for name in ("tensorrt", "tensorrt_rtx"):
        assert "upscale on a TensorRT engine" not in missing(without(machine, name))
    both = without(machine, "tensorrt", "tensorrt_rtx")
    assert missing(both)["upscale on a TensorRT engine"] == (
        "tensorrt_rtx is missing",
        pip_command("tensorrt-rtx"),
    )
