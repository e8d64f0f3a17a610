"""Triton configuration of a model: inputs, batching, instances, warm-up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from flowsr_export.triton.pbtxt import Fields, Word
from flowsr_runtime.backends.cuda_provider import CudaOptions
from flowsr_runtime.bundle.engine_key import Profile
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.errors import UsageError
from flowsr_runtime.geometry import Window, size_for

__all__ = ["Backend", "TritonModelConfig", "WarmUp", "config_of", "warm_ups"]

Backend = Literal["onnxruntime", "tensorrt", "python"]

QUEUE_DELAY = 2000
"""Microseconds that a request waits for others of the same size, to form a batch."""

WARM_SIDE = 64
"""Side in pixels of the warm-up image."""

BACKENDS = {
    "tensorrt": {"platform": "tensorrt_plan", "default_model_filename": "model.plan"},
    "onnxruntime": {"platform": "onnxruntime_onnx", "default_model_filename": "model.onnx"},
    "python": {"backend": "python", "default_model_filename": "model.py"},
}
TYPES = {"float32": "FP32", "uint8": "UINT8"}


@dataclass(frozen=True)
class TritonModelConfig:
    """Configuration of a served model.

    Attributes:
        name: Name of the model in the repository.
        backend: Triton's ONNX Runtime or TensorRT backend, or Python with flowsr_runtime.
        provider: Execution provider: "cpu", "cuda", "tensorrt" or "openvino".
        precision: Precision of the bundle's graph.
        instances: Number of model instances per device.
        max_batch: Maximum number of images of one size per run, if the graph supports it.
        max_queue: Maximum number of requests waiting for a batch, 0 for no limit.
        threads: CPU threads of an instance, None for ONNX Runtime's default.
        memory_budget: Memory limit of one run in bytes, None for the bundle's own (Python).
        halo: Overlap of tiles, "default" or "exact" (Python).
        engine: Name of the engine, None for the only one (TensorRT).
        tf32: Whether provider cuda computes float32 graphs in TF32.
        convolution_search: Choice of convolutions of provider cuda, "heuristic" or
            "exhaustive".
    """

    name: str = "flowsr"
    backend: Backend = "python"
    provider: str = "cpu"
    precision: str = "fp32"
    instances: int = 1
    max_batch: int = 8
    max_queue: int = 64
    threads: int | None = None
    memory_budget: int | None = None
    halo: str = "default"
    engine: str | None = None
    tf32: bool = False
    convolution_search: str = "heuristic"


@dataclass(frozen=True)
class WarmUp:
    """A request that Triton runs before the model is ready.

    Attributes:
        name: Name of the sample, and prefix of its files.
        shapes: Shape of each input, without the batch if the model is batched.
        values: Bytes of the inputs that need given values; the others are random.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, bytes]

    def files(self) -> dict[str, bytes]:
        """Return the files for the folder `warmup` by name."""
        return {f"{self.name}-{name}": data for name, data in self.values.items()}


def config_of(
    manifest: Manifest,
    options: TritonModelConfig,
    warm: Sequence[WarmUp],
    profiles: Sequence[Profile] = (),
) -> Fields:
    """Return the configuration of a model, for `text_of`.

    Args:
        manifest: Manifest of the bundle.
        options: Configuration of the served model.
        warm: Warm-up requests.
        profiles: Profiles of the engine (TensorRT).

    Returns:
        Fields of Triton's message ModelConfig.
    """
    batch = _max_batch(manifest, options, profiles)
    inputs = _inputs(manifest, options, batch)
    types = {tensor["name"]: tensor["data_type"] for tensor in inputs}
    config: dict[str, Any] = {
        "name": options.name,
        **BACKENDS[options.backend],
        "max_batch_size": batch,
        "input": inputs,
        "output": [_output(manifest, options, batch)],
        "instance_group": [_instances(options, profiles)],
    }
    if batch:
        queue: dict[str, Any] = {"max_queue_delay_microseconds": QUEUE_DELAY}
        if options.max_queue:
            queue["default_queue_policy"] = {"max_queue_size": options.max_queue}
        config["dynamic_batching"] = queue
    config |= _optimization(options)
    config["model_warmup"] = [_warm_up(request, types) for request in warm]
    return config | {"parameters": _parameters(options)}


