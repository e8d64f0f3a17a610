"""The two eight-bit types, INT8 and FP8 E4M3: their codes, and rounding to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

__all__ = ["FP8", "INT8", "EightBitFormat", "EightBits", "codes_of", "zero_code"]

EightBits = Literal["int8", "fp8"]


@dataclass(frozen=True)
class EightBitFormat:
    """An eight-bit type with symmetric codes.

    Attributes:
        name: Name as a precision.
        onnx_type: ONNX's number of the type.
        most: Largest code.
        opset: First ONNX operator set whose QuantizeLinear supports it.
    """

    name: EightBits
    onnx_type: int
    most: float
    opset: int

    def encode(self, values: NDArray[np.float64], steps: NDArray[np.float64]) -> bytes:
        """Return the codes of values divided by their steps, one byte each.

        Args:
            values: Any shape.
            steps: Step sizes, of a shape that broadcasts to that of the values.
        """
        return self._codes(values, steps).tobytes()

    def rounded(
        self, values: NDArray[np.float64], steps: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the values that the codes represent."""
        return np.asarray(self._codes(values, steps).astype(np.float64) * steps)

    def _codes(self, values: NDArray[np.float64], steps: NDArray[np.float64]) -> NDArray[Any]:
        """Return the nearest codes, ties to even; larger values get the largest code."""
        clipped = np.clip(values / steps, -self.most, self.most)
        if self.name == "int8":
            return np.rint(clipped).astype(np.int8)
        return np.asarray(clipped.astype(ml_dtypes.float8_e4m3fn))


INT8: Final = EightBitFormat("int8", TensorProto.INT8, 127.0, 13)
FP8: Final = EightBitFormat("fp8", TensorProto.FLOAT8E4M3FN, 448.0, 19)


def codes_of(name: EightBits) -> EightBitFormat:
    """Return an eight-bit type by its name."""
    return INT8 if name == "int8" else FP8


def zero_code(name: str, codes: EightBitFormat, count: int | None = None) -> TensorProto:
    """Return a zero point, scalar or (count,), whose type is the type of the codes."""
    dims = () if count is None else (count,)
    return helper.make_tensor(name, codes.onnx_type, dims, bytes(count or 1), raw=True)
