"""The example client: its requests, run on the graphs themselves."""

import importlib.util
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from flowsr_export.triton.config import TritonModelConfig, WarmUp, config_of, warm_ups
from flowsr_export.triton.repository import write_repository
from flowsr_runtime import Bundle, Upscaler, embedded_bundle
from tests.stand_in import picture

EXAMPLE = Path(__file__).parents[3] / "examples" / "triton_client.py"
BARE = TritonModelConfig(backend="onnxruntime")
KINDS = {"TYPE_FP32": "FP32", "TYPE_INT64": "INT64", "TYPE_UINT8": "UINT8"}
PIXELS = picture(20, 26, "client")


@pytest.fixture(scope="module")
def client() -> ModuleType:
    spec = importlib.util.spec_from_file_location("triton_client", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The built-in model as Triton's ONNX Runtime would find it."""
    folder = write_repository(Bundle.open(embedded_bundle()), tmp_path, BARE)
    return folder / "1" / "model.onnx"


def described() -> dict[str, Any]:
    """Return the inputs that the configuration of the built-in model lists."""
    manifest = Bundle.open(embedded_bundle()).manifest
    inputs: Any = config_of(manifest, BARE, warm_ups(manifest, BARE))["input"]
    return {
        each["name"]: {"datatype": KINDS[each["data_type"]], "dims": each["dims"]}
        for each in inputs
    }


def run(path: Path, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    return np.asarray(session.run(["output"], feeds)[0])


def test_what_the_client_sends_gives_what_the_upscaler_gives(
    client: ModuleType, model: Path
) -> None:
    feeds = client.feeds_of(PIXELS, Fraction("2.7"), described())
    large = client.picture_of(run(model, feeds))
    with Upscaler.open(threads=1) as upscaler:
        np.testing.assert_array_equal(large, upscaler.upscale(PIXELS, scale="2.7"))


def test_the_configuration_lists_the_graphs_inputs_with_their_ranks(model: Path) -> None:
    graph = onnx.load(model).graph
    ranks = {each.name: len(each.type.tensor_type.shape.dim) for each in graph.input}
    assert {name: len(each["dims"]) for name, each in described().items()} == ranks


def filled(warm: WarmUp) -> dict[str, NDArray[Any]]:
    """Return the inputs that Triton makes for a warm-up; random ones are zero here."""
    zeros = {name: np.zeros(shape, np.float32) for name, shape in warm.shapes.items()}
    numbers = {name: np.frombuffer(data, "<i8") for name, data in warm.values.items()}
    return {**zeros, **numbers}


def test_the_warm_up_is_a_request_that_the_graph_runs(model: Path) -> None:
    manifest = Bundle.open(embedded_bundle()).manifest
    assert run(model, filled(warm_ups(manifest, BARE)[0])).shape == (1, 3, 128, 128)


def test_the_python_backend_gets_a_size_and_noise_where_it_takes_any(
    client: ModuleType,
) -> None:
    names = ("input", "size", "scale", "temperature", "seed")
    feeds = client.feeds_of(PIXELS, Fraction("2.7"), dict.fromkeys(names), 0.5)
    assert list(feeds) == ["input", "size", "temperature"]
    assert feeds["size"].tolist() == [54, 70]
    assert feeds["temperature"].tolist() == [0.5]


def test_a_graph_of_eight_bits_gets_and_gives_them(client: ModuleType) -> None:
    feeds = client.feeds_of(PIXELS, Fraction(4), {"input": {"datatype": "UINT8"}})
    assert feeds["input"].dtype == np.uint8
    np.testing.assert_array_equal(client.picture_of(feeds["input"]), PIXELS)
