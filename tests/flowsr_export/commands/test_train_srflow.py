"""The `train` commands for SRFlow, end to end on a tiny network, and their refusals."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file

from flowsr_lp import load_checkpoint, save_weights, srflow_from_spec
from flowsr_lp.training.crops import Batch, Crops
from flowsr_lp.training.loop import Settings, train
from flowsr_lp.training.pictures import load_pictures
from flowsr_lp.training.srflow import SrflowFlowLoss, fit_norms
from tests import stand_in
from tests.flowsr_export.commands.trainings import LOOP, PRIOR, STILL, assert_refused
from tests.flowsr_export.networks import small, small_model

Run = Callable[..., Result]

SRFLOW = (
    *("--system", "srflow", "--nb", "1", "--blocks", "0", "--nf", "4", "--gc", "2"),
    *("--steps-per-level", "1", "--coupling-width", "4", "--pixel-weight", "2"),
)
SRFLOW_LOOP = (*LOOP[:4], *("--batch", "2", "--crop", "4"), *LOOP[10:])


@pytest.fixture
def srflow(run: Run, pictures: Path, tmp_path: Path) -> Callable[..., Result]:
    """Train a tiny SRFlow into the folder `flow`; later options win."""

    def train_srflow(*options: object) -> Result:
        fixed = ("--images", pictures, "-o", tmp_path / "flow")
        return run("train", "flow", *fixed, *SRFLOW, *SRFLOW_LOOP, *options)

    return train_srflow


@pytest.fixture
def srflow_prior(run: Run, pictures: Path, vgg: Path, tmp_path: Path) -> Callable[..., Result]:
    """Train a tiny prior of the SRFlow into the folder `prior`; later options win."""

    def train_prior(*options: object) -> Result:
        model = tmp_path / "flow" / "model.safetensors"
        fixed = ("--model", model, "--vgg", vgg, "--images", pictures)
        folder = ("-o", tmp_path / "prior")
        return run("train", "prior", *fixed, *folder, *PRIOR, *SRFLOW_LOOP, *options)

    return train_prior


def test_an_srflow_and_its_prior_make_a_model(
    srflow: Run, srflow_prior: Run, tmp_path: Path
) -> None:
    first, second = srflow(), srflow_prior("--latent-weight", "0.1")
    model, latent = tmp_path / "flow/model.safetensors", tmp_path / "prior/prior.safetensors"
    assert first.stdout == f"{model}  {model.stat().st_size / 1e6:.2f} MB  4 steps\n"
    assert second.stdout == f"{latent}  {latent.stat().st_size / 1e6:.2f} MB  4 steps\n"
    checkpoint = load_checkpoint(model, latent)
    assert checkpoint.family == "srflow-lp"
    assert checkpoint.config["prior"]["args"] == {"in_chans": [6, 96], "depth": 1, "dim": 4}
    with torch.inference_mode():
        output = checkpoint.network(stand_in.tensor(5, 6)).output
    assert output.shape == (1, 3, 20, 24)
    assert output.isfinite().all()


def test_an_srflow_of_eight_times_is_trained(
    srflow: Run, srflow_prior: Run, tmp_path: Path
) -> None:
    size = ("--crop", "2", "--steps", "1")
    srflow("--scale", "8", *size)
    srflow_prior(*size)
    model, latent = tmp_path / "flow/model.safetensors", tmp_path / "prior/prior.safetensors"
    config = load_checkpoint(model, latent).config
    assert config["model"]["args"]["scale"] == 8
    assert config["prior"]["args"]["in_chans"] == [6, 12, 192]


def rrdb(path: Path, **changes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Write weights as those of a released RRDB network, with its own upsampler."""
    sizes = {"scale": 4, "nb": 1, "K": 1, "L": 3, "blocks": [0], "nf": 4, "gc": 2, "hidden": 4}
    torch.manual_seed(9)
    trunk = srflow_from_spec({"name": "srflow", "args": sizes}).RRDB.state_dict()
    weights = {**trunk, "conv_last.weight": torch.ones(3, 4, 3, 3), **changes}
    torch.save(weights, path)
    return trunk


