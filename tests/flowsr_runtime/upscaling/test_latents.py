"""Files of latents, blends of them, and what a coder refuses."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowsr_runtime import (
    EncodedPicture,
    LatentCoder,
    blend_latents,
    latents_bytes,
    load_latents,
)
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.errors import BundleError, FlowsrError, InputError, ShapeError, UsageError

MODEL = "ab" * 32  # of the bundle `sampling`


def encoded(value: float = 1.0, **changes: Any) -> EncodedPicture:
    """Return latents of an output of 9x12 pixels."""
    latent = np.full((27, 4, 3), value, np.float32)
    image = np.arange(4 * 3 * 3, dtype=np.uint8).reshape(4, 3, 3)
    density = np.full((4, 3), -27 * np.log(2), np.float32)
    plain = EncodedPicture({"latent": latent}, density, image, (12, 9), MODEL)
    return replace(plain, **changes)


def test_a_file_gives_back_the_same_latents(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(latents_bytes(encoded()))
    read = load_latents(path)
    np.testing.assert_array_equal(read.latents["latent"], encoded().latents["latent"])
    np.testing.assert_array_equal(read.image, encoded().image)
    assert (read.size, read.model) == ((12, 9), MODEL)
    assert read.bits_per_value == pytest.approx(1, abs=1e-6)


def arrays(**changes: Any) -> bytes:
    """Return a file of latents with other arrays; None leaves one out."""
    file = io.BytesIO()
    with np.load(io.BytesIO(latents_bytes(encoded()))) as good:
        content = {**dict(good), **changes}
    np.savez(file, **{name: value for name, value in content.items() if value is not None})
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "damaged, or no file of encode"),
        (b"", "damaged, or no file of encode"),
        (latents_bytes(encoded())[:200], "damaged, or no file of encode"),
        (arrays(latent=None), "latent of latents .* another type or shape"),
        (arrays(latent=np.array([{}], dtype=object)), "damaged, or no file of encode"),
        (arrays(latent=np.zeros((27, 4, 3))), "latent of latents .* another type or shape"),
        (arrays(latent=np.zeros((27, 4), np.float32)), "latent of latents .* another type"),
        (arrays(log_likelihood=np.zeros(3)), "log_likelihood of latents .* another type"),
        (arrays(image=np.zeros((4, 3), np.uint8)), "image of latents .* another type"),
        (arrays(size=np.zeros(2, np.int64)), "size of latents .* another type"),
        (arrays(model=np.zeros(3)), "model of latents .* another type"),
        (arrays(latent=np.full((27, 4, 3), np.nan, np.float32)), "holds NaN or infinity"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_latents(tmp_path / "a.npz")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.npz cannot be read: No such file"):
        load_latents(tmp_path / "none.npz")


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_a_blend_lies_between_two_latents(weight: float) -> None:
    between = blend_latents(encoded(1), encoded(3), weight)
    assert (between.latents["latent"] == 1 + 2 * weight).all()
    assert np.isnan(between.log_likelihood).all()
    np.testing.assert_array_equal(between.image, encoded().image)


def test_latents_of_two_sizes_or_models_do_not_blend() -> None:
    other = {"latent": np.zeros((27, 5, 3), np.float32)}
    with pytest.raises(ShapeError, match=r"same shapes, got \(27, 4, 3\) and \(27, 5, 3\)"):
        blend_latents(encoded(), encoded(latents=other), 0.5)
    with pytest.raises(BundleError, match="one model, got abababababab… and cdcd"):
        blend_latents(encoded(), encoded(model="cd" * 32), 0.5)


def test_several_latents_of_a_file_keep_their_names(tmp_path: Path) -> None:
    shapes = {"latent0": (6, 6, 4), "latent1": (9, 3, 2)}
    several = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    density = np.full((3, 2), -198 * np.log(2) / 6, np.float32)
    (tmp_path / "a.npz").write_bytes(
        latents_bytes(encoded(latents=several, log_likelihood=density))
    )
    read = load_latents(tmp_path / "a.npz")
    assert {name: values.shape for name, values in read.latents.items()} == shapes
    assert read.bits_per_value == pytest.approx(1, abs=1e-6)
    between = blend_latents(
        read, replace(read, latents={k: 3 * v for k, v in several.items()}), 0.5
    )
    assert all((values == 2).all() for values in between.latents.values())


def test_a_decoded_latent_is_what_the_graph_gives(sampling: Bundle) -> None:
    with LatentCoder.open(sampling) as coder:
        np.testing.assert_array_equal(coder.decode(encoded(0.5)), np.full((12, 9, 3), 0.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "cd" * 32}, "the latent is of model cdcdcdcdcdcd…, .* holds abab"),
        ({"size": (12, 12)}, r"latent must have shape \(27, 4, 4\), got \(27, 4, 3\)"),
        ({"latents": {}}, r"latent must have shape \(27, 4, 3\), got None"),
        ({"size": (3, 3)}, "size must be at least 3x4, got 3x3"),
        ({"image": np.zeros((4, 3), np.uint8)}, r"image must be RGB, .* got \(4, 3\)"),
    ],
)
def test_a_latent_that_does_not_fit_is_refused(
    sampling: Bundle, changes: dict[str, Any], message: str
) -> None:
    with LatentCoder.open(sampling) as coder, pytest.raises(FlowsrError, match=message):
        coder.decode(encoded(**changes))


def test_a_target_that_does_not_fit_is_refused(sampling: Bundle) -> None:
    image = np.zeros((4, 3, 3), np.uint8)
    with LatentCoder.open(sampling) as coder:
        with pytest.raises(ShapeError, match="target must be at least 3x4, got 3x3"):
            coder.encode(image, image[:3])
        with pytest.raises(ShapeError, match=r"target must be RGB, .* got \(4, 3, 1\)"):
            coder.encode(image, image[..., :1])


def test_a_bundle_without_such_graphs_is_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="holds no graphs of latents; export-onnx --latents"):
        LatentCoder.open(bundle)
