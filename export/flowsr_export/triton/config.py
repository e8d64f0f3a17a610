"""The configuration of a bundle's model in Triton: its inputs, batching, instances, warm-up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from flowsr_export.triton.pbtxt import Fields, Word
from flowsr_runtime.bundle.engine_key import Profile
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.errors import UsageError
from flowsr_runtime.geometry import Window, size_for

__all__ = ["Backend", "TritonModelConfig", "WarmUp", "config_of", "warm_ups"]

Backend = Literal["onnxruntime", "tensorrt", "python"]

QUEUE_DELAY = 2000
"""Microseconds that a picture waits for others of its size to be run with it."""

WARM_SIDE = 64
"""Low-resolution rows and columns of the picture that ONNX Runtime is warmed up with."""

TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}


@dataclass(frozen=True)
class TritonModelConfig:
    """How a model is to be served.

    Attributes:
        name: Of the model in the repository.
        backend: What runs it: Triton's ONNX Runtime or TensorRT, or Python with our runtime.
        provider: What ONNX Runtime computes with: "cpu", "cuda", "tensorrt" or "openvino".
        precision: Which of the bundle's graphs.
        instances: Of the model, on each device.
        max_batch: Pictures of one size that are run at once, where the graph can.
        max_queue: Requests that wait at most, 0 for any number; where there is a batcher.
        threads: CPU threads of an instance, None for ONNX Runtime's own choice.
        memory_budget: Bytes that one run may take, None for what the bundle states; with
            Python.
        halo: "default" or "exact"; with Python.
        engine: Name of the engine in the bundle, None for the only one.
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


