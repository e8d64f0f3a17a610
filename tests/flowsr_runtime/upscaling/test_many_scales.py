"""Several scales of one image equal separate calls, and share its features."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime import Picture, write_picture
from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession
from flowsr_runtime.backends.stages import Features
from flowsr_runtime.bundle.directory import Bundle, write_bundle
from flowsr_runtime.errors import FlowsrError, UsageError
from flowsr_runtime.upscaling.shared_features import FeatureCache, SharingSession
from flowsr_runtime.upscaling.upscaler import Upscaler
from tests.flowsr_runtime.conftest import FIXED, STAGED

SCALES: list[Any] = [1.5, 2, (2.7, "3"), 4]


class CountedFeatures:
    """Counts the images whose features a session computes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        plain = OnnxRuntimeSession.features

        def features(session: OnnxRuntimeSession, feeds: Any) -> Features:
            self.count += 1
            return plain(session, feeds)

        monkeypatch.setattr(OnnxRuntimeSession, "features", features)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> CountedFeatures:
    return CountedFeatures(monkeypatch)


def test_scales_equal_separate_calls_with_one_run_of_the_encoder(
    staged: Bundle, photo: NDArray[np.uint8], counted: CountedFeatures
) -> None:
    with Upscaler.open(staged) as upscaler:
        separate = [upscaler.upscale(photo, scale) for scale in SCALES]
        assert counted.count == 0
        together = upscaler.upscale(photo, scales=SCALES)
    assert counted.count == 1
    for one, other in zip(separate, together, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["gray", "alpha", "float", "16 bit"])
def test_every_kind_of_array_keeps_its_kind(
    staged: Bundle, photo: NDArray[np.uint8], kind: str
) -> None:
    images: dict[str, NDArray[Any]] = {
        "gray": photo[..., 0],
        "alpha": np.dstack([photo, photo[..., :1]]),
        "float": photo.astype(np.float32) / 255,
        "16 bit": photo.astype(np.uint16) * 257,
    }
    with Upscaler.open(staged) as upscaler:
        (first, _) = upscaler.upscale(images[kind], scales=[2, 3])
        np.testing.assert_array_equal(first, upscaler.upscale(images[kind], 2))


