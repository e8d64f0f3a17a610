"""Small bundles whose right answer is known: bilinear resizing by absolute geometry."""

import copy
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from numpy.typing import NDArray

from flowsr_runtime.backends.engines.tensorrt_session import TensorrtSession
from flowsr_runtime.bundle.directory import Bundle, write_bundle
from tests.doubles.rig import ALL, Rig
from tests.flowsr_runtime.cpp.library import CppLibrary, shared_library

HEADER = '<ir_version: 9, opset_import: ["" : 18]>\n'
CONSTANTS = """
    <int64 zero = {0}, int64 one = {1}, int64 two = {2},
     float zero_f = {0.0}, float one_f = {1.0},
     int64[1] axis0 = {0}, int64[1] axis1 = {1}, int64[1] axis2 = {2}, int64[1] axis3 = {3},
     int64[2] corner = {0, 0}, int64[2] window = {8, 9}, int64[2] plane = {2, 3}
     %s>
"""


def axis_text(n: str, axis: int) -> str:
    """Return nodes that make `{n}_matrix` (out, lr), bilinear weights of one axis."""
    indices = {"source": 0, "target": 2, "lr": 4, "begin": 6, "out": 8}
    gathers = "\n".join(
        f"{n}_{name}_i = Constant<value_int = {index + axis}>()\n"
        f"{n}_{name} = Gather(geometry, {n}_{name}_i)"
        for name, index in indices.items()
    )
    return f"""{gathers}
    {n}_steps = Range(zero, {n}_out, one)
    {n}_Y = Add({n}_steps, {n}_begin)
    {n}_2Y = Mul({n}_Y, two)
    {n}_odd = Add({n}_2Y, one)
    {n}_product = Mul({n}_odd, {n}_source)
    {n}_above = Sub({n}_product, {n}_target)
    {n}_below = Mul({n}_target, two)
    {n}_above_f = Cast<to = 1>({n}_above)
    {n}_below_f = Cast<to = 1>({n}_below)
    {n}_u = Div({n}_above_f, {n}_below_f)
    {n}_last = Sub({n}_source, one)
    {n}_last_f = Cast<to = 1>({n}_last)
    {n}_u_low = Max({n}_u, zero_f)
    {n}_u_in = Min({n}_u_low, {n}_last_f)
    {n}_shape = Shape(input)
    {n}_axis = Constant<value_int = {2 + axis}>()
    {n}_length = Gather({n}_shape, {n}_axis)
    {n}_local = Range(zero, {n}_length, one)
    {n}_i = Add({n}_local, {n}_lr)
    {n}_i_f = Cast<to = 1>({n}_i)
    {n}_i_row = Unsqueeze({n}_i_f, axis0)
    {n}_u_col = Unsqueeze({n}_u_in, axis1)
    {n}_apart = Sub({n}_u_col, {n}_i_row)
    {n}_far = Abs({n}_apart)
    {n}_near = Sub(one_f, {n}_far)
    {n}_matrix = Relu({n}_near)"""


def bilinear_text(source: str) -> str:
    """Return nodes that make `resized` from a picture by absolute geometry."""
    return f"""{axis_text("r", 0)}
    {axis_text("c", 1)}
    c_transposed = Transpose<perm = [1, 0]>(c_matrix)
    tall = MatMul(r_matrix, {source})
    resized = MatMul(tall, c_transposed)"""


def model_bytes(inputs: str, body: str, extra: str = "", kind: str = "float") -> bytes:
    """Return an ONNX file from its text."""
    signature = f"tiny ({kind}[B,3,h,w] input{inputs}) => ({kind}[B,3,H,W] output)"
    graph = f"{HEADER}{signature}{CONSTANTS % extra}{{\n{body}\n}}"
    model = onnx.parser.parse_model(graph)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


GEOMETRY = ", int64[10] geometry"

BILINEAR = model_bytes(GEOMETRY, bilinear_text("input") + "\noutput = Identity(resized)")

