import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowsr_lp import LatentGrid, SRFlow, SrflowLP, srflow_from_spec
from flowsr_lp.srflow.model import interpolate, pad_to_even
from flowsr_runtime.errors import CheckpointError, ShapeError
from tests import stand_in

GOLDEN = Path(__file__).parents[2] / "golden" / "srflow"
FILES = sorted(GOLDEN.glob("*.npz"))

# Relative to the largest magnitude: float32 sums in two orders.
GOLDEN_TOLERANCE = 5e-5
# Of one direction after the other, relative to the largest magnitude: what is between them
# is float32.
ROUND_TRIP = 1e-4
ROUNDING = 2e-5
# float64: what rounding leaves of an exact derivative or inverse, relative.
EXACT = 1e-10

PRIOR = {"name": "unet", "args": {"in_chans": [6, 96], "depth": 1, "dim": 4}}
SIZES = [(1, 1), (1, 6), (2, 3), (7, 5), (8, 4)]


def model(**changes: Any) -> dict[str, Any]:
    args = {"scale": 4, "nb": 2, "K": 1, "L": 3, "blocks": [0, 1]}
    return {"name": "srflow", "args": args | {"nf": 8, "gc": 4, "hidden": 8} | changes}


def difference(got: Tensor, wanted: NDArray[np.float32] | Tensor) -> float:
    wanted = torch.as_tensor(wanted)
    assert got.shape == wanted.shape
    return float((got - wanted).abs().max() / wanted.abs().max())


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any], Tensor, SrflowLP]:
    """The arrays, the description, the picture and the network of a file."""
    arrays = dict(np.load(GOLDEN / f"{name}.npz"))
    meta = json.loads(str(arrays.pop("meta")))
    sizes = {key: meta[key] for key in ("nb", "K", "L", "blocks")}
    prior = {"name": "unet", "args": {}} if "learned0" in arrays else None
    spec = {"name": "srflow", "args": {"scale": meta.get("scale", 4), **sizes}}
    network = stand_in.srflow_network(spec, prior, meta["salt"])
    rgb = stand_in.tensor(meta["lr"][0], meta["lr"][1], meta["salt"])
    return {k: torch.from_numpy(v) for k, v in arrays.items()}, meta, rgb, network


@pytest.mark.parametrize("name", ["srflow_small_x4", "srflow_x4_odd"])
@torch.inference_mode()
def test_learned_prior_meets_the_golden_file(name: str) -> None:
    arrays, _, rgb, network = golden(name)
    got = network(rgb)
    assert got.encoded is not None
    for index in (0, 1):
        assert difference(got.encoded[index], arrays[f"eps{index}"]) < GOLDEN_TOLERANCE
        assert difference(got.latents[index], arrays[f"learned{index}"]) < GOLDEN_TOLERANCE
    assert difference(got.output, arrays["sr"]) < GOLDEN_TOLERANCE


@torch.inference_mode()
def test_the_full_network_gives_back_latents_and_pictures() -> None:
    arrays, _, rgb, network = golden("srflow_x4_odd")
    u = network.srflow.condition(pad_to_even(rgb))
    latents = [arrays["eps0"], arrays["eps1"]]
    back = network.srflow.encode(network.srflow.decode(latents, u), u)
    for got, wanted in zip(back, latents, strict=True):
        assert difference(got, wanted) < ROUND_TRIP
    picture = interpolate(pad_to_even(rgb), 4).double()
    assert (
        difference(network.srflow.decode(network.srflow.encode(picture, u), u), picture) < EXACT
    )


@torch.inference_mode()
def test_the_network_of_eight_times_meets_the_golden_file() -> None:
    arrays, _, rgb, network = golden("srflow_8x_small")
    given = [arrays[f"given{index}"] for index in range(3)]
    assert difference(network(rgb, given).output, arrays["sr"]) < GOLDEN_TOLERANCE
    encoded = network.srflow.encode(interpolate(rgb, 8), network.srflow.condition(rgb))
    for index, eps in enumerate(encoded):
        assert difference(eps, arrays[f"eps{index}"]) < GOLDEN_TOLERANCE


