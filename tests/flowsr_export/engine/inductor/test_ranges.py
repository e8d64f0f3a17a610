"""Engines of Inductor for a range of sizes of models of one scale."""

from contextlib import closing
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flowsr_export.deployment.compilation import compile_package
from flowsr_export.deployment.families import deployment_of
from flowsr_export.inputs.cases import Case, cases_of
from flowsr_runtime.backends.engines.inductor_engine import InductorEngine
from flowsr_runtime.bundle.engine_store import EngineEntry, EngineKey, Range
from flowsr_runtime.errors import ShapeError
from tests.flowsr_export.engine.inductor.engines import NEEDS_COMPILER
from tests.flowsr_export.networks import small, small_prior, small_srflow

SCALE = Fraction(5, 2)
CLOSE = 1e-5  # float rounding of these small networks
EDSR = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 8}}
SWINIR = {
    "name": "swinir",
    "args": {"embed_dim": 4, "depths": [2], "num_heads": 1, "num_feat": 4},
}
SIZES = [(40, 48), (34, 46), (50, 37), (64, 63)]


def as_tensors(feeds: dict[str, NDArray[Any]]) -> list[torch.Tensor]:
    return [torch.from_numpy(np.asarray(value)) for value in feeds.values()]


@pytest.mark.slow
@NEEDS_COMPILER
@pytest.mark.parametrize("encoder", [EDSR, SWINIR], ids=["edsr", "swinir"])
def test_a_range_of_one_scale_agrees_with_pytorch(encoder: dict[str, Any]) -> None:
    prior = small_prior(depth=1)
    network = small(prior, flow_layers=1, num_layer=1, encoder_spec=encoder)
    deployment = deployment_of(network)
    profile = {"input": Range((1, 3, 20, 20), (1, 3, 40, 48), (1, 3, 64, 64))}
    package = compile_package(deployment, "fp32", SCALE, [profile], io="float32", device="cpu")
    key = EngineKey(
        *("a" * 64, "inductor", str(torch.__version__), ("cpu-x86_64-plain-00000000",)),
        *(None, "fp32", (profile,), {}),
    )
    entry = EngineEntry.of(key, package.content, {"tensors": list(package.tensors)})
    graph = deployment.graph(torch.float32, SCALE)
    patch = network.linf.patch_size
    engine = InductorEngine(entry, package.content, "cpu", patch=patch, scale=SCALE)
    with closing(engine):
        for case in cases_of(SIZES, [SCALE]):
            feeds = deployment.feeds(case, SCALE)
            assert list(feeds) == ["input"]
            with torch.inference_mode():
                due = graph(*as_tensors(feeds)).numpy()
            np.testing.assert_allclose(engine.run(0, feeds), due, atol=CLOSE)
    with (
        closing(InductorEngine(entry, package.content, "cpu", patch=patch)) as unscaled,
        pytest.raises(ShapeError, match="input geometry is missing"),
    ):
        unscaled.run(0, feeds)


def test_a_range_of_srflow_is_exported_with_sides_of_its_own() -> None:
    deployment = deployment_of(small_srflow())
    profile = {"input": Range((1, 3, 32, 32), (1, 3, 40, 48), (1, 3, 64, 64))}
    given = deployment.compilable(torch.float32, Fraction(4), profile)
    exported = torch.export.export(
        given.module, tuple(given.example.values()), dynamic_shapes=given.vary, strict=False
    )
    whole, module = deployment.graph(torch.float32, None), exported.module()
    for lr in ((32, 64), (46, 34)):
        feeds = deployment.feeds(Case(lr, (4 * lr[0], 4 * lr[1])), None)
        assert list(feeds) == list(given.example) == ["input", "geometry"]
        with torch.inference_mode():
            got, due = module(*as_tensors(feeds)), whole(*as_tensors(feeds))
        torch.testing.assert_close(got, due, atol=CLOSE, rtol=0)


def test_a_side_that_is_fixed_stays_fixed() -> None:
    deployment = deployment_of(small_srflow())
    profile = {"input": Range((1, 3, 32, 48), (1, 3, 40, 48), (1, 3, 64, 48))}
    given = deployment.compilable(torch.float32, None, profile)
    assert given.vary is not None
    assert list(given.vary["input"]) == [2]
    assert given.vary["geometry"] is None
