"""DLPack capsules are exchanged with other libraries, and released once."""

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
def test_arrays_are_exchanged_with_numpy(dtype: str) -> None:
    array = PICTURE.astype(dtype)
    lent = np.from_dlpack(Lender(array))
    assert lent.dtype == array.dtype
    np.testing.assert_array_equal(lent, array)
    assert np.shares_memory(lent, array)
    taken = borrow(array.__dlpack__())
    assert (taken.address, taken.shape, taken.strides) == (array.ctypes.data, array.shape, None)
    assert (taken.dtype, taken.device) == (array.dtype, (CPU, 0))
    taken.release()


def test_memory_is_given_back_by_whoever_has_it_last() -> None:
    before = lent()
    taken = from_dlpack(Lender(PICTURE))
    assert tuple(taken.shape) == (2, 3, 4)
    assert taken.sum() == PICTURE.sum()
    assert lent() == before + 1
    del taken
    assert lent() == before


def test_a_capsule_that_nobody_took_gives_back_by_itself() -> None:
    before = lent()
    capsule = Lender(PICTURE).__dlpack__()
    assert lent() == before + 1
    del capsule
    assert lent() == before


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
    for used in (capsule, 3):
        with pytest.raises(ShapeError, match="must return an unused capsule, got"):
            borrow(used)


def test_values_that_numpy_has_not_are_refused() -> None:
    capsule = torch.zeros(3, dtype=torch.bfloat16).__dlpack__()
    with pytest.raises(
        ShapeError, match="must hold whole numbers or floats, got DLPack type 4"
    ):
        borrow(capsule)
