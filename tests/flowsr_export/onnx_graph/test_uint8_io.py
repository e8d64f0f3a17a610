"""Graphs of eight-bit pictures: one is exported, the others are made by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tensorrt_rtx
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from flowsr_export.cli import main
from flowsr_export.deployment.families import deployment_of
from flowsr_export.inputs.cases import Case
from flowsr_export.onnx_graph.lint import lint
from flowsr_export.onnx_graph.uint8_io import Uint8Session, with_uint8_io
from flowsr_export.parity.compare import Tolerance, compare, tolerance_for
from flowsr_lp import LinfLP
from flowsr_runtime import Bundle, ParityError, Upscaler
from tests.doubles.builds import build
from tests.flowsr_export.conftest import Exported, fourfold_graph, resizing_graph
from tests.flowsr_export.networks import small
from tests.stand_in import picture

Run = Callable[..., Result]
CASE = Case((12, 15), (31, 40))
ONE_STEP = 1
# A value that is half way between two steps goes to either: float32 decides.
HALF_STEP = 0.5 + 1e-3
RANGES = {
    "input": ((1, 3, 8, 8), (1, 3, 32, 32), (1, 3, 64, 64)),
    "geometry": ((1,) * 4 + (0,) * 4 + (1,) * 2, (64,) * 10, (4096,) * 10),
}


@pytest.fixture(scope="module")
def eight(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the small network with eight-bit pictures."""
    path = tmp_path_factory.mktemp("eight") / "eight.bundle"
    files = ("--model", exported.model, "--prior", exported.prior)
    words = ("export-onnx", *files, "-o", path, "--io", "uint8")
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return path


class Rounded:
    """The network itself, its pictures turned into eight bits and moved by some steps."""

    backend, provider = "eager", "cpu"

    def __init__(self, network: LinfLP, steps: int = 0) -> None:
        self.network, self.steps, self.closed = network, steps, False

    def run(self, feeds: Any) -> NDArray[Any]:
        assert feeds["input"].dtype == np.uint8
        rgb = torch.from_numpy(feeds["input"]).float() / 255
        with torch.inference_mode():
            output = self.network(rgb, CASE.size).output.clamp(0, 1).numpy()
        near = np.floor(output * 255 + 0.5).astype(np.uint8)
        moved: NDArray[Any] = near ^ np.uint8(self.steps)
        return moved

    def close(self) -> None:
        self.closed = True


class Floating(Rounded):
    """Gives floats where eight bits are due."""

    def run(self, feeds: Any) -> NDArray[Any]:
        return super().run(feeds).astype(np.float32)


def test_the_bundle_says_what_its_pictures_are(eight: Path) -> None:
    manifest = Bundle.open(eight).manifest
    picture_keys = manifest.raw["picture"]
    assert manifest.io == "uint8"
    assert (picture_keys["io"], picture_keys["range"]) == ("uint8", [0, 255])
    model = onnx.load(eight / "model.fp32.onnx")
    kinds = [v.type.tensor_type.elem_type for v in (model.graph.input[0], *model.graph.output)]
    assert kinds == [onnx.TensorProto.UINT8] * 2
    assert [lint(model), model.graph.input[0].name] == [[], "input"]


def test_the_verification_has_figures_of_both_graphs(eight: Path) -> None:
    stated = Bundle.open(eight).manifest.raw["verification"]
    assert 0 < stated["max_abs"] <= 1e-4
    assert stated["eight_bit"]["max_steps"] <= ONE_STEP
    assert stated["eight_bit"]["cases"] == stated["cases"]


def test_it_has_the_seam_of_the_float_graph(eight: Path, exported: Exported) -> None:
    seams = [Bundle.open(path).manifest.tiling for path in (eight, exported.bundle)]
    assert seams[0] == seams[1]


def test_pictures_are_those_of_the_float_graph_rounded(eight: Path, exported: Exported) -> None:
    rgb = picture(40, 50)
    with (
        Upscaler.open(eight, threads=1) as rounded,
        Upscaler.open(exported.bundle, threads=1) as plain,
    ):
        exact = plain.upscale(np.asarray(rgb / 255, np.float32), "2.7")
        np.testing.assert_allclose(
            rounded.upscale(rgb, "2.7"), 255 * exact, rtol=0, atol=HALF_STEP
        )


def test_tiles_are_the_whole_picture_within_a_step(eight: Path) -> None:
    rgb = picture(200, 190)
    with Upscaler.open(eight, threads=1) as whole:
        expected = whole.upscale(rgb, 2)
    with Upscaler.open(eight, threads=1, memory_budget=27_000_000) as tiled:
        assert len(tiled.plan((200, 190), 2)) > 1
        output = tiled.upscale(rgb, 2)
    assert np.abs(output.astype(int) - expected).max() <= 2 * ONE_STEP


