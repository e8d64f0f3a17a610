"""A session meets the bundle's golden pair before it computes anything."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from flowsr_runtime import SessionSettings, Upscaler, embedded_bundle
from flowsr_runtime.backends import onnxruntime_session, session
from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession
from flowsr_runtime.backends.self_test import self_test
from flowsr_runtime.bundle import verdicts
from flowsr_runtime.bundle.directory import Bundle, write_bundle
from flowsr_runtime.bundle.verdicts import kept_verdicts
from flowsr_runtime.errors import BundleError, IntegrityError, ParityError
from tests.doubles.rig import Rig, profile
from tests.flowsr_runtime.conftest import BILINEAR, CHANGES, EIGHT_BIT
from tests.flowsr_runtime.golden import Noisy, golden_bundle

ON_CPU = SessionSettings("onnxruntime", "cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(verdicts, "cache_folder", lambda: folder)
    return folder


@pytest.fixture
def golden(tmp_path: Path, manifest: dict[str, Any]) -> Bundle:
    return golden_bundle(tmp_path / "golden", manifest, BILINEAR)


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's CUDA provider on one GPU, both stand-ins; it returns noise."""
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(session, "count_gpus", lambda: 1)
    monkeypatch.setattr(onnxruntime_session, "OnnxRuntimeSession", Noisy)


