"""Sampling beside a learned prior in C++: the same images and refusals as in Python."""

import json
import math
from ctypes import POINTER, c_float
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime import Upscaler, read_picture, write_picture
from flowsr_runtime.bundle.directory import Bundle, write_bundle
from flowsr_runtime.errors import FlowsrError
from tests.flowsr_runtime.conftest import (
    CHANGES,
    EVEN,
    FACTORS,
    FEATURES,
    GEOMETRY,
    MANIFEST,
    SAMPLING,
    bilinear_text,
    model_bytes,
)
from tests.flowsr_runtime.cpp.library import CppError, CppLibrary, CppUpscaler

# Logarithms and cosines of two libraries: one unit of float32 in the noise.
NOISE: Final = 1e-6

# Both latents' means over their channels are added to a share of the enlarged image.
TWO_LATENTS: Final = model_bytes(
    GEOMETRY + ", float[B,6,rows0,cols0] latent0, float[B,96,rows1,cols1] latent1"
    ", float[1] prior_weight",
    EVEN
    + bilinear_text("even")
    + """
    mean0 = ReduceMean(latent0, axis1)
    mean1 = ReduceMean(latent1, axis1)
    noise0 = Resize<mode = "nearest">(mean0, , twice)
    noise1 = Resize<mode = "nearest">(mean1, , eightfold)
    share = Mul(resized, prior_weight)
    finer = Add(share, noise0)
    output = Add(finer, noise1)""",
    extra=FACTORS
    + ", float[4] twice = {1.0, 1.0, 2.0, 2.0}, float[4] eightfold = {1.0, 1.0, 8.0, 8.0}",
)


@pytest.fixture
def two_latents(tmp_path: Path) -> Bundle:
    """A bundle that is outwardly SRFlow-LP's with graphs of latents."""
    whole = model_bytes(GEOMETRY, EVEN + bilinear_text("even") + "\noutput = Identity(resized)")
    latents = {"encode": "encode.fp32.onnx", "sample": "sample.fp32.onnx"}
    entry = {**latents, "latents": CHANGES["sampled"]["latents"]}
    files = {**MANIFEST["files"], "encode.fp32.onnx": {}, "sample.fp32.onnx": {}}
    changes = {**CHANGES["fourfold-geometry"], "latent_graphs": entry, "files": files}
    models = {"model.fp32.onnx": whole, "encode.fp32.onnx": FEATURES}
    models["sample.fp32.onnx"] = TWO_LATENTS
    return write_bundle(tmp_path / "two", {**MANIFEST, **changes}, models)


def by_cpp(
    upscaler: CppUpscaler,
    image: NDArray[Any],
    strength: NDArray[np.float32] | None,
    **asked: Any,
) -> NDArray[Any]:
    """Enlarge in C++ with the names of Python's arguments."""
    values: dict[str, Any] = {"seed": asked.get("seed", 0), "unclamped": 1}
    for name in ("temperature", "prior_mix"):
        if name in asked:
            values |= {f"has_{name}": 1, name: asked[name]}
    if "scale" in asked:
        values["scale_rows"] = asked["scale"]
    if strength is not None:
        pointer = strength.ctypes.data_as(POINTER(c_float))
        values["temperature_map"] = pointer
        values |= {"map_height": strength.shape[0], "map_width": strength.shape[1]}
    return upscaler.upscale(image, **values)


WAYS: Final[list[dict[str, Any]]] = [
    {"temperature": 0.7, "seed": 5},
    {"temperature": 0.4, "prior_mix": 0.5, "seed": 2**63},
    {"prior_mix": 1.0},
    {"prior_mix": 0.25},
    {"temperature": 0.0},
]


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", ["sampling", "two_latents"])
def test_samples_beside_a_prior_are_those_of_python(
    cpp: CppLibrary,
    request: pytest.FixtureRequest,
    photo: NDArray[np.uint8],
    name: str,
    way: dict[str, Any],
    mapped: bool,
    tiled: bool,
) -> None:
    bundle = request.getfixturevalue(name)
    image = np.tile(photo, (1, 5, 1)).astype(np.float32) / np.float32(255)
    asked = {**way, "scale": "4"} if name == "sampling" else way
    strength = np.random.default_rng(1).random((5, 7), np.float32)
    mapped = mapped and "temperature" in way
    settings: dict[str, Any] = {"memory_budget": 200_000 if tiled else 1 << 30}
    with Upscaler.open(bundle, **settings) as upscaler:
        tiles = len(upscaler.plan(image.shape[:2], asked.get("scale")))
        assert (tiles > 1) == tiled
        more: dict[str, Any] = {"temperature_map": strength} if mapped else {}
        due = upscaler.upscale(image, **asked, **more, clamp=False)
    with cpp.open(bundle.path, **settings) as native:
        found = by_cpp(native, image, strength if mapped else None, **asked)
    np.testing.assert_allclose(found, due, rtol=0, atol=NOISE)


