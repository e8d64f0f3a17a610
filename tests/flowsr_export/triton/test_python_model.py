"""The model for Triton's Python backend, with doubles of Triton's objects."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flowsr_export.triton.config import TritonModelConfig
from flowsr_export.triton.repository import MODEL_FILE, write_repository
from flowsr_runtime import Bundle, Upscaler
from tests.stand_in import picture

PIXELS = picture(9, 7, "triton")


class Request(dict[str, Any]):
    """A request: values by name; `cancelled` is what it answers when it is asked."""

    cancelled = False

    def is_cancelled(self) -> bool:
        return self.cancelled


class TritonError:
    INVALID_ARG = 1
    CANCELLED = 2

    def __init__(self, message: str, code: int) -> None:
        self.message = message
        self.code = code


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, as Triton imports it."""
    utilities: Any = ModuleType("triton_python_backend_utils")
    utilities.TritonError = TritonError
    utilities.Tensor = lambda name, values: SimpleNamespace(name=name, values=values)
    utilities.InferenceResponse = lambda output_tensors=(), error=None: SimpleNamespace(
        output=output_tensors, error=error
    )
    utilities.get_input_tensor_by_name = lambda request, name: (
        SimpleNamespace(as_numpy=lambda: request[name]) if name in request else None
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utilities)
    spec = importlib.util.spec_from_file_location("model", MODEL_FILE)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def model(module: ModuleType, bundle: Path, tmp_path: Path) -> Iterator[Any]:
    asked = TritonModelConfig(threads=1, memory_budget=20_000)
    folder = write_repository(Bundle.open(bundle), tmp_path / "models", asked)
    options = {"threads": 1, "memory_budget": 20_000}
    config = {"parameters": {"upscaler": {"string_value": json.dumps(options)}}}
    opened = module.TritonPythonModel()
    opened.initialize(
        {
            "model_config": json.dumps(config),
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
            "model_repository": str(folder),
            "model_version": "1",
        }
    )
    yield opened
    opened.finalize()


def test_pictures_come_back_as_the_upscaler_gives_them(model: Any, bundle: Path) -> None:
    size = np.array([30, 20])
    scale = np.array([b"2.7x3"], dtype=np.object_)
    requests = [Request(input=PIXELS, size=size), Request(input=PIXELS, scale=scale)]
    first, second = model.execute(requests)
    with Upscaler.open(bundle, threads=1) as upscaler:
        sized = upscaler.upscale(PIXELS, size=(30, 20))
        scaled = upscaler.upscale(PIXELS, scale=("3", "2.7"))
    np.testing.assert_array_equal(first.output[0].values, sized)
    np.testing.assert_array_equal(second.output[0].values, scaled)


def test_a_wrong_request_is_an_error_and_the_others_are_answered(model: Any) -> None:
    wrong, right = model.execute(
        [Request(input=PIXELS), Request(input=PIXELS, size=np.array([9, 9]))]
    )
    assert wrong.error.code == TritonError.INVALID_ARG
    assert wrong.error.message == "give exactly one of scale and size"
    assert right.error is None


def test_a_cancelled_request_stops_between_tiles(model: Any) -> None:
    request = Request(input=PIXELS, size=np.array([90, 70]))
    request.cancelled = True
    error = model.execute([request])[0].error
    assert error.message == "cancelled before the first tile"
    assert error.code == TritonError.CANCELLED


def test_an_instance_on_a_gpu_opens_that_gpu(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(
        module.Upscaler, "open", lambda path, **options: opened.append((path, options))
    )
    config = {"parameters": {"upscaler": {"string_value": '{"provider": "cuda"}'}}}
    module.TritonPythonModel().initialize(
        {
            "model_config": json.dumps(config),
            "model_instance_kind": "GPU",
            "model_instance_device_id": "3",
            "model_repository": "/models/flowsr",
            "model_version": "2",
        }
    )
    path = Path("/models/flowsr/2/bundle")
    assert opened == [(path, {"provider": "cuda", "device": 3})]
