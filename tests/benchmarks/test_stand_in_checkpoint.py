from pathlib import Path

import torch
from click.testing import CliRunner

from benchmarks import stand_in_checkpoint
from benchmarks.stand_in_checkpoint import calm
from flowsr_export.fetch.releases import RELEASES
from flowsr_export.inputs.cases import Case, sample_pictures
from flowsr_lp import LinfLP, load_checkpoint
from flowsr_lp.linf.encoder import SwinIR
from tests.flowsr_export.networks import small_srflow


@torch.inference_mode()
def test_a_calm_network_encodes_to_unit_variance_and_decodes_to_a_picture() -> None:
    network = calm(small_srflow(K=4))
    prediction = network(torch.from_numpy(sample_pictures(Case((24, 24), (96, 96)))))
    assert prediction.encoded is not None
    assert all(z.abs().max() < 10 for z in prediction.encoded)
    assert -1 < prediction.output.min() < prediction.output.max() < 2


def test_the_linf_checkpoints_are_read_back(tmp_path: Path) -> None:
    done = CliRunner().invoke(stand_in_checkpoint.main, ["linf", "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    checkpoint = load_checkpoint(tmp_path / "model.safetensors", tmp_path / "prior.safetensors")
    assert checkpoint.family == "linf-lp"
    assert checkpoint.network.prior is not None


def test_single_pixels_of_swinir_have_no_prior(tmp_path: Path) -> None:
    words = ["linf-swinir-pixel", "-o", str(tmp_path)]
    done = CliRunner().invoke(stand_in_checkpoint.main, words)
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    network = load_checkpoint(tmp_path / "model.safetensors").network
    assert isinstance(network, LinfLP)
    assert isinstance(network.linf.encoder, SwinIR)
    assert network.linf.patch_size == 1


def test_stand_ins_have_the_names_and_the_form_of_the_released_files(tmp_path: Path) -> None:
    words = ["linf", "--released", "-o", str(tmp_path)]
    done = CliRunner().invoke(stand_in_checkpoint.main, words)
    assert done.exit_code == 0, done.output
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {name for name in RELEASES if name.startswith("edsr-baseline")}
    model, prior = (tmp_path / f"edsr-baseline-linf{end}.pth" for end in ("", "-LP"))
    assert load_checkpoint(model, prior).config["prior"] == stand_in_checkpoint.PRIOR


def test_there_is_no_released_form_of_an_srflow_stand_in(tmp_path: Path) -> None:
    words = ["srflow", "--released", "-o", str(tmp_path)]
    done = CliRunner().invoke(stand_in_checkpoint.main, words)
    assert done.exit_code == 2
    assert "--released needs linf or linf-rrdb, got srflow" in done.output