def test_files_pictures_and_images_of_pillow_give_their_own_kind(
    staged: Bundle, photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    write_picture(tmp_path / "photo.png", photo)
    with Upscaler.open(staged) as upscaler:
        of_file = upscaler.upscale(tmp_path / "photo.png", scales=[2])
        of_picture = upscaler.upscale(Picture(photo), scales=[2])
        of_pillow = upscaler.upscale(Image.fromarray(photo), scales=[2])
    assert isinstance(of_file[0], Picture)
    assert isinstance(of_pillow[0], Image.Image)
    np.testing.assert_array_equal(of_file[0].pixels, of_picture[0].pixels)
    np.testing.assert_array_equal(np.asarray(of_pillow[0]), of_file[0].pixels)


def test_a_scale_that_needs_tiles_runs_alone_and_says_so(
    staged: Bundle, photo: NDArray[np.uint8], counted: CountedFeatures
) -> None:
    height, width = photo.shape[:2]
    memory = staged.manifest.memory
    budget = memory.estimate(height * width, -(-2 * height // 3) * -(-2 * width // 3))
    lines: list[str] = []
    with Upscaler.open(staged, memory_budget=budget) as upscaler:
        assert len(upscaler.plan((height, width), 4)) > 1
        together = upscaler.upscale(photo, scales=[1.5, 2, 4], warn=lines.append)
        np.testing.assert_array_equal(together[2], upscaler.upscale(photo, 4))
    assert counted.count == 1
    assert lines == [
        "scale 4 needs tiles, whose encoder runs again; a larger memory_budget avoids them"
    ]


@pytest.mark.parametrize(
    ("options", "line"),
    [({"max_memory": 4 << 30}, "max_memory"), ({"backend": "openvino"}, "openvino takes no")],
    ids=["max_memory", "another backend"],
)
def test_a_call_that_cannot_share_gives_equal_results_and_one_line(
    staged: Bundle, photo: NDArray[np.uint8], options: dict[str, Any], line: str
) -> None:
    if "backend" in options:
        pytest.importorskip("openvino", reason="openvino is not installed; extra [openvino]")
    lines: list[str] = []
    with Upscaler.open(staged, **options) as upscaler:
        together = upscaler.upscale(photo, scales=[2, 3], warn=lines.append)
        np.testing.assert_array_equal(together[1], upscaler.upscale(photo, 3))
    assert len(lines) == 1
    assert line in lines[0]


def test_a_bundle_without_stages_names_the_command_that_adds_them(
    bundle: Bundle, photo: NDArray[np.uint8]
) -> None:
    lines: list[str] = []
    with Upscaler.open(bundle) as upscaler:
        (two, _) = upscaler.upscale(photo, scales=[2, 3], warn=lines.append)
        np.testing.assert_array_equal(two, upscaler.upscale(photo, 2))
    assert [line.endswith("export-onnx --stages adds them") for line in lines] == [True]


def test_one_scale_alone_says_nothing(bundle: Bundle, photo: NDArray[np.uint8]) -> None:
    lines: list[str] = []
    with Upscaler.open(bundle) as upscaler:
        assert len(upscaler.upscale(photo, scales=[2], warn=lines.append)) == 1
    assert lines == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scales": []}, r"scales must be a list of scales, got \[\]"),
        ({"scales": "2"}, "scales must be a list of scales, got '2'"),
        ({"scales": 2}, "scales must be a list of scales, got 2"),
        ({"scales": [2, 0.5]}, "scale must be at least 1, got 0.5"),
        ({"scales": [2], "scale": 2}, "exactly one of scale, scales and size"),
        ({"scales": [2], "size": (40, 40)}, "exactly one of scale, scales and size"),
    ],
)
def test_wrong_scales_are_refused_before_any_run(
    staged: Bundle, photo: NDArray[np.uint8], arguments: Any, message: str
) -> None:
    done: list[int] = []
    with Upscaler.open(staged) as upscaler, pytest.raises(FlowsrError, match=message):
        upscaler.upscale(photo, progress=lambda n, _: done.append(n), **arguments)
    assert done == []


def test_progress_counts_the_tiles_of_all_scales(
    staged: Bundle, photo: NDArray[np.uint8]
) -> None:
    steps: list[tuple[int, int]] = []
    with Upscaler.open(staged) as upscaler:
        upscaler.upscale(photo, scales=[2, 3, 4], progress=lambda *step: steps.append(step))
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_kept_features_serve_later_calls_with_the_same_pixels(
    staged: Bundle, photo: NDArray[np.uint8], counted: CountedFeatures
) -> None:
    other = photo.copy()
    other[0, 0] ^= 1
    with Upscaler.open(staged) as plain:
        expected = [plain.upscale(photo, 2), plain.upscale(other, 3), plain.upscale(photo, 4)]
    with Upscaler.open(staged, feature_cache=1 << 30) as upscaler:
        calls = [(photo, 2), (other, 3), (photo, 4)]
        results = [upscaler.upscale(image, scale) for image, scale in calls]
        assert (upscaler.features.hits, upscaler.features.misses) == (1, 2)
        assert upscaler.features.held == 2 * photo.size * 4
    assert counted.count == 2
    for one, result in zip(expected, results, strict=True):
        np.testing.assert_array_equal(one, result)


def test_a_small_cache_keeps_the_latest_image_alone(
    staged: Bundle, photo: NDArray[np.uint8]
) -> None:
    other = photo[::-1].copy()
    with Upscaler.open(staged, feature_cache=1) as upscaler:
        for image in (photo, other, photo, photo):
            upscaler.upscale(image, 2)
        assert (upscaler.features.hits, upscaler.features.misses) == (1, 3)
        assert upscaler.features.held == photo.size * 4


@pytest.mark.parametrize("value", [-1, 1.5, "1M"])
def test_a_wrong_size_of_the_cache_is_refused(staged: Bundle, value: Any) -> None:
    with pytest.raises(UsageError, match="feature_cache must be a whole number of bytes, got"):
        Upscaler.open(staged, feature_cache=value)


def test_a_cache_forgets_the_least_recently_used_first() -> None:
    cache = FeatureCache(2)
    images = [np.full((1, 3, 1, 1), value, np.float32) for value in range(3)]
    computed: list[float] = []

    def compute(image: NDArray[Any]) -> Features:
        computed.append(float(image.max()))
        return Features({}, 1)

    for index in (0, 1, 0, 2, 0, 1):
        cache.features_of(images[index], compute)
    assert computed == [0, 1, 2, 1]
    cache.clear()
    assert cache.held == 0


def test_a_size_fixed_graph_goes_before_the_stages(tmp_path: Path) -> None:
    file = "model.fp32.x2.5x4.onnx"
    graph = {"file": file, "precision": "fp32", "scale": "2", "lr_size": [4, 5], "batch": 1}
    manifest, files = STAGED
    manifest = {**manifest, "graphs": [graph], "files": {**manifest["files"], file: {}}}
    both = write_bundle(tmp_path / "both", manifest, {**files, file: FIXED})
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    with Upscaler.open(both) as upscaler:
        cache = FeatureCache(1)
        session = SharingSession(upscaler._session, cache)
        sharing = Upscaler(both, session, feature_cache=0)
        np.testing.assert_array_equal(sharing.upscale(image, 2), upscaler.upscale(image, 2))
        assert cache.misses == 0
        np.testing.assert_array_equal(sharing.upscale(image, 3), upscaler.upscale(image, 3))
        assert cache.misses == 1
