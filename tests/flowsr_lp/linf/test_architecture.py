from typing import Any

import pytest
import torch

from flowsr_lp import linf_from_spec, prior_from_spec
from flowsr_lp.checkpoint import UNUSED_PREFIXES, UNUSED_SUFFIXES
from flowsr_lp.linf.architecture import model_spec_from_tensors, prior_spec_from_tensors
from flowsr_runtime.errors import CheckpointError
from tests.flowsr_lp.released import released

SIZES = {"flow_layers": 10, "num_layer": 3, "hidden_dim": 256}
LARGE_SWINIR = {
    **{"embed_dim": 180, "depths": [6] * 6, "num_heads": 6},
    **{"mlp_ratio": 2, "num_feat": 64},
}
LARGE_EDSR = {"n_resblocks": 32, "n_feats": 256}

MODELS: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "linf-patch-edsr-baseline": (
        "edsr-baseline",
        {"n_resblocks": 16, "n_feats": 64},
        {"patch_size": 3},
    ),
    "linf-patch-edsr": ("edsr", LARGE_EDSR, {"patch_size": 3}),
    "linf-patch-rdn": ("rdn", {"G0": 64, "RDNconfig": "B"}, {"patch_size": 3}),
    "linf-patch-rrdb": ("rrdb", {"nf": 64, "nb": 23, "gc": 32}, {"patch_size": 3}),
    "linf-patch-swinir": ("swinir", LARGE_SWINIR, {"patch_size": 3}),
    "linf-pixel-edsr-baseline": ("edsr-baseline", {"n_resblocks": 16, "n_feats": 64}, {}),
}
PRIORS: dict[str, dict[str, int]] = {
    "unet": {"in_chans": 27, "dim": 64, "depth": 3},
    "edsr-baseline-latent": {"in_chans": 27, "dim": 64, "n_resblocks": 16},
}


def used(name: str) -> dict[str, torch.Size]:
    tensors = released(name).items()
    return {
        key: t.shape
        for key, t in tensors
        if not key.startswith(UNUSED_PREFIXES) and not key.endswith(UNUSED_SUFFIXES)
    }


def spec_of(name: str) -> dict[str, Any]:
    encoder, args, patch = MODELS[name]
    full = {"encoder_spec": {"name": encoder, "args": args}, **SIZES, **patch}
    return {"name": "linf-patch" if patch else "linf", "args": full}


@pytest.mark.parametrize("name", MODELS)
def test_parameters_have_the_released_names_and_shapes(name: str) -> None:
    linf = linf_from_spec(spec_of(name))
    assert {key: t.shape for key, t in linf.state_dict().items()} == used(name)


@pytest.mark.parametrize("name", PRIORS)
def test_a_priors_parameters_have_the_released_names_and_shapes(name: str) -> None:
    prior = prior_from_spec({"name": name, "args": PRIORS[name]})
    assert {key: t.shape for key, t in prior.state_dict().items()} == used(f"prior-{name}")


@pytest.mark.parametrize("name", MODELS)
def test_the_architecture_is_told_from_released_tensors(name: str) -> None:
    assert model_spec_from_tensors(released(name), None, "file") == spec_of(name)


@pytest.mark.parametrize("name", PRIORS)
def test_a_priors_architecture_is_told_from_released_tensors(name: str) -> None:
    wanted = {"name": name, "args": PRIORS[name]}
    assert prior_spec_from_tensors(released(f"prior-{name}"), None, "file") == wanted


def test_the_sizes_of_tensors_override_a_stated_spec() -> None:
    stated = {"name": "linf-patch", "args": {"flow_layers": 99, "patch_size": 3}}
    tensors = released("linf-patch-edsr-baseline")
    assert model_spec_from_tensors(tensors, stated, "file")["args"]["flow_layers"] == 10


def test_a_stated_residual_scale_is_kept() -> None:
    encoder = {"name": "edsr", "args": {**LARGE_EDSR, "res_scale": 0.3}}
    stated = {"name": "linf-patch", "args": {"encoder_spec": encoder}}
    got = model_spec_from_tensors(released("linf-patch-edsr"), stated, "file")
    assert got["args"]["encoder_spec"] == encoder


def test_the_wide_encoder_scales_its_residuals() -> None:
    encoder = linf_from_spec(spec_of("linf-patch-edsr")).encoder
    assert encoder.body[0].res_scale == 0.1  # type: ignore[index, union-attr]


def test_tensors_of_another_network_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"x.pth is not a LINF model: it lacks imnet"):
        model_spec_from_tensors(released("prior-unet"), None, "x.pth")
    with pytest.raises(CheckpointError, match=r"x.pth is not a LINF-LP prior: it lacks input"):
        prior_spec_from_tensors(released("linf-pixel-edsr-baseline"), None, "x.pth")


def test_an_encoder_that_is_not_known_is_named() -> None:
    tensors = released("linf-patch-rdn")
    rest = {key: t for key, t in tensors.items() if not key.startswith("encoder.")}
    with pytest.raises(CheckpointError, match=r"x.pth has an encoder of unknown kind"):
        model_spec_from_tensors(rest, None, "x.pth")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"name": "liif"},
            "encoder must be one of edsr-baseline, .*, rrdb, swinir, got 'liif'",
        ),
        ({"name": "swinir", "args": {"depths": 2}}, "depths must be whole numbers .*, got 2"),
        ({"name": "swinir", "args": {"depths": [2, 0]}}, r"at least 1, got \[2, 0\]"),
        (
            {"name": "swinir", "args": {"embed_dim": 10, "num_heads": 4}},
            "embed_dim must be a multiple of num_heads, got 10, 4",
        ),
        ({"name": "edsr", "args": {"n_feats": "x"}}, "n_feats must be a whole number of at l"),
        ({"name": "rrdb", "args": {"nb": 0}}, "nb must be a whole number of at least 1, got 0"),
        ({"name": "edsr", "args": {"res_scale": "x"}}, "res_scale must be a number, got 'x'"),
        ({"name": "rdn", "args": {"RDNconfig": []}}, r"RDNconfig must be A or B, got \[\]"),
        ({"name": "edsr", "args": {"bogus": 1}}, "encoder edsr has no argument bogus"),
    ],
)
def test_an_encoder_spec_that_makes_no_sense_is_refused(
    spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        linf_from_spec({"name": "linf", "args": {"encoder_spec": spec}})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "swin_latent"}, "prior must be one of unet, edsr-baseline-latent, got 'swin"),
        ({"name": "unet", "args": {"bogus": 1}}, "prior unet has no argument bogus"),
        ({"name": "unet", "args": {"bilinear": False}}, "prior unet must be bilinear"),
    ],
)
def test_a_prior_spec_that_makes_no_sense_is_refused(
    spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        prior_from_spec(spec)
