"""The `train` commands, end to end on a tiny network, and their refusals."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file

from flowsr_lp import LinfLP, linf_from_spec, load_checkpoint
from flowsr_lp.training.crops import Batch, Crops
from flowsr_lp.training.linf import FlowLoss
from flowsr_lp.training.loop import Settings, train
from flowsr_lp.training.pictures import load_pictures
from tests import stand_in
from tests.flowsr_export.commands.trainings import LOOP, PRIOR, STILL, assert_refused

Run = Callable[..., Result]

FLOW = (
    *("--n-resblocks", "1", "--n-feats", "8", "--hidden-dim", "8"),
    *("--flow-layers", "2", "--num-layer", "1", "--pixel-weight", "2"),
)


@pytest.fixture
def flow(run: Run, pictures: Path, tmp_path: Path) -> Callable[..., Result]:
    """Train a tiny flow into the folder `flow`; later options win."""

    def train_flow(*options: object) -> Result:
        fixed = ("--images", pictures, "-o", tmp_path / "flow")
        return run("train", "flow", *fixed, *FLOW, *LOOP, *options)

    return train_flow


@pytest.fixture
def prior(run: Run, pictures: Path, vgg: Path, tmp_path: Path) -> Callable[..., Result]:
    """Train a tiny prior into the folder `prior`; later options win."""

    def train_prior(*options: object) -> Result:
        model = tmp_path / "flow" / "model.safetensors"
        fixed = ("--model", model, "--vgg", vgg, "--images", pictures)
        folder = ("-o", tmp_path / "prior")
        return run("train", "prior", *fixed, *folder, *PRIOR, *LOOP, *options)

    return train_prior


def test_json_is_the_file_and_its_steps(flow: Run, tmp_path: Path) -> None:
    path = tmp_path / "flow" / "model.safetensors"
    record = json.loads(flow("--steps", "1", "--json").stdout)
    assert record == {"path": str(path), "bytes": path.stat().st_size, "steps": 1}


def test_a_flow_and_its_prior_make_a_model(flow: Run, prior: Run, tmp_path: Path) -> None:
    first, second = flow(), prior()
    model, latent = tmp_path / "flow/model.safetensors", tmp_path / "prior/prior.safetensors"
    assert first.stdout == f"{model}  {model.stat().st_size / 1e6:.2f} MB  4 steps\n"
    assert second.stdout == f"{latent}  {latent.stat().st_size / 1e6:.2f} MB  4 steps\n"
    network = load_checkpoint(model, latent).network
    assert isinstance(network, LinfLP)
    assert network.linf.guard
    with torch.inference_mode():
        assert network(stand_in.tensor(8, 9), (20, 30)).output.isfinite().all()


def test_a_prior_can_be_trained_together_with_its_flow(
    flow: Run, prior: Run, tmp_path: Path
) -> None:
    assert flow().exit_code == 0
    done = prior("--likelihood-weight", "0.1", "--pixel-weight", "1")
    assert done.exit_code == 0, done.output
    parts = tmp_path / "prior/model.safetensors", tmp_path / "prior/prior.safetensors"
    before, after = load_file(tmp_path / "flow/model.safetensors"), load_file(parts[0])
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in after)
    network = load_checkpoint(*parts).network
    assert isinstance(network, LinfLP)
    assert network.linf.guard


def test_the_command_trains_as_the_library_does(
    flow: Run, pictures: Path, tmp_path: Path
) -> None:
    flow()
    encoder = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 8}}
    sizes = {"flow_layers": 2, "num_layer": 1, "hidden_dim": 8, "patch_size": 3}
    torch.manual_seed(3)
    linf = linf_from_spec({"name": "linf-patch", "args": {"encoder_spec": encoder, **sizes}})
    crops = Crops(load_pictures(pictures, 16), 2, 8, (1.0, 2.0), seed=3)
    settings = Settings(4, 1e-3, 0.999, 2, 3)
    folder = tmp_path / "library"
    wanted = train(FlowLoss(linf, 2.0), crops, settings, folder, lambda *_: None)
    got = load_file(tmp_path / "flow" / "model.safetensors")
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_an_interrupted_run_is_resumed_to_the_same_weights(
    flow: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow("-o", tmp_path / "whole")
    batch_at = Crops.batch_at

    def interrupted(self: Crops, step: int) -> Batch:
        monkeypatch.undo()
        monkeypatch.setattr(Crops, "batch_at", later)
        return batch_at(self, step)

    def later(self: Crops, step: int) -> Batch:
        assert step < 3, "interrupted before"
        return batch_at(self, step)

    monkeypatch.setattr(Crops, "batch_at", interrupted)
    assert flow().exit_code == 1
    monkeypatch.undo()
    assert flow().stderr == "flowsr-export: resumed at step 2 of 4\n"
    files = [tmp_path / run / "model.safetensors" for run in ("whole", "flow")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_pixel_flow_and_an_edsr_prior_are_trained(
    flow: Run, prior: Run, run: Run, pictures: Path, vgg: Path, tmp_path: Path
) -> None:
    flow("--patch-size", "1")
    model, latent = tmp_path / "flow/model.safetensors", tmp_path / "edsr/prior.safetensors"
    kind = ("--prior", "edsr-baseline-latent", "--n-resblocks", "1", "--dim", "4")
    files = ("--model", model, "--vgg", vgg, "--images", pictures, "-o", latent.parent)
    run("train", "prior", *files, *kind, "--vgg-layer", "conv1_2", *LOOP)
    config = load_checkpoint(model, latent).config
    assert config["model"]["name"] == "linf"
    assert config["prior"]["args"] == {"in_chans": 3, "n_resblocks": 1, "dim": 4}


@pytest.mark.parametrize("option", [("--steps", "6"), ("--batch", "1"), ("--n-feats", "9")])
def test_another_run_in_the_folder_is_not_touched(
    flow: Run, tmp_path: Path, option: tuple[str, str]
) -> None:
    flow()
    before = (tmp_path / "flow" / "last.pt").read_bytes()
    assert_refused(flow(*option), 5, "last.pt belongs to a run with other")
    assert (tmp_path / "flow" / "last.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("option", "exit_code", "words"),
    [
        (("--scale-range", "4"), 2, "got '4'"),
        (("--scale-range", "3,2"), 2, "scales must be a range from 1 up, got 3,2"),
        (("--scale-range", "nan,2"), 2, "scales must be a range from 1 up, got nan,2"),
        (("--scale-range", "1,4"), 5, "no picture of at least 32 pixels a side in"),
        (("--images", "nowhere"), 5, "folder of images nowhere does not exist"),
        (("--batch", "0"), 2, "0 is not in the range x>=1"),
        (("--learning-rate", "0"), 2, "0.0 is not in the range x>0"),
        (("--learning-rate", "nan"), 2, "nan is not a finite number"),
        (("--ema-decay", "1"), 2, "1.0 is not in the range 0<=x<1"),
        (("--pixel-weight", "nan"), 2, "nan is not a finite number"),
        (("--shift-weight", "inf"), 2, "inf is not a finite number"),
        (("--fonts", "nowhere"), 5, "folder of fonts nowhere does not exist"),
        (("--hidden-dim", "7"), 2, "--hidden-dim must be even, got 7"),
        (("--encoder", "rdn"), 2, "--n-resblocks and --n-feats are for EDSR, not rdn"),
        (("--encoder", "vgg"), 2, "'vgg' is not one of"),
        (("--snapshot-every", "0"), 2, "0 is not in the range x>=1"),
        (("--vgg", "v.pth"), 2, "--vgg is for --stage 2"),
        (("--sample-temperature", "1"), 2, "--sample-temperature is for --stage 2"),
    ],
)
def test_a_flow_that_makes_no_sense_is_refused(
    flow: Run, option: tuple[str, str], exit_code: int, words: str
) -> None:
    assert_refused(flow(*option), exit_code, words)


@pytest.mark.parametrize(
    ("option", "exit_code", "words"),
    [
        (("--model", "none.pth"), 5, "model none.pth does not exist"),
        (("--vgg", "none.st"), 5, "weights none.st do not exist"),
        (("--vgg-layer", "conv9_9"), 2, "vgg layers must be among conv1_1, "),
        (("--vgg-layer", "conv5_1", "--crop", "8"), 5, "lack conv2_2.weight"),
        (("--crop", "1", "--batch", "1"), 2, "batch must be at least 2 for crops this sma"),
        (("--crop", "1"), 2, "crops must be at least 2 pixels a side for conv2_1, got 1"),
        (("--dim", "5"), 2, "--dim must be even, got 5"),
        (("--prior", "edsr-baseline-latent"), 2, "--depth is for unet, not edsr-baseline-la"),
        (("--n-resblocks", "2"), 2, "--n-resblocks is for edsr-baseline-latent, not unet"),
        (("--perceptual-weight", "0"), 2, "one of the weights must be above 0"),
        (("--latent-weight", "nan"), 2, "nan is not a finite number"),
        (("--latent-weight", "-1"), 2, "-1.0 is not in the range x>=0"),
    ],
)
def test_a_prior_that_makes_no_sense_is_refused(
    flow: Run, prior: Run, option: tuple[str, ...], exit_code: int, words: str
) -> None:
    flow("--steps", "1")
    assert_refused(prior(*option), exit_code, words)


def test_a_folder_that_cannot_be_made_is_named(flow: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = flow("-o", tmp_path / "file" / "run")
    assert_refused(done, 1, f"cannot make folder {tmp_path / 'file' / 'run'}: Not a directory")


def test_a_missing_gpu_is_not_replaced_by_the_cpu(
    flow: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_refused(flow("--device", "cuda"), 4, "PyTorch finds no CUDA device")


def test_a_run_can_begin_with_weights_it_is_given(
    flow: Callable[..., Result], tmp_path: Path
) -> None:
    assert flow("--seed", 7).exit_code == 0
    first = load_file(tmp_path / "flow" / "model.safetensors")
    again = tmp_path / "again"
    done = flow("--start", tmp_path / "flow" / "model.safetensors", "-o", again, *STILL)
    assert done.exit_code == 0, done.output
    second = load_file(again / "model.safetensors")
    assert all(torch.allclose(first[name], second[name], atol=1e-9) for name in first)


def test_weights_of_another_architecture_are_no_start(
    flow: Callable[..., Result], tmp_path: Path
) -> None:
    assert flow().exit_code == 0
    start = tmp_path / "flow" / "model.safetensors"
    done = flow("--start", start, "-o", tmp_path / "other", "--hidden-dim", "16")
    assert done.exit_code == 2
    assert "is of another architecture" in done.stderr


def test_penalties_and_augmentation_are_of_the_run(
    flow: Run, prior: Run, tmp_path: Path
) -> None:
    (tmp_path / "fonts").mkdir()
    (tmp_path / "fonts" / "sans.ttf").touch()
    weights = {"phase": 1, "mesh": 6, "shift": 2, "range": 3, "rescaled": 4}
    options = [f"--{name}-weight={weight}" for name, weight in weights.items()]
    crops = ("--fonts", tmp_path / "fonts", "--gray", "0.5", "--color", "0.25")
    done = [flow(*options, *crops, "--gain-weight", "5"), prior(*options, *crops)]
    assert [result.exit_code for result in done] == [0, 0], [r.output for r in done]
    flow_run, prior_run = (
        torch.load(tmp_path / name / "last.pt", weights_only=True)["recipe"]
        for name in ("flow", "prior")
    )
    weights["out_of_range"] = weights.pop("range")
    assert flow_run["penalties"] == {**weights, "gain": 5}
    assert prior_run["penalties"] == {**weights, "gain": 0}
    augmentation = {"synthetic": 0, "fonts": ["sans.ttf"], "gray": 0.5, "color": 0.25}
    assert flow_run["augmentation"] == prior_run["augmentation"] == augmentation


def test_the_curves_of_a_validated_run_are_drawn(
    flow: Run, run: Run, pictures: Path, tmp_path: Path
) -> None:
    assert flow("--validation", pictures).exit_code == 0
    drawn = run("train", "curves", tmp_path / "flow")
    assert drawn.stdout == f"{tmp_path / 'flow' / 'curves.svg'}\n"
    assert (tmp_path / "flow" / "curves.svg").read_text().count(">validation<") >= 2
    again = run("train", "curves", tmp_path / "flow")
    assert_refused(again, 1, "curves.svg")
    assert run("train", "curves", tmp_path / "flow", "--force").exit_code == 0
    picture = tmp_path / "curves.png"
    assert run("train", "curves", tmp_path / "flow", "-o", picture).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = run("train", "curves", tmp_path / "flow", "-o", tmp_path / "curves.txt")
    assert_refused(text, 2, f"must end in .svg or .png, got {tmp_path / 'curves.txt'}")


def test_a_validated_run_writes_its_best_weights_too(
    flow: Run, prior: Run, pictures: Path, tmp_path: Path
) -> None:
    assert flow("--validation", pictures).exit_code == 0
    done = prior("--validation", pictures, "--likelihood-weight", "0.1")
    assert done.exit_code == 0, done.output
    best = [tmp_path / run / "best" / "model.safetensors" for run in ("flow", "prior")]
    assert isinstance(load_checkpoint(best[0]).network, LinfLP)
    both = load_checkpoint(best[1], tmp_path / "prior/best/prior.safetensors").network
    assert isinstance(both, LinfLP)
    assert both.prior is not None


def test_snapshots_are_kept_beside_the_last_weights(
    flow: Run, prior: Run, run: Run, tmp_path: Path
) -> None:
    assert flow("--snapshot-every", "1", "--save-every", "3").exit_code == 0
    assert prior("--snapshot-every", "2", "--likelihood-weight", "0.1").exit_code == 0
    folders = sorted(path.name for path in (tmp_path / "flow").glob("step-*"))
    assert folders == ["step-1", "step-2", "step-3", "step-4"]
    files = [tmp_path / "flow" / name / "model.safetensors" for name in (".", *folders)]
    contents = [path.read_bytes() for path in files]
    assert contents[0] == contents[-1]
    assert len(set(contents)) == 4
    second = tmp_path / "prior" / "step-2"
    parts = "--model", second / "model.safetensors", "--prior", second / "prior.safetensors"
    done = run("export-onnx", *parts, "-o", tmp_path / "a.bundle")
    assert done.exit_code == 0, done.output


def test_snapshots_may_begin_when_a_run_is_resumed(
    flow: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    flow("-o", whole, "--snapshot-every", "3")
    batch_at = Crops.batch_at

    def interrupted(self: Crops, step: int) -> Batch:
        assert step < 3, "interrupted"
        return batch_at(self, step)

    monkeypatch.setattr(Crops, "batch_at", interrupted)
    assert flow().exit_code == 1
    monkeypatch.undo()
    assert flow("--snapshot-every", "3").exit_code == 0
    files = [path / "step-3" / "model.safetensors" for path in (whole, tmp_path / "flow")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_finished_run_without_best_weights_can_be_repeated_with_validation(
    flow: Run, pictures: Path, tmp_path: Path
) -> None:
    first = flow()
    again = flow("--validation", pictures)
    assert again.exit_code == 0, again.output
    assert again.stdout == first.stdout
    assert not (tmp_path / "flow" / "best").exists()


@pytest.fixture
def second(run: Run, pictures: Path, vgg: Path, tmp_path: Path) -> Callable[..., Result]:
    """Train a flow of the folder `flow` further into the folder `second`."""

    def train_second(*options: object) -> Result:
        start = ("--stage", "2", "--start", tmp_path / "flow" / "model.safetensors")
        files = ("--images", pictures, "--vgg", vgg, "-o", tmp_path / "second")
        return run("train", "flow", *start, *files, *LOOP, *options)

    return train_second


def test_the_second_stage_goes_on_from_the_network_of_the_first(
    flow: Run, second: Run, tmp_path: Path
) -> None:
    assert flow("--patch-size", "1").exit_code == 0
    done = second("--vgg", tmp_path / "none.pth", "--perceptual-weight", "0")
    assert done.exit_code == 0, done.output
    paths = [tmp_path / name / "model.safetensors" for name in ("flow", "second")]
    first, further = (load_checkpoint(path) for path in paths)
    assert further.config == first.config
    assert further.model_sha256 != first.model_sha256
    state = torch.load(tmp_path / "second" / "last.pt", weights_only=True)
    assert state["recipe"]["second_stage"]["likelihood_weight"] == 5e-4
    assert (tmp_path / "second" / "log.jsonl").read_text().count('"l1"') == 2


@pytest.mark.parametrize(
    ("option", "exit_code", "words"),
    [
        (("--start", "none.pth"), 5, "model none.pth does not exist"),
        (("--vgg", "none.st"), 5, "weights none.st do not exist"),
        (("--n-feats", "8"), 2, "--n-feats is for --stage 1; stage 2 has the network of --s"),
        (("--mesh-weight", "1"), 2, "--mesh-weight is for --stage 1"),
        (("--quant", "32"), 2, "--quant is for --stage 1"),
        (("--system", "srflow"), 2, "--stage 2 is for linf, not srflow"),
        (("--likelihood-weight", "0"), 2, "likelihood_weight"),
        (("--stage", "3"), 2, "'3' is not one of 1, 2"),
    ],
)
def test_a_second_stage_that_makes_no_sense_is_refused(
    flow: Run, second: Run, option: tuple[str, str], exit_code: int, words: str
) -> None:
    flow("--steps", "1")
    assert_refused(second(*option), exit_code, words)


def test_the_second_stage_needs_a_first_one_and_a_vgg(
    run: Run, pictures: Path, vgg: Path, tmp_path: Path
) -> None:
    files = ("--stage", "2", "--images", pictures, "-o", tmp_path / "second", *LOOP)
    assert_refused(run("train", "flow", *files, "--vgg", vgg), 2, "got none (--start)")
    assert_refused(run("train", "flow", *files), 2, "must be given for perceptual_weight 0.025")
