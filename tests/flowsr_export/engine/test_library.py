"""Loading TensorRT libraries, and the GPUs they build for."""

import re
import sys
from types import ModuleType
from typing import Any

import pytest
import tensorrt_rtx

from flowsr_export.engine.library import Target, device_here, load_library, target_of
from flowsr_runtime.cuda.device import Device
from flowsr_runtime.errors import BackendError, ProviderError, UsageError
from flowsr_runtime.installation import pip_command
from tests.doubles.trt_module import fake_tensorrt
from tests.flowsr_export.engine.engines import library

L4 = Device(0, "NVIDIA L4", "8.9", "13.0")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install modules under their names; None is a library that is not installed."""

    def install(**modules: ModuleType | None) -> None:
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    return install


def test_auto_takes_tensorrt_where_there_is_a_gpu(installed: Any) -> None:
    installed(tensorrt=fake_tensorrt("tensorrt-11"), tensorrt_rtx=tensorrt_rtx)
    assert str(load_library("auto", L4)) == "tensorrt 11.4.1.5"
    assert load_library("auto").is_rtx


def test_auto_takes_what_is_installed(installed: Any) -> None:
    installed(tensorrt=None, tensorrt_rtx=tensorrt_rtx)
    assert load_library("auto", L4).flavour == "tensorrt_rtx"


def test_nothing_installed_names_both_remedies(installed: Any) -> None:
    installed(tensorrt=None, tensorrt_rtx=None)
    remedies = [re.escape(pip_command(extra)) for extra in ("tensorrt-rtx", "tensorrt")]
    with pytest.raises(BackendError, match=".*".join(remedies)):
        load_library("auto")


def test_an_empty_package_is_refused(installed: Any) -> None:
    installed(tensorrt=ModuleType("tensorrt"))
    with pytest.raises(BackendError, match="tensorrt is an empty package"):
        load_library("tensorrt")


def test_an_old_version_is_refused(installed: Any) -> None:
    module = fake_tensorrt("tensorrt-10")
    module.__version__ = "10.9.0.34"
    installed(tensorrt=module)
    with pytest.raises(BackendError, match=r"tensorrt must be 10.13 or newer, got 10.9.0.34"):
        load_library("tensorrt")


def test_rtx_builds_for_gpus_that_are_not_here() -> None:
    rtx = library("tensorrt-rtx")
    assert target_of(rtx, ("12.0", "8.9"), "none", None) == Target(("8.9", "12.0"), None)
    assert target_of(rtx, (), "none", L4) == Target((), None)


def test_rtx_refuses_what_it_does_not_build_for() -> None:
    with pytest.raises(ProviderError, match=r"builds for compute capability 7.5, .* H200 need"):
        target_of(library("tensorrt-rtx"), ("9.0",), "none", None)


def test_turing_needs_an_engine_of_its_own() -> None:
    rtx = library("tensorrt-rtx")
    assert target_of(rtx, ("7.5",), "none", None) == Target(("7.5",), None)
    assert rtx.lacks_gemm(("7.5",))
    assert not rtx.lacks_gemm(("8.6",))
    assert not library("tensorrt-11").lacks_gemm(("7.5",))
    with pytest.raises(UsageError, match=r"got 7.5, 8.9"):
        target_of(rtx, ("7.5", "8.9"), "none", None)


def test_rtx_has_no_hardware_compatibility() -> None:
    with pytest.raises(UsageError, match="hardware_compatibility"):
        target_of(library("tensorrt-rtx"), (), "ampere-plus", None)


@pytest.mark.parametrize(
    ("level", "target"),
    [
        ("none", Target(("8.9",), "NVIDIA L4")),
        ("same-compute-capability", Target(("8.9",), None)),
        ("ampere-plus", Target((), None)),
    ],
)
def test_tensorrt_builds_for_the_gpu_that_is_here(level: str, target: Target) -> None:
    assert target_of(library("tensorrt-11"), (), level, L4) == target


def test_tensorrt_refuses_another_gpu_than_the_one_here() -> None:
    with pytest.raises(ProviderError, match=r"NVIDIA L4 \(8.9\), got 8.6"):
        target_of(library("tensorrt-11"), ("8.6",), "none", L4)


def test_tensorrt_needs_a_gpu() -> None:
    with pytest.raises(ProviderError, match="tensorrt 10"):
        target_of(library("tensorrt-10"), (), "none", None)


def test_a_target_names_itself() -> None:
    assert str(Target(("8.9",), "NVIDIA L4")) == "compute capability 8.9, NVIDIA L4"
    assert str(Target((), None)) == "compute capability 8.0 and above"


def test_a_machine_without_a_gpu_has_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(index: int) -> Device:
        raise ProviderError("no usable NVIDIA driver")

    monkeypatch.setattr(Device, "open", refuse)
    assert device_here(0) is None
    with pytest.raises(ProviderError, match="no usable NVIDIA driver"):
        device_here(1)


def test_without_the_cuda_bindings_there_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flowsr_runtime.cuda.device", None)
    assert device_here(0) is None