def test_the_golden_pair_is_eight_bits_on_both_sides(eight: Path) -> None:
    case = json.loads((eight / "golden" / "case.json").read_text())
    with Image.open(eight / "golden" / case["input"]) as image:
        rgb = np.asarray(image)
    expected = np.load(eight / "golden" / case["output"])
    assert expected.dtype == np.uint8
    with Upscaler.open(eight, threads=1) as upscaler:
        output = upscaler.upscale(rgb, size=tuple(case["size"]))
    np.testing.assert_array_equal(output.transpose(2, 0, 1), expected)


def test_verify_compares_in_steps(eight: Path, exported: Exported, run: Run) -> None:
    files = ("--model", exported.model, "--prior", exported.prior)
    done = run("verify", eight, *files, "--threads", 1, "--json")
    assert done.exit_code == 0, done.output
    (figures,) = json.loads(done.stdout)["runs"].values()
    assert max(each["max_steps"] for each in figures) <= ONE_STEP


def test_inspect_says_what_cannot_be_seen(eight: Path, run: Run) -> None:
    assert "uint8, rounded in the graph" in run("inspect", eight).output


def test_tensorrt_for_rtx_builds_it(eight: Path) -> None:
    content = (eight / "model.fp32.onnx").read_bytes()
    plan, heard = build(tensorrt_rtx, content, RANGES, capabilities=("SM89",))
    assert plan is not None, heard.said()


def test_bfloat16_has_no_graph_of_eight_bits(run: Run, tmp_path: Path) -> None:
    words = ("--precision", "bf16", "--io", "uint8")
    done = run("export-onnx", "-o", tmp_path / "never.bundle", *words)
    assert done.exit_code == 2
    assert "io uint8 needs fp32 or fp16, got bf16" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("gain", [0.3, 1.0, 9.0])
def test_the_conversion_divides_clamps_and_rounds_half_up(gain: float) -> None:
    made = with_uint8_io(onnx.load_from_string(fourfold_graph(gain)))
    steps = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 3, 16, 16)
    session = ort.InferenceSession(made.SerializeToString(), None, ["CPUExecutionProvider"])
    (output,) = session.run(["output"], {"input": steps})
    exact = np.clip(steps * np.float64(gain), 0, 255)
    due = [np.floor(exact + 0.5 + nudge) for nudge in (-1e-4, 1e-4)]
    assert output.dtype == np.uint8
    assert ((output[..., ::4, ::4] == due[0]) | (output[..., ::4, ::4] == due[1])).all()


def test_the_float_graph_is_left_as_it_is() -> None:
    model = onnx.load_from_string(resizing_graph())
    made = with_uint8_io(model)
    assert model.SerializeToString() == resizing_graph()
    assert [node.op_type for node in made.graph.node][:2] == ["Cast", "Div"]
    assert made.graph.input[1] == model.graph.input[1]


def test_equal_pictures_have_no_steps_between_them() -> None:
    network = small()
    run = Uint8Session(Rounded(network))
    (figures,) = compare(
        deployment_of(network), run, [CASE], None, Tolerance(max_steps=0, in_range=True)
    )
    assert (figures.max_abs, figures.max_steps, figures.p999_steps) == (0, 0, 0)


def test_a_step_is_counted_as_one_and_two_miss_the_bar() -> None:
    network = small()
    deployment = deployment_of(network)
    bar = tolerance_for(deployment, "fp32", "uint8")
    (figures,) = compare(deployment, Uint8Session(Rounded(network, 1)), [CASE], None, bar)
    assert (figures.max_steps, figures.p999_steps) == (1, 1)
    with pytest.raises(ParityError, match="eight-bit error must be at most 1, got 2"):
        compare(deployment, Uint8Session(Rounded(network, 2)), [CASE], None, bar)


def test_an_exploding_reference_is_found_behind_eight_bits() -> None:
    network = small()
    with torch.no_grad():
        for parameter in network.linf.parameters():
            parameter.mul_(40)
    run = Uint8Session(Rounded(network))
    with pytest.raises(ParityError, match="inverse explodes"):
        compare(deployment_of(network), run, [CASE], None, Tolerance(in_range=True))


def test_a_graph_that_gives_floats_is_refused_and_closing_closes() -> None:
    session = Floating(small())
    run = Uint8Session(session)
    with pytest.raises(ParityError, match="output must be uint8, got float32"):
        compare(deployment_of(session.network), run, [CASE], None, Tolerance())
    run.close()
    assert session.closed
