import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from flowsr_calibration.crops import CropPlan
from flowsr_calibration.onnx_graph import OnnxGraph, with_nodes
from flowsr_calibration.panel import HeldOutSet, eight_bit, psnr
from flowsr_runtime import Bundle

PLAN = CropPlan(3, 12, (Fraction(2),))


def made_panel(bundle: Bundle, folder: Path) -> HeldOutSet:
    crops = list(PLAN.crops(sorted(folder.iterdir())))
    return HeldOutSet(
        bundle.model_bytes("fp32"),
        bundle.manifest,
        crops,
        threads=1,
        quality=lambda output, original: float(output.mean()),
    )


def brighter(model: ModelProto, steps: list[float]) -> ModelProto:
    """The network with so many eight-bit steps more of red, green and blue."""
    added = np.repeat(np.array(steps, np.float32) / 255, 4)
    bias = OnnxGraph(model).value("decode_maps.0.bias")
    return with_nodes(model, model.graph.node, {"decode_maps.0.bias": bias + added})


def test_the_same_graph_agrees_without_end(bundle: Bundle, folder: Path) -> None:
    found = made_panel(bundle, folder).compare(bundle.model_bytes("fp32"))
    assert (found.psnr, found.worst, found.non_finite) == (math.inf, math.inf, 0)
    assert (found.color_shift, found.quality_loss) == ((0.0, 0.0, 0.0), 0.0)


def test_a_shift_of_a_channel_is_found(model: ModelProto, bundle: Bundle, folder: Path) -> None:
    found = made_panel(bundle, folder).compare(brighter(model, [0.5, 0.0, -1.0]))
    assert found.color_shift == pytest.approx((0.5, 0.0, -1.0), abs=0.06)  # some are clamped
    assert 45 < found.worst <= found.psnr < 60
    assert found.worst_crop.endswith("png ×2")


def test_a_quality_that_rises_is_a_negative_loss(
    model: ModelProto, bundle: Bundle, folder: Path
) -> None:
    found = made_panel(bundle, folder).compare(brighter(model, [3.0, 3.0, 3.0]))
    assert -3.2 < found.quality_loss < -2.0


def test_values_that_are_not_finite_are_no_agreement(
    model: ModelProto, bundle: Bundle, folder: Path
) -> None:
    found = made_panel(bundle, folder).compare(brighter(model, [math.nan, 0, 0]))
    assert found.non_finite == 3 * 24 * 24
    assert (found.psnr, found.worst) == (-math.inf, -math.inf)


def test_pictures_are_rounded_to_the_nearest_and_clamped() -> None:
    output = np.array([-1.0, 0.5 / 255, 1.49 / 255, 2.0], np.float32)
    found = eight_bit(np.broadcast_to(output, (1, 3, 1, 4)))
    assert found[0, :, 0].tolist() == [0, 1, 1, 255]


def test_psnr_is_of_values_up_to_one() -> None:
    assert psnr(1e-4) == pytest.approx(40.0)
    assert psnr(0.0) == math.inf
