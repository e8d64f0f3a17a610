import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import Result
from onnx import numpy_helper

from flowsr_export import verify as library
from flowsr_export.deployment import deployment_of
from flowsr_export.linf_deployment import LinfDeployment
from flowsr_export.verify import ROUND_TRIP_BAR
from flowsr_lp import save_weights
from flowsr_runtime import Bundle, write_bundle
from flowsr_runtime.onnxruntime_session import present_providers
from tests.flowsr_export.conftest import Exported
from tests.flowsr_export.networks import small, small_model

Run = Callable[..., Result]


def checkpoints(exported: Exported) -> tuple[Any, ...]:
    return "--model", exported.model, "--prior", exported.prior


def test_verify_reports_every_case(exported: Exported, run: Run) -> None:
    done = run("verify", exported.bundle, *checkpoints(exported), "--threads", 1, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["not_started"] == {}
    cases = report["runs"]["onnxruntime cpu"]
    assert len(cases) == 40
    assert max(case["max_abs"] for case in cases) <= 1e-4
    assert report["round_trip"] <= ROUND_TRIP_BAR


def changed(
    exported: Exported, target: Path, change: Callable[[onnx.ModelProto], None]
) -> Path:
    """Write a bundle with another graph and right hashes."""
    model = onnx.load(exported.bundle / "model.fp32.onnx")
    change(model)
    raw = Bundle.open(exported.bundle).manifest.raw
    name = "model.fp32.onnx"
    manifest = {**raw, "files": {name: raw["files"][name]}}
    return write_bundle(target, manifest, {name: model.SerializeToString()}).path


def one_percent(model: onnx.ModelProto) -> None:
    weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
    values = numpy_helper.to_array(weight) * np.float32(1.01)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def test_verify_catches_a_weight_that_is_one_percent_off(
    exported: Exported, run: Run, tmp_path: Path
) -> None:
    bundle = changed(exported, tmp_path / "off.bundle", one_percent)
    done = run("verify", bundle, *checkpoints(exported), "--threads", 1)
    assert done.exit_code == 3
    assert len(done.stderr.splitlines()) == 1
    assert "differs from PyTorch at" in done.stderr


def test_verify_refuses_a_bundle_of_other_checkpoints(exported: Exported, run: Run) -> None:
    done = run("verify", exported.bundle, "--model", exported.model)
    assert done.exit_code == 2
    assert "was not made of" in done.stderr


def test_verify_refuses_a_bundle_that_does_not_say_what_it_was_made_of(
    bundle: Path, run: Run, tmp_path: Path
) -> None:
    model = tmp_path / "model.safetensors"
    save_weights(model, "model", small_model(), small().linf.state_dict())
    done = run("verify", bundle, "--model", model)
    assert done.exit_code == 2
    assert done.stderr == (
        f"flowsr-export: bundle {bundle} was not made of {model}; give its checkpoints with "
        "--model and --prior\n"
    )


def test_verify_refuses_a_flipped_byte(exported: Exported, run: Run, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(exported.bundle, tmp_path / "copy.bundle"))
    data = bytearray((bundle / "model.fp32.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "model.fp32.onnx").write_bytes(data)
    done = run("verify", bundle, *checkpoints(exported))
    assert done.exit_code == 5
    assert "model.fp32.onnx" in done.stderr


def test_verify_refuses_a_provider_that_is_not_there(exported: Exported, run: Run) -> None:
    done = run("verify", exported.bundle, *checkpoints(exported), "--provider", "cuda")
    assert done.exit_code == 4
    assert "pip install" in done.stderr


def test_a_flow_that_does_not_come_back_is_refused(
    exported: Exported, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinfDeployment, "round_trip", lambda _: float("nan"))
    done = run("verify", exported.bundle, *checkpoints(exported))
    assert done.exit_code == 3
    assert r"inverse(forward(x)) must be x" in done.stderr


def test_the_round_trip_of_a_sound_flow_is_float_rounding() -> None:
    assert deployment_of(small()).round_trip() < 1e-5


def test_a_provider_that_does_not_start_is_named_and_the_others_compared(
    exported: Exported, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "present_providers", lambda: ["cpu", "cuda"])
    done = run("verify", exported.bundle, *checkpoints(exported), "--threads", 1)
    assert done.exit_code == 0, done.output
    assert "onnxruntime cpu" in done.stdout
    assert "not compared, cuda: provider cuda is not in the installed" in done.stdout


def test_the_cpu_provider_is_present() -> None:
    assert "cpu" in present_providers()
