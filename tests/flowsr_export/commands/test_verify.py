import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import Result

from flowsr_export.certificate.cases import CertificateCase
from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.linf import LinfDeployment
from flowsr_export.inputs.cases import Case
from flowsr_export.parity import candidates
from flowsr_export.parity.verify import ROUND_TRIP_TOLERANCE
from flowsr_lp import save_weights
from flowsr_runtime import Bundle, embedded_bundle, write_bundle
from flowsr_runtime.installation import pip_command
from tests.flowsr_export.certificate.certificates import altered, one_percent
from tests.flowsr_export.conftest import Exported
from tests.flowsr_export.networks import small, small_model

Run = Callable[..., Result]


@pytest.fixture
def verify(exported: Exported, run: Run) -> Run:
    """Verify a bundle, by default the exported one, against its checkpoints."""
    files = ("--model", exported.model, "--prior", exported.prior, "--threads", 1)
    return lambda *options, bundle=exported.bundle: run("verify", bundle, *files, *options)


def test_verify_reports_every_case(verify: Run) -> None:
    done = verify("--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["not_started"] == {}
    cases = report["runs"]["onnxruntime cpu"]
    assert len(cases) == 40
    assert max(case["max_abs"] for case in cases) <= 1e-4
    assert report["round_trip"] <= ROUND_TRIP_TOLERANCE


def changed(
    exported: Exported, target: Path, change: Callable[[onnx.ModelProto], None]
) -> Path:
    """Write a bundle with another graph and right hashes."""
    model = onnx.load(exported.bundle / "model.fp32.onnx")
    change(model)
    raw = Bundle.open(exported.bundle).manifest.raw
    name = "model.fp32.onnx"
    manifest = {**raw, "files": {name: raw["files"][name]}}
    manifest.pop("stages", None)  # of another graph
    return write_bundle(target, manifest, {name: model.SerializeToString()}).path


def first_weight_off(model: onnx.ModelProto) -> None:
    one_percent(model, next(t.name for t in model.graph.initializer if len(t.dims) == 4))


def test_verify_catches_a_weight_that_is_one_percent_off(
    exported: Exported, verify: Run, tmp_path: Path
) -> None:
    done = verify(bundle=changed(exported, tmp_path / "off.bundle", first_weight_off))
    assert done.exit_code == 3
    assert len(done.stderr.splitlines()) == 1
    assert "differs from PyTorch at" in done.stderr


def test_verify_refuses_a_bundle_of_other_checkpoints(exported: Exported, run: Run) -> None:
    done = run("verify", exported.bundle, "--model", exported.model)
    assert done.exit_code == 2
    assert "model" in done.stderr


def test_verify_refuses_a_bundle_that_does_not_say_what_it_was_made_of(
    bundle: Path, run: Run, tmp_path: Path
) -> None:
    model = tmp_path / "model.safetensors"
    save_weights(model, "model", small_model(), small().linf.state_dict())
    done = run("verify", bundle, "--model", model)
    assert done.exit_code == 2
    assert str(model) in done.stderr


def test_verify_refuses_a_provider_that_is_not_there(verify: Run) -> None:
    done = verify("--provider", "cuda")
    assert done.exit_code == 4
    assert "pip install" in done.stderr


def test_a_flow_that_does_not_come_back_is_refused(
    verify: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinfDeployment, "round_trip", lambda _: float("nan"))
    done = verify()
    assert done.exit_code == 3
    assert r"inverse(forward(x)) must be x" in done.stderr


def test_the_round_trip_of_a_sound_flow_is_float_rounding() -> None:
    assert deployment_of(small()).round_trip() < 1e-5


def test_a_provider_that_does_not_start_is_named_and_the_others_compared(
    verify: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "present_providers", lambda: ["cpu", "cuda"])
    done = verify()
    assert done.exit_code == 0, done.output
    assert "onnxruntime cpu" in done.stdout
    assert (
        "not compared, onnxruntime cuda fp32: provider cuda is not in the installed"
        in done.stdout
    )


@pytest.fixture
def single(monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate of one small picture."""
    case = CertificateCase("photographs", Case((5, 6), (10, 12)), "2")
    compared = CertificateCase("photographs", Case((23, 37), (46, 74)), "2")
    monkeypatch.setattr(
        "flowsr_export.certificate.certify.case_list",
        lambda manifest, *, quick: [case, compared],
    )


@pytest.mark.usefixtures("single")
def test_a_certificate_is_written_and_summed_up(run: Run, tmp_path: Path) -> None:
    done = run("verify", "-o", tmp_path / "made", "--threads", 1)
    assert done.exit_code == 0, done.output
    assert "4 of 4 comparisons" in done.stdout
    assert "not compared, half precision on a GPU" in done.stdout
    content = json.loads((tmp_path / "made" / "certificate.json").read_text())
    assert content["passed"]
    assert (tmp_path / "made" / "certificate.html").stat().st_size > 1000


@pytest.mark.usefixtures("single")
def test_a_certificate_that_fails_is_written_too(run: Run, tmp_path: Path) -> None:
    bundle = altered(tmp_path / "off.bundle", one_percent).path
    arguments = ("--precision", "fp32", "--threads", 1, "--json")
    done = run("verify", bundle, "-o", tmp_path, *arguments)
    assert done.exit_code == 3
    assert len(done.stderr.splitlines()) == 1
    assert "certificate.html" in done.stderr
    assert "0.0001" in done.stderr
    content = json.loads(done.stdout)
    assert content["complete"]
    assert not content["passed"]
    assert [Path(path).exists() for path in content["files"]] == [True, True]


def test_a_certificate_is_not_overwritten_unasked(run: Run, tmp_path: Path) -> None:
    (tmp_path / "certificate.json").write_text("old")
    done = run("verify", "-o", tmp_path)
    assert done.exit_code == 1
    assert "certificate.json" in done.stderr


def test_a_certificate_of_a_precision_that_is_not_there_is_refused(
    run: Run, tmp_path: Path
) -> None:
    done = run("verify", "-o", tmp_path, "--precision", "fp16")
    assert done.exit_code == 5
    assert "holds no fp16 model" in done.stderr


def test_a_certificate_without_polygraphy_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("polygraphy", "polygraphy.comparator"):
        monkeypatch.setitem(sys.modules, name, None)
    for arguments in (("-o", tmp_path / "made"), ("--locate", "fp32")):
        done = run("verify", *arguments)
        assert done.exit_code == 4
        assert f"polygraphy is not installed; {pip_command('export')}" in done.stderr
    assert not (tmp_path / "made" / "certificate.json").exists()


def test_a_graph_does_not_differ_from_itself(run: Run) -> None:
    done = run("verify", "--locate", "fp32")
    assert done.exit_code == 0, done.output
    assert "tolerance of 0.0001" in done.stdout


def test_the_first_node_that_differs_is_named(run: Run, tmp_path: Path) -> None:
    other = altered(tmp_path / "off.bundle", one_percent).path / "model.fp32.onnx"
    first = embedded_bundle() / "model.fp32.onnx"
    done = run("verify", first, "--locate", other, "--json")
    assert done.exit_code == 3
    assert "(Conv, encoder): its output" in done.stderr
    assert "the tolerance is 0.0001" in done.stderr
    found = json.loads(done.stdout)
    assert found["first"]["kind"] == "Conv"
    assert found["graphs"] == [str(first), str(other)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tolerance", 0.1), "--tolerance needs --locate"),
        (("--quick",), "--quick needs --output"),
        (("--locate", "fp32", "-o", "x"), "--locate and --output"),
        (("--locate", "fp99"), "fp99"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    run: Run, arguments: tuple[Any, ...], words: str
) -> None:
    done = run("verify", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
