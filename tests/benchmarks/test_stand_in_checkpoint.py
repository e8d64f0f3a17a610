from pathlib import Path

import torch
from click.testing import CliRunner

from benchmarks import stand_in_checkpoint
from benchmarks.stand_in_checkpoint import CALM, calm
from flowsr_lp import load_checkpoint
from tests.flowsr_export.networks import small_srflow
from tests.stand_in import noise, tensor


@torch.inference_mode()
def test_a_calm_network_decodes_a_sixth_of_what_it_did() -> None:
    network, rgb = small_srflow(), tensor(6, 8)
    latents = [noise(1, *shape) for shape in network.latent_sizes((6, 8))]
    bias = network.srflow.flowUpsamplerNet.get_parameter("layers.1.actnorm.bias")
    bias.zero_()
    before = network(rgb, latents).output
    torch.testing.assert_close(calm(network)(rgb, latents).output, before / CALM)


def test_the_linf_checkpoints_are_read_back(tmp_path: Path) -> None:
    done = CliRunner().invoke(stand_in_checkpoint.main, ["linf", "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    checkpoint = load_checkpoint(tmp_path / "model.safetensors", tmp_path / "prior.safetensors")
    assert checkpoint.family == "linf-lp"
    assert checkpoint.network.prior is not None
