"""What enlarges pictures: bicubic, a bundle and PyTorch agree on what they have in common."""

from pathlib import Path

import numpy as np
import pytest

from flowsr_export.evaluation.imresize import matlab_bicubic
from flowsr_export.evaluation.methods import Bicubic, BundleMethod, TorchMethod
from flowsr_lp import embedded_checkpoint, load_checkpoint
from flowsr_runtime import Upscaler
from flowsr_runtime.errors import NonFiniteError, ScaleError, UsageError
from tests.flowsr_export.evaluation.evaluations import noisy_bundle
from tests.flowsr_export.networks import small_model, small_srflow
from tests.stand_in import network, picture

LOW = picture(9, 12, "method")


def test_bicubic_is_matlabs() -> None:
    assert np.array_equal(
        Bicubic().enlarge(LOW, (24, 33), 5).picture, matlab_bicubic(LOW, (24, 33))
    )
    assert not Bicubic().samples


def test_pytorch_gives_what_the_bundle_gives() -> None:
    checkpoint = load_checkpoint(*embedded_checkpoint())
    torch_picture = TorchMethod(checkpoint.network).enlarge(LOW, (24, 33), 0).picture
    with Upscaler.open(threads=1) as upscaler:
        bundle_picture = BundleMethod(upscaler).enlarge(LOW, (24, 33), 0).picture
    steps = np.abs(torch_picture.astype(int) - bundle_picture)
    assert steps.max() <= 1
    assert (steps > 0).mean() < 1e-3


def test_a_bundle_with_noise_has_samples(tmp_path: Path) -> None:
    with Upscaler.open(noisy_bundle(tmp_path / "noisy"), threads=1) as upscaler:
        method = BundleMethod(upscaler, 0.1)
        first, again, other = (
            method.enlarge(LOW, (18, 24), seed).picture for seed in (1, 1, 2)
        )
        assert method.samples
        assert not BundleMethod(upscaler, 0.0).samples
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_exploded_picture_has_a_warning(exploding: Path) -> None:
    with Upscaler.open(exploding, threads=1) as upscaler:
        assert "exploded" in str(BundleMethod(upscaler).enlarge(LOW, (36, 48), 0).warning)


def test_truncation_is_the_models(fourfold: Path) -> None:
    with Upscaler.open(fourfold, threads=1) as upscaler:
        cut = BundleMethod(upscaler, truncate=True).enlarge(LOW, (36, 48), 0).picture
    # What was eight bits comes back, save where float32 falls short of a whole step.
    assert np.isin(LOW.repeat(4, 0).repeat(4, 1).astype(int) - cut, (0, 1)).all()


def test_pytorch_samples_a_network_without_a_prior() -> None:
    method = TorchMethod(network(small_model(), None), temperature=0.5)
    first, again, other = (method.enlarge(LOW, (18, 24), seed).picture for seed in (1, 1, 2))
    assert method.samples
    assert first.shape == (18, 24, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_mode_has_no_samples() -> None:
    method = TorchMethod(network(small_model(), None), temperature=0.0)
    assert not method.samples
    assert np.array_equal(
        method.enlarge(LOW, (18, 24), 1).picture, method.enlarge(LOW, (18, 24), 2).picture
    )


def test_a_network_and_a_temperature_go_together() -> None:
    with pytest.raises(UsageError, match="has no learned prior; give a temperature"):
        TorchMethod(network(small_model(), None))
    with pytest.raises(UsageError, match="has a learned prior and takes no temperature"):
        TorchMethod(small_srflow(), temperature=0.8)
    with pytest.raises(UsageError, match="temperature must be finite and at least 0, got -1"):
        TorchMethod(network(small_model(), None), temperature=-1.0)


def test_srflow_has_one_scale_and_takes_odd_sides() -> None:
    method = TorchMethod(small_srflow())
    assert method.enlarge(picture(9, 11), (36, 44), 0).picture.shape == (36, 44, 3)
    with pytest.raises(ScaleError, match="this model enlarges 4 times only, got 11x9 to 33x27"):
        method.enlarge(picture(9, 11), (27, 33), 0)


def test_values_that_are_not_finite_are_an_error() -> None:
    broken = network(small_model(), None)
    next(broken.linf.layers.parameters()).data.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="the model gives NaN or infinity"):
        TorchMethod(broken, temperature=0.0).enlarge(LOW, (18, 24), 0)