def test_every_golden_file_is_there() -> None:
    assert [path.stem for path in FILES] == [
        "srflow_8x_small",
        "srflow_small_x4",
        "srflow_x4_odd",
    ]


@pytest.mark.parametrize("scale", [4, 8])
@torch.inference_mode()
def test_decode_gives_back_the_picture_that_was_encoded(scale: int) -> None:
    levels = {4: 3, 8: 4}[scale]
    srflow = stand_in.srflow_network(model(scale=scale, L=levels, K=4), None).srflow
    u = srflow.condition(stand_in.tensor(4, 6))
    y = stand_in.tensor(4 * scale, 6 * scale)
    assert difference(srflow.decode(srflow.encode(y, u), u), y) < ROUND_TRIP


@torch.inference_mode()
def test_encode_gives_back_the_latents_that_were_decoded() -> None:
    network = stand_in.srflow_network(model(K=4), None)
    u = network.srflow.condition(stand_in.tensor(4, 6))
    latents = [0.8 * stand_in.noise(1, *size) for size in network.latent_sizes((4, 6))]
    back = network.srflow.encode(network.srflow.decode(latents, u), u)
    for got, wanted in zip(back, latents, strict=True):
        assert difference(got, wanted) < ROUND_TRIP


def test_density_is_the_normal_density_of_the_latents_times_autograds_volume_change() -> None:
    srflow = stand_in.srflow_network(model(), None).srflow.double()
    u = srflow.condition(stand_in.tensor(2, 2).double())
    y = stand_in.tensor(8, 8).double()

    def encode(values: Tensor) -> Tensor:
        return torch.cat([z.flatten() for z in srflow.encode(values.view_as(y), u)])

    jacobian = torch.autograd.functional.jacobian(encode, y.flatten(), vectorize=True)  # type: ignore[no-untyped-call]
    normal = torch.distributions.Normal(0.0, 1.0)
    base = normal.log_prob(encode(y.flatten())).sum()  # type: ignore[no-untyped-call]
    wanted = (base + torch.linalg.slogdet(jacobian)[1]).detach()
    assert difference(srflow.log_likelihood(y, u).detach(), wanted[None]) < EXACT


@torch.inference_mode()
def test_each_picture_of_a_batch_has_its_own_density() -> None:
    srflow = stand_in.srflow_network(model(), None).srflow
    low = torch.cat([stand_in.tensor(2, 4, salt) for salt in "ab"])
    high = torch.cat([stand_in.tensor(8, 16, salt) for salt in "ab"])
    together = srflow.log_likelihood(high, srflow.condition(low))
    alone = [
        srflow.log_likelihood(high[i : i + 1], srflow.condition(low[i : i + 1])) for i in (0, 1)
    ]
    assert difference(together, torch.cat(alone)) < ROUNDING


@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_a_picture_of_any_size_is_enlarged(size: tuple[int, int]) -> None:
    network = stand_in.srflow_network(model(), PRIOR)
    got = network(stand_in.tensor(*size))
    assert got.output.shape == (1, 3, 4 * size[0], 4 * size[1])
    assert got.output.isfinite().all()
    assert [tuple(z.shape[1:]) for z in got.latents] == network.latent_sizes(size)


@torch.inference_mode()
def test_an_odd_picture_is_the_corner_of_the_one_padded_by_reflection() -> None:
    network = stand_in.srflow_network(model(), PRIOR)
    rgb = stand_in.tensor(5, 7)
    padded = torch.nn.functional.pad(rgb, (0, 1, 0, 1), mode="reflect")
    assert torch.equal(network(rgb).output, network(padded).output[..., :20, :28])


def test_only_odd_sides_are_padded_and_a_single_row_with_itself() -> None:
    even, row = stand_in.tensor(2, 4), stand_in.tensor(1, 4)
    assert pad_to_even(even) is even
    assert torch.equal(pad_to_even(row), torch.cat((row, row), dim=2))


