"""Plan engines and build them into the store of a bundle."""

from pathlib import Path
from typing import Any

import pytest

from flowsr_export.engine import build as engine_module
from flowsr_export.engine.build import (
    EngineRequest,
    SizeSpec,
    build_engine,
    plan_engine,
    profiles_of,
)
from flowsr_export.engine.builder import Settings
from flowsr_export.engine.library import Library
from flowsr_runtime import Bundle
from flowsr_runtime.bundle.engine_store import EngineStore
from flowsr_runtime.cuda import device as device_module
from flowsr_runtime.errors import (
    BackendError,
    MemoryBudgetError,
    PrecisionError,
    ProviderError,
    UsageError,
)
from tests.flowsr_export.engine.engines import (
    CUDA,
    L4,
    convolving_bundle,
    library,
    make_engine,
)
from tests.flowsr_export.manifests import linf_manifest

VARIANTS = ["tensorrt-10", "tensorrt-11", "tensorrt-rtx"]
SIZES = SizeSpec(pictures=((32, 48),), scales=("2",))
SHAPES = {"input": (1, 3, 8, 8)}


def request(precision: str = "fp16", sizes: SizeSpec = SIZES, **settings: Any) -> EngineRequest:
    return EngineRequest(precision, sizes, Settings(**settings))


@pytest.fixture(autouse=True)
def _double_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "cudart", CUDA)


@pytest.fixture
def both(tmp_path: Path) -> Bundle:
    return Bundle.open(convolving_bundle(tmp_path / "both", "fp32", "fp16"))


def test_pictures_become_the_fewest_profiles() -> None:
    (profile,) = profiles_of(linf_manifest(), SizeSpec(((32, 48), (16, 16)), scales=("2",)))
    assert profile["input"].max == (1, 3, 32, 48)
    assert profile["geometry"].max[8:] == (64, 96)


def test_explicit_shapes_are_one_profile_each() -> None:
    explicit = ((SHAPES, SHAPES, SHAPES), (SHAPES, SHAPES, {"input": (1, 3, 9, 9)}))
    first, second = profiles_of(linf_manifest(), SizeSpec(explicit=explicit))
    assert first["input"].max == (1, 3, 8, 8)
    assert second["input"].max == (1, 3, 9, 9)


def test_without_sizes_there_is_one_profile_of_squares() -> None:
    (profile,) = profiles_of(linf_manifest(), SizeSpec())
    assert profile["input"].min == (1, 3, 16, 16)
    assert profile["input"].opt == (1, 3, 128, 128)


def test_pictures_and_explicit_shapes_exclude_each_other() -> None:
    mixed = SizeSpec(pictures=((8, 8),), explicit=((SHAPES, SHAPES, SHAPES),))
    with pytest.raises(UsageError, match="either pictures and sizes or explicit shapes"):
        profiles_of(linf_manifest(), mixed)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_engine_is_built_once_and_then_kept(variant: str, both: Bundle) -> None:
    chosen, device = library(variant), None if variant == "tensorrt-rtx" else L4
    first = make_engine(both, chosen, request(), device)
    second = make_engine(both, chosen, request(), device)
    assert first.built is not None
    assert second.built is None
    assert second.entry == first.entry
    assert EngineStore(both.path).read(first.entry) == first.built.plan


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_known_of_an_engine_lies_beside_it(variant: str, both: Bundle) -> None:
    device = None if variant == "tensorrt-rtx" else L4
    result = make_engine(both, library(variant), request(), device)
    (entry,) = EngineStore(both.path).entries()
    assert entry == result.entry
    assert entry.facts["precision"]["onnx"] == {"fp16": 1.0}
    assert len(entry.facts["scratch_bytes"]) == len(entry.facts["estimated_bytes"]) == 1
    assert entry.facts["driver"] == (None if device is None else "13.0")
    assert [tensor["name"] for tensor in entry.facts["tensors"]][:2] == ["input", "geometry"]


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "fp32"},
        {"sizes": SizeSpec(pictures=((32, 49),), scales=("2",))},
        {"workspace": 1 << 30},
        {"optimization_level": 4},
        {"tf32": True},
        {"compute_capabilities": ("8.9",)},
        {"max_aux_streams": 0},
        {"tiling_optimization_level": "fast"},
    ],
)
def test_every_change_makes_another_engine(change: dict[str, Any], both: Bundle) -> None:
    rtx = library("tensorrt-rtx")
    make_engine(both, rtx, request())
    assert make_engine(both, rtx, request(**change)).built is not None
    assert len(EngineStore(both.path).entries()) == 2


