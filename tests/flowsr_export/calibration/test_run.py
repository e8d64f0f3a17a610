from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from flowsr_export.calibration.gates import Budget
from flowsr_export.calibration.run import Calibration, calibrate
from flowsr_export.onnx_graph.uint8_io import with_uint8_io
from flowsr_runtime import Bundle, UsageError, write_bundle
from tests.flowsr_calibration.graphs import network, small_manifest
from tests.flowsr_export.calibration.calibrations import calibrated as calibrated
from tests.flowsr_export.calibration.calibrations import config_for, made_bundle, photographs_in

Calibrated = tuple[Bundle, Calibration]


@pytest.fixture(autouse=True)
def _photographs(tmp_path: Path) -> None:
    photographs_in(tmp_path / "photos")


def codes_in(content: bytes) -> int:
    model = onnx.load_from_string(content)
    return sum(tensor.name.endswith(".codes") for tensor in model.graph.initializer)


def test_every_block_is_quantized_where_the_budget_holds(calibrated: Calibrated) -> None:
    done = calibrated[1]
    assert done.choice.point.left_out == ()
    assert codes_in(done.content) == 8
    assert done.work.share("int8") > 0.9
    assert done.gates.missed == ()


def test_every_correction_has_its_figures_and_is_kept_only_if_it_helps(
    calibrated: Calibrated,
) -> None:
    corrections = calibrated[1].corrections
    assert [one.name for one in corrections] == [
        "one step per channel",
        "cross-layer equalization",
        "bias correction",
    ]
    assert all(one.kept == (one.after >= one.before + 0.02) for one in corrections[1:])
    assert corrections[1].before == corrections[0].after


def test_what_is_kept_is_at_least_as_good_as_each_step(calibrated: Calibrated) -> None:
    done = calibrated[1]
    best = max(max(one.before, one.after) for one in done.corrections)
    assert done.choice.tried[0].agreement.psnr == pytest.approx(best, abs=0.03)


def test_a_hard_budget_leaves_blocks_out(tmp_path: Path) -> None:
    config = config_for(tmp_path, budget=Budget(60.0))
    done = calibrate(made_bundle(tmp_path / "b"), config)
    assert 0 < len(done.choice.point.left_out) < 6
    assert done.choice.point.agreement.worst >= 60.0
    assert done.work.share("int8") < 0.9


def test_a_budget_that_no_block_keeps_is_a_missed_gate(tmp_path: Path) -> None:
    done = calibrate(made_bundle(tmp_path / "b"), config_for(tmp_path, budget=Budget(120.0)))
    assert done.choice.layers == ()
    assert done.gates.missed == ("budget must allow a block in eight bits, got none",)


def test_excluded_blocks_stay_float32(tmp_path: Path) -> None:
    done = calibrate(
        made_bundle(tmp_path / "b"), config_for(tmp_path, exclude=("^conditioner",))
    )
    assert done.excluded == ("conditioner.first", "conditioner.last")
    assert codes_in(done.content) == 5
    assert "conditioner.first" not in {loss.block for loss in done.losses}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nowhere", "exclude .* 'nowhere'; blocks: encoder.head.0"),
        ("(", r"exclude .* '\('"),
        (".", "exclude must leave a block"),
    ],
)
def test_a_pattern_that_makes_no_sense_is_refused(
    pattern: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        calibrate(made_bundle(tmp_path / "b"), config_for(tmp_path, exclude=(pattern,)))


def test_one_step_for_a_weight_can_be_asked_for(tmp_path: Path) -> None:
    done = calibrate(made_bundle(tmp_path / "b"), config_for(tmp_path, per_tensor=True))
    assert "one step per channel" not in {one.name for one in done.corrections}
    assert done.gates.psnr > 30


def test_floats_of_eight_bits_are_calibrated_too(tmp_path: Path) -> None:
    config = config_for(tmp_path, type="fp8", budget=Budget(20.0))
    done = calibrate(made_bundle(tmp_path / "b"), config)
    model = onnx.load_from_string(done.content)
    assert model.opset_import[0].version == 19
    assert done.work.share("fp8") > 0.9


def test_a_graph_of_eight_bit_pictures_is_quantized_too(tmp_path: Path) -> None:
    manifest = small_manifest()
    manifest["picture"] = {**manifest["picture"], "io": "uint8", "range": [0, 255]}
    files = {"model.fp32.onnx": with_uint8_io(network()).SerializeToString()}
    done = calibrate(write_bundle(tmp_path / "b", manifest, files), config_for(tmp_path))
    assert done.gates.psnr > 30
    assert codes_in(done.content) == 8


def test_the_same_config_gives_the_same_file(calibrated: Calibrated, tmp_path: Path) -> None:
    again = calibrate(made_bundle(tmp_path / "b"), config_for(tmp_path))
    assert again.content == calibrated[1].content


def test_statistics_are_kept_and_used_again(tmp_path: Path) -> None:
    bundle = made_bundle(tmp_path / "b")
    first = calibrate(bundle, config_for(tmp_path))
    (path,) = (tmp_path / "work").iterdir()
    assert path.name == f"statistics-{first.statistics.key[:16]}.npz"
    written = path.stat().st_mtime_ns
    phases: list[str] = []
    calibrate(
        bundle,
        config_for(tmp_path, method="minmax"),
        lambda phase, done, total: phases.append(f"{phase} {done}"),
    )
    assert [p for p in phases if p.startswith("collect statistics")] == ["collect statistics 6"]
    assert path.stat().st_mtime_ns >= written


def test_crops_that_the_graph_does_not_take_are_refused(tmp_path: Path) -> None:
    source = made_bundle(tmp_path / "b")
    even = Bundle(source.path, replace(source.manifest, multiple=2))
    with pytest.raises(
        UsageError, match="side must be a multiple of 2 for this bundle, got 15"
    ):
        calibrate(even, config_for(tmp_path, side=15))
