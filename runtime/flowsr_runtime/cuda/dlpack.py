"""Exchange arrays between libraries without copies, as DLPack 0.8 capsules."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np

from flowsr_runtime.errors import ShapeError

__all__ = ["CPU", "CUDA", "Borrowed", "borrow", "is_device_array", "lend"]

CPU: Final = 1
CUDA: Final = 2
"""Device types of DLPack."""

_NAME: Final = b"dltensor"
_USED: Final = b"used_dltensor"
_KINDS: Final = {"i": 0, "u": 1, "f": 2, "b": 6}
"""DLPack's type codes by NumPy's kinds."""


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """A tensor, and the function that returns its memory."""


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (
    ("tensor", _Tensor),
    ("manager", ctypes.c_void_p),
    ("deleter", _Deleter),
)

_API: Final = ctypes.pythonapi
_API.PyCapsule_New.restype = ctypes.py_object
_API.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_API.PyCapsule_IsValid.argtypes = (ctypes.py_object, ctypes.c_char_p)
_API.PyCapsule_GetPointer.restype = ctypes.c_void_p
_API.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
_API.PyCapsule_SetName.argtypes = (ctypes.py_object, ctypes.c_char_p)

# A destructor gets a capsule without references: only its address may be used.
_DESTRUCTOR: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_IS_VALID: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", _API)
)
_POINTER_OF: Final = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", _API)
)

_lent: dict[int, tuple[_Managed, object, Any]] = {}
"""Lent memory by address, kept alive until its user or its capsule returns it."""


@dataclass(frozen=True)
class Borrowed:
    """Memory that another library owns.

    Attributes:
        address: Address of the first value.
        shape: Shape of the array.
        dtype: Type of its values.
        device: (device type, index), such as (`CUDA`, 0).
        strides: Values from one index to the next, None if contiguous.
        release: Returns the memory; call it once.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: tuple[int, int]
    strides: tuple[int, ...] | None
    release: Callable[[], None]


def lend(
    address: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    device: tuple[int, int],
    owner: object,
) -> object:
    """Create a capsule of contiguous memory.

    Args:
        address: Address of the first value.
        shape: Shape of the array.
        dtype: Type of its values.
        device: (device type, index).
        owner: Object to keep alive until the memory is returned.

    Returns:
        The capsule that `__dlpack__` returns.
    """
    shape_field = (ctypes.c_int64 * len(shape))(*shape)
    tensor = _Tensor(
        data=address,
        device_type=device[0],
        device_id=device[1],
        ndim=len(shape),
        code=_KINDS[dtype.kind],
        bits=8 * dtype.itemsize,
        lanes=1,
        shape=shape_field,
        strides=None,
        byte_offset=0,
    )
    managed = _Managed(tensor=tensor, manager=None, deleter=_GIVE_BACK)
    at = ctypes.addressof(managed)
    _lent[at] = (managed, owner, shape_field)
    return _API.PyCapsule_New(at, _NAME, ctypes.cast(_FORGET, ctypes.c_void_p))


def is_device_array(value: object) -> bool:
    """Return whether a value is an array on a GPU."""
    if hasattr(value, "__cuda_array_interface__"):
        return True
    describe = getattr(value, "__dlpack_device__", None)
    return describe is not None and int(describe()[0]) != CPU


def borrow(capsule: object) -> Borrowed:
    """Take the memory of a capsule, which can be taken once.

    Args:
        capsule: Result of `__dlpack__`.

    Returns:
        The memory.

    Raises:
        ShapeError: If it is no capsule, was used already, or has a type unknown to NumPy.
    """
    if not _API.PyCapsule_IsValid(capsule, _NAME):
        raise ShapeError(f"__dlpack__ must return an unused capsule, got {capsule!r}")
    managed = _Managed.from_address(_API.PyCapsule_GetPointer(capsule, _NAME))
    tensor = managed.tensor
    kinds = [kind for kind, code in _KINDS.items() if code == tensor.code]
    if not kinds or tensor.lanes != 1 or tensor.bits % 8:
        raise ShapeError(
            f"array must hold whole numbers or floats, got DLPack type {tensor.code}, "
            f"{tensor.bits} bits, {tensor.lanes} lanes"
        )
    _API.PyCapsule_SetName(capsule, _USED)
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    strides = None
    if tensor.strides:
        strides = tuple(tensor.strides[axis] for axis in range(tensor.ndim))
        plain = (prod(shape[axis + 1 :]) for axis in range(tensor.ndim))
        if all(n == 1 or s == p for n, s, p in zip(shape, strides, plain, strict=True)):
            strides = None

    def release() -> None:
        if managed.deleter:
            managed.deleter(ctypes.pointer(managed))

    return Borrowed(
        address=(tensor.data or 0) + tensor.byte_offset,
        shape=shape,
        dtype=np.dtype(f"{kinds[0]}{tensor.bits // 8}"),
        device=(tensor.device_type, tensor.device_id),
        strides=strides,
        release=release,
    )


def _give_back(managed: Any) -> None:
    _lent.pop(ctypes.addressof(managed.contents), None)


def _forget(capsule: int) -> None:
    """Release the memory of a capsule that nobody took."""
    if _IS_VALID(capsule, _NAME):
        _lent.pop(_POINTER_OF(capsule, _NAME), None)


# Global: C may call these until the process ends.
_GIVE_BACK: Final = _Deleter(_give_back)
_FORGET: Final = _DESTRUCTOR(_forget)
