"""Latents of one call: noise beside a learned prior, its map, and what is refused."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.errors import FlowsrError
from flowsr_runtime.tiling.noise import latent
from flowsr_runtime.upscaling.upscaler import Upscaler

SIZE = (24, 18)


@pytest.fixture
def image(photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    small = photo[:12, :9].astype(np.float32)
    small /= np.float32(255)
    return small


def drawn(seed: int, temperature: float) -> NDArray[np.float32]:
    """Return the noise of an output of `SIZE` as an image."""
    cells = {"rows": 8, "columns": 6, "channels": 27, "temperature": temperature}
    noise = latent(seed, top=0, left=0, **cells)[0]  # type: ignore[arg-type]
    patches: NDArray[np.float32] = noise.reshape(3, 3, 3, 8, 6).transpose(3, 1, 4, 2, 0)
    image: NDArray[np.float32] = patches.reshape(24, 18, 3)
    return image


def upscaled(bundle: Bundle, image: NDArray[np.float32], **options: Any) -> Any:
    with Upscaler.open(bundle) as upscaler:
        return upscaler.upscale(image, size=SIZE, clamp=False, **options)


def test_a_temperature_beside_a_prior_decodes_noise_alone(
    sampling: Bundle, image: NDArray[np.float32]
) -> None:
    result = upscaled(sampling, image, temperature=0.7, seed=5)
    np.testing.assert_allclose(result, drawn(5, 0.7), atol=1e-6)


@pytest.mark.parametrize("temperature", [None, 0.0, 0.4])
def test_a_mix_adds_noise_to_a_share_of_the_prior(
    sampling: Bundle, image: NDArray[np.float32], temperature: float | None
) -> None:
    prior = upscaled(sampling, image)
    result = upscaled(sampling, image, temperature=temperature, prior_mix=0.5, seed=3)
    expected = 0.5 * prior + drawn(3, temperature or 0.0)
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(1, 2), (2, 4), (100, 60)])
def test_a_map_scales_the_noise_where_it_lies(
    sampling: Bundle, image: NDArray[np.float32], shape: tuple[int, int], dtype: Any
) -> None:
    most = 1 if dtype == np.float32 else np.iinfo(dtype).max
    strength = np.zeros(shape, dtype)
    strength[:, shape[1] // 2 :] = most  # noise in the right half alone
    result = upscaled(sampling, image, temperature=0.5, temperature_map=strength)
    assert (result[:, :9] == 0).all()
    np.testing.assert_allclose(result[:, 9:], drawn(0, 0.5)[:, 9:], atol=1e-6)


def test_tiles_read_the_map_of_the_whole_image(
    sampling: Bundle, photo: NDArray[np.uint8]
) -> None:
    strength = np.random.default_rng(0).integers(0, 256, (7, 5), np.uint8)
    options: dict[str, Any] = {"temperature": 0.3, "prior_mix": 1, "temperature_map": strength}
    with Upscaler.open(sampling) as upscaler:
        whole = upscaler.upscale(photo, 4, **options)
    height, width = photo.shape[:2]
    budget = sampling.manifest.memory.estimate(height * width // 2, 2 * height * width // 3)
    with Upscaler.open(sampling, memory_budget=budget, halo="exact") as upscaler:
        assert len(upscaler.plan((height, width), 4)) > 1
        tiled = upscaler.upscale(photo, 4, **options)
    assert np.abs(whole.astype(int) - tiled).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"temperature_map": np.zeros((2, 2), np.uint8)},
            "temperature_map needs a temperature",
        ),
        ({"temperature": -1}, "temperature must be finite and at least 0, got -1"),
        ({"prior_mix": float("nan")}, "prior_mix must be a finite number, got nan"),
        ({"prior_mix": "1"}, "prior_mix must be a finite number, got '1'"),
        (
            {"temperature": 1, "temperature_map": np.zeros((2, 2, 3), np.uint8)},
            r"temperature_map must be gray, \(rows, columns\), got \(2, 2, 3\)",
        ),
        (
            {"temperature": 1, "temperature_map": np.zeros((2, 2))},
            "temperature_map must be uint8, uint16 or float32, got float64",
        ),
        (
            {"temperature": 1, "temperature_map": np.full((2, 2), 1.5, np.float32)},
            r"temperature_map must lie in \[0, 1\]",
        ),
    ],
)
def test_wrong_latents_are_refused(
    sampling: Bundle, image: NDArray[np.float32], options: Any, message: str
) -> None:
    with pytest.raises(FlowsrError, match=message):
        upscaled(sampling, image, **options)


@pytest.mark.parametrize("name", ["temperature", "prior_mix"])
def test_a_prior_alone_names_the_command_that_adds_graphs_of_latents(
    bundle: Bundle, image: NDArray[np.float32], name: str
) -> None:
    with pytest.raises(FlowsrError, match=f"takes no {name}, got 0.5; export-onnx --latents"):
        upscaled(bundle, image, **{name: 0.5})


def test_a_mix_needs_a_prior(bundles: dict[str, Bundle], image: NDArray[np.float32]) -> None:
    with pytest.raises(FlowsrError, match="prior_mix needs a bundle with a learned prior"):
        upscaled(bundles["latent"], image, temperature=1, prior_mix=0.5)


def test_another_backend_is_refused(sampling: Bundle, image: NDArray[np.float32]) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed; extra [openvino]")
    with (
        Upscaler.open(sampling, backend="openvino", self_test=False) as upscaler,
        pytest.raises(FlowsrError, match="needs onnxruntime, got openvino"),
    ):
        upscaler.upscale(image, 2, temperature=1)
