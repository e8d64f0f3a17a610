"""Model repositories: their files, and atomic replacement."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from flowsr_export.triton.config import TritonModelConfig
from flowsr_export.triton.repository import write_repository
from flowsr_runtime import Bundle, BundleError, IntegrityError, OutputError, UsageError
from flowsr_runtime.bundle.directory import extend_bundle
from flowsr_runtime.bundle.engine_key import EngineKey, Range
from flowsr_runtime.bundle.engine_store import EngineStore

Run = Callable[..., Result]


def files_of(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def add_engine(bundle: Bundle, plan: bytes, flavour: str = "tensorrt") -> str:
    """Put a plan into a bundle and return its name."""
    digest = bundle.manifest.files["model.fp32.onnx"].sha256
    profile = {"input": Range((1, 3, 16, 16), (1, 3, 16, 16), (1, 3, 16, len(plan) + 16))}
    key = EngineKey(digest, flavour, "10.13", ("8.9",), None, "fp32", (profile,), {})
    return EngineStore(bundle.path).add(key, plan, {}).name


def test_a_graph_lies_in_its_version_beside_its_configuration(
    bundle: Path, tmp_path: Path
) -> None:
    options = TritonModelConfig(backend="onnxruntime")
    model = write_repository(Bundle.open(bundle), tmp_path / "models", options)
    assert model == tmp_path / "models" / "flowsr"
    assert files_of(model) == ["1/model.onnx", "config.pbtxt", "warmup/picture-geometry"]
    assert (model / "1/model.onnx").read_bytes() == (bundle / "model.fp32.onnx").read_bytes()


def test_python_gets_its_program_and_a_bundle_that_opens(bundle: Path, tmp_path: Path) -> None:
    model = write_repository(Bundle.open(bundle), tmp_path, TritonModelConfig())
    assert {"1/model.py", "config.pbtxt", "warmup/picture-size"} < set(files_of(model))
    inner = Bundle.open(model / "1" / "bundle")
    inner.check_files()
    assert inner.model_bytes() == Bundle.open(bundle).model_bytes()


def test_python_gets_the_graph_of_its_precision_alone(bundle: Path, tmp_path: Path) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    entry = {**manifest["files"]["model.fp32.onnx"], "precision": "fp16"}
    manifest["files"]["model.fp16.onnx"] = entry
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    (bundle / "model.fp16.onnx").write_bytes((bundle / "model.fp32.onnx").read_bytes())
    model = write_repository(Bundle.open(bundle), tmp_path, TritonModelConfig(precision="fp16"))
    files = list(Bundle.open(model / "1" / "bundle").manifest.files)
    assert [name for name in files if name.endswith(".onnx")] == ["model.fp16.onnx"]
    assert "golden/case.json" in files  # Python tests the bundle when Triton loads it


def test_python_gets_the_size_fixed_graphs_of_its_precision(
    bundle: Path, tmp_path: Path
) -> None:
    graphs: list[dict[str, Any]] = [
        {"file": f"{name}.onnx", "precision": name, "scale": "4", "lr_size": [8, 9], "batch": 1}
        for name in ("fp32", "fp16")
    ]
    added = {graph["file"]: b"graph" for graph in graphs}
    extend_bundle(bundle, added, {}, graphs)
    model = write_repository(Bundle.open(bundle), tmp_path, TritonModelConfig())
    inner = Bundle.open(model / "1" / "bundle")
    inner.check_files()
    assert [graph.file for graph in inner.manifest.graphs] == ["fp32.onnx"]


def test_an_engine_is_copied_as_it_is(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    add_engine(opened, b"plan")
    model = write_repository(opened, tmp_path, TritonModelConfig(backend="tensorrt"))
    assert (model / "1" / "model.plan").read_bytes() == b"plan"


def test_one_of_several_engines_must_be_named(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    add_engine(opened, b"plan")
    name = add_engine(opened, b"another plan")
    with pytest.raises(UsageError, match="engine must be one of"):
        write_repository(opened, tmp_path, TritonModelConfig(backend="tensorrt"))
    with pytest.raises(UsageError, match=r"engine must be one of .*, got 'none'"):
        write_repository(opened, tmp_path, TritonModelConfig(backend="tensorrt", engine="none"))
    model = write_repository(
        opened, tmp_path, TritonModelConfig(backend="tensorrt", engine=name)
    )
    assert (model / "1" / "model.plan").read_bytes() == b"another plan"


def test_engines_of_rtx_are_not_for_triton(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    add_engine(opened, b"plan", "tensorrt_rtx")
    with pytest.raises(BundleError, match="fp32 engine of TensorRT"):
        write_repository(opened, tmp_path, TritonModelConfig(backend="tensorrt"))


def test_a_damaged_graph_is_refused_and_nothing_is_written(
    bundle: Path, tmp_path: Path
) -> None:
    (bundle / "model.fp32.onnx").write_bytes(b"other")
    with pytest.raises(IntegrityError, match="is damaged"):
        write_repository(Bundle.open(bundle), tmp_path / "models", TritonModelConfig())
    assert not (tmp_path / "models").exists()


def test_nothing_is_overwritten_without_force(bundle: Path, tmp_path: Path) -> None:
    opened, options = Bundle.open(bundle), TritonModelConfig(backend="onnxruntime")
    write_repository(opened, tmp_path, options)
    with pytest.raises(OutputError, match="force"):
        write_repository(opened, tmp_path, options)
    write_repository(opened, tmp_path, TritonModelConfig(), force=True)
    assert (tmp_path / "flowsr" / "1" / "model.py").is_file()


def test_a_folder_that_is_no_model_stays(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "flowsr").mkdir()
    with pytest.raises(OutputError, match="flowsr is not a Triton model"):
        write_repository(Bundle.open(bundle), tmp_path, TritonModelConfig(), force=True)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_a_name_is_one_plain_word(bundle: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="name must be letters"):
        write_repository(Bundle.open(bundle), tmp_path, TritonModelConfig(name=name))


def test_the_command_writes_a_model_and_says_where(
    bundle: Path, tmp_path: Path, run: Run
) -> None:
    words = ("--backend", "onnxruntime", "--name", "x4", "--threads", "1")
    done = run("serve-bundle", "triton", bundle, "-o", tmp_path / "models", *words)
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'models' / 'x4'}\n")
    assert "intra_op_thread_count" in (tmp_path / "models/x4/config.pbtxt").read_text()


def test_json_is_the_place_of_the_model(bundle: Path, tmp_path: Path, run: Run) -> None:
    done = run("serve-bundle", "triton", bundle, "-o", tmp_path / "models", "--json")
    assert json.loads(done.stdout) == {"path": str(tmp_path / "models" / "flowsr")}