def test_an_srflow_can_begin_with_an_rrdb_network(srflow: Run, tmp_path: Path) -> None:
    trunk = rrdb(tmp_path / "rrdb.pth")
    done = srflow("--start", tmp_path / "rrdb.pth", *STILL)
    assert done.exit_code == 0, done.output
    got = load_file(tmp_path / "flow" / "model.safetensors")
    for name, tensor in trunk.items():
        torch.testing.assert_close(got[f"RRDB.{name}"], tensor, atol=1e-9, rtol=0)
    norms = [got[name] for name in got if name.endswith("actnorm.logs")]
    assert norms
    assert all(norm.any() for norm in norms)


def test_the_trunk_keeps_its_weights_until_a_share_of_the_steps(
    srflow: Run, tmp_path: Path
) -> None:
    trunk = rrdb(tmp_path / "rrdb.pth")
    options = ("--start", tmp_path / "rrdb.pth", "--trunk-from", "0.75", "--ema-decay", "0")
    done = srflow(*options, "--snapshot-every", "3")
    assert done.exit_code == 0, done.output
    held = load_file(tmp_path / "flow" / "step-3" / "model.safetensors")
    last = load_file(tmp_path / "flow" / "model.safetensors")
    assert all(torch.equal(held[f"RRDB.{name}"], trunk[name]) for name in trunk)
    changed = [name for name in held if not torch.equal(held[name], last[name])]
    assert {f"RRDB.{name}" for name in trunk} <= set(changed)
    assert any(not name.startswith("RRDB.") for name in changed)


