import errno
import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flowsr_lp import LinfLP, linf_from_spec, load_checkpoint, prior_from_spec, save_weights
from flowsr_runtime.errors import CheckpointError, OutputError
from tests import stand_in

ENCODER = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 8}}
SIZES = {"flow_layers": 2, "num_layer": 2, "hidden_dim": 8, "patch_size": 3}
# As released: with arguments that do not matter to us.
MODEL: dict[str, Any] = {
    "name": "linf-patch",
    "args": {
        "encoder_spec": {"name": ENCODER["name"], "args": {"no_upsampling": True}},
        "imnet_spec": {"name": "flow", "args": {"name": "flow"}},
        **SIZES,
    },
}
MODEL["args"]["encoder_spec"]["args"] |= ENCODER["args"]
PRIOR: dict[str, Any] = {
    "name": "unet",
    "args": {"in_chans": 27, "depth": 1, "dim": 4, "bilinear": True},
}
OURS = {"name": "linf-patch", "args": {"encoder_spec": ENCODER, **SIZES}}

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def network() -> LinfLP:
    return stand_in.network(MODEL, PRIOR)


@pytest.fixture
def model(tmp_path: Path, network: LinfLP) -> Path:
    """A file like a released one, with what training leaves in it and unused tensors."""
    unused = {"encoder.sub_mean.weight": torch.eye(3)[:, :, None, None]}
    entry = MODEL | {"sd": network.linf.state_dict() | unused}
    path = tmp_path / "linf.pth"
    torch.save({"model": entry, "optimizer": {"name": "adam", "args": {}}, "epoch": 7}, path)
    return path


@pytest.fixture
def prior(tmp_path: Path, network: LinfLP) -> Path:
    assert network.prior is not None
    path = tmp_path / "LP.pth"
    torch.save({"prior_model": PRIOR | {"sd": network.prior.state_dict()}}, path)
    return path


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def check_refused(path: Path, message: str, prior: Path | None = None) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path, prior)
    assert "\n" not in str(caught.value)


def changed(path: Path, change: Change) -> Path:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def test_released_files_are_read(network: LinfLP, model: Path, prior: Path) -> None:
    checkpoint = load_checkpoint(model, prior)
    assert same(checkpoint.network, network)
    assert not checkpoint.network.training
    assert checkpoint.model_sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert checkpoint.prior_sha256 == hashlib.sha256(prior.read_bytes()).hexdigest()


def test_a_model_alone_has_no_prior(model: Path) -> None:
    checkpoint = load_checkpoint(model)
    assert checkpoint.network.prior is None
    assert checkpoint.prior_sha256 is None
    assert checkpoint.config["prior"] is None


def test_the_config_builds_the_network_again(model: Path, prior: Path) -> None:
    checkpoint = load_checkpoint(model, prior)
    config = json.loads(json.dumps(checkpoint.config))
    again = LinfLP(linf_from_spec(config["model"]), prior_from_spec(config["prior"]))
    again.load_state_dict(checkpoint.network.state_dict())
    assert same(again, checkpoint.network)


def test_a_bare_state_dict_tells_its_architecture(network: LinfLP, tmp_path: Path) -> None:
    torch.save(network.linf.state_dict(), tmp_path / "bare.pth")
    checkpoint = load_checkpoint(tmp_path / "bare.pth")
    assert same(checkpoint.network, LinfLP(network.linf))
    assert checkpoint.config["model"] == OURS


def test_our_own_files_come_back_as_they_were(network: LinfLP, tmp_path: Path) -> None:
    assert network.prior is not None
    model, prior = tmp_path / "new" / "model.safetensors", tmp_path / "prior.safetensors"
    save_weights(model, "model", OURS, network.linf.state_dict())
    save_weights(prior, "prior", PRIOR, network.prior.state_dict())
    assert same(load_checkpoint(model, prior).network, network)
    assert load_checkpoint(model).config["model"] == OURS
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == [model.name, prior.name]


def test_safetensors_without_metadata_are_told_by_their_tensors(
    network: LinfLP, tmp_path: Path
) -> None:
    tensors = {name: t.contiguous() for name, t in network.linf.state_dict().items()}
    save_file(tensors, tmp_path / "plain.safetensors")
    assert load_checkpoint(tmp_path / "plain.safetensors").config["model"] == OURS


def test_half_precision_weights_become_float32(model: Path) -> None:
    def halve(content: dict[str, Any]) -> None:
        content["model"]["sd"] = {k: t.half() for k, t in content["model"]["sd"].items()}

    network = load_checkpoint(changed(model, halve)).network
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_a_file_that_cannot_be_read_is_named(model: Path, tmp_path: Path) -> None:
    absent = tmp_path / "no.pth"
    check_refused(absent, r"model .*no.pth does not exist")
    check_refused(model, r"prior .*no.pth does not exist", absent)
    check_refused(tmp_path, r"cannot read model .*: Is a directory")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    check_refused(tmp_path / name, r"model .* is empty \(0 bytes\)")


@pytest.mark.parametrize("content", [b"hello", b"\x89PNG\r\n", b"\x80\x04.", b"PK\x03\x04"])
@pytest.mark.parametrize(
    ("name", "kind"), [("a.pth", "PyTorch checkpoint"), ("a.safetensors", "safetensors file")]
)
def test_other_bytes_are_not_a_checkpoint(
    tmp_path: Path, content: bytes, name: str, kind: str
) -> None:
    (tmp_path / name).write_bytes(content)
    check_refused(tmp_path / name, rf"model .*{name} is not a {kind}")


