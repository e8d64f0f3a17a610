"""Network and ONNX parser of the double: what can be asked of them, and what they refuse."""

from enum import IntEnum
from math import prod
from typing import Any, TypeVar

import onnx
from google.protobuf.message import DecodeError

from tests.doubles.trt_names import DataType, Dims

__all__ = ["Network", "OnnxParser", "ParserError", "Tensor"]

UNSUPPORTED = {
    *("NonZero", "ConvInteger", "QLinearConv", "MatMulInteger", "Unique"),
    *("RandomNormal", "RandomUniform", "StringNormalizer"),
}
TYPES = {
    onnx.TensorProto.FLOAT: DataType.FLOAT,
    onnx.TensorProto.FLOAT16: DataType.HALF,
    onnx.TensorProto.BFLOAT16: DataType.BF16,
    onnx.TensorProto.INT8: DataType.INT8,
    onnx.TensorProto.UINT8: DataType.UINT8,
    onnx.TensorProto.INT32: DataType.INT32,
    onnx.TensorProto.INT64: DataType.INT64,
    onnx.TensorProto.BOOL: DataType.BOOL,
}


ItemT = TypeVar("ItemT")


class ErrorCode(IntEnum):
    SUCCESS = 0
    INTERNAL_ERROR = 1
    MODEL_DESERIALIZE_FAILED = 3
    INVALID_NODE = 6
    UNSUPPORTED_NODE = 8


class ParserError:
    """One error; everything is a method, as in the library."""

    def __init__(self, desc: str, code: ErrorCode, node: int, proto: Any = None) -> None:
        self._desc, self._code, self._node = desc, code, node
        self._name = "" if proto is None else proto.name
        self._operator = "" if proto is None else proto.op_type

    def desc(self) -> str:
        return self._desc

    def code(self) -> ErrorCode:
        return self._code

    def node(self) -> int:
        return self._node

    def node_name(self) -> str:
        return self._name

    def node_operator(self) -> str:
        return self._operator

    def file(self) -> str:
        return "onnxOpImporters.cpp"

    def line(self) -> int:
        return 9100

    def func(self) -> str:
        return f"import{self._operator}"

    def local_function_stack(self) -> list[str]:
        return []


class Tensor:
    """An input or an output of a network; its shape has -1 where it is not fixed."""

    def __init__(self, value: Any) -> None:
        kind = value.type.tensor_type
        sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
        self.name: str = value.name
        self.dtype = TYPES[kind.elem_type]
        self.shape = Dims(sizes)

    @property
    def is_shape_tensor(self) -> bool:
        whole = self.dtype in (DataType.INT32, DataType.INT64)
        return whole and len(self.shape) <= 1 and -1 not in self.shape

    @property
    def is_execution_tensor(self) -> bool:
        return True

    @property
    def is_dynamic(self) -> bool:
        return -1 in self.shape


class Layer:
    """One layer, known by its name and type."""

    def __init__(self, node: Any) -> None:
        self.name: str = node.name or node.output[0]
        self.type: str = node.op_type


class Network:
    """A network that a parser fills."""

    def __init__(self, logger: Any, strongly_typed: bool) -> None:
        self._logger = logger
        self._strongly_typed = strongly_typed
        self._model: Any = None
        self._bytes = b""
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._layers: list[Layer] = []
        self.name = "Unnamed Network 0"

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_input(self, index: int) -> Tensor | None:
        return self._get(self._inputs, index, "getInput")

    def get_output(self, index: int) -> Tensor | None:
        return self._get(self._outputs, index, "getOutput")

    def get_layer(self, index: int) -> Layer | None:
        return self._get(self._layers, index, "getLayer")

    def _get(self, items: list[ItemT], index: int, call: str) -> ItemT | None:
        if 0 <= index < len(items):
            return items[index]
        self._logger.error(
            f"INetworkDefinition::{call}: Error Code 3: API Usage Error (Parameter check "
            f"failed, condition: (0) <= (index) && (index) < ({len(items)}).)"
        )
        return None

    def fill(self, data: bytes, model: Any) -> None:
        """Take over a model that the parser accepts (the double's own)."""
        graph = model.graph
        stored = {each.name for each in graph.initializer}
        self._model, self._bytes = model, data
        self._inputs = [Tensor(each) for each in graph.input if each.name not in stored]
        self._outputs = [Tensor(each) for each in graph.output]
        self._layers = [Layer(each) for each in graph.node]

    def scratch(self, profile: dict[str, list[list[int]]]) -> int:
        """Return an activation memory that grows with a profile (the double's own)."""
        largest = [prod(sizes[2]) for name, sizes in profile.items() if name == "input"]
        return 4096 + 64 * sum(largest)


class OnnxParser:
    """Parses what the real one parses, and says why not as it does."""

    def __init__(self, network: Network, logger: Any) -> None:
        if not isinstance(network, Network):
            raise TypeError("__init__(): incompatible constructor arguments.")
        self._network = network
        self._logger = network._logger
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError | None:
        return self._errors[index] if 0 <= index < len(self._errors) else None

    def clear_errors(self) -> None:
        self._errors.clear()

    def parse(self, model: bytes, path: str | None = None) -> bool:
        try:
            proto = onnx.load_from_string(bytes(model))
        except DecodeError:
            return self._fail(
                ParserError(
                    "Assertion failed: model->ParseFromCodedStream(&codedInput): Failed to "
                    "parse the ONNX model.",
                    ErrorCode.MODEL_DESERIALIZE_FAILED,
                    -1,
                )
            )
        for index, node in enumerate(proto.graph.node):
            error = check(index, node)
            if error is not None:
                return self._fail(error)
        self._network.fill(bytes(model), proto)
        for tensor in self._network._inputs:
            if tensor.dtype == DataType.INT64:
                self._logger.warning(f"Make sure input {tensor.name} has Int64 binding.")
        return True

    def parse_from_file(self, path: str) -> bool:
        with open(path, "rb") as file:
            return self.parse(file.read(), path)

    def _fail(self, error: ParserError) -> bool:
        self._errors.append(error)
        self._logger.error(
            f"ModelImporter.cpp:151: ERROR: {error.file()}:{error.line()} In function "
            f"{error.func()}:\n[{int(error.code())}] {error.desc()}"
        )
        return False


def check(index: int, node: Any) -> ParserError | None:
    """Return why a node cannot be imported."""
    if node.domain not in ("", "ai.onnx"):
        text = 'creator && "Plugin not found, are the plugin name and namespace correct?"'
        return ParserError(text, ErrorCode.INVALID_NODE, index, node)
    reduced = node.op_type == "ScatterND" and any(
        each.name == "reduction" and each.s != b"none" for each in node.attribute
    )
    if node.op_type in UNSUPPORTED or reduced:
        text = f"Assertion failed: {node.op_type} is not supported in this configuration."
        return ParserError(text, ErrorCode.UNSUPPORTED_NODE, index, node)
    return None
