"""Configurations for Triton, parsed by the schema that its client library ships."""

import json
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from flowsr_export.triton.config import TritonModelConfig, check_options, config_of, warm_ups
from flowsr_export.triton.pbtxt import text_of
from flowsr_runtime import UsageError
from flowsr_runtime.bundle.engine_key import Profile, Range
from flowsr_runtime.bundle.manifest import Manifest
from tests.flowsr_export.conftest import fourfold_manifest, small_manifest

model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")

ENTRY = {"sha256": "0" * 64, "bytes": 1, "precision": "fp32"}
LATENT = {"name": "latent", "channels": 27, "patch": 3}
GEOMETRY = (64, 64, 128, 128, 0, 0, 0, 0, 128, 128)
PROFILE: Profile = {
    "input": Range((1, 3, 16, 16), (1, 3, 64, 64), (1, 3, 128, 128)),
    "geometry": Range((16,) * 4 + (0,) * 4 + (16,) * 2, GEOMETRY, (512,) * 10),
}
BATCHED: Profile = {"input": Range((1, 3, 16, 16), (2, 3, 64, 64), (4, 3, 128, 128))}


def any_scale(**changes: Any) -> Manifest:
    return Manifest.parse({**small_manifest(**changes), "files": {"model.fp32.onnx": ENTRY}})


def one_scale() -> Manifest:
    return Manifest.parse({**fourfold_manifest(), "files": {"model.fp32.onnx": ENTRY}})


def parsed(
    manifest: Manifest, options: TritonModelConfig, profiles: tuple[Profile, ...] = ()
) -> Any:
    """Return a configuration as Triton's own schema reads it; an unknown field is an error."""
    warm = warm_ups(manifest, options, profiles)
    text = text_of(config_of(manifest, options, warm, profiles))
    return text_format.Parse(text, model_config.ModelConfig())


def inputs_of(config: Any) -> dict[str, tuple[str, list[int]]]:
    kinds = model_config.DataType
    return {each.name: (kinds.Name(each.data_type), list(each.dims)) for each in config.input}


def test_a_graph_of_any_scale_has_its_batch_in_the_dims_and_no_batcher() -> None:
    config = parsed(any_scale(), TritonModelConfig(backend="onnxruntime"))
    assert (config.platform, config.default_model_filename) == (
        "onnxruntime_onnx",
        "model.onnx",
    )
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert inputs_of(config) == {
        "input": ("TYPE_FP32", [-1, 3, -1, -1]),
        "geometry": ("TYPE_INT64", [10]),
    }
    assert list(config.output[0].dims) == [-1, 3, -1, -1]


def test_a_graph_of_one_scale_is_batched() -> None:
    options = TritonModelConfig(backend="onnxruntime", max_batch=6, max_queue=9)
    config = parsed(one_scale(), options)
    assert config.max_batch_size == 6
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 9
    assert inputs_of(config) == {"input": ("TYPE_FP32", [3, -1, -1])}


def test_latents_are_inputs_too() -> None:
    config = parsed(any_scale(latents=[LATENT]), TritonModelConfig(backend="onnxruntime"))
    assert inputs_of(config)["latent"] == ("TYPE_FP32", [-1, 27, -1, -1])
    assert list(config.model_warmup[0].inputs["latent"].dims) == [1, 27, 43, 43]


def test_the_warm_up_of_a_graph_has_a_true_geometry() -> None:
    options = TritonModelConfig(backend="onnxruntime")
    warm = warm_ups(any_scale(), options)[0]
    sample = parsed(any_scale(), options).model_warmup[0].inputs["geometry"]
    numbers = np.frombuffer(warm.files()[sample.input_data_file], dtype="<i8")
    assert numbers.tolist() == [64, 64, 128, 128, 0, 0, 0, 0, 128, 128]