# A 3x3 mean before the resize: one LR pixel of receptive field, zeros beyond the tile.
BLURRED = model_bytes(
    GEOMETRY,
    "blurred = Conv<pads = [1, 1, 1, 1], group = 3>(input, kernel)\n"
    + bilinear_text("blurred")
    + "\noutput = Identity(resized)",
    extra=", float[3,1,3,3] kernel = {" + ", ".join(["0.1111"] * 27) + "}",
)

# The latent, cut into 3x3 patches, is added to the resized picture.
LATENT = model_bytes(
    GEOMETRY + ", float[B,27,rows,cols] latent",
    bilinear_text("input")
    + """
    patches = DepthToSpace<blocksize = 3, mode = "CRD">(latent)
    size = Gather(geometry, window)
    noise = Slice(patches, corner, size, plane)
    output = Add(resized, noise)""",
)

# The same noise on a share of the resized picture.
SAMPLE = model_bytes(
    GEOMETRY + ", float[B,27,rows,cols] latent, float[1] prior_weight",
    bilinear_text("input")
    + """
    patches = DepthToSpace<blocksize = 3, mode = "CRD">(latent)
    size = Gather(geometry, window)
    noise = Slice(patches, corner, size, plane)
    share = Mul(resized, prior_weight)
    output = Add(share, noise)""",
)

# The bilinear graph in two stages.
FEATURES = model_bytes("", "output = Mul(input, half)", extra=", float half = {0.5}").replace(
    b"output", b"halved"
)
QUERY = model_bytes(
    GEOMETRY + ", float[B,3,h,w] halved",
    "whole = Add(halved, halved)\n" + bilinear_text("whole") + "\noutput = Identity(resized)",
)

FIXED = model_bytes(
    "",
    'output = Resize<mode = "nearest">(input, , factors)',
    extra=", float[4] factors = {1.0, 1.0, 2.0, 2.0}",
)

# What SRFlow's graphs are outwardly: fourfold, a tile is its window, and sides must be even.
EVEN = """halves = SpaceToDepth<blocksize = 2>(input)
    even = DepthToSpace<blocksize = 2>(halves)
"""
FACTORS = ", float[4] factors = {1.0, 1.0, 4.0, 4.0}"

FOURFOLD = model_bytes(
    "", EVEN + 'output = Resize<mode = "linear">(even, , factors)', extra=FACTORS
)

FOURFOLD_GEOMETRY = model_bytes(
    GEOMETRY, EVEN + bilinear_text("even") + "\noutput = Identity(resized)"
)

# Each latent's mean over its channels is added in every pixel of its cells.
SAMPLED = model_bytes(
    ", float[B,6,rows0,cols0] latent0, float[B,96,rows1,cols1] latent1",
    EVEN
    + """resized = Resize<mode = "linear">(even, , factors)
    mean0 = ReduceMean(latent0, axis1)
    mean1 = ReduceMean(latent1, axis1)
    noise0 = Resize<mode = "nearest">(mean0, , twice)
    noise1 = Resize<mode = "nearest">(mean1, , eightfold)
    finer = Add(resized, noise0)
    output = Add(finer, noise1)""",
    extra=FACTORS
    + ", float[4] twice = {1.0, 1.0, 2.0, 2.0}, float[4] eightfold = {1.0, 1.0, 8.0, 8.0}",
)

# Five times as bright as it should be: white becomes 5.
EXPLODING = model_bytes(
    GEOMETRY,
    bilinear_text("input") + "\noutput = Mul(resized, five)",
    extra=", float five = {5.0}",
)

# The same, kept from -0.1 to 1.1.
GUARDED = model_bytes(
    GEOMETRY,
    bilinear_text("input")
    + "\nbright = Mul(resized, five)\noutput = Clip(bright, least, most)",
    extra=", float five = {5.0}, float least = {-0.1}, float most = {1.1}",
)

