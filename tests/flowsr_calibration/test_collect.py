from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from flowsr_calibration.collect import TensorTap, collect, statistics_key
from flowsr_calibration.crops import Crop, CropPlan, find_pictures
from flowsr_calibration.onnx_graph import with_nodes
from flowsr_calibration.statistics import load_statistics
from flowsr_runtime import Bundle
from flowsr_runtime.errors import NonFiniteError
from tests.flowsr_calibration.test_quantize import FEEDS

PLAN = CropPlan(9, 12, (Fraction(2),))
NAMES = ["inner", "hidden"]


def test_inner_tensors_come_out(model: ModelProto) -> None:
    found = TensorTap(model, NAMES, 1).run(FEEDS)
    assert {name: values.shape for name, values in found.items()} == {
        "inner": (1, 8, 24, 24),
        "hidden": (576, 8),
    }
    assert len(model.graph.output) == 1


def test_a_value_that_is_not_finite_is_refused(model: ModelProto) -> None:
    broken = with_nodes(
        model, model.graph.node, {"encoder.head.0.bias": np.full(8, np.nan, np.float32)}
    )
    with pytest.raises(NonFiniteError, match="tensor inner of the float32 graph"):
        TensorTap(broken, NAMES, 1).run(FEEDS)


def test_every_crop_is_seen_and_progress_told(
    model: ModelProto, bundle: Bundle, folder: Path
) -> None:
    steps: list[int] = []
    found = collect(
        TensorTap(model, NAMES, 1),
        bundle.manifest,
        PLAN,
        sorted(folder.iterdir()),
        key="k",
        per_channel=["hidden"],
        advance=lambda done, note: steps.append(done),
    )
    assert (found.done, sum(steps), list(found.histograms)) == (9, 9, NAMES)
    assert found.channels["hidden"].shape == (8,)
    assert found.histograms["hidden"].counts.sum() == 9 * 8 * 144


def test_a_run_that_was_interrupted_goes_on(
    model: ModelProto,
    bundle: Bundle,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flowsr_calibration.collect.SAVE_SECONDS", -1.0)
    tap, paths = TensorTap(model, NAMES, 1), sorted(folder.iterdir())

    def interrupted(self: CropPlan, pictures: Any, begin: int = 0) -> Iterator[Crop]:
        yield from list(whole(self, pictures, begin))[:4]
        raise KeyboardInterrupt

    whole = CropPlan.crops
    with monkeypatch.context() as patch:
        patch.setattr(CropPlan, "crops", interrupted)
        with pytest.raises(KeyboardInterrupt):
            collect(tap, bundle.manifest, PLAN, paths, key="k", path=tmp_path / "s.npz")
    begun = load_statistics(tmp_path / "s.npz", "k")
    assert begun is not None
    assert begun.done == 4
    resumed = collect(tap, bundle.manifest, PLAN, paths, key="k", path=tmp_path / "s.npz")
    fresh = collect(tap, bundle.manifest, PLAN, paths, key="k")
    assert resumed.to_bytes() == fresh.to_bytes()


def test_the_key_names_pictures_crops_and_graph(folder: Path) -> None:
    pictures = find_pictures(folder, PLAN)
    keys = {
        statistics_key("a", NAMES, PLAN, pictures),
        statistics_key("b", NAMES, PLAN, pictures),
        statistics_key("a", NAMES[:1], PLAN, pictures),
        statistics_key("a", NAMES, CropPlan(9, 12, (Fraction(3),)), pictures),
    }
    (folder / "0.png").write_bytes((folder / "1.png").read_bytes())
    keys.add(statistics_key("a", NAMES, PLAN, find_pictures(folder, PLAN)))
    assert len(keys) == 5