@pytest.mark.parametrize(
    ("provider", "kind", "accelerators"),
    [
        ("cpu", "KIND_CPU", {}),
        ("openvino", "KIND_CPU", {"cpu_execution_accelerator": ["openvino"]}),
        ("cuda", "KIND_GPU", {"gpu_execution_accelerator": ["cuda"]}),
        ("tensorrt", "KIND_GPU", {"gpu_execution_accelerator": ["tensorrt", "cuda"]}),
    ],
)
def test_a_provider_becomes_a_kind_and_its_accelerators(
    provider: str, kind: str, accelerators: dict[str, list[str]]
) -> None:
    config = parsed(any_scale(), TritonModelConfig(backend="onnxruntime", provider=provider))
    group = config.instance_group[0]
    listed = config.optimization.execution_accelerators.ListFields()
    assert model_config.ModelInstanceGroup.Kind.Name(group.kind) == kind
    names = {field.name: [each.name for each in several] for field, several in listed}
    assert names == accelerators


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({}, {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}),
        ({"precision": "fp16"}, {"use_tf32": "1", "prefer_nhwc": "1"}),
        ({"tf32": True}, {"use_tf32": "1"}),
        ({"convolution_search": "exhaustive"}, {"cudnn_conv_algo_search": "EXHAUSTIVE"}),
    ],
)
def test_cuda_gets_the_options_of_the_runtime(
    changes: dict[str, Any], due: dict[str, str]
) -> None:
    options = TritonModelConfig(backend="onnxruntime", provider="cuda", **changes)
    config = parsed(any_scale(), options)
    (cuda,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert due.items() <= dict(cuda.parameters).items()
    assert "device_id" not in cuda.parameters
    python = parsed(any_scale(), TritonModelConfig(provider="cuda", **changes))
    stated = json.loads(python.parameters["upscaler"].string_value)
    assert (stated["tf32"], stated["convolution_search"]) == (
        options.tf32,
        options.convolution_search,
    )


def test_the_threads_of_onnx_runtime_are_a_parameter() -> None:
    config = parsed(any_scale(), TritonModelConfig(backend="onnxruntime", threads=3))
    assert config.parameters["intra_op_thread_count"].string_value == "3"


def test_an_engine_has_a_shape_tensor_and_its_profiles() -> None:
    options = TritonModelConfig(backend="tensorrt", instances=2)
    config = parsed(any_scale(), options, (PROFILE, PROFILE))
    assert (config.platform, config.max_batch_size) == ("tensorrt_plan", 0)
    assert [each.is_shape_tensor for each in config.input] == [False, True]
    assert list(config.instance_group[0].profile) == ["0", "1"]
    assert config.instance_group[0].count == 2
    assert [each.name for each in config.model_warmup] == ["profile0", "profile1"]
    assert list(config.model_warmup[0].inputs["input"].dims) == [1, 3, 64, 64]


def test_an_engine_is_batched_as_far_as_its_profiles_go() -> None:
    config = parsed(one_scale(), TritonModelConfig(backend="tensorrt"), (BATCHED,))
    assert config.max_batch_size == 4
    assert list(config.model_warmup[0].inputs["input"].dims) == [3, 64, 64]


def test_python_takes_eight_bits_and_a_size_or_a_scale() -> None:
    config = parsed(any_scale(), TritonModelConfig(halo="exact", memory_budget=1 << 20))
    assert (config.backend, config.max_batch_size) == ("python", 0)
    assert inputs_of(config) == {
        "input": ("TYPE_UINT8", [-1, -1, 3]),
        "size": ("TYPE_INT64", [2]),
        "scale": ("TYPE_STRING", [1]),
    }
    assert [each.optional for each in config.input] == [False, True, True]
    options = json.loads(config.parameters["upscaler"].string_value)
    assert (options["halo"], options["memory_budget"]) == ("exact", 1 << 20)


def test_python_takes_noise_where_there_is_no_prior() -> None:
    config = parsed(any_scale(latents=[LATENT]), TritonModelConfig())
    assert {"temperature", "seed"} < set(inputs_of(config))
    assert set(config.model_warmup[0].inputs) == {"input", "size", "temperature"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (TritonModelConfig(backend="tensorrt", provider="cuda"), "provider is for onnxruntime"),
        (TritonModelConfig(backend="onnxruntime", halo="exact"), "halo is for python"),
        (TritonModelConfig(backend="onnxruntime", engine="a"), "engine is for tensorrt"),
        (
            TritonModelConfig(backend="tensorrt", tf32=True),
            "tf32 is for provider cuda",
        ),
        (
            TritonModelConfig(convolution_search="exhaustive"),
            "convolution_search is for provider cuda, got cpu",
        ),
    ],
)
def test_settings_that_a_backend_has_not_are_refused(
    options: TritonModelConfig, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        check_options(options)
