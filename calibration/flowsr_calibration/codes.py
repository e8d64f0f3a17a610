"""The two types of eight bits: their codes, and the rounding to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

__all__ = [
    "FP8",
    "INT8",
    "EightBitFormat",
    "EightBits",
    "codes_of",
    "round_to_e4m3",
    "zero_code",
]

EightBits = Literal["int8", "fp8"]

E4M3_MOST: Final = 448.0
E4M3_BIAS: Final = 7
E4M3_DIGITS: Final = 3  # of the fraction
E4M3_LEAST_EXPONENT: Final = -6  # smaller numbers lose digits


@dataclass(frozen=True)
class EightBitFormat:
    """A type of eight bits.

    Attributes:
        name: As precisions are named.
        onnx_type: ONNX's number for it.
        most: Largest code.
        opset: First ONNX operator set whose QuantizeLinear gives it.
    """

    name: EightBits
    onnx_type: int
    most: float
    opset: int

    def encode(self, values: NDArray[np.float64], steps: NDArray[np.float64]) -> bytes:
        """Return the codes of values divided by their steps, one byte each.

        Args:
            values: Any shape.
            steps: Of a shape that broadcasts with it.
        """
        scaled = values / steps
        if self.name == "int8":
            return np.clip(np.rint(scaled), -self.most, self.most).astype(np.int8).tobytes()
        return e4m3_codes(scaled).tobytes()

    def rounded(
        self, values: NDArray[np.float64], steps: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return what the codes of values stand for."""
        scaled = values / steps
        if self.name == "int8":
            return np.clip(np.rint(scaled), -self.most, self.most) * steps
        return round_to_e4m3(scaled) * steps


INT8: Final = EightBitFormat("int8", TensorProto.INT8, 127.0, 13)
FP8: Final = EightBitFormat("fp8", TensorProto.FLOAT8E4M3FN, E4M3_MOST, 19)


def codes_of(name: EightBits) -> EightBitFormat:
    """Return a type of eight bits by its name."""
    return INT8 if name == "int8" else FP8


def zero_code(name: str, codes: EightBitFormat, count: int | None = None) -> TensorProto:
    """Return the zero point, a scalar or `count` of them; it tells the type of the codes."""
    dims = () if count is None else (count,)
    return helper.make_tensor(name, codes.onnx_type, dims, bytes(count or 1), raw=True)


def round_to_e4m3(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to the nearest number of FP8 E4M3, ties to even; larger ones become ±448.

    Args:
        values: Finite, any shape.

    Returns:
        The same shape.
    """
    clipped = np.clip(values, -E4M3_MOST, E4M3_MOST)
    _, exponent = np.frexp(clipped)  # of a fraction in [0.5, 1)
    step = np.ldexp(1.0, np.maximum(exponent - 1, E4M3_LEAST_EXPONENT) - E4M3_DIGITS)
    return np.asarray(np.rint(clipped / step) * step)


def e4m3_codes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the bytes of the nearest numbers of FP8 E4M3."""
    rounded = round_to_e4m3(values)
    magnitude = np.abs(rounded)
    _, exponent = np.frexp(magnitude)
    power = np.maximum(exponent - 1, E4M3_LEAST_EXPONENT)
    power = np.where(magnitude == 0, E4M3_LEAST_EXPONENT, power)
    steps = np.rint(np.ldexp(magnitude, E4M3_DIGITS - power)).astype(np.int64)
    # A normal number's leading digit is not stored: eight steps are the exponent's own one.
    code = steps + ((power + E4M3_BIAS - 1) << E4M3_DIGITS)
    signed = code | (np.signbit(rounded).astype(np.int64) << 7)
    return np.asarray(signed, np.uint8)