REFUSED: Final[list[tuple[str, dict[str, Any], str]]] = [
    (
        "bundle",
        {"temperature": 0.5},
        "learned prior and takes no temperature, got 0.5; export-",
    ),
    ("bundle", {"prior_mix": 0.5}, "takes no prior_mix, got 0.5; export-onnx --latents adds"),
    ("sampling", {"prior_mix": math.nan}, "prior_mix must be a finite number, got nan"),
    ("sampling", {"temperature": -1}, "temperature must be finite and at least 0, got -1"),
    ("sampling", {"map": 0.5}, "temperature_map needs a temperature"),
    ("sampling", {"temperature": 1, "map": 1.5}, r"temperature_map must lie in \[0, 1\]"),
    ("sampling", {"temperature": 1, "map": math.nan}, r"temperature_map must lie in \[0, 1\]"),
    ("latent", {"temperature": 1, "prior_mix": 0.5}, "prior_mix needs a bundle with a learned"),
    ("latent", {}, "this bundle has no learned prior; give temperature"),
]


@pytest.mark.parametrize(("name", "asked", "words"), REFUSED)
def test_wrong_latents_are_refused_in_the_words_of_python(
    cpp: CppLibrary,
    bundles: dict[str, Bundle],
    sampling: Bundle,
    bundle: Bundle,
    photo: NDArray[np.uint8],
    name: str,
    asked: dict[str, Any],
    words: str,
) -> None:
    used = {"sampling": sampling, "bundle": bundle}.get(name) or bundles[name]
    asked = dict(asked)
    value = asked.pop("map", None)
    strength = None if value is None else np.full((2, 2), value, np.float32)
    image = photo.astype(np.float32) / np.float32(255)
    with cpp.open(used.path) as native, pytest.raises(CppError, match=words) as error:
        by_cpp(native, image, strength, scale="2", **asked)
    more: dict[str, Any] = {} if strength is None else {"temperature_map": strength}
    with Upscaler.open(used) as upscaler, pytest.raises(FlowsrError, match=words) as refusal:
        upscaler.upscale(image, 2, **asked, **more)
    assert error.value.code == refusal.value.exit_code == 2


def test_the_command_reads_a_gray_map(
    cpp: CppLibrary, sampling: Bundle, tmp_path: Path, photo: NDArray[np.uint8]
) -> None:
    source, gray, out = (tmp_path / name for name in ("in.png", "map.png", "out.png"))
    Image.fromarray(photo).save(source)
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20).save(gray)
    strength = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    options = ("--scale", 2, "--temperature", 0.3, "--prior-mix", 1, "--seed", 4)
    done = cpp.run(
        "flowsr-upscale", sampling.path, source, out, *options, "--temperature-map", gray
    )
    assert done.returncode == 0, done.stderr
    with Upscaler.open(sampling) as upscaler:
        sampled: dict[str, Any] = {"temperature": 0.3, "prior_mix": 1, "seed": 4}
        large = upscaler.upscale(photo, 2, **sampled, temperature_map=strength)
    write_picture(tmp_path / "due.png", large)
    apart = read_picture(out).rgb.astype(int) - read_picture(tmp_path / "due.png").rgb
    assert np.abs(apart).max() <= 1


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--prior-mix", "-1"), 2, "--prior-mix must be a number of at least 0, got -1"),
        (("--prior-mix", "x"), 2, "--prior-mix must be a number of at least 0, got x"),
        (("--temperature-map", "{photo}"), 2, "--temperature-map must be gray, got 3 channels"),
        (("--temperature-map", "{gray}"), 2, "temperature_map needs a temperature"),
        (("--temperature-map", "none.png"), 5, "none.png"),
    ],
)
def test_wrong_words_of_the_command_are_one_line(
    cpp: CppLibrary,
    sampling: Bundle,
    tmp_path: Path,
    photo: NDArray[np.uint8],
    options: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    source, gray, out = (tmp_path / name for name in ("in.png", "map.png", "out.png"))
    Image.fromarray(photo).save(source)
    Image.fromarray(photo[..., 0]).save(gray)
    given = [option.format(photo=source, gray=gray) for option in options]
    done = cpp.run("flowsr-upscale", sampling.path, source, out, "--scale", 2, *given)
    assert done.returncode == code
    assert words in done.stderr.splitlines()[-1]
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encode": "gone.onnx"}, "latent_graphs.encode .*got 'gone.onnx'"),
        ({"sample": None}, "latent_graphs.sample .*a file in a bundle with a learned prior"),
        ({"channels": 0}, "latent_graphs.channels .*at least 1, got 0"),
        ({"patch": 5}, "latent_graphs.patch .*divisor of the alignment 12, got 5"),
        ({"latents": []}, r"latent_graphs.latents .*at least one, got \[\]"),
        ({"latents": [{"name": 4}]}, r"latent_graphs.latents.0.name .*a string, got 4"),
    ],
)
def test_wrong_entries_are_refused(
    cpp: CppLibrary, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = write_bundle(tmp_path / "wrong", *SAMPLING).path
    raw = json.loads((path / "bundle.json").read_text())
    raw["latent_graphs"] |= change
    (path / "bundle.json").write_text(json.dumps(raw))
    with pytest.raises(CppError, match=words) as error:
        cpp.check(path)
    assert error.value.code == 5