def test_a_truncated_file_is_refused(model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-2000])
    check_refused(model, r"model .* is not a PyTorch checkpoint")


class Code:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    torch.save(
        {"model": Code(tmp_path / "ran")},
        tmp_path / "a.pth",
        _use_new_zipfile_serialization=zipped,
    )
    check_refused(
        tmp_path / "a.pth", r"is refused: it holds more than tensors and could run code"
    )
    assert not (tmp_path / "ran").exists()


def test_code_in_a_plain_pickle_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"model": Code(tmp_path / "ran")}))
    check_refused(tmp_path / "a.pth", r"is not a PyTorch checkpoint")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("model"), "holds neither 'model' nor a state dict"),
        (lambda c: c["model"].update(name="liif"), "must be linf or linf-patch, got 'liif'"),
        (
            lambda c: c["model"]["args"]["encoder_spec"].update(name="liif"),
            "encoder must be one of edsr-baseline, edsr, rdn, rrdb, swinir, got 'liif'",
        ),
        (
            lambda c: c["model"]["sd"].update({"coef.weight": torch.tensor(1.0)}),
            r"linf.pth is not a LINF model: coef.weight must be .*, got shape \(\)",
        ),
        (
            lambda c: c["model"]["sd"].update({"phase.weight": torch.zeros(9, 2)}),
            r"phase.weight must be \(4, 2\) for the architecture .* got \(9, 2\)",
        ),
        (lambda c: c["model"]["sd"].pop("freq.bias"), "linf.pth lacks tensor freq.bias"),
        (
            lambda c: c["model"]["sd"].update(odd=torch.zeros(1)),
            "linf.pth has an unknown tensor odd",
        ),
    ],
)
def test_a_changed_model_is_refused(model: Path, change: Change, message: str) -> None:
    check_refused(changed(model, change), message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["prior_model"].update(name="swin_latent"),
            "prior must be one of unet, edsr-baseline-latent, got 'swin_latent'",
        ),
        (
            lambda c: c["prior_model"]["sd"].update({"input_proj.conv1.weight": torch.ones(9)}),
            r"LP.pth is not a LINF-LP prior: .* weight, got shape \(9,\)",
        ),
    ],
)
def test_a_changed_prior_is_refused(
    model: Path, prior: Path, change: Change, message: str
) -> None:
    check_refused(model, message, changed(prior, change))


def test_a_tensor_is_not_a_checkpoint(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "a.pth")
    check_refused(tmp_path / "a.pth", r"model .* holds neither 'model' nor a state dict")


def test_a_prior_and_a_model_are_not_confused(model: Path, prior: Path) -> None:
    check_refused(prior, r"LP.pth holds a prior, not a model")
    check_refused(model, r"linf.pth holds a model, not a prior", prior=model)


def test_our_own_prior_is_not_a_model(network: LinfLP, tmp_path: Path) -> None:
    assert network.prior is not None
    path = tmp_path / "prior.safetensors"
    save_weights(path, "prior", PRIOR, network.prior.state_dict())
    check_refused(path, r"prior.safetensors holds a prior, not a model")


def test_a_prior_for_another_width_is_refused(model: Path, tmp_path: Path) -> None:
    narrow = prior_from_spec({"name": "unet", "args": {"in_chans": 3, "depth": 1, "dim": 4}})
    save_weights(tmp_path / "p.safetensors", "prior", {"name": "unet"}, narrow.state_dict())
    message = r"prior .*p.safetensors is for latents 3 wide, the model .*linf.pth has 27"
    check_refused(model, message, tmp_path / "p.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"args": "no dict"},
        {"args": {"encoder_spec": "no dict"}},
        {"args": {"encoder_spec": {"args": "no dict"}}},
        {"args": {"encoder_spec": {"name": ["edsr"]}}},
        {"name": {"linf": "patch"}},
    ],
)
def test_a_spec_of_another_form_is_refused(model: Path, change: dict[str, object]) -> None:
    changed(model, lambda content: content["model"].update(change))
    check_refused(model, r"linf.pth describes its network in a form that is not known")


def test_metadata_whose_spec_has_another_form_is_refused(tmp_path: Path) -> None:
    path, header = tmp_path / "a.safetensors", '{"kind": "model", "spec": "linf"}'
    save_file({"x": torch.zeros(1)}, path, {"flowsr_lp": header})
    check_refused(path, r"a.safetensors describes its network in a form that is not known")


@pytest.mark.parametrize("header", ["{", "[]", '"model"', '{"kind": "model"}'])
def test_damaged_metadata_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"flowsr_lp": header})
    check_refused(path, r"model .*a.safetensors has damaged metadata")


def test_weights_that_cannot_be_written_say_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*file/a.safetensors: "):
        save_weights(tmp_path / "file" / "a.safetensors", "model", OURS, {})


def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a.safetensors"
    save_weights(path, "model", OURS, {"x": torch.zeros(1)})
    old = path.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write .*a.safetensors: No space left"):
        save_weights(path, "model", OURS, {"x": torch.ones(1)})
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_the_guard_is_kept_in_a_file_of_ours(tmp_path: Path, network: LinfLP) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, "model", {**OURS, "guard": True}, network.linf.state_dict())
    checkpoint = load_checkpoint(path)
    assert isinstance(checkpoint.network, LinfLP)
    assert checkpoint.network.linf.guard
    assert checkpoint.config["model"]["guard"] is True
