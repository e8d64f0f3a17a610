from typing import Any

import pytest
import torch
from torch import Tensor

from flowsr_lp import srflow_from_spec, srflow_prior_from_spec
from flowsr_lp.checkpoint import UNUSED_PREFIXES
from flowsr_lp.srflow.architecture import (
    is_srflow,
    is_srflow_prior,
    srflow_prior_spec,
    srflow_spec,
    unwrapped,
)
from flowsr_runtime.errors import CheckpointError
from tests.flowsr_lp.released import released

SIZES = {"nb": 23, "K": 16, "nf": 64, "gc": 32, "hidden": 64}
RELEASED = {
    "name": "srflow",
    "args": {"scale": 4, "L": 3, "blocks": [1, 8, 15, 22], **SIZES},
}
PRIOR = {"name": "unet", "args": {"in_chans": [6, 96], "depth": 3, "dim": 64}}
SMALL: dict[str, Any] = {"nb": 3, "K": 2, "nf": 8, "gc": 4, "hidden": 8}
SCALES = {4: {"scale": 4, "L": 3}, 8: {"scale": 8, "L": 4}}


def small(scale: int = 4, **changes: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A spec and its tensors."""
    spec = {"name": "srflow", "args": SCALES[scale] | SMALL | {"blocks": [0, 2]} | changes}
    return spec, srflow_from_spec(spec).state_dict()


def test_parameters_have_the_released_names_and_shapes() -> None:
    tensors = released("srflow-df2k-4x").items()
    used = {key: t.shape for key, t in tensors if not key.startswith(UNUSED_PREFIXES)}
    with torch.device("meta"):
        own = srflow_from_spec(RELEASED).state_dict()
    names = {key for key, _ in tensors}
    assert set(own) - set(used) == {"RRDB.upconv1.weight", "RRDB.upconv1.bias"}
    assert set(own) <= names
    assert all(own[key].shape == shape for key, shape in used.items())


def test_a_priors_parameters_have_the_released_names_and_shapes() -> None:
    own = srflow_prior_from_spec(PRIOR).state_dict()
    wanted = {key: t.shape for key, t in released("prior-srflow-unet").items()}
    assert {key: t.shape for key, t in own.items()} == wanted


def test_the_architecture_is_told_from_released_tensors() -> None:
    tensors = released("srflow-df2k-4x")
    assert is_srflow(tensors)
    assert srflow_spec(tensors, None, None, "file") == RELEASED


def test_a_priors_architecture_is_told_from_released_tensors() -> None:
    tensors = released("prior-srflow-unet")
    assert is_srflow_prior(tensors)
    assert srflow_prior_spec(tensors, None, "file") == PRIOR


def test_other_networks_are_not_of_srflow() -> None:
    assert not is_srflow(released("linf-patch-rrdb"))
    assert not is_srflow_prior(released("prior-unet"))


def test_the_wrapper_of_several_gpus_is_taken_off() -> None:
    tensors = released("srflow-df2k-4x")
    wrapped = {f"module.{key}": tensor for key, tensor in tensors.items()}
    assert unwrapped(wrapped).keys() == tensors.keys()
    assert unwrapped(tensors) == tensors


@pytest.mark.parametrize("scale", [4, 8])
def test_every_size_is_told_but_the_blocks(scale: int) -> None:
    spec, tensors = small(scale)
    assert srflow_spec(tensors, None, (0, 2), "file") == spec


@pytest.mark.parametrize("nb", [8, 23])
def test_the_blocks_of_the_networks_of_eight_times_are_known(nb: int) -> None:
    spec, tensors = small(8, nb=nb, blocks=[1, 3, 5, 7])
    assert srflow_spec(tensors, None, None, "file") == spec


def test_stated_blocks_are_kept() -> None:
    spec, tensors = small()
    assert srflow_spec(tensors, spec, None, "file") == spec
    assert srflow_spec(tensors, spec, (0, 2), "file") == spec


def test_given_blocks_come_before_known_ones() -> None:
    _, tensors = small(8, nb=8, blocks=[0, 2, 4, 6])
    got = srflow_spec(tensors, None, (0, 2, 4, 6), "file")
    assert got["args"]["blocks"] == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("stated", "given", "message"),
    [
        (None, None, r"x.pth .* blocks"),
        ([0, 2], (0, 1), "x.pth states that blocks 0,2 are stacked, got 0,1"),
        ("02", None, "x.pth states blocks of another form: '02'"),
        (None, (0, 1, 2), "flow reads 24 channels, not the 8 .* stacked block 0,1,2"),
        (None, (), "flow reads 24 channels, not the 8 .* stacked block none"),
    ],
)
def test_blocks_that_make_no_sense_are_refused(
    stated: object, given: tuple[int, ...] | None, message: str
) -> None:
    _, tensors = small()
    named = {"name": "srflow", "args": {"blocks": stated}}
    with pytest.raises(CheckpointError, match=message):
        srflow_spec(tensors, named, given, "x.pth")


def without(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if part not in name}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("affine", "x.pth is not an SRFlow model: 0 couplings in 3 levels"),
        ("layers.3.affine", "x.pth is not an SRFlow model: 5 couplings in 3 levels"),
        ("conv_first", "x.pth is not of SRFlow: it lacks RRDB.conv_first.weight"),
        ("fFeatures.0", "it lacks flowUpsamplerNet.layers.3.affine.fFeatures.0.weight"),
        ("RRDB_trunk.0", "it lacks RRDB.RRDB_trunk.0.RDB1.conv1.weight"),
    ],
)
def test_tensors_that_are_lacking_are_named(part: str, message: str) -> None:
    spec, tensors = small()
    with pytest.raises(CheckpointError, match=message):
        srflow_spec(without(tensors, part), spec, None, "x.pth")


def test_tensors_without_the_sides_they_need_are_refused() -> None:
    spec, tensors = small()
    tensors["RRDB.conv_first.weight"] = torch.zeros(8)
    with pytest.raises(
        CheckpointError, match=r"must be a convolution's weight, got shape \(8,"
    ):
        srflow_spec(tensors, spec, None, "x.pth")


def test_a_prior_without_its_first_branch_is_refused() -> None:
    tensors = without(released("prior-srflow-unet"), "input_proj0.conv1")
    with pytest.raises(CheckpointError, match=r"it lacks input_proj0.conv1.weight"):
        srflow_prior_spec(tensors, None, "x.pth")
