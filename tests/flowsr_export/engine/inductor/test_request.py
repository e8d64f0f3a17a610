"""Requests for engines of Inductor: the key's options, and what the compiler's failures say."""

from typing import Any

import pytest
import torch
from torch._inductor.exc import InductorError

from flowsr_export.deployment import compilation
from flowsr_export.deployment.families import deployment_of
from flowsr_export.engine import inductor
from flowsr_export.engine.builder import Settings
from flowsr_export.engine.inductor import check_request, key_options
from flowsr_runtime.bundle.engine_store import Range
from flowsr_runtime.errors import BackendError, FlowsrError, UsageError
from tests.flowsr_export.networks import small

SHAPE = Range((1, 3, 16, 16), (1, 3, 16, 16), (1, 3, 16, 16))


@pytest.mark.parametrize(
    ("place", "kernels", "expected"),
    [
        ("cpu", True, {}),
        ("cuda:0", True, {"triton": "3.7"}),
        ("cuda:0", False, {"triton": "3.7", "kernels": False}),
    ],
)
def test_an_engine_without_kernels_has_a_key_of_its_own(
    place: str, kernels: bool, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "triton_version", lambda: "3.7")
    assert key_options(place, kernels=kernels) == expected


def test_a_cpu_has_no_kernels_to_leave_out() -> None:
    settings = Settings()
    with pytest.raises(UsageError, match=r"kernels must be on with device cpu.*got off"):
        check_request("fp32", settings, "cpu", kernels=False)
    check_request("fp32", settings, "cuda:0", kernels=False)
    assert inductor.PRECISIONS == ("fp32", "fp16", "bf16")


@pytest.mark.parametrize(
    ("reason", "triton", "fuse", "error", "remedy"),
    [
        ("out of resource: shared memory", "3.7", True, FlowsrError, True),
        ("triton failed: PassManager::run failed", "3.7", True, BackendError, True),
        ("triton failed: PassManager::run failed", "3.7", False, BackendError, False),
        ("no working triton is installed", "none", True, BackendError, False),
    ],
)
def test_kernels_that_do_not_compile_can_be_left_out(
    reason: str,
    triton: str,
    fuse: bool,
    error: type[FlowsrError],
    remedy: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise InductorError(RuntimeError(reason), None)

    monkeypatch.setattr(compilation, "triton_version", lambda: triton)
    monkeypatch.setattr(torch.export, "export", fail)
    geometry = Range(
        (16, 16, 32, 32, 0, 0, 0, 0, 32, 32), *[(16, 16, 32, 32, 0, 0, 0, 0, 32, 32)] * 2
    )
    profile = {"input": SHAPE, "geometry": geometry}
    with pytest.raises(error, match=reason) as caught:
        compilation.compile_package(
            deployment_of(small()),
            *("fp32", None, [profile]),
            io="float32",
            device="cpu",
            fuse=fuse,
        )
    assert ("--no-kernels" in str(caught.value)) is remedy