def test_a_run_with_a_held_trunk_is_resumed_to_the_same_weights(
    srflow: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rrdb(tmp_path / "rrdb.pth")
    options = ("--start", tmp_path / "rrdb.pth", "--trunk-from", "0.75")
    srflow(*options, "-o", tmp_path / "whole")
    batch_at = Crops.batch_at

    def interrupted(self: Crops, step: int) -> Batch:
        assert step < 3, "interrupted"
        return batch_at(self, step)

    monkeypatch.setattr(Crops, "batch_at", interrupted)
    assert srflow(*options).exit_code == 1
    monkeypatch.undo()
    assert srflow(*options).exit_code == 0
    files = [tmp_path / name / "model.safetensors" for name in ("whole", "flow")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_rrdb_network_of_another_size_is_no_start(srflow: Run, tmp_path: Path) -> None:
    rrdb(tmp_path / "rrdb.pth", **{"conv_first.weight": torch.zeros(8, 3, 3, 3)})
    assert_refused(srflow("--start", tmp_path / "rrdb.pth"), 2, "is of another architecture")


def test_the_norms_of_an_srflow_start_from_the_first_batch(
    srflow: Run, pictures: Path, tmp_path: Path
) -> None:
    srflow()
    sizes = {"scale": 4, "nb": 1, "K": 1, "L": 3, "blocks": [0], "nf": 4, "gc": 2, "hidden": 4}
    torch.manual_seed(3)
    network = srflow_from_spec({"name": "srflow", "args": sizes})
    crops = Crops(load_pictures(pictures, 16), 2, 4, (4.0, 4.0), seed=3)
    fit_norms(network, *crops.batch_at(0))
    folder, settings = tmp_path / "library", Settings(4, 1e-3, 0.999, 2, 3)
    wanted = train(SrflowFlowLoss(network, 2.0), crops, settings, folder, lambda *_: None)
    got = load_file(tmp_path / "flow" / "model.safetensors")
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("option", "exit_code", "words"),
    [
        (("--encoder", "edsr"), 2, "--encoder is for linf, not srflow"),
        (("--hidden-dim", "8"), 2, "--hidden-dim is for linf, not srflow"),
        (("--system", "linf"), 2, "--blocks is for srflow, not linf"),
        (("--scale", "3"), 2, "'3' is not one of 4, 8"),
        (("--scale-range", "1,4"), 2, "got 1,4"),
        (("--crop", "3"), 2, "lr_size must be even for SRFlow, got 3"),
        (("--crop", "8"), 5, "no picture of at least 32 pixels a side in"),
        (("--blocks", "1"), 2, "--blocks must be from 0 to 0, got 1"),
        (("--blocks", "a"), 2, "got 'a'"),
        (("--pixel-weight", "nan"), 2, "nan is not a finite number"),
        (("--range-weight", "1"), 2, "is for LINF, not SRFlow (--range-weight)"),
        (("--gray", "0.5"), 2, "is for LINF, not SRFlow (--gray)"),
        (("--trunk-from", "1.5"), 2, "1.5 is not in the range 0<=x<=1"),
        (("--trunk-from", "0.5"), 2, "must be 0 without the weights of a trunk in start, got"),
        (("--recipe", "published"), 2, "got 0.5 (--trunk-from)"),
    ],
)
def test_an_srflow_that_makes_no_sense_is_refused(
    srflow: Run, option: tuple[str, str], exit_code: int, words: str
) -> None:
    assert_refused(srflow(*option), exit_code, words)


def test_the_blocks_of_a_trunk_that_was_not_released_are_asked_for(
    run: Run, pictures: Path, tmp_path: Path
) -> None:
    files = ("--images", pictures, "-o", tmp_path / "flow")
    done = run("train", "flow", *files, "--system", "srflow", "--nb", "5")
    assert_refused(done, 2, "--blocks must say which of 5 blocks the flow reads")


@pytest.mark.parametrize(
    ("option", "exit_code", "words"),
    [
        (("--scale-range", "1,4"), 2, "got 1,4"),
        (("--crop", "1"), 2, "lr_size must be even for SRFlow, got 1"),
        (("--batch", "1"), 2, "batch must be at least 2 for crops this small, got 1"),
        (("--blocks", "1"), 5, "states that blocks 0 are stacked, got 1"),
        (("--latent-weight", "nan"), 2, "nan is not a finite number"),
        (("--phase-weight", "1"), 2, "is for LINF, not SRFlow (--phase-weight)"),
    ],
)
def test_a_prior_of_an_srflow_that_makes_no_sense_is_refused(
    srflow: Run, srflow_prior: Run, option: tuple[str, str], exit_code: int, words: str
) -> None:
    srflow("--steps", "1")
    assert_refused(srflow_prior(*option), exit_code, words)


def test_the_prior_of_an_srflow_is_a_unet(
    srflow: Run, run: Run, pictures: Path, vgg: Path, tmp_path: Path
) -> None:
    srflow("--steps", "1")
    files = ("--model", tmp_path / "flow/model.safetensors", "--vgg", vgg, "-o", tmp_path / "p")
    kind = ("--prior", "edsr-baseline-latent", "--vgg-layer", "conv1_1", "--images", pictures)
    done = run("train", "prior", *files, *kind, *SRFLOW_LOOP)
    assert_refused(done, 2, "of an SRFlow model must be unet, got edsr-baseline-latent")


def test_an_srflow_can_begin_with_weights_it_is_given(srflow: Run, tmp_path: Path) -> None:
    srflow("--seed", 7)
    start, again = tmp_path / "flow" / "model.safetensors", tmp_path / "again"
    srflow("--start", start, "-o", again, *STILL)
    first, second = load_file(start), load_file(again / "model.safetensors")
    assert all(torch.allclose(first[name], second[name], atol=1e-9) for name in first)


def test_weights_of_the_other_system_are_no_start(srflow: Run, tmp_path: Path) -> None:
    start = tmp_path / "linf.safetensors"
    save_weights(start, "model", small_model(), small().linf.state_dict())
    assert_refused(srflow("--start", start), 5, "is not an SRFlow model: blocks are not for it")