@dataclass(frozen=True)
class WarmUp:
    """One request that Triton makes before it says that the model is ready.

    Attributes:
        name: Of the sample, and the beginning of the names of its files.
        shapes: Shape of each input, without the batch where the model is batched.
        values: Content of the inputs that need a certain one; the others are random.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, bytes]

    def files(self) -> dict[str, bytes]:
        """Return the content of each file in the folder `warmup`."""
        return {f"{self.name}-{name}": data for name, data in self.values.items()}


def config_of(
    manifest: Manifest,
    options: TritonModelConfig,
    warm: Sequence[WarmUp],
    profiles: Sequence[Profile] = (),
) -> Fields:
    """Return the configuration of a model, as `text_of` writes it.

    Args:
        manifest: Of the bundle.
        options: How it is to be served.
        warm: What `warm_ups` gave.
        profiles: Of the engine; TensorRT alone.

    Returns:
        Fields of Triton's message ModelConfig.
    """
    batch = _max_batch(manifest, options, profiles)
    inputs = _inputs(manifest, options, batch)
    types = {each["name"]: each["data_type"] for each in inputs}
    config: dict[str, Any] = {
        "name": options.name,
        **_backend(options),
        "max_batch_size": batch,
    }
    config["input"] = inputs
    config["output"] = [_output(manifest, options, batch)]
    config["instance_group"] = [_instances(options, profiles)]
    if batch:
        queue = {"max_queue_size": options.max_queue} if options.max_queue else {}
        config["dynamic_batching"] = {
            "max_queue_delay_microseconds": QUEUE_DELAY,
            **({"default_queue_policy": queue} if queue else {}),
        }
    config |= _optimization(options)
    config["model_warmup"] = [_warm_up(each, types) for each in warm]
    parameters = _parameters(options)
    if parameters:
        config["parameters"] = parameters
    return config


def warm_ups(
    manifest: Manifest, options: TritonModelConfig, profiles: Sequence[Profile] = ()
) -> list[WarmUp]:
    """Return the requests with which a model is warmed up.

    Args:
        manifest: Of the bundle.
        options: How it is to be served.
        profiles: Of the engine; TensorRT alone.

    Returns:
        One picture of 64x64 to twice its sides, or to the model's scale; with TensorRT one of
        the sizes for which each profile is tuned.
    """
    if options.backend == "tensorrt":
        batch = _max_batch(manifest, options, profiles)
        return [_tuned(index, each, batch) for index, each in enumerate(profiles)]
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
    """Return the request for which a profile is tuned."""
    cut = 1 if batch else 0
    shapes = {name: each.opt[cut:] for name, each in profile.items() if name != "geometry"}
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
    """Return how many pictures Triton may join, 0 where an input has no batch dimension."""
    if options.backend == "python" or manifest.geometry:
        return 0
    most = [each["input"].max[0] for each in profiles if "input" in each]
    return min([options.max_batch, *most])


def _backend(options: TritonModelConfig) -> dict[str, str]:
    if options.backend == "tensorrt":
        return {"platform": "tensorrt_plan", "default_model_filename": "model.plan"}
    if options.backend == "onnxruntime":
        return {"platform": "onnxruntime_onnx", "default_model_filename": "model.onnx"}
    return {"backend": "python", "default_model_filename": "model.py"}


def _inputs(manifest: Manifest, options: TritonModelConfig, batch: int) -> list[dict[str, Any]]:
    if options.backend == "python":
        optional: list[dict[str, Any]] = [
            {"name": "size", "data_type": Word("TYPE_INT64"), "dims": [2]},
            {"name": "scale", "data_type": Word("TYPE_STRING"), "dims": [1]},
        ]
        if manifest.latents:
            optional += [
                {"name": "temperature", "data_type": Word("TYPE_FP32"), "dims": [1]},
                {"name": "seed", "data_type": Word("TYPE_INT64"), "dims": [1]},
            ]
        picture = {"name": "input", "data_type": Word("TYPE_UINT8"), "dims": [-1, -1, 3]}
        return [picture, *({**each, "optional": True} for each in optional)]
    head = [] if batch else [-1]
    kind = Word(TYPES[manifest.io])
    inputs: list[dict[str, Any]] = [
        {"name": "input", "data_type": kind, "dims": [*head, 3, -1, -1]}
    ]
    if manifest.geometry:
        geometry = {"name": "geometry", "data_type": Word("TYPE_INT64"), "dims": [10]}
        shape = {"is_shape_tensor": True} if options.backend == "tensorrt" else {}
        inputs.append({**geometry, **shape})
    for latent in manifest.latents:
        dims = [*head, latent.channels, -1, -1]
        inputs.append({"name": latent.name, "data_type": Word("TYPE_FP32"), "dims": dims})
    return inputs


def _output(manifest: Manifest, options: TritonModelConfig, batch: int) -> dict[str, Any]:
    if options.backend == "python":
        return {"name": "output", "data_type": Word("TYPE_UINT8"), "dims": [-1, -1, 3]}
    dims = [*([] if batch else [-1]), 3, -1, -1]
    return {"name": "output", "data_type": Word(TYPES[manifest.io]), "dims": dims}


def _instances(options: TritonModelConfig, profiles: Sequence[Profile]) -> dict[str, Any]:
    gpu = options.backend == "tensorrt" or options.provider in ("cuda", "tensorrt")
    group: dict[str, Any] = {"count": options.instances}
    group["kind"] = Word("KIND_GPU" if gpu else "KIND_CPU")
    if options.backend == "tensorrt":
        group["profile"] = [str(index) for index in range(len(profiles))]
    return group


def _optimization(options: TritonModelConfig) -> dict[str, Any]:
    """Return which execution provider ONNX Runtime takes; its other settings are right."""
    if options.backend != "onnxruntime" or options.provider in ("cpu", "cuda"):
        return {}
    where = "cpu" if options.provider == "openvino" else "gpu"
    accelerators = {f"{where}_execution_accelerator": [{"name": options.provider}]}
    return {"optimization": {"execution_accelerators": accelerators}}


def _warm_up(warm: WarmUp, types: Mapping[str, Word]) -> dict[str, Any]:
    inputs = []
    for name, shape in warm.shapes.items():
        made: dict[str, Any] = {"random_data": True}
        if name in warm.values:
            made = {"input_data_file": f"{warm.name}-{name}"}
        value = {"data_type": types[name], "dims": list(shape), **made}
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
        }
        texts["upscaler"] = json.dumps(upscaler)
    elif options.backend == "onnxruntime" and options.threads is not None:
        texts["intra_op_thread_count"] = str(options.threads)
    return [{"key": name, "value": {"string_value": text}} for name, text in texts.items()]


def check_options(options: TritonModelConfig) -> None:
    """Refuse settings that the backend has not.

    Raises:
        UsageError: If there is one.
    """
    if options.backend == "tensorrt" and options.provider != "cpu":
        raise UsageError(f"provider is for onnxruntime and python, got {options.provider}")
    if options.backend != "python" and (
        options.memory_budget is not None or options.halo != "default"
    ):
        raise UsageError(
            f"tiles are the client's with {options.backend}; python makes them here"
        )
    if options.backend != "tensorrt" and options.engine is not None:
        raise UsageError(f"engine is for tensorrt, got {options.backend}")
