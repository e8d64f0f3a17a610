"""The graph in two stages equals the network at every scale, for tiles too."""

from contextlib import closing
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Precision
from flowsr_export.export_onnx.manifest import Request
from flowsr_export.export_onnx.model import opened
from flowsr_export.export_onnx.stages import (
    add_stages,
    check_stages,
    exported_stages,
    stage_models,
)
from flowsr_export.inputs.cases import Case
from flowsr_export.onnx_graph.lint import lint
from flowsr_export.parity.reference import reference_of
from flowsr_lp import LinfLP, load_checkpoint
from flowsr_runtime import Bundle, Upscaler, write_bundle
from flowsr_runtime.errors import OutputError, ParityError, UsageError
from flowsr_runtime.geometry import Extent, Halo, Window
from tests.flowsr_export.conftest import Exported
from tests.flowsr_export.networks import small, small_model, small_srflow
from tests.stand_in import network, picture

LINF = small()
SAMPLED = network(small_model(), None)
CASES = [Case((9, 14), (13, 22)), Case((1, 5), (3, 17)), Case((16, 3), (64, 12), 2)]
# Sums in another order than PyTorch's.
TOLERANCE = 2e-6


@cache
def staged(net: LinfLP, precision: Precision) -> tuple[bytes, bytes]:
    """Export both stages, once for all tests."""
    features, query = exported_stages(deployment_of(net), precision)
    assert lint(features) == lint(query) == []
    return features.SerializeToString(), query.SerializeToString()


def run(net: LinfLP, feeds: dict[str, Any], precision: Precision = "fp32") -> Any:
    features, query = staged(net, precision)
    with closing(opened(features, "f")) as first, closing(opened(query, "q")) as second:
        values = first.features({"input": feeds["input"]}).values
        return second.run({**feeds, **values})


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("net", [LINF, SAMPLED], ids=["prior", "sampled"])
def test_both_stages_equal_the_network(net: LinfLP, case: Case) -> None:
    feeds = deployment_of(net).feeds(case, None)
    latents = [torch.from_numpy(feeds["latent"])] if "latent" in feeds else None
    with torch.no_grad():
        rgb = torch.from_numpy(feeds["input"])
        expected = deployment_of(net).reference(rgb, case.size, latents)
    np.testing.assert_allclose(run(net, feeds), expected.numpy(), atol=TOLERANCE)


def test_half_precision_keeps_the_features_in_half() -> None:
    case = CASES[0]
    feeds = deployment_of(LINF).feeds(case, None)
    features, _ = staged(LINF, "fp16")
    with closing(opened(features, "features")) as session:
        types = {
            x.data_type() for x in session.features({"input": feeds["input"]}).values.values()
        }
    assert types == {"tensor(float16)"}
    np.testing.assert_allclose(run(LINF, feeds, "fp16"), run(LINF, feeds), atol=0.02)


def test_a_window_of_a_whole_image_equals_that_part_of_it() -> None:
    case = Case((40, 20), (80, 40))
    feeds = deployment_of(LINF).feeds(case, None)
    whole = run(LINF, feeds)
    exact = deployment_of(LINF).exact_halo()
    rows = Extent.around(0, 24, 40, 80, Halo(3, exact.align, 3, exact.patches, exact.pixels))
    part = Window(rows, Extent.whole(20, 40))
    tile = {
        "input": np.ascontiguousarray(feeds["input"][:, :, rows.lr_begin : rows.lr_end]),
        "geometry": part.geometry(),
    }
    np.testing.assert_allclose(run(LINF, tile)[:, :, :24], whole[:, :, :24], atol=TOLERANCE)


REFUSED: list[tuple[Any, Request, str]] = [
    (small_srflow(), Request(), "stages must be of linf-lp, got srflow-lp"),
    (LINF, Request(scale=Fraction(4)), "stages must be of a graph of any scale, got scale 4"),
    (
        LINF,
        Request(io="uint8"),
        "stages must have float32 images in fp32 or fp16, got io uint8",
    ),
    (LINF, Request("bf16"), "stages must have float32 images in fp32 or fp16, got bf16"),
]


@pytest.mark.parametrize(
    ("net", "request_", "message"), REFUSED, ids=["family", "x4", "io", "bf"]
)
def test_a_graph_without_stages_is_refused(net: Any, request_: Request, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_stages(deployment_of(net), request_)


@pytest.fixture
def extended(exported: Exported, tmp_path: Path) -> tuple[Bundle, Any]:
    """A copy of a bundle with its stages, and its checkpoint."""
    plain = Bundle.open(exported.bundle)
    files = {name: plain.read(name) for name in plain.manifest.files}
    copy = write_bundle(tmp_path / "copy.bundle", plain.manifest.raw, files)
    checkpoint = reference_of(copy, exported.model, exported.prior)
    return add_stages(copy, checkpoint, Request()), checkpoint


def test_a_bundle_gets_stages_that_equal_its_graph(extended: tuple[Bundle, Any]) -> None:
    bundle, checkpoint = extended
    image = picture(11, 9, "stages")
    with Upscaler.open(bundle) as upscaler:
        for scale, result in zip(
            (1.3, 4), upscaler.upscale(image, scales=[1.3, 4]), strict=True
        ):
            np.testing.assert_array_equal(result, upscaler.upscale(image, scale))
    entry = bundle.manifest.raw["files"]["query.fp32.onnx"]
    assert entry["verification"]["whole_graph_max_abs"] <= TOLERANCE
    with pytest.raises(OutputError, match=r"copy.bundle holds the stages of fp32 already"):
        add_stages(bundle, checkpoint, Request())


def test_stages_of_another_graph_are_not_kept(exported: Exported) -> None:
    checkpoint = load_checkpoint(exported.model, exported.prior)
    other = deployment_of(small(flow_layers=3))
    whole = Bundle.open(exported.bundle).model_bytes()
    with pytest.raises(ParityError, match=r"equal the whole graph within 1e-05, got 0\.\d+"):
        stage_models(checkpoint, other, Request(), whole)
