"""The double has the names of the library, and TensorRT's own traits."""

from typing import Any

import pytest
import tensorrt_rtx

from tests.doubles.builds import GEOMETRY, INPUT, Profile, build, recorder
from tests.doubles.cuda_runtime import FakeCuda, Gpu
from tests.doubles.trt_module import fake_tensorrt, tensorrt_stubs
from tests.doubles.trt_plan import Plan
from tests.flowsr_runtime.conftest import MODELS

GOOD: Profile = {"input": INPUT, "geometry": GEOMETRY}


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


@pytest.mark.parametrize("variant", ["tensorrt-10", "tensorrt-11"])
def test_tensorrt_needs_a_gpu_to_build(variant: str) -> None:
    double = fake_tensorrt(variant)
    logger, messages = recorder(double)
    with pytest.raises(TypeError, match="nullptr"):
        double.Builder(logger)
    assert "CUDA initialization failure" in messages.said()


def test_the_stubs_are_empty() -> None:
    assert not hasattr(tensorrt_stubs(), "Builder")


@pytest.mark.parametrize("variant", ["tensorrt-10", "tensorrt-11", "tensorrt-rtx"])
def test_a_plan_is_for_the_gpu_of_this_machine(variant: str) -> None:
    double: Any = fake_tensorrt(variant, FakeCuda(Gpu()))
    plan, _ = build(double, MODELS["bilinear"], GOOD)
    unpacked = Plan.unpack(plan or b"")
    assert unpacked is not None
    assert unpacked.capabilities == ["8.9"]
    assert unpacked.version == double.__version__
    assert unpacked.strongly_typed
