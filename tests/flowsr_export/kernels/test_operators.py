from importlib import import_module
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map_only

from benchmarks.kernels import calls, median_ms
from flowsr_export.kernels import coupling_operators, operators

SMALL: dict[str, Any] = {"lr": (4, 5), "scale": 2, "hidden": 16}
REGISTERED: dict[str, tuple[Any, str, str]] = {
    "first product": (operators.first_product, "query", "launch"),
    "encode": (operators.flow_pass, "flow", "launch"),
    "decode": (operators.flow_pass, "flow", "launch"),
    "resize": (operators.resize_patches, "resize", "launch"),
    "coupling hidden": (coupling_operators.coupling_hidden, "coupling", "launch_hidden"),
    "coupling encode": (coupling_operators.coupling_map, "coupling", "launch_map"),
    "coupling decode": (coupling_operators.coupling_map, "coupling", "launch_map"),
}
"""Operator, and module and function of its kernel."""

NAMES = list(REGISTERED)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_an_operator_on_a_cpu_is_its_definition(name: str, dtype: torch.dtype) -> None:
    operator, definition, args = calls(dtype, device="cpu", **SMALL)[name]
    output = operator(*args)
    assert torch.equal(output, definition(*args))
    assert bool(output.float().abs().max() > 0)


@pytest.mark.parametrize("name", NAMES)
def test_an_operator_is_registered_soundly(name: str) -> None:
    _, _, args = calls(torch.float32, device="cpu", **SMALL)[name]
    if name == "first product":
        args = (args[0], *args[1], *args[2], *args[3:])
    results = torch.library.opcheck(
        REGISTERED[name][0],
        args,
        test_utils=("test_schema", "test_faketensor"),
    )
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", NAMES)
def test_an_operator_on_cuda_is_one_kernel(name: str) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    operator, definition, args = calls(torch.float16, device="cpu", **SMALL)[name]
    with FakeTensorMode():
        fake = tree_map_only(torch.Tensor, _on_cuda, args)
        output = operator(*fake)
    _, module, function = REGISTERED[name]
    launch = getattr(import_module(f"flowsr_export.kernels.{module}"), function)
    graph = make_fx(launch)(*fake)
    targets = [str(node.target) for node in graph.graph.nodes]
    assert targets.count("triton_kernel_wrapper_mutation") == 1
    expected = definition(*args)
    assert (output.shape, output.dtype) == (expected.shape, expected.dtype)
    assert output.device.type == "cuda"


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 1e-2)])
def test_an_operator_on_a_real_gpu_is_its_definition(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA GPU")
    sizes: dict[str, Any] = {"lr": (37, 50), "scale": 3, "hidden": 64}
    operator, _, args = calls(dtype, device="cuda", **sizes)[name]
    _, definition, on_cpu = calls(dtype, device="cpu", **sizes)[name]
    expected = definition(*on_cpu).float()
    error = (operator(*args).cpu().float() - expected).abs().max() / expected.abs().max()
    assert float(error) < tolerance


def _on_cuda(x: torch.Tensor) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device="cuda")


def test_a_median_time_is_in_milliseconds() -> None:
    assert 0 < median_ms(torch.add, (torch.ones(1), torch.ones(1))) < 100
