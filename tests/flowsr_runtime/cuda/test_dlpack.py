"""Capsules go to and come from other libraries, and the memory is given back once."""

import gc
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.dlpack import from_dlpack

from flowsr_runtime.cuda import dlpack
from flowsr_runtime.cuda.dlpack import CPU, borrow, lend
from flowsr_runtime.errors import ShapeError

PICTURE = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
TYPES = ["float16", "float32", "float64", "int64", "uint8", "int8", "bool"]


class Lender:
    """An array of ours, as another library sees it; on the host, so that it can be read."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **_: object) -> Any:
        array = self.array
        at = array.ctypes.data
        return lend(at, array.shape, array.dtype, device=(CPU, 0), owner=array)

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU, 0


def lent() -> int:
    gc.collect()
    return len(dlpack._lent)


@pytest.mark.parametrize("dtype", TYPES)
def test_numpy_takes_what_is_lent(dtype: str) -> None:
    array = PICTURE.astype(dtype)
    taken = np.from_dlpack(Lender(array))
    assert taken.dtype == array.dtype
    np.testing.assert_array_equal(taken, array)
    assert np.shares_memory(taken, array)


def test_pytorch_takes_what_is_lent() -> None:
    taken = from_dlpack(Lender(PICTURE))
    assert tuple(taken.shape) == (2, 3, 4)
    assert taken.sum() == PICTURE.sum()


def test_memory_is_given_back_by_whoever_has_it_last() -> None:
    before = lent()
    taken = from_dlpack(Lender(PICTURE))
    assert lent() == before + 1
    del taken
    assert lent() == before


def test_a_capsule_that_nobody_took_gives_back_by_itself() -> None:
    before = lent()
    capsule = Lender(PICTURE).__dlpack__()
    assert lent() == before + 1
    del capsule
    assert lent() == before


@pytest.mark.parametrize("dtype", TYPES)
def test_what_numpy_lends_is_taken(dtype: str) -> None:
    array = PICTURE.astype(dtype)
    taken = borrow(array.__dlpack__())
    assert (taken.address, taken.shape, taken.strides) == (array.ctypes.data, array.shape, None)
    assert taken.dtype == array.dtype
    assert taken.device == (CPU, 0)
    taken.release()


def test_what_pytorch_lends_is_taken_with_its_strides() -> None:
    tensor = torch.arange(24, dtype=torch.float16).reshape(4, 6)
    taken, turned = borrow(tensor[1:].__dlpack__()), borrow(tensor.t().__dlpack__())
    assert (taken.address, taken.shape) == (tensor.data_ptr() + 12, (3, 6))
    assert taken.strides is None
    assert turned.strides == (1, 6)
    taken.release()
    turned.release()


def test_what_is_borrowed_from_ourselves_is_given_back() -> None:
    before = lent()
    taken = borrow(Lender(PICTURE).__dlpack__())
    assert lent() == before + 1
    taken.release()
    assert lent() == before


def test_a_capsule_is_taken_once() -> None:
    capsule = PICTURE.__dlpack__()
    borrow(capsule).release()
    with pytest.raises(ShapeError, match="must return an unused capsule"):
        borrow(capsule)


def test_what_is_no_capsule_is_refused() -> None:
    with pytest.raises(ShapeError, match="must return an unused capsule, got 3"):
        borrow(3)


def test_values_that_numpy_has_not_are_refused() -> None:
    capsule = torch.zeros(3, dtype=torch.bfloat16).__dlpack__()
    with pytest.raises(
        ShapeError, match="must hold whole numbers or floats, got DLPack type 4"
    ):
        borrow(capsule)
