"""OpenVINO in Python: float32, one compiled model for each set of shapes."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_runtime import (
    Bundle,
    SessionSettings,
    Upscaler,
    embedded_bundle,
    open_session,
    write_bundle,
)
from flowsr_runtime.backends.cores import usable_cores
from flowsr_runtime.errors import (
    BundleError,
    MemoryBudgetError,
    ProviderError,
    ScaleError,
    UsageError,
)
from tests.doubles.rig import expected, feeds_of
from tests.flowsr_runtime.conftest import BILINEAR

ov = pytest.importorskip("openvino", reason="openvino is not installed; extra [openvino]")
module = pytest.importorskip("flowsr_runtime.backends.openvino_session")

TOLERANCE = 1e-5  # two libraries sum in another order


def opened(bundle: Bundle, **options: Any) -> Any:
    return open_session(bundle, backend="openvino", **options)


def test_the_built_in_model_is_that_of_onnx_runtime(photo: NDArray[np.uint8]) -> None:
    image = photo.astype(np.float32) / np.float32(255)
    with Upscaler.open(backend="openvino") as other, Upscaler.open(device="cpu") as usual:
        for scale in (4, "2.7"):
            got = other.upscale(image, scale, clamp=False)
            due = usual.upscale(image, scale, clamp=False)
            np.testing.assert_allclose(got, due, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["bilinear", "fixed", "eight-bit", "sampled"])
def test_every_kind_of_graph_is_run(bundles: dict[str, Bundle], name: str) -> None:
    bundle = bundles[name]
    feeds: dict[str, Any] = {"input": feeds_of(8, 16)["input"]}
    if bundle.manifest.io == "uint8":
        feeds["input"] = (feeds["input"] * 255).astype(np.uint8)
    if bundle.manifest.geometry:
        feeds["geometry"] = feeds_of(8, 16)["geometry"]
    for latent in bundle.manifest.latents:
        shape = 1, latent.channels, *latent.grid((32, 64))
        feeds[latent.name] = np.random.default_rng(1).random(shape, dtype=np.float32)
    result = opened(bundle).run(feeds)
    due = expected(bundle, feeds)
    assert (result.dtype, result.shape) == (due.dtype, due.shape)
    np.testing.assert_allclose(result, due, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["Sin", "Cos"])
@pytest.mark.parametrize(("largest", "bound"), [(7.0, 1.8e-7), (2000.0, 3e-7)])
def test_sines_and_cosines_are_those_of_numpy(name: str, largest: float, bound: float) -> None:
    angles = np.linspace(-largest, largest, 100_003, dtype=np.float32)
    parameter = module.ops.parameter([-1], np.float32)
    wave = {"Sin": module.ops.sin, "Cos": module.ops.cos}[name](parameter)
    model = ov.Model([module.ops.abs(wave)], [parameter])
    module._replace_waves(model)
    kinds = [node.get_type_name() for node in model.get_ordered_ops()]
    assert name not in kinds
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    result = ov.Core().compile_model(model, "CPU", config)([angles])[0]
    due = np.abs({"Sin": np.sin, "Cos": np.cos}[name](angles.astype(np.float64)))
    assert np.abs(result - due).max() < bound


def test_a_result_is_not_overwritten_by_the_next(bundle: Bundle) -> None:
    session = opened(bundle)
    first = session.run(feeds_of(4, 5))
    kept = first.copy()
    session.run(feeds_of(4, 5, salt=1))
    np.testing.assert_array_equal(first, kept)


def test_a_batch_is_run(bundle: Bundle) -> None:
    feeds = feeds_of(4, 5, batch=2)
    np.testing.assert_allclose(opened(bundle).run(feeds), expected(bundle, feeds), atol=1e-6)


def test_the_settings_of_the_library_are_float32_and_the_threads(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    core = ov.Core()

    def compile_model(model: Any, place: str, config: dict[str, Any]) -> Any:
        seen.append(config)
        return core.compile_model(model, place, config)

    double = SimpleNamespace(
        compile_model=compile_model,
        read_model=core.read_model,
        get_property=lambda place, name: ["FP32", "BF16"],
    )
    monkeypatch.setattr(module.ov, "Core", lambda: double)
    opened(bundle).run(feeds_of(4, 5))
    opened(bundle, threads=3, precision="bf16", self_test=False).run(feeds_of(4, 5))
    assert [one["INFERENCE_PRECISION_HINT"] for one in seen] == ["f32", "bf16"]
    assert [one["INFERENCE_NUM_THREADS"] for one in seen] == [usable_cores(), 3]


def test_a_shape_is_compiled_once_and_few_are_kept(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(bundle)
    compiled: list[tuple[int, ...]] = []
    core = session._core

    def compile_model(model: Any, *rest: Any) -> Any:
        compiled.append(tuple(model.input("input").get_shape()))
        return core.compile_model(model, *rest)

    monkeypatch.setattr(session, "_core", SimpleNamespace(compile_model=compile_model))
    for side in (4, 5, 4):
        session.run(feeds_of(side, side))
    assert compiled == [(1, 3, 4, 4), (1, 3, 5, 5)]
    for side in range(6, 13):
        session.run(feeds_of(side, side))
    assert len(session._compiled) == module._SIZES == 8
    session.run(feeds_of(4, 4))  # used after 5, which went first
    assert len(compiled) == 9
    session.run(feeds_of(5, 5))
    assert len(compiled) == 10


def test_threads_do_not_mix_their_pictures(bundle: Bundle) -> None:
    session = opened(bundle, threads=1)
    cases = [feeds_of(4 + salt % 3, 5, salt=salt) for salt in range(12)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(session.run, cases))
    for feeds, result in zip(cases, results, strict=True):
        np.testing.assert_allclose(result, expected(bundle, feeds), atol=1e-6)


def test_bfloat16_is_a_hint_for_the_float32_graph() -> None:
    bundle = Bundle.open(embedded_bundle())
    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16")
    settings = SessionSettings("openvino", precision="bf16")
    assert settings.graph_precision == "fp32"
    session, choice = settings.choose(bundle)
    feeds = feeds_of(16, 16)
    difference = session.run(feeds) - opened(bundle).run(feeds)
    assert 1e-5 < np.abs(difference).max() < 0.05
    assert choice.self_test.passed


def test_bfloat16_is_refused_where_the_processor_has_none(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    double = SimpleNamespace(get_property=lambda place, name: ["FP32", "INT8"])
    monkeypatch.setattr(module.ov, "Core", lambda: double)
    with pytest.raises(ProviderError, match="precision bf16 needs a CPU with AVX512_BF16"):
        opened(bundle, precision="bf16")


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (b"no model", {}, r"openvino cannot load .*fp32\.onnx: [^\n]*$"),
        (
            BILINEAR,
            {"latents": [{"name": "latent", "channels": 27, "patch": 3}]},
            r"takes \['geometry', 'input'\], bundle\.json says",
        ),
        (
            BILINEAR,
            {"picture": {"io": "uint8", "multiple": 1}},
            r"takes images of f32, bundle\.json says u8",
        ),
    ],
)
def test_a_model_that_is_not_that_of_the_manifest_is_refused(
    tmp_path: Path,
    manifest: dict[str, Any],
    model: bytes,
    changes: dict[str, Any],
    message: str,
) -> None:
    other = write_bundle(tmp_path / "b", {**manifest, **changes}, {"model.fp32.onnx": model})
    with pytest.raises(BundleError, match=message):
        opened(other)


def test_a_geometry_beyond_32_bits_is_refused(bundle: Bundle) -> None:
    feeds = feeds_of(4, 5)
    feeds["geometry"][[0, 2]] = 30_000, 60_000
    with pytest.raises(ScaleError, match=r"geometry in 32 bits .* 30000 upscaled to 60000"):
        opened(bundle).run(feeds)


@pytest.mark.parametrize(
    ("message", "kind", "words"),
    [
        ("std::bad_alloc", MemoryBudgetError, "openvino ran out of memory"),
        ("Check failed\nat line 3", ProviderError, "openvino failed: Check failed at line 3"),
    ],
)
def test_an_error_of_the_library_is_one_line(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    message: str,
    kind: type[Exception],
    words: str,
) -> None:
    session = opened(bundle)

    def fail(*_: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(session, "_core", SimpleNamespace(compile_model=fail))
    with pytest.raises(kind, match=f"^{words}[^\n]*$"):
        session.run(feeds_of(4, 5))


def test_a_closed_session_is_refused(bundle: Bundle) -> None:
    session = opened(bundle)
    session.close()
    with pytest.raises(UsageError, match="the session is closed"):
        session.run(feeds_of(4, 5))
    assert repr(session) == "<OpenvinoSession cpu, closed>"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"provider": "cuda"}, "provider must be cpu with backend openvino, got 'cuda'"),
        ({"device": 1}, "device must be 0 with backend openvino, got 1"),
        ({"device": "cuda"}, "device must be cpu with backend openvino, got 'cuda'"),
        ({"workers": 2}, "workers is for tensorrt, got 2"),
        ({"cuda_graphs": 2}, "cuda_graphs is for GPUs, got 2 with openvino"),
    ],
)
def test_settings_that_openvino_has_not_are_refused(
    bundle: Bundle, options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        opened(bundle, **options)
