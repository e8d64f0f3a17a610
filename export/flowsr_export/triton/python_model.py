"""A model for Triton's Python backend that tiles images with flowsr_runtime.

The file is copied into a model repository, beside the bundle. Triton's Python environment
needs `pip install '.[cpu]'`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from flowsr_runtime import CancelledError, FlowsrError, Upscaler
from flowsr_runtime.geometry import parse_scale

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """One instance of the model, called by Triton."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle.

        Args:
            args: Triton's arguments: the configuration as JSON, and the path of the model.
        """
        parameters = json.loads(args["model_config"])["parameters"]
        options = json.loads(parameters["upscaler"]["string_value"])
        if args["model_instance_kind"] == "GPU":
            options["device"] = int(args["model_instance_device_id"])
        folder = Path(args["model_repository"]) / args["model_version"] / "bundle"
        self._upscaler = Upscaler.open(folder, **options)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Upscale the images of several requests, one after another."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Close the model."""
        self._upscaler.close()

    def _answer(self, request: Any) -> Any:
        try:
            large = self._upscaled(request)
        except CancelledError as error:
            return _failed(str(error), pb_utils.TritonError.CANCELLED)
        except FlowsrError as error:
            return _failed(str(error), pb_utils.TritonError.INVALID_ARG)
        return pb_utils.InferenceResponse([pb_utils.Tensor("output", large)])

    def _upscaled(self, request: Any) -> Any:
        size = _values(request, "size")
        scale = _values(request, "scale")
        temperature = _values(request, "temperature")
        seed = _values(request, "seed")
        return self._upscaler.upscale(
            np.ascontiguousarray(_values(request, "input")),
            scale=None if scale is None else parse_scale(scale[0].decode("utf-8", "replace")),
            size=None if size is None else (int(size[0]), int(size[1])),
            temperature=None if temperature is None else float(temperature[0]),
            seed=0 if seed is None else int(seed[0]),
            cancel=request.is_cancelled,
        )


def _values(request: Any, name: str) -> Any:
    """Return an input of a request, None if it is missing."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def _failed(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
