"""A bundle with a small graph, and libraries to build its engines."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from flowsr_export.engine.build import EngineRequest, EngineResult, build_engine, plan_engine
from flowsr_export.engine.library import Library
from flowsr_runtime import Bundle, write_bundle
from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession
from flowsr_runtime.cuda.device import Device
from flowsr_runtime.geometry import Window
from flowsr_runtime.pictures.depth import to_depth
from tests.doubles.cuda_runtime import FakeCuda, Gpu
from tests.doubles.trt_module import fake_tensorrt
from tests.flowsr_export.conftest import small_manifest
from tests.stand_in import picture

__all__ = ["CUDA", "L4", "convolving_bundle", "library", "make_engine", "with_golden_pair"]

CUDA = FakeCuda(Gpu())
"""The machine of the doubles; tests that run engines put it in the place of CUDA."""

L4 = Device(0, "Double L4", "8.9", "13.0")
TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}


def library(variant: str) -> Library:
    """Return the double of a version on a machine with a GPU; tensorrt_rtx itself for RTX."""
    if variant == "tensorrt-rtx":
        module: Any = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    else:
        module = fake_tensorrt(variant, CUDA)
    return Library(module, module.__name__, module.__version__)


def make_engine(
    bundle: Bundle, chosen: Library, request: EngineRequest, device: Device | None = None
) -> EngineResult:
    """Plan and build an engine."""
    plan = plan_engine(bundle.manifest, bundle, chosen, request, device)
    return build_engine(bundle, plan)


def convolving_bundle(folder: Path, *precisions: str) -> Path:
    """Write a bundle of any scale with a graph for each precision."""
    graphs = {f"model.{each}.onnx": _graph(each) for each in precisions}
    entries = {f"model.{each}.onnx": {"precision": each} for each in precisions}
    return write_bundle(folder, small_manifest(files=entries), graphs).path


def with_golden_pair(folder: Path, bundle: Bundle, *, error: float = 0.0) -> Bundle:
    """Write a bundle again with a golden pair, whose output is wrong by an error."""
    scale, rgb = 2, picture(16, 20)
    rows, columns, _ = rgb.shape
    feeds = {
        "input": to_depth(rgb, "float").transpose(2, 0, 1)[None],
        "geometry": Window.whole((rows, columns), (scale * rows, scale * columns)).geometry(),
    }
    output = OnnxRuntimeSession.open(bundle, precision="fp32").run(feeds)[0] + np.float32(error)
    png, array = io.BytesIO(), io.BytesIO()
    Image.fromarray(rgb).save(png, "PNG")
    np.save(array, output)
    case = {"input": "input.png", "output": "output.npy", "size": list(output.shape[1:])}
    names = [name for name in bundle.manifest.files if name.endswith(".onnx")]
    entries = {name: {"precision": bundle.manifest.files[name].precision} for name in names}
    files = {name: bundle.read(name) for name in names} | {
        "golden/input.png": png.getvalue(),
        "golden/output.npy": array.getvalue(),
        "golden/case.json": json.dumps(case).encode(),
    }
    return write_bundle(folder, small_manifest(files=entries), files)


def _graph(precision: str) -> bytes:
    kind = TYPES[precision]
    weight = np.full((3, 3, 1, 1), 1 / 3, helper.tensor_dtype_to_np_dtype(kind))
    constants: dict[str, NDArray[Any]] = {
        "begin": np.array([8]),
        "end": np.array([10]),
        "batch": np.array([1, 3]),
        "weight": weight,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["input"], ["x"], name="narrow", to=kind),
            helper.make_node("Conv", ["x", "weight"], ["y"], name="mix"),
            helper.make_node("Cast", ["y"], ["z"], name="widen", to=TensorProto.FLOAT),
            helper.make_node("Slice", ["geometry", "begin", "end"], ["window"], name="cut"),
            helper.make_node("Concat", ["batch", "window"], ["sizes"], name="join", axis=0),
            helper.make_node(
                "Resize", ["z", "", "", "sizes"], ["output"], name="grow", mode="linear"
            ),
        ],
        "convolve",
        [
            helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"]),
            helper.make_tensor_value_info("geometry", TensorProto.INT64, [10]),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, "H", "W"])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    return bytes(model.SerializeToString())