# Pictures of eight bits on both sides; inside, the graph is the bilinear one.
EIGHT_BIT = model_bytes(
    GEOMETRY,
    f"""real = Cast<to = 1>(input)
    unit = Div(real, white)
    {bilinear_text("unit")}
    clamped = Clip(resized, zero_f, one_f)
    wide = Mul(clamped, white)
    above = Add(wide, half)
    whole = Floor(above)
    output = Cast<to = 2>(whole)""",
    extra=", float white = {255.0}, float half = {0.5}",
    kind="uint8",
)

# 0 / 0 where the picture is black.
DIVIDING = model_bytes(GEOMETRY, bilinear_text("input") + "\noutput = Div(resized, resized)")

# Asks for 2^44 floats, which no machine grants.
HUGE = model_bytes(
    GEOMETRY,
    "huge = Expand(one_f, shape)\noutput = Add(huge, input)",
    extra=", int64[4] shape = {1, 3, 4194304, 4194304}",
)

MODELS = {
    "bilinear": BILINEAR,
    "blurred": BLURRED,
    "latent": LATENT,
    "fixed": FIXED,
    "fourfold": FOURFOLD,
    "fourfold-geometry": FOURFOLD_GEOMETRY,
    "fourfold-whole": FOURFOLD,
    "sampled": SAMPLED,
    "exploding": EXPLODING,
    "guarded": GUARDED,
    "eight-bit": EIGHT_BIT,
    "dividing": DIVIDING,
    "huge": HUGE,
}


MANIFEST: dict[str, Any] = {
    "schema": 1,
    "family": "bilinear",
    "tool": {"flowsr": "0.1.0"},
    "scale": {"kind": "any"},
    "picture": {"color": "RGB", "range": [0.0, 1.0], "layout": "NCHW", "multiple": 1},
    "graph": {"geometry": True},
    "latents": [],
    "tiling": {
        "patch": 3,
        "align": 12,
        "lr_align": 3,
        "ratio": None,
        "whole_only": False,
        "halo_patches": 0,
        "halo_pixels": 0,
        "exact_patches": 0,
        "exact_pixels": 1,
        "seam_steps": None,
    },
    "memory": {"base_bytes": 1000, "bytes_per_pixel": 12, "bytes_per_patch": 108},
    "files": {"model.fp32.onnx": {"precision": "fp32", "opset": 18}},
}
FOURFOLD_TILING = {
    "patch": 8,
    "align": 64,
    "lr_align": 16,
    "ratio": 4,
    "whole_only": False,
    "halo_patches": 0,
    "halo_pixels": 1,
    "exact_patches": 0,
    "exact_pixels": 16,
    "seam_steps": None,
}
FOURFOLD_CHANGES: dict[str, Any] = {
    "family": "srflow-lp",
    "scale": {"kind": "fixed", "value": "4"},
    "picture": {**MANIFEST["picture"], "multiple": 2},
    "graph": {"geometry": False},
    "tiling": FOURFOLD_TILING,
    "memory": {"base_bytes": 1000, "bytes_per_pixel": 100, "bytes_per_patch": 0},
}
CHANGES: dict[str, dict[str, Any]] = {
    "eight-bit": {"picture": {**MANIFEST["picture"], "io": "uint8"}},
    "guarded": {"guard": True},
    "latent": {"latents": [{"name": "latent", "channels": 27, "patch": 3}]},
    "fixed": {
        "scale": {"kind": "fixed", "value": "2"},
        "graph": {"geometry": False},
        "tiling": {**MANIFEST["tiling"], "whole_only": True},
    },
    "fourfold": FOURFOLD_CHANGES,
    "fourfold-geometry": {**FOURFOLD_CHANGES, "graph": {"geometry": True}},
    "fourfold-whole": {**FOURFOLD_CHANGES, "tiling": {**FOURFOLD_TILING, "whole_only": True}},
    "sampled": {
        **FOURFOLD_CHANGES,
        "latents": [
            {"name": "latent0", "channels": 6, "patch": 2},
            {"name": "latent1", "channels": 96, "patch": 8},
        ],
    },
}


