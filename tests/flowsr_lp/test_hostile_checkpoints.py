"""Checkpoints made to stop or mislead a reader are refused before memory is taken."""

import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flowsr_lp import load_checkpoint
from flowsr_runtime.errors import CheckpointError
from tests import stand_in

ENCODER: dict[str, Any] = {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 8}}
MODEL: dict[str, Any] = {
    "name": "linf-patch",
    "args": {
        "encoder_spec": ENCODER,
        **{"flow_layers": 2, "num_layer": 2, "hidden_dim": 8, "patch_size": 3},
    },
}
PRIOR: dict[str, Any] = {"name": "unet", "args": {"in_chans": 27, "depth": 1, "dim": 4}}
NAME = "coef.weight"

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return dict(stand_in.network(MODEL, PRIOR).linf.state_dict())


def saved(tmp_path: Path, tensors: Tensors, spec: dict[str, Any] = MODEL) -> Path:
    path = tmp_path / "linf.pth"
    torch.save({"model": spec | {"sd": tensors}}, path)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.to_sparse(), "must be dense, got torch.sparse_coo on cpu"),
        (lambda w: w.flatten(1).to_sparse_csr(), "must be dense, got torch.sparse_csr on cpu"),
        (
            lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
            "must be dense, got quantized",
        ),
        (lambda w: w.to("meta"), "must be dense, got torch.strided on meta"),
        (lambda w: w.to(torch.complex64), "must be of real numbers, got torch.complex64"),
        (lambda w: w > 0, "must be of real numbers, got torch.bool"),
        (lambda w: w * torch.nan, "must be finite, got NaN or infinity"),
        (lambda w: w / 0, "must be finite, got NaN or infinity"),
        (lambda w: torch.zeros(1).expand(10**9), "larger than the file"),
        (lambda w: torch.zeros(1).expand(10**9, 8, 3, 3), "larger than the file"),
    ],
)
def test_weights_of_another_kind_are_refused(
    tmp_path: Path, tensors: Tensors, change: Callable[[torch.Tensor], torch.Tensor], words: str
) -> None:
    path = saved(tmp_path, tensors | {NAME: change(tensors[NAME])})
    with pytest.raises(CheckpointError, match=f"tensor {NAME} .*{words}"):
        load_checkpoint(path)


@pytest.mark.parametrize("key", ["n_feats", "n_resblocks"])
@pytest.mark.parametrize("value", [10**9, 10**30])
def test_a_network_that_the_tensors_cannot_have_is_not_built(
    tmp_path: Path, tensors: Tensors, key: str, value: int
) -> None:
    encoder = {"name": "edsr-baseline", "args": ENCODER["args"] | {key: value}}
    spec = {"name": "linf-patch", "args": MODEL["args"] | {"encoder_spec": encoder}}
    path = saved(tmp_path, tensors, spec)
    with pytest.raises(CheckpointError, match=f"a network with {value} channels or layers"):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [-1, 0, "8", 2.5, [8], None, True])
def test_a_size_of_another_kind_is_refused(
    tmp_path: Path, tensors: Tensors, value: object
) -> None:
    encoder = {"name": "edsr-baseline", "args": ENCODER["args"] | {"n_feats": value}}
    spec = {"name": "linf-patch", "args": MODEL["args"] | {"encoder_spec": encoder}}
    with pytest.raises(CheckpointError, match=r"n_feats must be|linf\.pth"):
        load_checkpoint(saved(tmp_path, tensors, spec))


def test_names_that_are_no_text_are_refused(tmp_path: Path, tensors: Tensors) -> None:
    torch.save({1: tensors[NAME]}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds neither 'model' nor a state dict"):
        load_checkpoint(tmp_path / "a.pth")


def test_metadata_that_are_nested_too_deeply_are_refused(
    tmp_path: Path, tensors: Tensors
) -> None:
    path = tmp_path / "a.safetensors"
    save_file({NAME: tensors[NAME]}, path, {"flowsr_lp": '{"kind": ' + "[" * 100_000})
    with pytest.raises(CheckpointError, match="has damaged metadata"):
        load_checkpoint(path)


def test_an_archive_that_expands_is_not_read(tmp_path: Path, tensors: Tensors) -> None:
    source, path = saved(tmp_path, tensors), tmp_path / "small.pth"
    with (
        zipfile.ZipFile(source) as whole,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for part in whole.namelist():
            data = bytes(1 << 27) if part.endswith("data/0") else whole.read(part)
            small.writestr(part, data)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="bytes that expand to"):
        load_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24


def test_the_stated_spec_of_a_good_file_is_kept(tmp_path: Path, tensors: Tensors) -> None:
    checkpoint = load_checkpoint(saved(tmp_path, tensors))
    assert json.loads(json.dumps(checkpoint.config))["model"]["args"]["hidden_dim"] == 8
