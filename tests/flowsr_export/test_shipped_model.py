"""The built-in model: agreement, seam, memory, and quality above bicubic."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.artifacts import Photo, made_images, measure_photo
from flowsr_export.deployment.families import deployment_of
from flowsr_export.evaluation.metrics import METRICS
from flowsr_export.inputs.cases import Case
from flowsr_export.parity.compare import compare, tolerance_for
from flowsr_export.parity.reference import reference_of
from flowsr_lp import LinfLP, embedded_checkpoint, load_checkpoint
from flowsr_runtime import Bundle, Upscaler, embedded_bundle, open_session, output_size
from flowsr_runtime.errors import MemoryBudgetError

PICTURES = Path(__file__).parents[2] / "export" / "flowsr_export" / "inputs" / "pictures"
EVALUATION = Path(__file__).parents[2] / "benchmarks/results/quality-built-in-model.json"
NAMES = ["bridge", "chelsea", "citrus", "coffee", "honeybee", "picos", "stream"]
ONE_STEP = 1
MESH_RATIO = 2.0  # the detail of a photograph has about 1; a visible mesh has 3 and more
GIB = 1 << 30


def photograph(name: str) -> Image.Image:
    with Image.open(PICTURES / f"{name}_256.png") as image:
        photo: Image.Image = image.convert("RGB")
        return photo


def luma(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(16 + rgb @ np.array([65.481, 128.553, 24.966]) / 255)


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8], border: int) -> float:
    inner = np.s_[border:-border, border:-border]
    return float(-10 * np.log10(np.mean((luma(a)[inner] - luma(b)[inner]) ** 2) / 255**2))


def test_the_bundle_is_sound_and_made_of_the_weights_that_ship() -> None:
    bundle = Bundle.open(embedded_bundle())
    bundle.check_files()
    assert reference_of(bundle, None, None).network.prior is not None
    assert bundle.manifest.raw["model"]["licence"] == "Apache-2.0"


def test_the_whole_model_is_under_eight_megabytes() -> None:
    assert len(Bundle.open(embedded_bundle()).model_bytes()) < 8_000_000


@pytest.mark.parametrize(
    "case",
    [
        Case((24, 31), (31, 40)),
        Case((24, 31), (65, 112)),
        Case((16, 16), (192, 192)),
        Case((1, 40), (4, 160)),
        Case((256, 8), (512, 16), batch=3),
    ],
    ids=str,
)
def test_the_bundle_agrees_with_pytorch(case: Case) -> None:
    bundle = Bundle.open(embedded_bundle())
    deployment = deployment_of(reference_of(bundle, None, None).network)
    session = open_session(bundle, threads=2)
    (figures,) = compare(deployment, session, [case], None, tolerance_for(deployment, "fp32"))
    assert figures.max_abs <= 1e-4


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_it_is_better_than_bicubic_on_every_shipped_photograph(scale: int) -> None:
    with Upscaler.open() as upscaler:
        for name in NAMES:
            side = 252 // scale * scale
            truth = photograph(name).crop((0, 0, side, side))
            small = truth.resize((side // scale,) * 2, Image.Resampling.BICUBIC)
            bicubic = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))
            ours = upscaler.upscale(np.asarray(small), scale)
            assert psnr(ours, np.asarray(truth), scale) > psnr(
                bicubic, np.asarray(truth), scale
            )


@pytest.fixture(scope="module")
def artifacts() -> list[Photo]:
    """Mesh and values out of range of every shipped photograph at four scales."""
    network = load_checkpoint(*embedded_checkpoint()).network
    assert isinstance(network, LinfLP)
    network.linf.guard = False
    crops = {name: np.asarray(photograph(name))[:128, :128] for name in NAMES}
    return [
        measure_photo(network, name, crop, scale)
        for name, crop in crops.items()
        for scale in ("2", "2.7", "3", "4")
    ]


def test_no_shipped_photograph_shows_the_mesh(artifacts: list[Photo]) -> None:
    assert len(artifacts) == 28
    assert max(photo.mesh for photo in artifacts) <= MESH_RATIO


def test_no_shipped_photograph_explodes(artifacts: list[Photo]) -> None:
    assert max(photo.guarded for photo in artifacts) == 0
    assert sum(photo.out_of_range for photo in artifacts) / len(artifacts) < 0.001


def test_text_on_a_gray_page_stays_gray() -> None:
    page = made_images([])["text 0"]
    gray = np.repeat(page.max(axis=2, keepdims=True), 3, axis=2)
    with Upscaler.open() as upscaler:
        output = upscaler.upscale(gray[:96, :96], 3)
    assert np.ptp(output.astype(int), axis=2).max() <= ONE_STEP


@pytest.mark.parametrize("scale", ["2", "2.7", "4"])
def test_tiles_are_the_whole_picture_within_one_step(scale: str) -> None:
    rgb = np.asarray(photograph("bridge"))[:128]
    with Upscaler.open() as whole:
        expected = whole.upscale(rgb, scale)
    with Upscaler.open(memory_budget=90_000_000) as tiled:
        assert len(tiled.plan((128, 256), scale)) > 1
        difference = np.abs(tiled.upscale(rgb, scale).astype(int) - expected)
    assert difference.max() <= ONE_STEP


def test_exact_tiles_are_the_whole_picture() -> None:
    rgb = (np.asarray(photograph("chelsea"))[:96] / 255).astype(np.float32)
    with Upscaler.open() as whole:
        expected = whole.upscale(rgb, 3)
    with Upscaler.open(memory_budget=100_000_000, halo="exact") as tiled:
        assert len(tiled.plan((96, 256), 3)) > 1
        np.testing.assert_allclose(tiled.upscale(rgb, 3), expected, rtol=0, atol=1e-5)


class Scarce:
    """The model on a machine whose memory holds half a picture of 288x768."""

    backend, provider, device, limits = "onnxruntime", "cpu", 0, None

    def __init__(self, bundle: Bundle) -> None:
        self._inner = open_session(bundle)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        rows, columns = feeds["geometry"][-2:]
        if rows * columns > 288 * 600:
            raise MemoryBudgetError("cpu ran out of memory")
        return self._inner.run(feeds)

    def close(self) -> None:
        self._inner.close()


def test_exact_tiles_that_were_halved_are_the_whole_picture() -> None:
    rgb = (np.asarray(photograph("chelsea"))[:96] / 255).astype(np.float32)
    bundle = Bundle.open(embedded_bundle())
    lines: list[str] = []
    with Upscaler.open(bundle) as whole, Upscaler(bundle, Scarce(bundle), halo="exact") as less:
        expected = whole.upscale(rgb, 3)
        result = less.upscale(rgb, 3, warn=lines.append)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)
    assert [line[:35] for line in lines] == ["out of memory with tiles of 768x288"]


# The process states its own peak: what a parent is told of a child counts the fork too.
PROGRAM = """
import atexit, pathlib, sys
from flowsr_export.cli import main
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: pathlib.Path(sys.argv.pop()).write_text(status.read_text()))
main(sys.argv[1:-1])
"""


def peak_of_upscale(source: Path, folder: Path) -> int:
    """Return the peak resident memory of the command in bytes."""
    peak = folder / "peak.txt"
    paths = ["upscale", source, "-o", folder / "large.png", "--scale", 4, peak]
    subprocess.run([sys.executable, "-c", PROGRAM, *map(str, paths)], check=True)
    (line,) = (s for s in peak.read_text().splitlines() if s.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize(("side", "limit"), [(32, 0.5), (512, 2.5)])
def test_memory_is_bounded(side: int, limit: float, tmp_path: Path) -> None:
    photograph("bridge").resize((side, side)).save(tmp_path / "small.png")
    assert peak_of_upscale(tmp_path / "small.png", tmp_path) < limit * GIB


def evaluation() -> dict[str, Any]:
    """Results of `flowsr-export evaluate` on Set5 and Set14."""
    found = json.loads(EVALUATION.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_the_model_card_and_the_readme_state_what_was_measured_of_these_weights() -> None:
    card = embedded_checkpoint()[0].with_name("MODEL_CARD.md").read_text(encoding="utf-8")
    readme = (EVALUATION.parents[2] / "README.md").read_text(encoding="utf-8")
    measured, checkpoint = evaluation(), load_checkpoint(*embedded_checkpoint())
    assert measured["model"]["model_sha256"] == checkpoint.model_sha256
    assert measured["model"]["prior_sha256"] == checkpoint.prior_sha256
    figures = [mean["figures"] for mean in measured["means"]]
    cells = [f"{f['psnr-y']:.2f} / {f['lpips']:.3f}" for f in figures]
    assert len(cells) == 12
    assert all(cell in card and cell in readme for cell in cells)


def test_bicubic_has_the_published_figures() -> None:
    rows = {(m["set"], m["scale"], m["method"]): m["figures"] for m in evaluation()["means"]}
    known = rows["Set5", "4", "bicubic"]
    assert f"{known['psnr-y']:.2f} / {known['lpips']:.3f}" == "28.43 / 0.340"


def test_the_model_beats_bicubic_on_every_set_and_scale() -> None:
    rows = {(m["set"], m["scale"], m["method"]): m["figures"] for m in evaluation()["means"]}
    for dataset, scale in {(dataset, scale) for dataset, scale, _ in rows}:
        ours, bicubic = (rows[dataset, scale, name] for name in ("flowsr-lp", "bicubic"))
        assert all(
            (ours[name] > bicubic[name]) == (METRICS[name].better == "higher") for name in ours
        )


def test_sizes_of_any_scale_come_out_as_stated() -> None:
    rgb = np.asarray(photograph("coffee"))[:13, :17]
    with Upscaler.open() as upscaler:
        output = upscaler.upscale(rgb, ("2.7", "3.6"))
    assert output.shape == (output_size(13, "2.7"), output_size(17, "3.6"), 3)
