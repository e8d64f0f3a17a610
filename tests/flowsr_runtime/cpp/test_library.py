"""The C++ library against Python: equal arithmetic, images and refusals."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowsr_runtime import Upscaler, embedded_bundle, read_picture
from flowsr_runtime.backends.contract import Session
from flowsr_runtime.bundle.directory import Bundle, write_bundle
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.errors import FlowsrError
from flowsr_runtime.geometry import output_size
from flowsr_runtime.tiling.noise import latent
from tests.flowsr_runtime.conftest import BILINEAR, FIXED
from tests.flowsr_runtime.cpp.library import (
    ROOT,
    CppError,
    CppLibrary,
    request_of,
    settings_of,
)

# The bar of the toolkit for one backend in two languages, in units of full range. What is seen
# is 0: the arithmetic around the model is the same to the bit.
BAR: Final = 1e-4
PHOTO: Final = ROOT / "export" / "flowsr_export" / "inputs" / "pictures" / "coffee_256.png"
SCALES: Final = [("4", "4"), ("2.7", "2.7"), ("3.6", "2.7")]
BAD_SCALES: Final = [
    "0.5",
    "-2",
    "x",
    "",
    "1e999",
    "1/0",
    "2.7.1",
    "nan",
    "inf",
    "1e",
    "+",
    ".",
]

DECIMALS: Final = st.decimals(1, 30, allow_nan=False, places=3).map(str)
FRACTIONS: Final = st.fractions(1, 30, max_denominator=999).map(str)
POWERS: Final = st.tuples(st.integers(1, 999), st.integers(0, 3)).map(
    lambda p: f"{p[0]}e{p[1]}"
)
LONG: Final = st.integers(1, 10**60).map(lambda n: f"2.{n:060d}")

Bundles = dict[str, Bundle]
SHARED: Final = (HealthCheck.function_scoped_fixture,)


@pytest.fixture(scope="module")
def coffee() -> NDArray[np.uint8]:
    """A part of a photograph, (60, 72, 3) uint8."""
    picture: NDArray[np.uint8] = read_picture(PHOTO).rgb[100:148, 60:116]
    return picture


def as_float(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    pixels: NDArray[np.float32] = image.astype(np.float32) / np.float32(255)
    return pixels


def outcome(call: Callable[[], Any]) -> Any:
    """Return what a call gives, or the exit code of what it raises."""
    try:
        return call()
    except FlowsrError as error:
        return f"code {error.exit_code}"
    except CppError as error:
        return f"code {error.code}"


@given(st.integers(1, 3000), st.one_of(DECIMALS, FRACTIONS, POWERS, LONG))
@settings(max_examples=300, suppress_health_check=SHARED)
def test_sizes_are_rounded_half_up_exactly(cpp: CppLibrary, pixels: int, scale: str) -> None:
    wanted = output_size(pixels, scale)
    capped = wanted if wanted <= 2**20 else "code 2"
    assert outcome(lambda: cpp.output_size(pixels, scale)) == capped


@pytest.mark.parametrize("scale", BAD_SCALES)
def test_a_scale_that_cannot_be_is_refused(cpp: CppLibrary, scale: str) -> None:
    with pytest.raises(CppError, match="scale must be") as error:
        cpp.output_size(10, scale)
    assert error.value.code == 2


@st.composite
def tilings(draw: st.DrawFn) -> dict[str, Any]:
    """Draw changes of a manifest that decide how pictures are cut."""
    patch, ratio = draw(st.sampled_from([1, 2, 3, 8])), draw(st.sampled_from([None, 2, 4]))
    multiple = 1 if ratio is None else draw(st.sampled_from([1, 2]))
    align = math.lcm(patch, (ratio or 1) * multiple) * draw(st.integers(1, 5))
    patches = st.integers(0, 30) if ratio is None else st.just(0)
    halos = {
        f"{kind}_{name}": draw(values)
        for kind in ("halo", "exact")
        for name, values in (("patches", patches), ("pixels", st.integers(0, 40)))
    }
    sizes = {"patch": patch, "align": align, "lr_align": draw(st.integers(1, 4))}
    scale = {"kind": "any"} if ratio is None else {"kind": "fixed", "value": str(ratio)}
    real = st.floats(0, 5000, allow_nan=False)
    return {
        "scale": scale,
        "picture": {"multiple": multiple},
        "tiling": {**sizes, **halos, "ratio": ratio, "whole_only": False, "seam_steps": None},
        "memory": {
            "base_bytes": draw(real),
            "bytes_per_pixel": draw(real),
            "bytes_per_patch": draw(real),
        },
    }


@given(
    tilings(),
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.one_of(DECIMALS, FRACTIONS),
    st.integers(5000, 5_000_000),
    st.sampled_from([0, 1]),
    st.sampled_from(["cpu", "cuda"]),
)
@settings(max_examples=150, suppress_health_check=SHARED, deadline=None)
def test_pictures_are_cut_into_the_same_tiles(
    cpp: CppLibrary,
    tmp_path: Path,
    manifest: dict[str, Any],
    tiling: dict[str, Any],
    source: tuple[int, int],
    scale: str,
    budget: int,
    exact: int,
    provider: str,
) -> None:
    raw = {**manifest, **tiling, "files": {}}
    (tmp_path / "bundle.json").write_text(json.dumps(raw))
    fixed = tiling["scale"].get("value")
    bundle = Bundle(tmp_path, Manifest.parse(raw))
    idle = cast(Session, SimpleNamespace(limits=None, provider=provider, close=lambda: None))
    halo: Any = ("default", "exact")[exact]
    upscaler = Upscaler(bundle, idle, memory_budget=budget, halo=halo)

    def by_python() -> Any:
        plan = upscaler.plan(source, fixed or scale)
        axes = [
            [
                (
                    *(piece.extent.lr_begin, piece.extent.lr_end),
                    *(piece.extent.out_begin, piece.extent.out_end),
                    *(piece.begin, piece.end, piece.fade_in, piece.fade_out),
                )
                for piece in pieces
            ]
            for pieces in (plan.rows, plan.columns)
        ]
        return (*axes, plan.run_bytes)

    request = request_of(scale_rows=fixed or scale)
    wanted = settings_of(memory_budget=budget, exact_halo=exact, provider=provider)
    assert outcome(lambda: cpp.plan(tmp_path, source, request, wanted)) == outcome(by_python)


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 3),
    st.tuples(*[st.integers(0, 100_000)] * 2, *[st.integers(1, 20)] * 3),
    st.floats(0, 3),
)
@settings(max_examples=60, suppress_health_check=SHARED)
def test_noise_is_the_same_to_one_unit_in_the_last_place(
    cpp: CppLibrary, seed: int, stream: int, window: tuple[int, ...], temperature: float
) -> None:
    names = ("top", "left", "rows", "columns", "channels")
    sides: dict[str, Any] = dict(zip(names, window, strict=True))
    due = latent(seed, **sides, temperature=temperature, stream=stream)[0]
    # The logarithms and cosines of two libraries differ by a unit of float64 at most.
    np.testing.assert_array_max_ulp(cpp.noise(seed, stream, window, temperature), due, maxulp=1)


def test_files_of_every_length_have_their_hash(
    cpp: CppLibrary, manifest: dict[str, Any], tmp_path: Path
) -> None:
    contents = {f"data/{n}": bytes(range(n % 256)) * (1 + n // 256) for n in range(260)}
    write_bundle(tmp_path / "b", {**manifest, "files": {}}, contents)
    cpp.check(tmp_path / "b")
    flipped = tmp_path / "b" / "data" / "119"
    flipped.write_bytes(bytes([*flipped.read_bytes()[:-1], 0]))
    with pytest.raises(CppError, match="119 is damaged: sha256") as error:
        cpp.check(tmp_path / "b")
    assert error.value.code == 5


VALUES: Final[list[Any]] = [None, True, -1, 1, 3.5, "any", "4", [], {}, [{}]]


def changed_manifests(raw: dict[str, Any]) -> Iterator[str]:
    """Yield manifests with one member taken away, or another value in its place."""

    def at(value: Any, path: tuple[str, ...]) -> Any:
        return at(value[path[0]], path[1:]) if path else value

    def paths(value: Any) -> Iterator[tuple[str, ...]]:
        for name in value if isinstance(value, dict) else ():
            yield (name,)
            yield from ((name, *rest) for rest in paths(value[name]))

    for *above, name in paths(raw):
        for change in [*VALUES, "missing"]:
            copy = json.loads(json.dumps(raw))
            holder = at(copy, tuple(above))
            holder[name] = change
            if change == "missing":
                del holder[name]
            yield json.dumps(copy)


def test_a_changed_manifest_is_taken_by_both_or_by_none(
    cpp: CppLibrary, bundles: Bundles, tmp_path: Path
) -> None:
    path = tmp_path / "bundle.json"
    verdicts = []
    for name in ("latent", "fourfold"):
        for text in changed_manifests(dict(bundles[name].manifest.raw)):
            path.write_text(text)
            opened = outcome(lambda: Bundle.open(tmp_path) and "taken")
            verdicts.append((text, opened, outcome(lambda: cpp.with_bundle(tmp_path, takes))))
    assert [case for case in verdicts if case[1] != case[2]] == []
    assert {case[1] for case in verdicts} == {"taken", "code 5"}


@pytest.fixture
def sized(manifest: dict[str, Any], tmp_path: Path) -> Bundle:
    """A bilinear bundle whose graph for 5x4 at x2 takes the nearest pixel instead."""
    graph = {"file": "x2.onnx", "precision": "fp32", "scale": "2", "lr_size": [4, 5]}
    raw = {**manifest, "graphs": [{**graph, "batch": 1}]}
    raw["files"] = {**manifest["files"], "x2.onnx": {}}
    return write_bundle(tmp_path / "b", raw, {"model.fp32.onnx": BILINEAR, "x2.onnx": FIXED})


def test_a_size_fixed_graph_is_taken_for_its_size_alone(cpp: CppLibrary, sized: Bundle) -> None:
    rng = np.random.default_rng(0)
    with Upscaler.open(sized) as python, cpp.open(sized.path) as other:
        for size in ((4, 5), (5, 4), (4, 5)):
            image = rng.random((*size, 3), dtype=np.float32)
            due, got = python.upscale(image, 2), other.upscale(image, scale_rows="2")
            np.testing.assert_allclose(got, due, rtol=0, atol=BAR)
            nearest = image.repeat(2, axis=0).repeat(2, axis=1)
            assert (np.abs(got - nearest).max() == 0) == (size == (4, 5))


@pytest.mark.parametrize("key", ["file", "precision", "scale", "lr_size", "batch"])
def test_a_changed_size_fixed_graph_is_taken_by_both_or_by_none(
    cpp: CppLibrary, sized: Bundle, tmp_path: Path, key: str
) -> None:
    path = tmp_path / "bundle.json"
    taken = []
    for change in [*VALUES, "x2.onnx", "2.0", "1e7", [0, 5], [4, 5, 6], [1, 2**20], [1, 2**21]]:
        raw = json.loads((sized.path / "bundle.json").read_text())
        raw["graphs"][0][key] = change
        path.write_text(json.dumps(raw))
        opened = outcome(lambda: Bundle.open(tmp_path) and "taken")
        assert outcome(lambda: cpp.with_bundle(tmp_path, takes)) == opened, change
        taken.append(opened)
    assert {"code 5"} <= set(taken) <= {"code 5", "taken"}


def takes(_: Any) -> str:
    return "taken"


@pytest.mark.parametrize("text", ["", "[", '{"a": NaN}', '{"a": 01}', "[1,]", "\xff", '"\\x"'])
def test_what_is_no_json_is_refused(cpp: CppLibrary, tmp_path: Path, text: str) -> None:
    (tmp_path / "bundle.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CppError, match="is not valid JSON") as error:
        cpp.with_bundle(tmp_path, takes)
    assert error.value.code == 5


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("less", [0, 1])
def test_a_photograph_is_enlarged_as_in_python(
    cpp: CppLibrary, coffee: NDArray[np.uint8], scale: tuple[str, str], less: int
) -> None:
    with Upscaler.open() as upscaler:
        needed = upscaler.plan((48, 56), scale).run_bytes
    budget = needed - less  # one byte less than the whole picture needs makes tiles
    factors = {"scale_rows": scale[0], "scale_columns": scale[1]}
    with (
        Upscaler.open(memory_budget=budget) as python,
        cpp.open(embedded_bundle(), memory_budget=budget) as other,
    ):
        assert (len(python.plan((48, 56), scale)) > 1) == bool(less)
        due = python.upscale(as_float(coffee), scale, clamp=False)
        got = other.upscale(as_float(coffee), **factors, unclamped=1)
        assert np.abs(due - got).max() <= BAR
        steps = python.upscale(coffee, scale).astype(int) - other.upscale(coffee, **factors)
        assert np.abs(steps).max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("name", ["bilinear", "latent", "fourfold", "sampled", "blurred"])
def test_every_kind_of_picture_is_enlarged_as_in_python(
    cpp: CppLibrary, bundles: Bundles, name: str, dtype: Any, channels: int
) -> None:
    rng = np.random.default_rng(channels)
    image = rng.integers(0, 256, (21, 34, channels)).astype(np.float32) / np.float32(255)
    image[:9, :20, -1] = 0
    full = 1 if dtype == np.float32 else np.iinfo(dtype).max
    image = (image * np.float32(full)).astype(dtype)
    sampled = name in ("latent", "sampled")
    noise = {"has_temperature": 1, "temperature": 0.05, "seed": 2**63 + 5} if sampled else {}
    fixed = bundles[name].manifest.scale is not None
    with (
        Upscaler.open(bundles[name], memory_budget=80_000) as python,
        cpp.open(bundles[name].path, memory_budget=80_000) as other,
    ):
        due = python.upscale(
            image,
            None if fixed else 3.3,
            temperature=0.05 if sampled else None,
            seed=2**63 + 5,
        )
        got = other.upscale(image, scale_rows=None if fixed else "3.3", **noise)
    np.testing.assert_allclose(got, due, rtol=0, atol=BAR if full == 1 else 1)
    # Noise may differ in its last place, which few values show.
    assert np.mean(got == due) >= (0.9 if sampled else 1)


def test_pictures_of_eight_bits_pass_through_an_eight_bit_graph(
    cpp: CppLibrary, bundles: Bundles, photo: NDArray[np.uint8]
) -> None:
    for budget in (0, 30_000):
        with (
            Upscaler.open(bundles["eight-bit"], memory_budget=budget or None) as python,
            cpp.open(bundles["eight-bit"].path, memory_budget=budget) as other,
        ):
            due, got = python.upscale(photo, 2.7), other.upscale(photo, scale_rows="2.7")
            np.testing.assert_array_equal(got, due)
