"""Mutated checkpoints are loaded or refused with one error."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from safetensors.torch import save

from flowsr_lp import load_checkpoint
from flowsr_runtime.errors import CheckpointError
from tests import stand_in
from tests.fuzz.mutations import FUZZ, mutated, refusal

SPEC: dict[str, Any] = {
    "name": "linf-patch",
    "args": {
        "encoder_spec": {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 4}},
        **{"flow_layers": 1, "num_layer": 1, "hidden_dim": 4, "patch_size": 3},
    },
}
PRIOR: dict[str, Any] = {"name": "unet", "args": {"in_chans": 27, "depth": 1, "dim": 4}}
TENSORS = stand_in.network(SPEC, PRIOR).linf.state_dict()


def zipped() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": SPEC | {"sd": TENSORS}}, buffer)
    return buffer.getvalue()


def safe() -> bytes:
    return save({name: tensor.contiguous() for name, tensor in TENSORS.items()})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the files."""
    return tmp_path_factory.mktemp("fuzz")


@given(mutated([zipped()]))
@FUZZ
def test_a_mutated_file_of_pytorch_is_loaded_or_refused(folder: Path, data: bytes) -> None:
    assert_loaded_or_refused(folder / "a.pth", data)


@given(mutated([safe()]))
@FUZZ
def test_a_mutated_safetensors_file_is_loaded_or_refused(folder: Path, data: bytes) -> None:
    assert_loaded_or_refused(folder / "a.safetensors", data)


def assert_loaded_or_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert refusal(lambda: load_checkpoint(path), CheckpointError) != ""