@torch.inference_mode()
def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    network = stand_in.srflow_network(model(), PRIOR)
    rgb = torch.cat([stand_in.tensor(6, 7, salt) for salt in "abc"])
    alone = torch.cat([network(one[None]).output for one in rgb])
    assert difference(network(rgb).output, alone) < ROUNDING


@torch.inference_mode()
def test_sampling_repeats_with_its_seed() -> None:
    network = stand_in.srflow_network(model(), None)
    a, b, other = (
        network.sample(stand_in.tensor(3, 4), 0.8, torch.Generator().manual_seed(seed)).output
        for seed in (1, 1, 2)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, other)


@torch.inference_mode()
def test_temperature_zero_decodes_the_mode() -> None:
    network = stand_in.srflow_network(model(scale=8, L=4), None)
    rgb = stand_in.tensor(3, 4)
    zeros = [torch.zeros(1, *size) for size in network.latent_sizes((3, 4))]
    assert torch.equal(network.sample(rgb, 0.0).output, network(rgb, zeros).output)


def test_the_latents_are_those_of_the_bundle() -> None:
    assert srflow_from_spec(model()).latents == (LatentGrid(6, 2), LatentGrid(96, 8))
    large = srflow_from_spec(model(scale=8, L=4)).latents
    assert large == (LatentGrid(6, 2), LatentGrid(12, 4), LatentGrid(192, 16))


def test_the_latents_are_of_the_padded_picture() -> None:
    network = SrflowLP(srflow_from_spec(model()))
    assert network.latent_sizes((15, 20)) == [(6, 32, 40), (96, 8, 10)]


def test_a_model_without_prior_wants_latents() -> None:
    with pytest.raises(ShapeError, match="latents must be given, the model has no learned"):
        SrflowLP(srflow_from_spec(model()))(stand_in.tensor(4, 4))


def test_the_flow_alone_wants_even_sides() -> None:
    with pytest.raises(ShapeError, match="sides must be even, got 4 x 5"):
        srflow_from_spec(model()).condition(stand_in.tensor(4, 5))


def test_gradients_reach_every_parameter() -> None:
    network = stand_in.srflow_network(model(), PRIOR)
    network(stand_in.tensor(4, 4)).output.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 2, "L": 2}, "must have 3 levels at scale 4 or 4 at scale 8, got 2 at 2"),
        ({"L": 4}, "srflow must have 3 levels at scale 4 or 4 at scale 8, got 4 at 4"),
        ({"blocks": [0, 2]}, "srflow's blocks must be from 0 to 1, got 0, 2"),
        ({"blocks": [-1]}, "srflow's blocks must be from 0 to 1, got -1"),
        ({"blocks": []}, "srflow's blocks must be from 0 to 1, got none"),
        ({"blocks": "01"}, "srflow: blocks must be whole numbers, got '01'"),
        ({"nb": 0}, "srflow: nb must be a whole number of at least 1, got 0"),
        ({"K": True}, "srflow: K must be a whole number of at least 1, got True"),
        ({"bogus": 1}, "srflow lacks or does not know argument bogus"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        srflow_from_spec(model(**changes))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"name": "srflow", "args": {"scale": 4, "nb": 2, "L": 3, "blocks": [0]}},
            "argument K",
        ),
        ({"name": "linf", "args": {}}, "model must be srflow, got 'linf'"),
    ],
)
def test_another_spec_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        srflow_from_spec(spec)


def test_the_stacked_blocks_are_read_in_their_order() -> None:
    low = stand_in.tensor(4, 4)
    one, other = (
        stand_in.fill(srflow_from_spec(model(blocks=blocks))) for blocks in ([0, 1], [1, 0])
    )
    assert isinstance(one, SRFlow)
    assert isinstance(other, SRFlow)
    (a, *_), (b, *_) = one.condition(low), other.condition(low)
    assert torch.equal(a[:, 8:16], b[:, 16:])
    assert torch.equal(a[:, 16:], b[:, 8:16])
