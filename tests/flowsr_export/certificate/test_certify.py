"""The certificate of the shipped model, and of models that are wrong."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from flowsr_export.certificate.candidates import Candidate
from flowsr_export.certificate.cases import CertificateCase, case_list
from flowsr_export.certificate.certify import Certificate, certify
from flowsr_export.certificate.cross_checks import Weights
from flowsr_export.certificate.record import Check, judge
from flowsr_export.deployment.families import deployment_of
from flowsr_export.inputs.cases import Case
from flowsr_export.parity.compare import HALF_TOLERANCE, QUANTIZED_TOLERANCE, Tolerance
from flowsr_export.parity.half_emulation import HalfPrecisionEmulator
from flowsr_export.parity.reference import reference_of
from flowsr_export.parity.session_comparison import Comparison, MetricLimit
from flowsr_runtime import (
    Bundle,
    ProviderError,
    SessionSettings,
    embedded_bundle,
)
from tests.flowsr_export.certificate.certificates import (
    altered,
    check,
    one_percent,
)

CERTIFY = "flowsr_export.certificate.certify"
CANDIDATES = "flowsr_export.parity.candidates"
SETTINGS = SessionSettings(threads=1)
SMALL = CertificateCase("photographs", Case((23, 37), (46, 74)), "2")
QUICK = case_list(Bundle.open(embedded_bundle()).manifest, quick=True)
GRAPH, ROUNDED = "onnxruntime cpu fp32", "PyTorch float16 graph"
KEYS = [("a", "whole", "one"), ("a", "whole", "two")]
COMPARED = [Comparison("a", "b", 1, MetricLimit("max", 1e-4), 0.0, 0.0, True)]


@pytest.fixture(scope="module")
def green() -> Certificate:
    """The quick certificate of the built-in bundle."""
    return certify(settings=SETTINGS, quick=True)


@pytest.fixture
def single(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan of one small case."""
    take(monkeypatch, SMALL)


def take(monkeypatch: pytest.MonkeyPatch, *cases: CertificateCase) -> None:
    """Replace the plan."""
    monkeypatch.setattr(f"{CERTIFY}.case_list", lambda manifest, *, quick: cases)


def record(key: tuple[str, str, str], outcome: str = "passed") -> Check:
    candidate, mode, case = key
    return check(candidate=candidate, mode=mode, case=case, outcome=outcome)


def test_the_shipped_model_is_certified(green: Certificate) -> None:
    assert green.passed, green.record.trouble()
    assert green.record.verdict.complete
    assert [s.name for s in green.record.candidates] == [GRAPH, ROUNDED]


def test_every_planned_comparison_is_in_it(green: Certificate) -> None:
    due = {(str(case), mode) for case in QUICK for mode in case.modes}
    due -= {(name, "whole") for name in green.record.exploded}
    graph, rounded = (
        {(c.case, c.mode) for c in green.record.checks if c.candidate == name}
        for name in (GRAPH, ROUNDED)
    )
    assert graph == due
    assert rounded == {(case, mode) for case, mode in due if mode == "whole"}
    assert len(green.record.checks) == len(graph) + len(rounded)


def test_the_shipped_model_explodes_on_no_adversarial_image(green: Certificate) -> None:
    assert green.record.exploded == {}


def test_an_adversarial_image_on_which_pytorch_explodes_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    board = CertificateCase("checkerboard", Case((16, 16), (32, 32)), "2")
    take(monkeypatch, SMALL, board)
    narrow = (0.4, 0.6)  # what any image leaves, the photograph too
    monkeypatch.setattr("flowsr_runtime.tiling.exploding_inverse.RANGE", narrow)
    record = certify(settings=SETTINGS, quick=True).record
    assert list(record.exploded) == [str(board)]
    assert "lie outside [0.4, 0.6]" in record.exploded[str(board)]
    assert {one.case for one in record.checks} == {str(SMALL)}


def test_the_bundle_the_machine_and_the_tolerances_are_stated(green: Certificate) -> None:
    about, record = green.record.about, green.record
    manifest = Bundle.open(embedded_bundle()).manifest
    name = "model.fp32.onnx"
    assert about["bundle"]["files"][name]["sha256"] == manifest.files[name].sha256
    assert about["checkpoint"]["model_sha256"] == manifest.raw["model"]["model_sha256"]
    assert about["machine"]["libraries"]["onnxruntime"]
    assert {"half precision on a GPU", "onnxruntime cuda"} <= set(record.not_compared)
    assert {c.tolerance for c in record.checks} == set(record.tolerances)