STAGES = {"precision": "fp32", "features": "features.fp32.onnx", "query": "query.fp32.onnx"}
STAGED: tuple[dict[str, Any], dict[str, bytes]] = (
    {
        **MANIFEST,
        "stages": [STAGES],
        "files": {**MANIFEST["files"], "features.fp32.onnx": {}, "query.fp32.onnx": {}},
    },
    {
        "model.fp32.onnx": BILINEAR,
        "features.fp32.onnx": FEATURES,
        "query.fp32.onnx": QUERY,
    },
)
"""Manifest and files of `staged`."""


LATENT_GRAPHS = {
    "encode": "encode.fp32.onnx",
    "sample": "sample.fp32.onnx",
    "channels": 27,
    "patch": 3,
}
SAMPLING: tuple[dict[str, Any], dict[str, bytes]] = (
    {
        **MANIFEST,
        "latent_graphs": LATENT_GRAPHS,
        "model": {"model_sha256": "ab" * 32},
        "files": {**MANIFEST["files"], "encode.fp32.onnx": {}, "sample.fp32.onnx": {}},
    },
    {"model.fp32.onnx": BILINEAR, "encode.fp32.onnx": FEATURES, "sample.fp32.onnx": SAMPLE},
)
"""Manifest and files of `sampling`; its `encode` is another graph, which no test runs."""


@pytest.fixture
def manifest() -> dict[str, Any]:
    """The manifest of a model that sees one LR pixel beyond those that it reads."""
    return copy.deepcopy(MANIFEST)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """One bundle for each of `MODELS`; read only."""
    folder = tmp_path_factory.mktemp("bundles")
    return {
        name: write_bundle(
            folder / name, {**MANIFEST, **CHANGES.get(name, {})}, {"model.fp32.onnx": model}
        )
        for name, model in MODELS.items()
    }


@pytest.fixture
def bundle(tmp_path: Path, manifest: dict[str, Any]) -> Bundle:
    """A bilinear bundle of the test's own."""
    return write_bundle(tmp_path / "own", manifest, {"model.fp32.onnx": BILINEAR})


@pytest.fixture
def staged(tmp_path: Path) -> Bundle:
    """A bilinear bundle with stage graphs: the feature is half of the image."""
    return write_bundle(tmp_path / "staged", *STAGED)


@pytest.fixture
def sampling(tmp_path: Path) -> Bundle:
    """A bilinear bundle, "with a prior", and a graph that adds noise to a share of it."""
    return write_bundle(tmp_path / "sampling", *SAMPLING)


@pytest.fixture(params=ALL)
def rig(request: pytest.FixtureRequest, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A machine with each version of TensorRT, an L4 and a bundle without engines."""
    return Rig(request.param, bundle, monkeypatch)


@pytest.fixture
def eleven(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """The same with TensorRT 11."""
    return Rig("tensorrt-11", bundle, monkeypatch)


def session_on(rig: Rig, **options: Any) -> Iterator[TensorrtSession]:
    """Yield a session on an engine, and check at its end that it frees everything."""
    rig.add()
    session = rig.open(**options)
    yield session
    session.close()
    del session
    assert rig.cuda.leaks() == {}


@pytest.fixture
def session(eleven: Rig) -> Iterator[TensorrtSession]:
    """A session of TensorRT 11."""
    yield from session_on(eleven)


@pytest.fixture
def graphs(eleven: Rig) -> Iterator[TensorrtSession]:
    """A session of TensorRT 11 with CUDA graphs."""
    yield from session_on(eleven, graphs=4)


@pytest.fixture
def opened(rig: Rig) -> Iterator[TensorrtSession]:
    """A session of each version of TensorRT."""
    yield from session_on(rig)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without space for what is written."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)


@pytest.fixture
def photo() -> NDArray[np.uint8]:
    """Noise with structure, (23, 31, 3) uint8."""
    rng = np.random.default_rng(7)
    return rng.integers(0, 256, (23, 31, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> CppLibrary:
    """The C++ runtime on ONNX Runtime; the test is skipped where it cannot be built."""
    return shared_library(tmp_path_factory)