def warm_ups(
    manifest: Manifest, options: TritonModelConfig, profiles: Sequence[Profile] = ()
) -> list[WarmUp]:
    """Return the warm-up requests of a model.

    Args:
        manifest: Manifest of the bundle.
        options: Configuration of the served model.
        profiles: Profiles of the engine (TensorRT).

    Returns:
        One 64x64 image at scale 2 or at the model's own scale; with TensorRT one request per
        profile, at its optimal shapes.
    """
    if options.backend == "tensorrt":
        batch = _max_batch(manifest, options, profiles)
        return [_tuned(index, profile, batch) for index, profile in enumerate(profiles)]
    source = (WARM_SIDE, WARM_SIDE)
    target = size_for(source, scale=manifest.scale or 2, size=None)
    if options.backend == "python":
        size = np.array(target, dtype="<i8").tobytes()
        shapes: dict[str, tuple[int, ...]] = {"input": (*source, 3), "size": (2,)}
        values = {"size": size}
        if manifest.latents:
            shapes["temperature"] = (1,)
            values["temperature"] = np.zeros(1, dtype="<f4").tobytes()
        return [WarmUp("picture", shapes, values)]
    head = () if _max_batch(manifest, options, profiles) else (1,)
    shapes = {"input": (*head, 3, *source)}
    values = {}
    if manifest.geometry:
        shapes["geometry"] = (10,)
        values["geometry"] = Window.whole(source, target).geometry().astype("<i8").tobytes()
    for latent in manifest.latents:
        shapes[latent.name] = (*head, latent.channels, *latent.grid(target))
    return [WarmUp("picture", shapes, values)]


def _tuned(index: int, profile: Profile, batch: int) -> WarmUp:
    """Return the request with the optimal shapes of a profile."""
    cut = 1 if batch else 0
    shapes = {name: bounds.opt[cut:] for name, bounds in profile.items() if name != "geometry"}
    values = {}
    if not batch:
        shapes["input"] = (1, *shapes["input"][1:])
    if "geometry" in profile:
        numbers = profile["geometry"].opt
        shapes["geometry"] = (len(numbers),)
        values["geometry"] = np.array(numbers, dtype="<i8").tobytes()
    return WarmUp(f"profile{index}", shapes, values)


def _max_batch(
    manifest: Manifest, options: TritonModelConfig, profiles: Sequence[Profile]
) -> int:
    """Return the maximum batch size, 0 if an input has no batch dimension."""
    if options.backend == "python" or manifest.geometry:
        return 0
    limits = [profile["input"].max[0] for profile in profiles if "input" in profile]
    return min([options.max_batch, *limits])


def _tensor(name: str, data_type: str, *dims: int) -> dict[str, Any]:
    return {"name": name, "data_type": Word(f"TYPE_{data_type}"), "dims": list(dims)}


def _inputs(manifest: Manifest, options: TritonModelConfig, batch: int) -> list[dict[str, Any]]:
    if options.backend == "python":
        optional = [_tensor("size", "INT64", 2), _tensor("scale", "STRING", 1)]
        if manifest.latents:
            optional += [_tensor("temperature", "FP32", 1), _tensor("seed", "INT64", 1)]
        picture = _tensor("input", "UINT8", -1, -1, 3)
        return [picture, *({**tensor, "optional": True} for tensor in optional)]
    head = [] if batch else [-1]
    inputs = [_tensor("input", TYPES[manifest.io], *head, 3, -1, -1)]
    if manifest.geometry:
        shape = {"is_shape_tensor": True} if options.backend == "tensorrt" else {}
        inputs.append(_tensor("geometry", "INT64", 10) | shape)
    for latent in manifest.latents:
        inputs.append(_tensor(latent.name, "FP32", *head, latent.channels, -1, -1))
    return inputs


