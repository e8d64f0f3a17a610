"""The `evaluate` command."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image

from flowsr_export.commands.evaluate import METRICS
from flowsr_export.evaluation.metric_set import DEFAULT_METRICS
from flowsr_export.evaluation.metrics import METRICS as KNOWN
from flowsr_runtime.installation import pip_command
from tests.flowsr_export.evaluation.evaluations import (
    dists_weights,
    folder_of,
    lpips_weights,
    noisy_bundle,
)

Run = Callable[..., Result]
PSNR = ("--metric", "psnr-y")
RUNS_ON = "flowsr-export: runs on onnxruntime cpu, fp32\n"


@pytest.fixture
def hr(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "Tiny", "a", "b")


def assert_refused(done: Result, exit_code: int, words: str) -> None:
    """Check for one line on stderr, nothing on stdout, and the exit code."""
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert done.stderr.startswith("flowsr-export: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_a_table_is_printed(bundle: Path, hr: Path, run: Run) -> None:
    done = run("evaluate", bundle, "--hr", hr, "--scale", "2,2.7", *PSNR)
    assert (done.exit_code, done.stderr) == (0, RUNS_ON)
    lines = [line.split(" | ")[:4] for line in done.stdout.splitlines() if "Tiny |" in line]
    assert lines == [
        ["| Tiny", "×2", "bicubic", "2"],
        ["| Tiny", "×2", "flowsr-lp", "2"],
        ["| Tiny", "×2.7", "bicubic", "2"],
        ["| Tiny", "×2.7", "flowsr-lp", "2"],
    ]


def test_every_figure_is_computed_and_written(
    bundle: Path, hr: Path, tmp_path: Path, run: Run
) -> None:
    alexnet, linear = lpips_weights(tmp_path)
    vgg, own = dists_weights(tmp_path)
    weights = ("--alexnet", alexnet, "--lpips-weights", linear)
    judges = (*weights, "--vgg16", vgg, "--dists-weights", own)
    done = run("evaluate", bundle, "--hr", hr, "--scale", "2", *judges, "-o", tmp_path / "out")
    assert done.exit_code == 0
    lines = list(csv.DictReader((tmp_path / "out.csv").read_text("utf-8").splitlines()))
    assert len(lines) == 4
    assert list(lines[0])[-7:] == list(DEFAULT_METRICS)
    assert all(float(line[name]) > 0 for line in lines for name in DEFAULT_METRICS)
    assert (tmp_path / "out.md").read_text("utf-8") in done.stdout
    with Image.open(tmp_path / "out.png") as sheet:
        assert sheet.height > 1000  # two pictures


def test_json_is_one_object(bundle: Path, hr: Path, run: Run) -> None:
    done = run(
        *("evaluate", bundle, "--hr", hr, "--scale", "2", *PSNR),
        *("--baseline", "none", "--threads", "1", "--json"),
    )
    found = json.loads(done.stdout)
    assert found["files"] == []
    assert [row["method"] for row in found["rows"]] == ["flowsr-lp", "flowsr-lp"]
    assert found["settings"]["scales"] == ["2"]
    assert found["libraries"]["onnxruntime"]


def test_partners_are_taken_where_they_are_given(
    bundle: Path, hr: Path, tmp_path: Path, run: Run
) -> None:
    lr = folder_of(tmp_path / "low", "a_LR", "b_LR", height=32, width=36)
    given = run("evaluate", bundle, "--hr", hr, "--lr", lr, "--scale", "2", *PSNR, "--json")
    own = run("evaluate", bundle, "--hr", hr, "--scale", "2", *PSNR, "--json")
    figures = [json.loads(done.stdout)["means"][0]["figures"] for done in (given, own)]
    assert figures[0]["psnr-y"] < figures[1]["psnr-y"]  # of other pictures


def test_a_bundle_of_one_scale_needs_none(fourfold: Path, hr: Path, run: Run) -> None:
    done = run("evaluate", fourfold, "--hr", hr, *PSNR, "--json")
    assert {row["scale"] for row in json.loads(done.stdout)["rows"]} == {"4"}


def test_samples_have_diversity(tmp_path: Path, hr: Path, run: Run) -> None:
    noisy = noisy_bundle(tmp_path / "noisy")
    noise = ("--temperature", "0.1", "--samples", "2", "--seed", "3")
    done = run(
        *("evaluate", noisy, "--hr", hr, "--scale", "2", *noise, *PSNR),
        *("--metric", "diversity", "--json"),
    )
    means = {mean["method"]: mean["figures"] for mean in json.loads(done.stdout)["means"]}
    assert means["bicubic"]["diversity"] == 0
    assert means["flowsr-lp"]["diversity"] > 10


def test_pytorch_is_a_backend(tmp_path: Path, run: Run) -> None:
    hr = folder_of(tmp_path / "One", "a", height=24, width=24)
    same = ("--hr", hr, "--scale", "2", *PSNR, "--baseline", "none", "--json")
    in_torch, in_runtime = (
        json.loads(run("evaluate", *backend, *same).stdout)["means"][0]["figures"]["psnr-y"]
        for backend in (("--backend", "torch"), ())
    )
    assert in_torch == pytest.approx(in_runtime, abs=0.01)


def test_kept_outputs_are_scored_as_they_were_measured(
    bundle: Path, hr: Path, tmp_path: Path, run: Run
) -> None:
    same = ("--hr", hr, "--scale", "2,2.7", *PSNR, "--baseline", "none", "--json")
    first = run("evaluate", bundle, *same, "--keep", tmp_path / "kept")
    kept = tmp_path / "kept" / "flowsr-lp"
    names = {path.relative_to(kept).as_posix() for path in kept.rglob("*.png")}
    assert names == {f"Tiny/{scale}/{name}.png" for scale in ("x2", "x2.7") for name in "ab"}
    again = run("evaluate", *same, "--score", kept)
    measured, scored = (json.loads(done.stdout)["means"] for done in (first, again))
    assert [mean["figures"] for mean in measured] == [mean["figures"] for mean in scored]
    assert {mean["method"] for mean in scored} == {"flowsr-lp"}
    assert_refused(run("evaluate", bundle, *same, "--keep", tmp_path / "kept"), 1, "exists")


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (("--score", "none"), 5, "folder of outputs none does not exist"),
        (("--score", ".", "--model", "a.pth"), 2, "--score and --model exclude each other"),
        (("--score", "empty"), 5, "Tiny a ×2 has no output in empty, such as Tiny/x2/a.png"),
        (("--score", "small"), 5, "a.png must be 72x64 for Tiny a ×2, got 5x4"),
    ],
)
def test_outputs_that_cannot_be_scored_are_one_line(
    words: tuple[str, ...],
    exit_code: int,
    message: str,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    hr = folder_of(tmp_path / "Tiny", "a")
    Path("empty").mkdir()
    folder_of(tmp_path / "small", "a", height=4, width=5)
    plain = ("--hr", hr, "--scale", "2", *PSNR, "--baseline", "none")
    assert_refused(run("evaluate", *plain, *words), exit_code, message)


def test_several_temperatures_are_several_methods(tmp_path: Path, hr: Path, run: Run) -> None:
    noisy = noisy_bundle(tmp_path / "noisy")
    same = ("--hr", hr, "--scale", "2", *PSNR, "--baseline", "none", "--json")
    done = run("evaluate", noisy, *same, "--temperature", "0,0.1,0.2")
    means = {mean["method"]: mean["figures"] for mean in json.loads(done.stdout)["means"]}
    assert list(means) == ["flowsr-lp-t0", "flowsr-lp-t0.1", "flowsr-lp-t0.2"]
    falling = [figures["psnr-y"] for figures in means.values()]
    assert falling == sorted(falling, reverse=True)
    alone = run("evaluate", noisy, *same, "--temperature", "0.1")
    assert json.loads(alone.stdout)["means"][0]["figures"] == means["flowsr-lp-t0.1"]


def test_a_protocol_is_one_word(bundle: Path, hr: Path, run: Run) -> None:
    same = ("--hr", hr, "--scale", "2", "--metric", "ssim", "--metric", "psnr", "--json")
    word = run("evaluate", bundle, *same, "--protocol", "srflow")
    single = ("--values", "truncated", "--ssim", "uniform", "--shave", "0")
    options = run("evaluate", bundle, *same, *single)
    figures = [json.loads(done.stdout)["means"] for done in (word, options)]
    assert figures[0] == figures[1]
    plain = run("evaluate", bundle, *same)
    assert json.loads(plain.stdout)["means"] != figures[0]
    stated = json.loads(word.stdout)["settings"]["protocol"]
    assert (stated["name"], stated["ssim_kind"]) == ("srflow", "uniform")
    assert stated["border"] == "extend"


def test_a_bundle_keeps_its_border_under_a_protocol(bundle: Path, hr: Path, run: Run) -> None:
    done = run(*("evaluate", bundle, "--hr", hr, "--scale", "2", *PSNR, "--protocol", "linf"))
    assert done.exit_code == 0
    assert "patches beyond the edge: extend, as exported; --backend torch: tight" in done.stderr
    assert "Protocol: linf; border extend." in done.stdout


def test_distances_are_left_out_without_weights(bundle: Path, hr: Path, run: Run) -> None:
    done = run("evaluate", bundle, "--hr", hr, "--scale", "2")
    assert "lpips is left out: it needs --alexnet and --lpips-weights" in done.stderr
    assert "dists is left out: it needs --vgg16 and --dists-weights" in done.stderr
    assert done.exit_code == 0
    assert "psnr | psnr-y | ssim | ssim-y | lr-psnr |" in done.stdout


def test_a_scale_without_partners_is_reduced_and_named(
    bundle: Path, hr: Path, tmp_path: Path, run: Run
) -> None:
    folder_of(tmp_path / "low" / "x2", "a", "b", height=32, width=36)
    same = ("--hr", hr, "--scale", "2,3", *PSNR, "--json")
    done = run("evaluate", bundle, *same, "--lr", tmp_path / "low")
    assert "×3 has no folder in --lr: its originals are reduced" in done.stderr
    own = run("evaluate", bundle, *same)
    figures = [json.loads(one.stdout)["means"] for one in (done, own)]
    assert figures[0][2:] == figures[1][2:]  # of scale 3
    assert figures[0][:2] != figures[1][:2]
    assert json.loads(done.stdout)["settings"]["scales_reduced"] == ["3"]


WITHOUT_TORCH = """
import sys
sys.modules |= dict.fromkeys(("torch", "onnx", "safetensors"))
from flowsr_export.cli import main
main(sys.argv[1:])
"""


def test_psnr_and_ssim_need_no_pytorch(bundle: Path, hr: Path) -> None:
    words = ["evaluate", str(bundle), "--hr", str(hr), "--scale", "2", *PSNR]
    words += ["--metric", "ssim", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, RUNS_ON)
    assert "| Tiny | ×2 | flowsr-lp | 2 |" in done.stdout


def test_lpips_without_pytorch_says_what_to_install(bundle: Path, hr: Path) -> None:
    words = ["evaluate", str(bundle), "--hr", str(hr), "--metric", "lpips"]
    words += ["--alexnet", "a.pth", "--lpips-weights", "b.pth"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == f"flowsr-export: torch is not installed; {pip_command('export')}\n"


def test_an_explosion_is_said(exploding: Path, hr: Path, run: Run) -> None:
    done = run("evaluate", exploding, "--hr", hr, *PSNR)
    assert done.exit_code == 0
    assert done.stderr.count("exploded") == 2
    assert done.stderr.startswith(
        RUNS_ON + "flowsr-export: Tiny a ×4: the inverse of the flow may have"
    )


def test_a_figure_that_cannot_be_computed_ends_with_3(bundle: Path, hr: Path, run: Run) -> None:
    done = run("evaluate", bundle, "--hr", hr, "--scale", "1", *PSNR)
    assert_refused(done, 3, "Tiny a ×1, bicubic: psnr-y must be finite, got inf")


def test_what_is_there_is_not_overwritten(
    bundle: Path, hr: Path, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "out.png").write_text("mine")
    asked = ("evaluate", bundle, "--hr", hr, "--scale", "2", *PSNR, "-o", tmp_path / "out")
    assert_refused(run(*asked), 1, "out.png exists")
    assert run(*asked, "--force").exit_code == 0
    assert (tmp_path / "out.png").read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("options", "exit_code", "words"),
    [
        (("--hr", "none"), 5, "folder of images none does not exist"),
        (("--lr", "none"), 5, "folder of images none does not exist"),
        (("--scale", "0.5"), 2, "scale must be at least 1, got 0.5"),
        (("--scale", "30"), 5, "61 pixels a side at ×30 for psnr-y, got 60x60"),
        (("--metric", "lpips"), 2, "lpips needs alexnet"),
        (("--metric", "dists"), 2, "dists needs vgg16 (vgg16-397923af.pth) and dists_weights"),
        (("--samples", "2"), 2, "samples must be 1 without noise, got 2"),
        (("--temperature", "0.5"), 2, "prior, got 0.5"),
        (("--model", "a.pth"), 2, "torch, got auto"),
        (("--provider", "openvino"), 4, "openvino"),
        (("--border", "paired"), 2, "border paired needs backend torch"),
        (("--truncate", "--values", "float"), 2, "--truncate and --values float exclude"),
        (("--temperature", "0,x"), 2, "expected numbers such as 0,0.5,0.8, got '0,x'"),
        (("--temperature", "0,0.0"), 2, "expected distinct numbers, got '0,0.0'"),
    ],
)
def test_a_wrong_option_is_one_line(
    options: tuple[str, ...], exit_code: int, words: str, bundle: Path, hr: Path, run: Run
) -> None:
    plain = ("--hr", hr, "--scale", "2")
    done = run("evaluate", bundle, *plain, *PSNR, *options)
    assert_refused(done, exit_code, words)


@pytest.mark.parametrize(
    ("scales", "got"), [(["2x3"], "2x3"), (["2,2"], "2,2"), (["2", "3,2"], "2,3,2")]
)
def test_scales_are_distinct_numbers_for_both_axes(
    scales: list[str], got: str, bundle: Path, hr: Path, run: Run
) -> None:
    words = [word for scale in scales for word in ("--scale", scale)]
    done = run("evaluate", bundle, "--hr", hr, *PSNR, *words)
    assert_refused(done, 2, f"expected distinct scales such as 2,2.7,4, got {got};")


def test_the_command_offers_every_figure() -> None:
    assert tuple(name for name in KNOWN if name != "mesh-pattern") == METRICS  # part of mesh