def test_its_json_has_finite_numbers_only(green: Certificate) -> None:
    text = green.record.as_json("a command")
    content = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert content == {"command": "a command", **green.record.as_dict()}


def test_tiles_are_within_a_step_and_exact_ones_within_rounding(green: Certificate) -> None:
    checks = {c.mode: c for c in green.record.checks if c.candidate == GRAPH}
    assert (checks["tiles"].tiles or 0) >= 4
    assert (checks["tiles"].max_steps or 0) <= 1
    assert (checks["exact tiles"].max_abs or 0) <= 1e-5
    assert (checks["exact seam"].max_abs or 0) <= 1e-5


def test_polygraphy_compares_the_graph_with_its_optimized_self(green: Certificate) -> None:
    (entry,) = green.record.backends
    assert entry.second == "onnxruntime cpu fp32, not optimized"
    assert entry.runs == 2
    assert 0 < entry.max_abs <= entry.tolerance.limit == 1e-4


def test_the_worst_of_each_candidate_is_kept(green: Certificate) -> None:
    names = [one.check.candidate for one in green.worst]
    assert sorted(names) == sorted(s.name for s in green.record.candidates)
    worst = green.worst[0]
    assert worst.check.at is not None
    _, channel, row, column = worst.check.at
    difference = np.abs(worst.reference.astype(np.float64) - worst.output)
    assert difference[channel, row, column] == difference.max()
    assert worst.check.max_abs == pytest.approx(difference.max(), rel=1e-5)


def test_a_weight_that_is_one_percent_off_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(monkeypatch, *(case for case in QUICK if not case.tiled))
    done = certify(altered(tmp_path / "off", one_percent), settings=SETTINGS, quick=True)
    assert done.record.verdict.complete
    assert not done.passed
    assert "at most 0.0001" in done.record.trouble()
    assert "1 of 148 weights of model.fp32.onnx are not the network's" in done.record.trouble()


def test_tiles_without_a_halo_are_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(monkeypatch, SMALL, *(case for case in QUICK if case.tiled))
    none = {"halo_patches": 0, "halo_pixels": 0}
    done = certify(altered(tmp_path / "bare", tiling=none), settings=SETTINGS, quick=True)
    assert not done.passed
    missed = {(c.mode, c.outcome) for c in done.record.checks}
    assert ("tiles", "missed") in missed
    assert ("whole", "missed") not in missed


@pytest.mark.usefixtures("single")
def test_nan_anywhere_is_caught(tmp_path: Path) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        (bias,) = (t for t in model.graph.initializer if t.name == "conditioner.last_biases.0")
        values = numpy_helper.to_array(bias).copy()
        values[0] = np.nan
        bias.CopyFrom(numpy_helper.from_array(values, bias.name))

    done = certify(altered(tmp_path / "nan", spoil), settings=SETTINGS, precision="fp32")
    (check,) = done.record.checks
    assert not done.passed
    assert str(check.max_abs) == "nan"
    assert "are NaN or infinite" in done.record.trouble()
    assert not done.record.backends[0].passed
    assert done.worst[0].check == check


def test_a_picture_that_cannot_be_cut_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    tiled = CertificateCase("photographs", Case((5, 6), (10, 12)), "2", tiled=True)
    take(monkeypatch, SMALL, tiled)
    done = certify(settings=SETTINGS, precision="fp32")
    assert (done.passed, done.record.verdict.complete) == (False, False)
    assert done.record.verdict.totals.not_run == 3
    assert "3 could not be made" in done.record.trouble()
    assert "tiles were not checked" in done.record.trouble()


@pytest.mark.usefixtures("single")
def test_one_precision_leaves_the_rounding_out() -> None:
    done = certify(settings=SETTINGS, precision="fp32")
    assert done.passed
    assert [s.name for s in done.record.candidates] == [GRAPH]


@pytest.mark.usefixtures("single")
def test_a_provider_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{CANDIDATES}.present_providers", lambda: ["cpu", "cuda"])
    done = certify(settings=SETTINGS)
    assert "provider cuda" in done.record.not_compared["onnxruntime cuda fp32"]
    with pytest.raises(ProviderError, match="provider cuda"):
        certify(settings=SessionSettings(provider="cuda"))


