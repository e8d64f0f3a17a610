"""Bundles that receive an engine: existing, copied, or made from checkpoints."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from flowsr_export.engine.target_bundle import TargetBundle
from flowsr_runtime import Bundle, Upscaler
from flowsr_runtime.bundle.engine_store import EngineStore
from flowsr_runtime.errors import BundleError, OutputError, UsageError
from tests.flowsr_export.conftest import Exported
from tests.flowsr_export.engine.engines import convolving_bundle
from tests.stand_in import picture

Run = Callable[..., Result]


def test_a_precision_is_added_to_a_copy(exported: Exported, tmp_path: Path) -> None:
    place = tmp_path / "copy.bundle"
    source = TargetBundle(exported.bundle, place, exported.model, exported.prior)
    source.check()
    bundle = source.prepare("fp16")
    bundle.check_files()
    assert set(bundle.manifest.files) == {
        *Bundle.open(exported.bundle).manifest.files,
        "model.fp16.onnx",
    }
    entry = bundle.manifest.raw["files"]["model.fp16.onnx"]
    assert entry["islands"] == ["geometry", "phase", "resizing", "sum"]
    assert entry["verification"]["rounding"]["psnr"] > 50
    outputs = []
    for precision in ("fp32", "fp16"):
        with Upscaler.open(bundle, threads=1, precision=precision) as upscaler:
            outputs.append(upscaler.upscale(np.float32(picture(9, 8) / 255), 2.5))
    np.testing.assert_allclose(outputs[0], outputs[1], atol=0.02)
    assert TargetBundle(place, None).prepare("fp16") == Bundle.open(place)


def test_checkpoints_become_an_engine_in_one_command(
    exported: Exported, run: Run, tmp_path: Path
) -> None:
    place = tmp_path / "made.bundle"
    files = ("--model", exported.model, "--prior", exported.prior, "-o", place)
    sizes = ("--fixed-scale", "4", "--lr-size", "16x16", "--lr-size", "24x32")
    few = ("--flavor", "tensorrt-rtx", "--least-share", "0.7")  # the stand-in is small
    arguments = ("build-engine", *files, *sizes, *few)
    planned = run(*arguments, "--dry-run")
    assert "not known  the fp16 graph: it is not exported yet" in planned.stdout
    assert list(tmp_path.iterdir()) == []
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    # In bfloat16 the flow stays float32, a tenth of so small a network.
    stricter = run(*arguments, "--precision", "bf16", "--least-share", "0.99")
    assert stricter.exit_code == 3
    assert "(--least-share)" in stricter.stderr
    (entry,) = EngineStore(place).entries()
    (profile,) = entry.key.profiles
    assert set(profile) == {"input"}
    assert profile["input"].max == (1, 3, 32, 24)
    assert run(*arguments).exit_code == 0
    assert len(EngineStore(place).entries()) == 1


def test_other_checkpoints_than_the_bundles_are_refused(
    exported: Exported, tmp_path: Path
) -> None:
    place = tmp_path / "copy.bundle"
    with pytest.raises(UsageError, match=r"copy\.bundle"):
        TargetBundle(exported.bundle, place).prepare("fp16")


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_graph_of_eight_bits_is_not_exported_but_calibrated(
    precision: Any, tmp_path: Path
) -> None:
    path = convolving_bundle(tmp_path / "b", "fp32")
    with pytest.raises(BundleError, match=f"no {precision} graph"):
        TargetBundle(path).prepare(precision)


def test_a_graph_of_another_scale_is_another_model(exported: Exported) -> None:
    source = TargetBundle(
        None, exported.bundle, exported.model, exported.prior, fixed_scale=Fraction(4)
    )
    with pytest.raises(OutputError, match="holds another model"):
        source.check()


def test_a_place_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    path = convolving_bundle(tmp_path / "b", "fp32")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="exists"):
        TargetBundle(path, tmp_path / "file").check()


def test_a_draft_says_what_a_bundle_would_take(exported: Exported, tmp_path: Path) -> None:
    source = TargetBundle(None, tmp_path / "x", exported.model, exported.prior)
    drafted = source.manifest("fp16")
    made = Bundle.open(exported.bundle).manifest
    assert drafted.inputs == made.inputs
    assert drafted.tiling.exact == made.tiling.exact
    assert drafted.memory.bytes_per_patch == made.memory.bytes_per_patch
    assert source.existing is None
