"""The names and enumerations of TensorRT 10, TensorRT 11 and TensorRT for RTX.

They are those of tensorrt_rtx 1.7.1.116 (read from the module) and of NVIDIA's Python reference
for 10.13 and 11.4. What a version does not have is absent here too.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

__all__ = ["DataType", "Dims", "Severity", "Variant", "VARIANTS", "enumerations", "nptype"]


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    FP8 = 6
    BF16 = 7
    INT64 = 8
    INT4 = 9

    @property
    def itemsize(self) -> int:
        return {"FLOAT": 4, "HALF": 2, "BF16": 2, "INT32": 4, "INT64": 8}.get(self.name, 1)


NUMPY_TYPES: dict[DataType, type[np.generic]] = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT8: np.int8,
    DataType.INT32: np.int32,
    DataType.INT64: np.int64,
    DataType.BOOL: np.bool_,
    DataType.UINT8: np.uint8,
}


def nptype(trt_type: DataType) -> type[np.generic]:
    if trt_type not in NUMPY_TYPES:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return NUMPY_TYPES[trt_type]


class Dims:
    """Like pybind's: a sequence that is equal to a tuple, but is none."""

    MAX_DIMS = 8

    def __init__(self, shape: Iterable[int] = ()) -> None:
        self._sizes = tuple(int(size) for size in shape)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: Any) -> Any:
        return self._sizes[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Dims, tuple, list)) and self._sizes == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # pybind's has none either

    def __repr__(self) -> str:
        return str(self._sizes)


@dataclass(frozen=True)
class Variant:
    """One version of one library."""

    name: str
    version: str

    @property
    def rtx(self) -> bool:
        return self.name == "tensorrt_rtx"

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    @property
    def has_precision_flags(self) -> bool:
        return not self.rtx and self.major <= 10

    @property
    def io_key(self) -> str:
        """Key of the inputs and outputs in the inspector's JSON."""
        return "Bindings" if self.has_precision_flags else "I/O Tensors"


VARIANTS = {
    "tensorrt-10": Variant("tensorrt", "10.13.3.9"),
    "tensorrt-11": Variant("tensorrt", "11.4.1.5"),
    "tensorrt-rtx": Variant("tensorrt_rtx", "1.7.1.116"),
}

ENUMERATIONS = {
    "BuilderFlag": ["TF32", "VERSION_COMPATIBLE"],
    "MemoryPoolType": ["WORKSPACE"],
    "ProfilingVerbosity": ["LAYER_NAMES_ONLY", "NONE", "DETAILED"],
    "TilingOptimizationLevel": ["NONE", "FAST", "MODERATE", "FULL"],
    "HardwareCompatibilityLevel": ["NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"],
    "TensorIOMode": ["NONE", "INPUT", "OUTPUT"],
    "TensorLocation": ["DEVICE", "HOST"],
    "LayerInformationFormat": ["ONELINE", "JSON"],
    "ExecutionContextAllocationStrategy": ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"],
}
RTX_ONLY = {
    "CudaGraphStrategy": ["DISABLED", "WHOLE_GRAPH_CAPTURE"],
    "DynamicShapesKernelSpecializationStrategy": ["LAZY", "EAGER", "NONE"],
}


def enumerations(variant: Variant) -> dict[str, Any]:
    """Return the enumerations that our code uses, by name."""
    members = ENUMERATIONS | (RTX_ONLY if variant.rtx else {})
    found: dict[str, Any] = {name: IntEnum(name, m, start=0) for name, m in members.items()}
    creation = ["EXPLICIT_BATCH", "STRONGLY_TYPED"][not variant.has_precision_flags :]
    found["NetworkDefinitionCreationFlag"] = IntEnum("Creation", creation, start=0)
    return found