@pytest.mark.usefixtures("single")
def test_a_flow_that_does_not_come_back_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "flowsr_export.deployment.linf.LinfDeployment.round_trip", lambda _: float("nan")
    )
    done = certify(settings=SETTINGS, precision="fp32")
    assert not done.passed
    assert done.record.as_dict()["round_trip"]["relative_error"] is None
    assert "inverse(forward(x))" in done.record.trouble()


def test_eight_bit_products_are_held_to_the_range_alone_on_harsh_pictures() -> None:
    bundle = Bundle.open(embedded_bundle())
    deployment = deployment_of(reference_of(bundle, None, None).network)
    graph = HalfPrecisionEmulator(deployment, "fp32", None)
    frame = CertificateCase("frame", SMALL.sizes, "2")
    int8 = Candidate("int8", "int8", "model.int8.onnx", bundle, graph)
    half = replace(int8, precision="fp16")
    assert int8.tolerance(deployment, SMALL, "whole") == replace(
        QUANTIZED_TOLERANCE, in_range=True
    )
    assert int8.tolerance(deployment, frame, "whole") == Tolerance(in_range=True)
    assert half.tolerance(deployment, frame, "whole") == replace(HALF_TOLERANCE, in_range=True)
    names = {int8.tolerance_name(case, "whole") for case in (SMALL, frame)}
    assert names == {"int8, whole", "int8, whole, adversarial"}


PASSED = [record(key) for key in KEYS]


@pytest.mark.parametrize(
    ("keys", "checks"),
    [
        (KEYS, []),
        (KEYS, PASSED[:1]),
        (KEYS, [PASSED[0], PASSED[0]]),
        (KEYS, [PASSED[0], record(KEYS[1], "not run")]),
        ([], []),
    ],
    ids=["none", "one missing", "one twice", "one not run", "nothing due"],
)
def test_a_missing_comparison_is_incomplete(keys: list[Any], checks: list[Check]) -> None:
    verdict = judge(keys, checks, 1e-6, COMPARED)
    assert (verdict.complete, verdict.passed) == (False, False)


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({}, True),
        ({"backends": None}, True),
        ({"checks": [PASSED[0], record(KEYS[1], "missed")]}, False),
        ({"round_trip": 1e-3}, False),
        ({"round_trip": float("nan")}, False),
        ({"backends": []}, False),
        ({"backends": [replace(COMPARED[0], passed=False)]}, False),
        ({"weights": [Weights("model.fp32.onnx", 0, 9, 1e-6, ())]}, False),
        ({"weights": [Weights("model.fp32.onnx", 3, 9, 1e-6, ("a.bias",))]}, False),
    ],
)
def test_everything_has_to_pass(changes: dict[str, Any], passed: bool) -> None:
    usual: dict[str, Any] = {"checks": PASSED, "round_trip": 1e-6, "backends": COMPARED}
    verdict = judge(KEYS, **usual | changes)
    assert (verdict.complete, verdict.passed) == (True, passed)


@pytest.mark.usefixtures("single")
def test_a_bundle_that_no_cpu_runs_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{CERTIFY}._precisions", lambda bundle, precision: ["bf16"])
    done = certify(settings=SETTINGS)
    assert [s.file for s in done.record.candidates] == [None]
    assert done.record.backends == ()
    assert "no graph of the bundle was run" in done.record.trouble()
    assert not done.passed


@pytest.mark.usefixtures("single")
def test_the_graphs_of_engines_are_compared_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Engine:
        """What TensorRT would be: here the graph in PyTorch."""

        backend, provider, device, limits = "tensorrt", "cuda", 0, None

        def __init__(self, graph: HalfPrecisionEmulator) -> None:
            self.run, self.close = graph.run, graph.close

    bundle = Bundle.open(embedded_bundle())
    deployment = deployment_of(reference_of(bundle, None, None).network)
    engine = Engine(HalfPrecisionEmulator(deployment, "fp32", None))
    monkeypatch.setattr(SessionSettings, "start", lambda settings, bundle: engine)
    done = certify(settings=SessionSettings("tensorrt"), precision="fp32")
    assert done.passed, done.record.trouble()
    assert [s.name for s in done.record.candidates] == ["tensorrt cuda fp32"]
    assert done.record.backends[0].first == "onnxruntime cpu fp32"
    assert "half precision on a GPU" not in done.record.not_compared
