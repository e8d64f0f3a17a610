"""The model that is evaluated: opened, described, and refused where it cannot be."""

from pathlib import Path

import pytest

from flowsr_export.evaluation.model import TORCH, EvaluatedModelConfig, open_subject
from flowsr_lp import save_weights
from flowsr_runtime import Bundle, SessionSettings
from flowsr_runtime.errors import ScaleError, UsageError
from tests.flowsr_export.networks import small_model
from tests.stand_in import network, picture

PLAIN = SessionSettings(threads=1)
IN_TORCH = SessionSettings(TORCH)


def check_refused(config: EvaluatedModelConfig, words: str) -> None:
    with pytest.raises(UsageError, match=words), open_subject(config):
        pass


def test_a_bundle_is_described_by_its_hashes() -> None:
    with open_subject(EvaluatedModelConfig(PLAIN)) as subject:
        stated = Bundle.open(subject.method.upscaler.bundle.path).manifest  # type: ignore[attr-defined]
        assert subject.about["what"] == "model.fp32.onnx of built-in bundle"
        assert subject.about["graph_sha256"] == stated.files["model.fp32.onnx"].sha256
        assert subject.about["model_sha256"] == stated.raw["model"]["model_sha256"]
        assert (subject.scale, subject.provider) == (None, "cpu")
        assert list(subject.libraries) == ["onnxruntime"]


def test_pytorch_runs_the_built_in_checkpoint_and_a_bundles_own() -> None:
    with open_subject(EvaluatedModelConfig(IN_TORCH)) as subject:
        assert subject.about["what"] == "built-in checkpoint"
        assert subject.method.enlarge(picture(6, 6), (12, 12), 0).picture.shape == (12, 12, 3)
    with open_subject(EvaluatedModelConfig(PLAIN)) as bundle:
        assert bundle.about["model_sha256"] == subject.about["model_sha256"]


def test_pytorch_runs_a_checkpoint_that_was_not_exported(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    net = network(small_model(), None)
    save_weights(path, "model", small_model(), net.linf.state_dict())
    config = EvaluatedModelConfig(IN_TORCH, model=path, temperature=0.0)
    with open_subject(config) as subject:
        assert subject.about["what"] == str(path)
        assert subject.about["prior_sha256"] is None
        assert subject.method.enlarge(picture(6, 6), (18, 18), 0).picture.shape == (18, 18, 3)


def test_a_bundle_of_one_scale_takes_no_other(fourfold: Path) -> None:
    with open_subject(EvaluatedModelConfig(PLAIN, fourfold)) as subject:
        assert subject.scale == "4"
        subject.check_scales(("4", "4.0"))
        with pytest.raises(UsageError, match="this model enlarges 4 times only, got 2"):
            subject.check_scales(("2",))


def test_scales_are_checked_before_anything_is_enlarged(bundle: Path) -> None:
    with open_subject(EvaluatedModelConfig(PLAIN, bundle)) as subject:
        subject.check_scales(("1", "2.7", "8/3"))
        with pytest.raises(ScaleError, match=r"scale must be at least 1, got 0\.5"):
            subject.check_scales(("2", "0.5"))


def test_options_that_do_not_go_together_are_refused(bundle: Path, tmp_path: Path) -> None:
    check_refused(
        EvaluatedModelConfig(PLAIN, model=tmp_path / "a"),
        "--model and --prior are for --backend t",
    )
    check_refused(EvaluatedModelConfig(IN_TORCH, prior=tmp_path / "a"), "--prior needs --model")
    check_refused(
        EvaluatedModelConfig(IN_TORCH, bundle), r"was not made of .*; give its checkpoints"
    )


@pytest.mark.parametrize(
    "config",
    [
        EvaluatedModelConfig(SessionSettings(TORCH, precision="fp16")),
        EvaluatedModelConfig(SessionSettings(TORCH, workers=2)),
        EvaluatedModelConfig(IN_TORCH, memory_budget=1),
        EvaluatedModelConfig(IN_TORCH, halo="exact"),
    ],
)
def test_pytorch_runs_whole_pictures_in_float32(config: EvaluatedModelConfig) -> None:
    check_refused(config, r"--backend torch runs whole pictures in fp32; it takes no")


def test_pytorch_has_two_providers() -> None:
    config = EvaluatedModelConfig(SessionSettings(TORCH, "openvino"))
    check_refused(config, "provider must be cpu or cuda with torch, got 'openvino'")
