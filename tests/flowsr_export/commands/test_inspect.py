"""The `inspect` command: contents and damage of bundles."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from flowsr_export.commands.inspect import flatten, summary
from flowsr_runtime import Bundle, SessionSettings
from flowsr_runtime.bundle import verdicts
from flowsr_runtime.bundle.directory import extend_bundle
from flowsr_runtime.bundle.manifest import Manifest
from tests.flowsr_export.conftest import fourfold_manifest

Run = Callable[..., Result]


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_nested_objects_become_dotted_rows() -> None:
    rows = flatten({"a": {"b": 1.23456789, "c": [1, 2.5]}, "d": None})
    assert rows == [("a.b", "1.23457"), ("a.c", "1, 2.5"), ("d", "None")]


def test_the_command_prints_what_the_bundle_holds(bundle: Path, run: Run) -> None:
    done = run("inspect", bundle)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == "sound, LINF-LP, any scale, fp32"
    assert "linf-lp" in done.stdout
    assert "any from 1, per axis" in done.stdout
    assert "2 linear layers of the flow, largest 12.2" in done.stdout
    assert "  psnr" in done.stdout
    assert done.stdout.splitlines()[-4].split()[:2] == ["ok", "model.fp32.onnx"]


def test_a_model_of_one_scale_says_what_it_takes(fourfold: Path, run: Run) -> None:
    done = run("inspect", fourfold)
    assert done.stdout.splitlines()[0] == "sound, SRFlow-LP, scale 4, fp32"
    assert "4 only; upscale --resample reaches other scales" in done.stdout
    assert "any; padded to multiples of 2 for the graph, then cropped" in done.stdout
    assert "halo 16 LR pixels, seam 0.5 steps of 255" in done.stdout


def test_latents_and_whole_pictures_are_stated() -> None:
    changed = fourfold_manifest()
    changed["latents"] = [{"name": "latent0", "channels": 6, "patch": 2}]
    changed["tiling"]["whole_only"] = True
    changed["files"] = {}
    rows = dict(summary(Manifest.parse(changed)))
    assert rows["latents"] == "sampled at a temperature: latent0 6 channels of 2x2 pixels"
    assert rows["inputs"] == "input, latent0"
    assert rows["tiling"] == "none: whole images only"


def test_the_command_prints_one_json_object(bundle: Path, run: Run) -> None:
    found = json.loads(run("inspect", bundle, "--json").stdout)
    assert found["manifest"]["family"] == "linf-lp"
    assert (found["sound"], found["title"]) == (True, "LINF-LP, any scale, fp32")
    golden = [f"golden/{name}" for name in ("input.png", "output.npy", "case.json")]
    assert found["files"] == dict.fromkeys(["model.fp32.onnx", *golden], "ok")


def test_the_self_tests_of_a_bundle_are_shown(
    bundle: Path, exploding: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(verdicts, "cache_folder", lambda: tmp_path / "cache")
    assert "self-tests" in run("inspect", bundle).stdout
    for each in (bundle, exploding):
        SessionSettings().open(Bundle.open(each))
    shown = run("inspect", bundle).stdout
    assert shown.count("passed, max error 0: onnxruntime cpu, fp32, onnxruntime") == 1
    (verdict,) = json.loads(run("inspect", bundle, "--json").stdout)["self_tests"]
    assert verdict["passed"]
    assert verdict["key"]["interface"] == "python"
    assert f"2 kept in {tmp_path / 'cache'}" in run("doctor").stdout


def test_the_nodes_of_a_provider_are_counted(bundle: Path, run: Run) -> None:
    done = run("inspect", bundle, "--provider", "cpu")
    assert done.exit_code == 0
    assert done.stdout.startswith("onnxruntime cpu, fp32, self-test passed, max error 0\n")
    assert "copies  0 between host and device" in done.stdout
    found = json.loads(run("inspect", bundle, "--provider", "cpu", "--json").stdout)
    assert (found["copies"], found["provider"], found["tf32"]) == (0, "cpu", False)
    untested = run("inspect", bundle, "--provider", "cpu", "--no-self-test").stdout
    assert "not tested: the self-test was switched off" in untested


def test_a_provider_that_is_missing_ends_with_4(bundle: Path, run: Run) -> None:
    done = run("inspect", bundle, "--provider", "openvino")
    assert (done.exit_code, done.stdout) == (4, "")
    assert "provider openvino is not in the installed onnxruntime" in done.stderr
    both = run("inspect", bundle, "--provider", "cpu", "--engine")
    assert both.exit_code == 2
    assert "give at most one of --engine and --provider" in both.stderr


def test_the_command_ends_with_5_on_a_flipped_byte(bundle: Path, run: Run) -> None:
    flip_a_byte(bundle / "model.fp32.onnx")
    done = run("inspect", bundle)
    assert done.exit_code == 5
    assert done.stderr.count("\n") == 1
    assert done.stdout.splitlines()[0] == "DAMAGED, LINF-LP, any scale, fp32"


def test_inspecting_needs_no_inference_library(bundle: Path) -> None:
    program = "import sys; from flowsr_export.cli import main; main(standalone_mode=False)"
    program += "; print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    command = [sys.executable, "-c", program, "inspect", str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    heavy = {"torch", "onnx", "onnxruntime", "tensorrt"}
    assert set(done.stderr.split()) & heavy == set()


def test_size_fixed_graphs_are_listed(bundle: Path, run: Run) -> None:
    sizes = {"scale": "4", "lr_size": [270, 480], "precision": "fp32"}
    graphs = [{**sizes, "file": f"{batch}.onnx", "batch": batch} for batch in (1, 2)]
    extend_bundle(bundle, {"1.onnx": b"one", "2.onnx": b"two"}, {}, graphs)
    lines = run("inspect", bundle).stdout.splitlines()
    (first,) = (i for i, line in enumerate(lines) if line.startswith("size-fixed "))
    assert lines[first].split(maxsplit=1)[1] == "480x270 to 1920x1080, batch 1, fp32"
    assert lines[first + 1].strip() == "480x270 to 1920x1080, batch 2, fp32"
