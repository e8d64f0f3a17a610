"""The double has the names of the library."""

import pytest
import tensorrt_rtx

from tests.doubles.trt_module import fake_tensorrt


def test_every_name_of_the_rtx_double_is_in_the_library() -> None:
    double = fake_tensorrt("tensorrt-rtx")
    names = [name for name in dir(double) if not name.startswith("_")]
    assert [name for name in names if not hasattr(tensorrt_rtx, name)] == []


@pytest.mark.parametrize("name", ["Builder", "Runtime", "ICudaEngine", "IExecutionContext"])
def test_every_method_of_the_rtx_double_is_in_the_library(name: str) -> None:
    real, double = getattr(tensorrt_rtx, name), getattr(fake_tensorrt("tensorrt-rtx"), name)
    names = {method for method in dir(double) if not method.startswith("_")} - {"missing"}
    assert {method for method in names if not hasattr(real, method)} == set()


@pytest.mark.parametrize(
    "name", ["DataType", "TensorLocation", "TensorIOMode", "CudaGraphStrategy"]
)
def test_every_member_of_an_enumeration_has_the_value_of_the_library(name: str) -> None:
    real = getattr(tensorrt_rtx, name).__members__
    double = getattr(fake_tensorrt("tensorrt-rtx"), name).__members__
    assert {member: int(real[member]) for member in double} == {
        member: int(value) for member, value in double.items()
    }