def test_turing_gets_a_graph_without_float32_products(
    both: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewritten: list[Any] = []

    def rewrite(model: Any) -> Any:
        rewritten.append(model)
        return model

    monkeypatch.setattr("flowsr_export.onnx_graph.gemm_rewrite.without_float32_gemm", rewrite)
    rtx = library("tensorrt-rtx")
    make_engine(both, rtx, request(compute_capabilities=("8.6",)))
    assert rewritten == []
    result = make_engine(both, rtx, request(compute_capabilities=("7.5",)))
    assert len(rewritten) == 1
    assert result.entry.key.options["float32_gemm"] == "rewritten"


def test_a_damaged_engine_is_built_again(both: Bundle) -> None:
    rtx = library("tensorrt-rtx")
    entry = make_engine(both, rtx, request()).entry
    (both.path / entry.name).write_bytes(b"damaged")
    again = make_engine(both, rtx, request())  # a builder may choose other kernels
    assert again.built is not None
    assert again.entry.name == entry.name
    assert EngineStore(both.path).read(again.entry)


def test_a_graph_that_lost_its_precision_is_refused_before_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = convolving_bundle(tmp_path / "b", "fp32")
    text = (path / "bundle.json").read_text().replace('"fp32"', '"fp16"')
    (path / "bundle.json").write_text(text)
    monkeypatch.setattr(engine_module, "build_plan", None)
    with pytest.raises(PrecisionError, match=r"ONNX file has 0.0% of its multiply-adds"):
        make_engine(Bundle.open(path), library("tensorrt-rtx"), request())


def test_an_engine_that_lost_the_precision_is_not_kept(
    both: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = library("tensorrt-11")
    create = wide.module.Builder.create_network
    monkeypatch.setattr(wide.module.Builder, "create_network", lambda self, flags: create(self))
    ten = library("tensorrt-10")
    weak = ten.module.Builder.create_network
    monkeypatch.setattr(ten.module.Builder, "create_network", lambda self, flags: weak(self))
    assert make_engine(both, wide, request(), L4).built is not None
    with pytest.raises(PrecisionError, match=r"engine has 0.0% of its multiply-adds"):
        make_engine(both, ten, request(), L4)
    assert [entry.key.version for entry in EngineStore(both.path).entries()] == [wide.version]


def test_a_build_that_fails_leaves_the_bundle_as_it_was(both: Bundle, tmp_path: Path) -> None:
    before = sorted(both.path.rglob("*"))
    with pytest.raises(MemoryBudgetError, match="out of memory"):
        make_engine(both, library("tensorrt-rtx"), request(workspace=1))
    assert sorted(both.path.rglob("*")) == before


def test_a_plan_is_what_is_built(both: Bundle) -> None:
    rtx = library("tensorrt-rtx")
    plan = plan_engine(both.manifest, both, rtx, request())
    assert plan.existing is None
    entry = build_engine(both, plan).entry
    assert plan.key == entry.key
    assert list(plan.estimates) == entry.facts["estimated_bytes"]
    assert plan_engine(both.manifest, both, rtx, request()).existing == entry


def test_a_plan_needs_neither_library_nor_gpu_nor_graph(
    both: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(flavour: str, device: object) -> Library:
        raise BackendError("tensorrt is not installed")

    monkeypatch.setattr(engine_module, "load_library", missing)
    plan = plan_engine(both.manifest, None, "tensorrt", request())
    assert (plan.library, plan.target, plan.key) == (None, None, None)
    assert plan.needs_export
    assert [reason.split()[0] for reason in plan.unknown] == ["tensorrt", "the"]
    assert len(plan.profiles) == len(plan.estimates) == 1
    with pytest.raises(BackendError, match="tensorrt"):
        plan.check()


def test_a_plan_for_tensorrt_needs_the_gpu_for_the_key(both: Bundle) -> None:
    eleven = library("tensorrt-11")
    alone = plan_engine(both.manifest, both, eleven, request())
    assert alone.key is None
    with pytest.raises(ProviderError, match="tensorrt 11"):
        build_engine(both, alone)
    here = plan_engine(both.manifest, both, eleven, request(), L4)
    assert here.key is not None
    assert here.key.gpu_name == "Double L4"
