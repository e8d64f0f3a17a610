import subprocess
import sys
from fractions import Fraction
from typing import Any

import pytest
import torch

from flowsr_export.deployment.families import deployment_of
from flowsr_export.graph.linf.fused import fused
from flowsr_export.graph.linf.network import LinfFixedGraph, LinfGraph
from flowsr_runtime import Window
from flowsr_runtime.bundle.engine_key import Range
from tests.flowsr_export.networks import small, small_model
from tests.stand_in import network, tensor

# The order of float32 sums, and one rounding to the type more or less.
SAME = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SWINIR = {"embed_dim": 8, "depths": [2, 1], "num_heads": 2, "num_feat": 8}
ENCODERS: dict[str, dict[str, Any]] = {
    "edsr": {},
    "swinir": {"encoder_spec": {"name": "swinir", "args": SWINIR}},
}
SIZES = [((20, 24), (80, 96)), ((17, 23), (46, 83)), ((1, 9), (4, 30)), ((1, 1), (1, 1))]


@pytest.mark.parametrize("dtype", SAME, ids=str)
@pytest.mark.parametrize(("lr", "size"), SIZES)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_fused_graph_is_the_deployed_graph(
    encoder: str, lr: tuple[int, int], size: tuple[int, int], dtype: torch.dtype
) -> None:
    graph = LinfGraph(small(hidden_dim=24, **ENCODERS[encoder]), dtype)
    rgb = torch.cat((tensor(*lr), tensor(*lr, "another")))
    geometry = torch.from_numpy(Window.whole(lr, size).geometry())
    with torch.inference_mode():
        expected, output = graph(rgb, geometry), fused(graph)(rgb, geometry)
    torch.testing.assert_close(output, expected, rtol=0, atol=SAME[dtype])


@pytest.mark.parametrize("patch", [1, 2, 3, 4])
def test_the_fused_graph_of_one_scale_decodes_a_latent(patch: int) -> None:
    net = network(small_model(patch_size=patch), None)
    graphs = (LinfGraph(net), fused(LinfGraph(net)))
    rows, cols = (-(-n // patch) for n in (15, 20))
    latent = torch.randn(1, 3 * patch**2, rows, cols)
    with torch.inference_mode():
        expected, output = (
            LinfFixedGraph(graph, Fraction(5, 2))(tensor(6, 8), latent) for graph in graphs
        )
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-4)


def test_the_fused_graph_keeps_the_guard() -> None:
    net = small()
    net.linf.guard = True
    graphs = (LinfGraph(net), fused(LinfGraph(net)))
    with torch.inference_mode():
        expected, output = (
            LinfFixedGraph(graph, Fraction(3))(8 * tensor(7, 9)) for graph in graphs
        )
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-4)


def test_fusing_a_graph_leaves_it_as_it_was() -> None:
    graph = LinfGraph(small())
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    strides = {name: value.stride() for name, value in graph.state_dict().items()}
    fused(graph)
    after = graph.state_dict()
    assert {name: value.stride() for name, value in after.items()} == strides
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_an_exported_program_holds_the_operators_and_runs() -> None:
    graph = LinfFixedGraph(fused(LinfGraph(small())), Fraction(2)).eval()
    program = torch.export.export(graph, (tensor(9, 8),))
    calls = [str(node.target) for node in program.graph.nodes]
    assert calls.count("flowsr.first_product.default") == 1
    assert calls.count("flowsr.flow_pass.default") == 2
    assert calls.count("flowsr.resize_patches.default") == 2
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(tensor(9, 8)), graph(tensor(9, 8)))


def test_the_fused_graph_exports_for_any_size_and_scale() -> None:
    graph = LinfGraph(small()).eval()
    height, width = (torch.export.Dim(name, min=4) for name in ("height", "width"))
    program = torch.export.export(
        fused(graph),
        (tensor(20, 25), torch.from_numpy(Window.whole((20, 25), (61, 77)).geometry())),
        dynamic_shapes=({2: height, 3: width}, None),
    )
    other = (tensor(13, 9), torch.from_numpy(Window.whole((13, 9), (40, 30)).geometry()))
    with torch.inference_mode():
        output, expected = program.module()(*other), graph(*other)
    torch.testing.assert_close(output, expected, rtol=0, atol=SAME[torch.float32])


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
from flowsr_export.kernels.operators import resize_patches
taps = (torch.zeros(2, 1, dtype=torch.int64), torch.full((2, 1), 0.5))
print(resize_patches(torch.full((1, 3, 2, 2), 7.0), *taps, *taps, 1).tolist())
"""


def test_the_operators_need_no_triton_on_a_cpu() -> None:
    command = [sys.executable, "-c", WITHOUT_TRITON]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "[[7.0, 7.0, 7.0]]", result.stderr
    assert result.returncode == 0, result.stderr


def test_a_compiler_gets_the_fused_graph_where_it_is_asked_to_fuse() -> None:
    deployment = deployment_of(small())
    shape, geometry = (1, 3, 12, 10), (12, 10, 36, 30, 0, 0, 0, 0, 36, 30)
    profile = {"input": Range(shape, shape, shape), "geometry": Range(*[geometry] * 3)}
    plain, fast = (
        deployment.compilable(torch.float32, None, profile, fuse=fuse) for fuse in (False, True)
    )
    inputs = (tensor(12, 10), *[x for name, x in plain.example.items() if name != "input"])
    program = torch.export.export(fast.module.eval(), inputs)
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("flowsr.flow_pass.default") == 2
    with torch.inference_mode():
        output, expected = fast.module(*inputs), plain.module.eval()(*inputs)
    torch.testing.assert_close(output, expected, rtol=0, atol=SAME[torch.float32])
