"""Manifests are checked key by key; unknown keys are kept."""

import copy
from fractions import Fraction
from typing import Any

import pytest

from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.bundle.manifest import (
    Latent,
    LatentGraphs,
    Manifest,
    Memory,
    StageGraphs,
)
from flowsr_runtime.errors import BundleError
from flowsr_runtime.geometry import Halo
from tests.flowsr_runtime.conftest import MANIFEST

FILE = {"sha256": "0" * 64, "bytes": 3}
CELLS = {"channels": 27, "patch": 3}


@pytest.fixture
def raw(manifest: dict[str, Any]) -> dict[str, Any]:
    manifest["files"] = {"model.fp32.onnx": {**FILE, "precision": "fp32"}}
    return manifest


@pytest.fixture
def fourfold(bundles: dict[str, Bundle]) -> dict[str, Any]:
    return copy.deepcopy(dict(bundles["fourfold"].manifest.raw))


def holder(raw: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Return the object that holds a value, named by a dotted key, and the value's name."""
    *parents, last = key.split(".")
    for parent in parents:
        raw = raw[parent]
    return raw, last


def with_value(raw: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    """Return the manifest with one value changed."""
    inner, name = holder(raw, key)
    inner[name] = value
    return raw


def test_a_manifest_is_typed(raw: dict[str, Any]) -> None:
    manifest = Manifest.parse(raw)
    assert manifest.family == "bilinear"
    assert manifest.scale is None
    assert manifest.multiple == 1
    assert manifest.geometry
    assert manifest.latents == ()
    assert not manifest.tiling.whole_only
    assert manifest.tiling.halo == Halo(patch=3, align=12, lr_align=3, patches=0, pixels=0)
    assert manifest.tiling.exact == Halo(patch=3, align=12, lr_align=3, patches=0, pixels=1)
    assert manifest.memory == Memory(1000, 12, 108)
    assert manifest.files["model.fp32.onnx"].precision == "fp32"


GRAPH = {"file": "x4.onnx", "precision": "fp32", "scale": "4", "lr_size": [6, 8], "batch": 2}


@pytest.fixture
def sized(raw: dict[str, Any]) -> dict[str, Any]:
    """A manifest with a size-fixed graph."""
    raw["files"]["x4.onnx"] = dict(FILE)
    return {**raw, "graphs": [dict(GRAPH)]}


def test_size_fixed_graphs_are_typed(sized: dict[str, Any]) -> None:
    (graph,) = Manifest.parse(sized).graphs
    assert (graph.file, graph.precision, graph.scale) == ("x4.onnx", "fp32", Fraction(4))
    assert (graph.lr, graph.size, graph.batch) == ((6, 8), (24, 32), 2)


def test_a_reader_that_ignores_size_fixed_graphs_finds_one_model(
    sized: dict[str, Any],
) -> None:
    del sized["graphs"]
    manifest = Manifest.parse(sized)
    assert manifest.graphs == ()
    models = [one.precision for one in manifest.files.values() if one.precision]
    assert models == ["fp32"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("file", "model.fp32.onnx", r"graphs.0.file .*no precision there, got 'model.fp32"),
        ("file", "gone.onnx", r"graphs.0.file .*an ONNX file of files, .*got 'gone.onnx'"),
        ("precision", 4, "graphs.0.precision .*a string, got 4"),
        ("scale", "0.5", "graphs.0.scale .*at least 1, got 0.5"),
        ("scale", 4, "graphs.0.scale .*a string, got 4"),
        ("lr_size", [6], r"graphs.0.lr_size .*height and width, got \[6\]"),
        ("lr_size", [0, 8], "graphs.0.lr_size.0 .*at least 1, got 0"),
        ("lr_size", [1, 2**20], "graphs.0 .*1048576 pixels"),
        ("lr_size", [1, 2**21], "graphs.0.lr_size .*1048576 pixels"),
        ("batch", True, "graphs.0.batch .*at least 1, got True"),
    ],
)
def test_a_wrong_size_fixed_graph_is_refused(
    sized: dict[str, Any], key: str, value: object, message: str
) -> None:
    sized["graphs"][0][key] = value
    with pytest.raises(BundleError, match=message):
        Manifest.parse(sized)


def test_size_fixed_graphs_keep_to_the_rest_of_the_manifest(
    sized: dict[str, Any], fourfold: dict[str, Any]
) -> None:
    with pytest.raises(BundleError, match=r"graphs in bundle.json must be a list, got 4"):
        Manifest.parse({**sized, "graphs": 4})
    with pytest.raises(BundleError, match=r"graphs .*different precision.*'x4.onnx', 'x4"):
        Manifest.parse({**sized, "graphs": [GRAPH, GRAPH]})
    fourfold["files"] = {"x4.onnx": dict(FILE)}
    with pytest.raises(BundleError, match=r"graphs.0.scale .*the scale 4, got 2"):
        Manifest.parse({**fourfold, "graphs": [{**GRAPH, "scale": "2"}]})
    with pytest.raises(BundleError, match=r"graphs.0.lr_size .*multiples of 2, got \[6, 7\]"):
        Manifest.parse({**fourfold, "graphs": [{**GRAPH, "lr_size": [6, 7]}]})


def test_unknown_keys_are_kept(raw: dict[str, Any]) -> None:
    manifest = Manifest.parse({**raw, "color_of_the_sky": "blue"})
    assert manifest.raw["color_of_the_sky"] == "blue"


def test_a_fixed_scale_is_exact(raw: dict[str, Any]) -> None:
    raw["scale"] = {"kind": "fixed", "value": "2.7"}
    assert Manifest.parse(raw).scale == Fraction(27, 10)


def test_latents_keep_their_order(raw: dict[str, Any]) -> None:
    raw["latents"] = [{"name": "b", **CELLS}, {"name": "a", "channels": 6, "patch": 2}]
    assert Manifest.parse(raw).latents == (Latent("b", 27, 3), Latent("a", 6, 2))


def test_a_latents_cells_cover_the_output() -> None:
    assert Latent("latent1", 96, 8).grid((64, 65)) == (8, 9)


def test_a_graph_is_said_to_take_what_it_takes(raw: dict[str, Any]) -> None:
    raw["latents"] = [{"name": "latent", **CELLS}]
    assert Manifest.parse(raw).inputs == {"input", "geometry", "latent"}


def test_a_graph_of_one_scale_may_have_a_ratio_for_both_halos(fourfold: dict[str, Any]) -> None:
    manifest = Manifest.parse(fourfold)
    assert manifest.inputs == {"input"}
    assert (manifest.tiling.halo.ratio, manifest.tiling.exact.ratio) == (4, 4)
    assert manifest.multiple == 2


def test_memory_grows_with_pixels_and_patches() -> None:
    assert Memory(10, 0.5, 2).estimate(pixels=3, patches=4) == 20


def test_a_newer_schema_is_refused(raw: dict[str, Any]) -> None:
    message = r"bundle schema 2 is newer than this runtime reads \(1\); upgrade flowsr-lp"
    with pytest.raises(BundleError, match=message):
        Manifest.parse({"schema": 2})


@pytest.mark.parametrize("raw_value", [None, [], "bundle", 1])
def test_what_is_not_an_object_is_refused(raw_value: object) -> None:
    with pytest.raises(BundleError, match=r"bundle\.json must hold an object"):
        Manifest.parse(raw_value)


REQUIRED = [
    *("schema", "family", "scale", "scale.kind", "picture", "picture.multiple"),
    *("graph.geometry", "latents", "tiling", "memory", "files"),
    *(f"tiling.{name}" for name in MANIFEST["tiling"]),
    *(f"memory.{name}" for name in MANIFEST["memory"]),
]


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(raw: dict[str, Any], key: str) -> None:
    inner, name = holder(raw, key)
    del inner[name]
    with pytest.raises(BundleError, match=rf"bundle\.json lacks {key}"):
        Manifest.parse(raw)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema", "1", "schema in bundle.json must be a whole number of at least 1, got '1'"),
        ("schema", 0, "schema in bundle.json must be a whole number of at least 1, got 0"),
        ("family", 3, "family in bundle.json must be a string, got 3"),
        ("scale.kind", "some", "scale.kind in bundle.json must be any or fixed, got 'some'"),
        ("scale", {"kind": "fixed", "value": "0.5"}, "scale.value .* at least 1, got 0.5"),
        ("scale", {"kind": "fixed"}, "bundle.json lacks scale.value"),
        ("picture.multiple", 0, "picture.multiple .* at least 1, got 0"),
        ("picture.multiple", 2, "picture.multiple in bundle.json need a fixed scale, got any"),
        ("graph.geometry", 1, "graph.geometry in bundle.json must be true or false, got 1"),
        ("graph.geometry", False, "whole_only .* neither geometry nor a ratio, got false"),
        ("latents", None, "latents in bundle.json must be a list, got None"),
        ("latents", [27], "bundle.json lacks latents.0.name"),
        ("latents", [{"name": "z", "patch": 3}], "bundle.json lacks latents.0.channels"),
        ("latents", [{"name": 0, **CELLS}], "latents.0.name .* must be a string, got 0"),
        ("latents", [{"name": "input", **CELLS}], "must have names of their own, got input"),
        ("latents", [{"name": "z", **CELLS}] * 2, "must have names of their own, got z, z"),
        (
            "latents",
            [{"name": "z", "channels": 1, "patch": 8}],
            "tiling.align .* must be a multiple of the patch 8 of z, got 12",
        ),
        ("tiling.ratio", 0, "tiling.ratio .* at least 1, got 0"),
        ("tiling.ratio", 4, "tiling.ratio .* need a fixed scale, got any"),
        ("tiling.whole_only", None, "tiling.whole_only .* true or false, got None"),
        ("tiling.patch", True, "tiling.patch .* whole number of at least 1, got True"),
        ("tiling.align", 10, "tiling.align .* must be a multiple of the patch 3, got 10"),
        ("tiling.halo_patches", -1, "tiling.halo_patches .* at least 0, got -1"),
        ("tiling.seam_steps", "low", "tiling.seam_steps .* a number of at least 0, got 'low'"),
        ("memory.base_bytes", float("inf"), "memory.base_bytes .* at least 0, got inf"),
        ("memory.budget_bytes", 0, "memory.budget_bytes .* at least 1, got 0"),
        ("memory.budget_bytes", "2G", "memory.budget_bytes .* at least 1, got '2G'"),
        ("guard", "yes", "guard .* must be true or false, got 'yes'"),
        ("picture.io", "float16", "picture.io .* must be float32 or uint8, got 'float16'"),
        ("files", [], "files in bundle.json must be an object"),
        ("files", {"../x": FILE}, "must lie inside the bundle, got '../x'"),
        ("files", {"/etc/passwd": FILE}, "must lie inside the bundle, got '/etc/passwd'"),
        ("files", {"a//b": FILE}, "must lie inside the bundle, got 'a//b'"),
        ("files", {"a\\b": FILE}, "must lie inside the bundle, got"),
        ("files", {"bundle.json": FILE}, "must not be 'bundle.json'"),
        ("files", {"a": 3}, "file a in bundle.json must be an object, got 3"),
        ("files", {"a": {"bytes": 3}}, "sha256 of a in .* must be 64 digits, got None"),
        ("files", {"a": {"sha256": "0" * 64}}, "bytes of a .* a whole number, got None"),
        ("files", {"a": {**FILE, "precision": 32}}, "precision of a must be a string, got 32"),
    ],
)
def test_a_wrong_value_is_named(
    raw: dict[str, Any], key: str, value: object, message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        Manifest.parse(with_value(raw, key, value))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("scale.value", "3", "tiling.ratio in bundle.json must be the scale 3, got 4"),
        ("tiling.halo_patches", 1, "tiling.halo_patches .* must be 0 with a ratio, got 1"),
        ("tiling.exact_patches", 1, "tiling.exact_patches .* must be 0 with a ratio, got 1"),
        ("picture.multiple", 3, "must be a multiple of 12, the ratio times .*, got 64"),
        ("tiling.ratio", None, "whole_only .* neither geometry nor a ratio, got false"),
    ],
)
def test_keys_that_cannot_be_true_together_are_refused(
    fourfold: dict[str, Any], key: str, value: object, message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        Manifest.parse(with_value(fourfold, key, value))


def test_any_scale_needs_geometry(raw: dict[str, Any]) -> None:
    raw["graph"]["geometry"] = False
    raw["tiling"]["whole_only"] = True
    with pytest.raises(BundleError, match=r"geometry .* true for any scale, got false"):
        Manifest.parse(raw)


def test_a_bundle_may_state_a_memory_budget(raw: dict[str, Any]) -> None:
    assert Manifest.parse(raw).memory.budget_bytes is None
    raw["memory"]["budget_bytes"] = 2**31
    assert Manifest.parse(raw).memory.budget_bytes == 2**31


def test_pictures_are_float32_unless_the_manifest_says_uint8(raw: dict[str, Any]) -> None:
    assert Manifest.parse(raw).io == "float32"
    assert Manifest.parse(with_value(raw, "picture.io", "uint8")).io == "uint8"


def test_a_guard_is_optional(raw: dict[str, Any]) -> None:
    assert not Manifest.parse(raw).guard
    assert Manifest.parse({**raw, "guard": True}).guard


@pytest.mark.parametrize("key", ["picture.multiple", "tiling.patch", "tiling.halo_pixels"])
@pytest.mark.parametrize("value", [2**24 + 1, 10**400])
def test_a_number_that_no_image_needs_is_refused(
    raw: dict[str, Any], key: str, value: int
) -> None:
    with pytest.raises(BundleError, match=rf"{key} in bundle\.json must be at most 16777216"):
        Manifest.parse(with_value(raw, key, value))


def test_memory_without_bounds_is_refused_or_more_than_any_machine_has(
    raw: dict[str, Any],
) -> None:
    with pytest.raises(BundleError, match=r"memory\.base_bytes .* got 10{59}…"):
        Manifest.parse(with_value(raw, "memory.base_bytes", 10**400))
    huge = Manifest.parse(with_value(raw, "memory.base_bytes", 1e308)).memory
    assert huge.estimate(10, 10) == 2**63
    assert Memory(1e308, 1e308, 1e308).estimate(10**9, 10**9) == 2**63


@pytest.mark.parametrize("name", ["a\0b", "/a", "../a", "a\\b", "a//b", ""])
def test_a_name_that_no_file_of_a_bundle_has_is_refused(raw: dict[str, Any], name: str) -> None:
    raw["files"][name] = dict(FILE)
    with pytest.raises(BundleError, match="must lie inside the bundle, got "):
        Manifest.parse(raw)


def test_the_size_of_a_file_is_a_number_of_64_bits(raw: dict[str, Any]) -> None:
    raw["files"]["a"] = {**FILE, "bytes": 2**63}
    with pytest.raises(BundleError, match=f"bytes of a .* got {2**63}"):
        Manifest.parse(raw)


STAGES = {"precision": "fp32", "features": "features.onnx", "query": "query.onnx"}


@pytest.fixture
def two_stages(raw: dict[str, Any]) -> dict[str, Any]:
    """A manifest with stage graphs."""
    raw["files"] |= {"features.onnx": dict(FILE), "query.onnx": dict(FILE)}
    return {**raw, "stages": [dict(STAGES)]}


def test_stage_graphs_are_typed(two_stages: dict[str, Any]) -> None:
    assert Manifest.parse(two_stages).stages == (StageGraphs(**STAGES),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": 4}, "stages in bundle.json must be a list, got 4"),
        ({"stages": [STAGES, STAGES]}, "stages .*of different precision, got .'fp32', 'fp32'"),
        ({"stages": [{**STAGES, "precision": 4}]}, "stages.0.precision .*a string, got 4"),
        ({"stages": [{**STAGES, "query": "gone.onnx"}]}, "stages.0.query .*got 'gone.onnx'"),
        (
            {"stages": [{**STAGES, "features": "model.fp32.onnx"}]},
            "stages.0.features .*no precision there, got 'model.fp32",
        ),
        ({"stages": [{"precision": "fp32"}]}, "bundle.json lacks stages.0.features"),
        ({"picture": {"multiple": 1, "io": "uint8"}}, "stages .*absent .*uint8"),
    ],
)
def test_wrong_stage_graphs_are_refused(
    two_stages: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        Manifest.parse({**two_stages, **change})


LATENTS = {"encode": "encode.onnx", "sample": "sample.onnx", "channels": 27, "patch": 3}
LATENT = {"name": "latent0", "channels": 6, "patch": 2}


@pytest.fixture
def with_latents(raw: dict[str, Any]) -> dict[str, Any]:
    """A manifest with graphs of latents."""
    raw["files"] |= {"encode.onnx": dict(FILE), "sample.onnx": dict(FILE)}
    return {**raw, "latent_graphs": dict(LATENTS)}


def test_graphs_of_latents_are_typed(with_latents: dict[str, Any]) -> None:
    graphs = Manifest.parse(with_latents).latent_graphs
    assert graphs == LatentGraphs("encode.onnx", "sample.onnx", (Latent("latent", 27, 3),))


def test_several_latents_have_names_of_their_own(with_latents: dict[str, Any]) -> None:
    coarse = {"name": "latent1", "channels": 96, "patch": 4}
    with_latents["latent_graphs"]["latents"] = [LATENT, coarse]
    graphs = Manifest.parse(with_latents).latent_graphs
    assert graphs is not None
    assert graphs.latents == (Latent("latent0", 6, 2), Latent("latent1", 96, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encode": "gone.onnx"}, "latent_graphs.encode .*got 'gone.onnx'"),
        ({"sample": "model.fp32.onnx"}, "latent_graphs.sample .*got 'model.fp32.onnx'"),
        ({"sample": None}, "latent_graphs.sample .*a file in a bundle with a learned prior"),
        ({"sample": 4}, "latent_graphs.sample .*a string, got 4"),
        ({"channels": 0}, "latent_graphs.channels .*at least 1, got 0"),
        ({"patch": 5}, "latent_graphs.patch .*divisor of the alignment 12, got 5"),
        ({"latents": {}}, "latent_graphs.latents .*a list, got {}"),
        ({"latents": []}, r"latent_graphs.latents .*at least one, got \[\]"),
        ({"latents": [{"name": 4}]}, r"latent_graphs.latents.0.name .*a string, got 4"),
        ({"latents": [LATENT, LATENT]}, "latent_graphs.latents .*own, got latent0, latent0"),
        ({"latents": [{**LATENT, "patch": 5}]}, "latent_graphs.patch .*alignment 12, got 5"),
    ],
)
def test_wrong_graphs_of_latents_are_refused(
    with_latents: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with_latents["latent_graphs"] |= change
    with pytest.raises(BundleError, match=message):
        Manifest.parse(with_latents)


def test_graphs_of_latents_need_an_object_and_float_images(
    with_latents: dict[str, Any],
) -> None:
    with pytest.raises(BundleError, match=r"lacks latent_graphs\.sample"):
        Manifest.parse({**with_latents, "latent_graphs": 4})
    with pytest.raises(BundleError, match=r"latent_graphs .*absent .*uint8 images"):
        Manifest.parse({**with_latents, "picture": {"multiple": 1, "io": "uint8"}})