def count_runs(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """Return a list that collects the inputs of every run."""
    runs: list[Mapping[str, Any]] = []
    real = OnnxRuntimeSession.run

    def run(session: OnnxRuntimeSession, feeds: Mapping[str, Any]) -> NDArray[Any]:
        runs.append(feeds)
        return real(session, feeds)

    monkeypatch.setattr(OnnxRuntimeSession, "run", run)
    return runs


def test_the_first_session_runs_the_golden_pair_and_the_second_does_not(
    golden: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = count_runs(monkeypatch)
    choices = [SessionSettings().choose(golden)[1] for _ in range(2)]
    assert [feeds["input"].shape for feeds in runs] == [(1, 3, 16, 20)]
    assert [str(one.self_test) for one in choices] == ["self-test passed, max error 0"] * 2
    (kept,) = kept_verdicts()
    assert kept.key["model"] == golden.manifest.files["model.fp32.onnx"].sha256
    assert kept.key["library"].startswith(f"onnxruntime {onnxruntime.__version__}")
    assert (kept.key["provider"], kept.key["precision"], kept.passed) == ("cpu", "fp32", True)


def test_a_verdict_is_for_one_version_of_the_library(
    golden: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = count_runs(monkeypatch)
    ON_CPU.open(golden)
    monkeypatch.setattr(onnxruntime, "__version__", "99.0")
    ON_CPU.open(golden)
    assert len(runs) == 2


@pytest.mark.usefixtures("noise")
def test_a_named_provider_that_returns_noise_is_refused(golden: Bundle) -> None:
    with pytest.raises(ParityError, match=r"onnxruntime cuda .* max error must be .* got") as e:
        Upscaler.open(golden, provider="cuda")
    assert e.value.exit_code == 3
    (kept,) = kept_verdicts()
    assert (kept.key["provider"], kept.passed) == ("cuda", False)


@pytest.mark.usefixtures("noise")
def test_a_provider_that_returns_noise_is_passed_over_by_auto(golden: Bundle) -> None:
    opened, choice = SessionSettings().choose(golden)
    assert opened.provider == "cpu"
    assert "misses the golden pair" in choice.passed_over["onnxruntime cuda:0, fp32"]
    assert choice.self_test.passed


@pytest.mark.usefixtures("noise")
def test_a_miss_is_tested_again(golden: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = count_runs(monkeypatch)
    for _ in range(2):
        with pytest.raises(ParityError, match="misses the golden pair"):
            SessionSettings(provider="cuda").open(golden)
    assert len(runs) == 2


@pytest.mark.usefixtures("noise")
def test_without_a_self_test_noise_is_not_found(
    golden: Bundle, photo: NDArray[np.uint8]
) -> None:
    with Upscaler.open(golden, provider="cuda", self_test=False) as upscaler:
        assert upscaler.choice is not None
        assert upscaler.choice.as_dict()["self_test"] == (
            "not tested: the self-test was switched off"
        )
        assert upscaler.upscale(photo, 2).shape == (46, 62, 3)


def test_a_bundle_without_a_golden_pair_is_opened_and_says_so(bundle: Bundle) -> None:
    _, choice = SessionSettings().choose(bundle)
    assert str(choice.self_test) == "not tested: the bundle holds no golden pair"


def test_a_graph_of_eight_bits_is_tested_in_its_own_type(
    tmp_path: Path, manifest: dict[str, Any]
) -> None:
    stated = {**manifest, **CHANGES["eight-bit"]}
    bundle = golden_bundle(tmp_path / "eight", stated, EIGHT_BIT)
    assert ON_CPU.choose(bundle)[1].self_test.passed


class Shifted:
    """A session whose output is off by a constant, or is infinite."""

    backend, provider, device, limits, library = "shifted", "cpu", 0, None, "shifted 1"

    def __init__(self, bundle: Bundle, amount: float) -> None:
        self._inner, self._amount = OnnxRuntimeSession.open(bundle), amount

    def run(self, feeds: Mapping[str, Any]) -> NDArray[Any]:
        result: NDArray[Any] = self._inner.run(feeds) + np.float32(self._amount)
        return result


@pytest.mark.parametrize(
    ("precision", "options", "holds", "misses"),
    [
        ("fp32", "", 0.9e-4, 1.2e-4),
        ("fp32", "tf32", 0.9 * 10**-2.5, 1.1 * 10**-2.5),  # 50 dB
        ("fp16", "", 0.9 * 10**-2.5, 1.1 * 10**-2.5),
        ("bf16", "", 0.9 * 10**-2.5, 1.1 * 10**-2.5),
        ("int8", "", 0.9 * 10**-1.9, 1.1 * 10**-1.9),  # 38 dB
        ("fp8", "", 0.9 * 10**-1.9, 1.1 * 10**-1.9),
    ],
)
def test_the_tolerance_is_that_of_the_precision(
    golden: Bundle, precision: str, options: str, holds: float, misses: float
) -> None:
    def test(amount: float) -> object:
        shifted = Shifted(golden, amount)
        return self_test(golden, shifted, precision=precision, graph="fp32", options=options)

    for amount in (misses, -misses, float("nan"), float("inf")):
        with pytest.raises(ParityError, match=r"must be at (most|least) .*, got"):
            test(amount)
    assert "self-test passed" in str(test(holds))


def test_a_bundle_can_state_the_tolerance_of_its_golden_pair(
    tmp_path: Path, manifest: dict[str, Any]
) -> None:
    loose = golden_bundle(tmp_path / "loose", manifest, BILINEAR, max_abs=5e-4)
    with pytest.raises(ParityError, match=r"must be at most 0\.0005, got 0\.0006"):
        self_test(loose, Shifted(loose, 6e-4), precision="fp32", graph="fp32")
    assert self_test(loose, Shifted(loose, 4e-4), precision="fp32", graph="fp32").passed


def test_an_output_of_another_size_is_a_miss(golden: Bundle) -> None:
    class Cut(Shifted):
        def run(self, feeds: Mapping[str, Any]) -> NDArray[Any]:
            return super().run(feeds)[..., :-1]

    with pytest.raises(
        ParityError, match=r"must return \(1, 3, 40, 50\) .* got \(1, 3, 40, 49"
    ):
        self_test(golden, Cut(golden, 0), precision="fp32", graph="fp32")


def replaced(bundle: Bundle, name: str, content: bytes) -> Bundle:
    """Write the bundle again with another content of one file."""
    contents = {file: bundle.read(file) for file in bundle.manifest.files}
    raw = dict(bundle.manifest.raw)
    return write_bundle(bundle.path, raw, {**contents, name: content}, force=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("case.json", b"{", r"case\.json is not the description of a golden pair"),
        ("case.json", b"[]", r"is not the description of a golden pair, got \[\]"),
        ("case.json", b'{"size": [0, 4]}', r"description of a golden pair, got .*\[0, 4\]"),
        ("case.json", b'{"size": [4, 4], "max_abs": "1"}', "got .*'max_abs': '1'"),
        ("case.json", b'{"size": [4, 4]}', r"must be \(3, 4, 4\) .* got \(3, 40, 50\)"),
        ("input.png", b"no png", "has no readable golden pair"),
        ("output.npy", b"no array", "has no readable golden pair"),
    ],
)
def test_a_golden_pair_that_is_none_is_refused(
    golden: Bundle, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        ON_CPU.open(replaced(golden, f"golden/{name}", content))


def test_a_damaged_golden_pair_is_not_passed_over(golden: Bundle) -> None:
    (golden.path / "golden" / "output.npy").write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match=r"output\.npy is damaged: 7 bytes"):
        SessionSettings().choose(golden)


def test_the_session_of_a_failed_test_is_closed(
    golden: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []
    shifted = Shifted(golden, 1.0)
    shifted.close = lambda: closed.append(True)  # type: ignore[attr-defined]
    monkeypatch.setattr(SessionSettings, "start", lambda settings, bundle: shifted)
    with pytest.raises(ParityError, match="misses the golden pair"):
        ON_CPU.open(golden)
    assert closed == [True]


@pytest.mark.gpu
def test_a_real_gpu_meets_the_golden_pair_in_float32(gpu: object) -> None:
    bundle = Bundle.open(embedded_bundle())
    settings = SessionSettings("onnxruntime", "cuda")
    assert settings.choose(bundle)[1].self_test.passed
    (kept,) = kept_verdicts()
    assert kept.key["provider"] == "cuda"
    assert "cuDNN" in kept.key["library"]


@pytest.fixture
def engines(golden: Bundle, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig("tensorrt-11", golden, monkeypatch)


def test_an_engine_is_tested_with_tiles_that_its_profile_takes(engines: Rig) -> None:
    engines.add(engines.key(profile(4, 14)))  # the golden picture is 20x16
    _, choice = SessionSettings("tensorrt").choose(engines.bundle)
    assert choice.self_test.passed
    (kept,) = kept_verdicts()
    assert kept.key["engines"] == engines.store.entries()[0].sha256


def test_an_engine_that_takes_no_part_of_the_golden_picture_says_so(engines: Rig) -> None:
    engines.add(engines.key(profile(60, 64)))
    _, choice = SessionSettings("tensorrt").choose(engines.bundle)
    assert str(choice.self_test) == (
        "not tested: no profile takes the golden picture of 20x16 or tiles of it"
    )
    assert list(kept_verdicts()) == []
