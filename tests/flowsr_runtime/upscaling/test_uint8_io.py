"""A graph of uint8 pictures: fed without converting, blended in float, rounded once more."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowsr_runtime.backends.onnxruntime_binding import GraphRunner
from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession
from flowsr_runtime.bundle.directory import Bundle, write_bundle
from flowsr_runtime.errors import BundleError
from flowsr_runtime.pictures.pixels import full_range, planes, store
from flowsr_runtime.upscaling.upscaler import Upscaler
from tests.doubles.rig import WIDE, Rig, feeds_of
from tests.flowsr_runtime.conftest import MODELS

Bundles = dict[str, Bundle]
Photo = NDArray[np.uint8]
SMALL_BUDGET = 20_000
SCALES = st.sampled_from([1, 1.3, (2.7, 3.6), 4])
SIDES = st.integers(1, 40)
# A tile is rounded to a step before it is blended with its neighbors, and once after.
ONE_STEP = 1
# A value that is half way between two steps goes to either: float32 decides.
HALF_STEP = 0.5 + 1e-3


@settings(max_examples=30, deadline=None)
@given(SIDES, SIDES, SCALES)
def test_a_whole_picture_is_the_float_graphs_rounded(
    bundles: Bundles, h: int, w: int, scale: Any
) -> None:
    image = np.random.default_rng(h * w).integers(0, 256, (h, w, 3), dtype=np.uint8)
    result = Upscaler.open(bundles["eight-bit"], threads=1).upscale(image, scale)
    exact = Upscaler.open(bundles["bilinear"], threads=1).upscale(full_range(image), scale)
    assert result.dtype == np.uint8
    np.testing.assert_allclose(result, 255 * exact, rtol=0, atol=HALF_STEP)


@pytest.mark.parametrize("halo", ["default", "exact"])
def test_tiles_are_blended_in_float_and_then_rounded(
    bundles: Bundles, photo: Photo, halo: Any
) -> None:
    tiled = Upscaler.open(bundles["eight-bit"], memory_budget=SMALL_BUDGET, halo=halo)
    assert len(tiled.plan((23, 31), 3)) > 1
    whole = Upscaler.open(bundles["eight-bit"]).upscale(photo, 3)
    difference = tiled.upscale(photo, 3).astype(int) - whole
    assert np.abs(difference).max() <= ONE_STEP


def test_the_graph_is_fed_eight_bits(
    bundles: Bundles, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    run = OnnxRuntimeSession.run

    def recording(session: OnnxRuntimeSession, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
        seen.append(feeds)
        return run(session, feeds)

    monkeypatch.setattr(OnnxRuntimeSession, "run", recording)
    Upscaler.open(bundles["eight-bit"]).upscale(photo, 2)
    assert [feeds["input"].dtype for feeds in seen] == [np.uint8]
    np.testing.assert_array_equal(seen[0]["input"][0].transpose(1, 2, 0), photo)


def test_a_graph_of_another_type_than_the_manifest_says_is_refused(
    tmp_path: Path, manifest: dict[str, Any]
) -> None:
    files = {"model.fp32.onnx": MODELS["eight-bit"]}
    wrong = write_bundle(tmp_path / "wrong", manifest, files)
    message = r"takes images of tensor\(uint8\), bundle\.json says tensor\(float\)"
    with pytest.raises(BundleError, match=message):
        Upscaler.open(wrong)


def test_an_output_of_another_type_is_refused(
    bundles: Bundles, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = np.zeros((1, 3, 46, 62), dtype=np.float32)
    monkeypatch.setattr(OnnxRuntimeSession, "run", lambda session, feeds: output)
    with pytest.raises(BundleError, match="uint8, got float32"):
        Upscaler.open(bundles["eight-bit"]).upscale(photo, 2)
    output = output[..., :2]
    with pytest.raises(BundleError, match=r"\(1, 3, 46, 62\), got \(1, 3, 46, 2\)"):
        Upscaler.open(bundles["eight-bit"]).upscale(photo, 2)


@pytest.mark.parametrize("variant", ["tensorrt-10", "tensorrt-11", "tensorrt-rtx"])
def test_tensorrt_takes_and_gives_eight_bits(
    variant: str,
    bundles: Bundles,
    photo: Photo,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    raw, files = bundles["eight-bit"].manifest.raw, {"model.fp32.onnx": MODELS["eight-bit"]}
    rig = Rig(variant, write_bundle(tmp_path / "own", raw, files), monkeypatch)
    rig.add(rig.key(WIDE))
    due = Upscaler.open(bundles["eight-bit"]).upscale(photo, 3)
    with Upscaler.open(rig.bundle, backend=rig.backend) as upscaler:
        np.testing.assert_array_equal(upscaler.upscale(photo, 3), due)
    assert rig.cuda.leaks() == {}


def test_onnx_runtimes_graphs_give_eight_bits(bundles: Bundles) -> None:
    options = ort.SessionOptions()
    session = ort.InferenceSession(MODELS["eight-bit"], options, ["CPUExecutionProvider"])
    runner = GraphRunner(ort, session, "output", ("cpu", 0), limit=1)
    feeds = feeds_of(4, 5)
    feeds["input"] = (feeds["input"] * 255).astype(np.uint8)
    results = [runner.run(feeds) for _ in range(3)]
    assert runner.counters.hits == 1
    assert {result.dtype for result in results} == {np.dtype(np.uint8)}
    np.testing.assert_array_equal(results[0], results[2])


def test_every_step_survives_the_way_to_full_range_and_back() -> None:
    steps = np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None].repeat(3, axis=2)
    result = np.zeros_like(steps)
    store(full_range(steps), result, clamp=True, truncate=False)
    np.testing.assert_array_equal(result, steps)
    np.testing.assert_array_equal(planes(steps, "uint8")[0].transpose(1, 2, 0), steps)
