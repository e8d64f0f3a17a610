"""Files of SRFlow and SRFlow-LP: what is read, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowsr_lp import (
    SrflowLP,
    load_checkpoint,
    save_weights,
    srflow_from_spec,
    srflow_prior_from_spec,
)
from flowsr_runtime.errors import CheckpointError
from tests import stand_in

ARGS: dict[str, Any] = {"scale": 4, "nb": 3, "K": 1, "L": 3, "blocks": [0, 2]}
MODEL: dict[str, Any] = {"name": "srflow", "args": ARGS | {"nf": 8, "gc": 4, "hidden": 8}}
PRIOR: dict[str, Any] = {"name": "unet", "args": {"in_chans": [6, 96], "depth": 1, "dim": 4}}
# What released files hold beside what inference reads at four times.
UNUSED = (
    *("RRDB.upconv2.weight", "RRDB.upconv3.bias", "RRDB.HRconv.weight"),
    *("RRDB.conv_last.bias", "flowUpsamplerNet.f.0.weight"),
)
LINF: dict[str, Any] = {
    "name": "linf-patch",
    "args": {
        "encoder_spec": {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 8}},
        **{"flow_layers": 2, "num_layer": 2, "hidden_dim": 8, "patch_size": 3},
    },
}


@pytest.fixture(scope="module")
def network() -> SrflowLP:
    return stand_in.srflow_network(MODEL, PRIOR)


def released(
    network: SrflowLP, path: Path, prefix: str = "", changes: dict[str, Tensor] | None = None
) -> Path:
    """Write a bare state dict with tensors that nobody reads."""
    unused = {name: torch.zeros(3) for name in UNUSED}
    tensors = network.srflow.state_dict() | unused | (changes or {})
    torch.save({prefix + name: tensor for name, tensor in tensors.items()}, path)
    return path


@pytest.fixture
def model(network: SrflowLP, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_weights(path, "model", MODEL, network.srflow.state_dict())
    return path


@pytest.fixture
def prior(network: SrflowLP, tmp_path: Path) -> Path:
    """A file like the released one."""
    assert network.prior is not None
    args = {"depth": 1, "dim": 4, "bilinear": True}
    entry = {"name": "unet", "args": args, "sd": network.prior.state_dict()}
    torch.save({"prior_model": entry}, tmp_path / "LP.pth")
    return tmp_path / "LP.pth"


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def check_refused(
    message: str, model: Path, prior: Path | None = None, blocks: tuple[int, ...] | None = None
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(model, prior, blocks)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_released_files_are_read(
    network: SrflowLP, prior: Path, tmp_path: Path, prefix: str
) -> None:
    path = released(network, tmp_path / "SRFlow.pth", prefix)
    checkpoint = load_checkpoint(path, prior, blocks=(0, 2))
    assert same(checkpoint.network, network)
    assert not checkpoint.network.training
    assert checkpoint.family == "srflow-lp"
    assert checkpoint.config == {"model": MODEL, "prior": PRIOR}


def test_a_prior_of_several_gpus_is_read(
    network: SrflowLP, model: Path, tmp_path: Path
) -> None:
    assert network.prior is not None
    wrapped = {f"module.{name}": t for name, t in network.prior.state_dict().items()}
    path = tmp_path / "LP.pth"
    torch.save({"prior_model": {"name": "unet", "args": {}, "sd": wrapped}}, path)
    assert same(load_checkpoint(model, path).network, network)


def test_the_blocks_of_the_released_network_need_not_be_stated(tmp_path: Path) -> None:
    args = MODEL["args"] | {"nb": 23, "nf": 2, "gc": 1, "blocks": [1, 8, 15, 22]}
    large = stand_in.srflow_network({"name": "srflow", "args": args}, None)
    checkpoint = load_checkpoint(released(large, tmp_path / "SRFlow.pth"))
    assert checkpoint.config["model"]["args"] == args


def test_our_own_files_come_back_as_they_were(
    network: SrflowLP, model: Path, tmp_path: Path
) -> None:
    assert network.prior is not None
    path = tmp_path / "prior.safetensors"
    save_weights(path, "prior", PRIOR, network.prior.state_dict())
    checkpoint = load_checkpoint(model, path)
    assert same(checkpoint.network, network)
    assert checkpoint.config == {"model": MODEL, "prior": PRIOR}


def test_the_config_builds_the_network_again(model: Path, prior: Path) -> None:
    checkpoint = load_checkpoint(model, prior)
    config = json.loads(json.dumps(checkpoint.config))
    flow, latent = srflow_from_spec(config["model"]), srflow_prior_from_spec(config["prior"])
    again = SrflowLP(flow, latent)
    again.load_state_dict(checkpoint.network.state_dict())
    assert same(again, checkpoint.network)


def test_blocks_that_nobody_states_are_asked_for(network: SrflowLP, tmp_path: Path) -> None:
    path = released(network, tmp_path / "SRFlow.pth")
    check_refused(r"SRFlow.pth .* blocks", path)


def test_blocks_are_not_for_linf(tmp_path: Path) -> None:
    linf = stand_in.network(LINF, None).linf
    path = tmp_path / "linf.safetensors"
    save_weights(path, "model", LINF, linf.state_dict())
    assert load_checkpoint(path).family == "linf-lp"
    check_refused("linf.safetensors is not an SRFlow model: blocks are not", path, None, (0,))


def test_the_other_systems_prior_is_refused(model: Path, prior: Path, tmp_path: Path) -> None:
    spec = {"name": "unet", "args": {"in_chans": 27, "depth": 1, "dim": 4}}
    other = stand_in.network(LINF, spec)
    assert other.prior is not None
    linf, latent = tmp_path / "linf.safetensors", tmp_path / "linf-LP.safetensors"
    save_weights(linf, "model", LINF, other.linf.state_dict())
    save_weights(latent, "prior", spec, other.prior.state_dict())
    check_refused(
        r"prior .*linf-LP.safetensors is one of LINF-LP, the model .* is SRFlow", model, latent
    )
    check_refused(
        r"prior .*LP.pth is one of SRFlow-LP, the model .*linf.safetensors is LINF", linf, prior
    )


def test_a_prior_for_other_latents_is_refused(prior: Path, tmp_path: Path) -> None:
    spec = {"name": "srflow", "args": MODEL["args"] | {"scale": 8, "L": 4}}
    path = tmp_path / "8x.safetensors"
    large = stand_in.srflow_network(spec, None).srflow
    save_weights(path, "model", spec, large.state_dict())
    check_refused(r"LP.pth is for latents 6, 96 wide, the model .* has 6, 12, 192", path, prior)


@pytest.mark.parametrize("name", ["RRDB.odd.weight", "flowUpsamplerNet.layers.0.x", "optim"])
def test_an_unknown_tensor_is_named(network: SrflowLP, tmp_path: Path, name: str) -> None:
    path = released(network, tmp_path / "SRFlow.pth", changes={name: torch.zeros(1)})
    check_refused(f"SRFlow.pth has an unknown tensor {name}", path, None, (0, 2))


def test_a_tensor_of_the_wrong_shape_is_named(network: SrflowLP, tmp_path: Path) -> None:
    wrong = {"RRDB.upconv1.bias": torch.zeros(9)}
    path = released(network, tmp_path / "SRFlow.pth", changes=wrong)
    check_refused(r"tensor RRDB.upconv1.bias must be \(8,\) for the arch", path, None, (0, 2))


def test_a_prior_of_another_kind_is_named(model: Path, prior: Path) -> None:
    content = torch.load(prior, weights_only=True)
    content["prior_model"]["name"] = "swin_latent"
    torch.save(content, prior)
    check_refused("prior of an SRFlow model must be unet, got 'swin_latent'", model, prior)