def _output(manifest: Manifest, options: TritonModelConfig, batch: int) -> dict[str, Any]:
    if options.backend == "python":
        return _tensor("output", "UINT8", -1, -1, 3)
    return _tensor("output", TYPES[manifest.io], *([] if batch else [-1]), 3, -1, -1)


def _instances(options: TritonModelConfig, profiles: Sequence[Profile]) -> dict[str, Any]:
    gpu = options.backend == "tensorrt" or options.provider in ("cuda", "tensorrt")
    group: dict[str, Any] = {"count": options.instances}
    group["kind"] = Word("KIND_GPU" if gpu else "KIND_CPU")
    if options.backend == "tensorrt":
        group["profile"] = [str(index) for index in range(len(profiles))]
    return group


def _optimization(options: TritonModelConfig) -> dict[str, Any]:
    """Return the execution providers of ONNX Runtime, if they need a setting."""
    if options.backend != "onnxruntime" or options.provider == "cpu":
        return {}
    if options.provider == "openvino":
        return _accelerated("cpu", {"name": "openvino"})
    cuda = CudaOptions(options.precision, options.tf32, options.convolution_search).of_cuda(0)
    del cuda["device_id"]  # that of the instance
    named = [{"key": key, "value": value} for key, value in cuda.items()]
    first = [{"name": "tensorrt"}] if options.provider == "tensorrt" else []
    return _accelerated("gpu", *first, {"name": "cuda", "parameters": named})


def _accelerated(device: str, *accelerators: dict[str, Any]) -> dict[str, Any]:
    listed = {f"{device}_execution_accelerator": list(accelerators)}
    return {"optimization": {"execution_accelerators": listed}}


def _warm_up(warm: WarmUp, types: Mapping[str, Word]) -> dict[str, Any]:
    inputs = []
    for name, shape in warm.shapes.items():
        data: dict[str, Any] = {"random_data": True}
        if name in warm.values:
            data = {"input_data_file": f"{warm.name}-{name}"}
        value = {"data_type": types[name], "dims": list(shape), **data}
        inputs.append({"key": name, "value": value})
    return {"name": warm.name, "batch_size": 1, "inputs": inputs}


def _parameters(options: TritonModelConfig) -> list[dict[str, Any]]:
    texts: dict[str, str] = {}
    if options.backend == "python":
        upscaler = {
            "provider": options.provider,
            "threads": options.threads,
            "precision": options.precision,
            "memory_budget": options.memory_budget,
            "halo": options.halo,
            "tf32": options.tf32,
            "convolution_search": options.convolution_search,
        }
        texts["upscaler"] = json.dumps(upscaler)
    elif options.backend == "onnxruntime" and options.threads is not None:
        texts["intra_op_thread_count"] = str(options.threads)
    return [{"key": name, "value": {"string_value": text}} for name, text in texts.items()]


def check_options(options: TritonModelConfig) -> None:
    """Check the settings of a backend.

    Raises:
        UsageError: If a setting is for another backend.
    """
    if options.backend == "tensorrt" and options.provider != "cpu":
        message = f"provider is for onnxruntime and python, got {options.provider}"
        raise UsageError(message, option="provider")
    tiling = {"memory_budget": options.memory_budget, "halo": options.halo}
    for name, value in tiling.items():
        if options.backend != "python" and value not in (None, "default"):
            raise UsageError(f"{name} is for python, got {options.backend}", option=name)
    on_cuda = options.backend != "tensorrt" and options.provider in ("cuda", "tensorrt")
    plain = (options.tf32, options.convolution_search) == (False, "heuristic")
    if not plain and not on_cuda:
        name = "tf32" if options.tf32 else "convolution_search"
        user = options.backend if options.backend == "tensorrt" else options.provider
        raise UsageError(f"{name} is for provider cuda, got {user}", option=name)
    if options.backend != "tensorrt" and options.engine is not None:
        raise UsageError(f"engine is for tensorrt, got {options.backend}", option="engine")
