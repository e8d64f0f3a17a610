"""The shape of the project itself: layers, sizes, the wheel, and what the README promises."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest
from PIL import Image

from flowsr_export.cli import EXIT_CODES, main
from flowsr_export.onnx_graph.lint import GEOMETRY_RULES, RULES
from flowsr_runtime import errors

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "flowsr_calibration": ROOT / "calibration" / "flowsr_calibration",
    "flowsr_export": ROOT / "export" / "flowsr_export",
    "flowsr_lp": ROOT / "flowsr_lp",
    "flowsr_runtime": ROOT / "runtime" / "flowsr_runtime",
}

# Package to what it may import: our own packages or modules, and libraries.
LAYERS = {
    "flowsr_export": {
        *("flowsr_export", "flowsr_calibration", "flowsr_lp", "flowsr_runtime"),
        *(
            "click",
            "matplotlib",
            "numpy",
            "onnx",
            "onnx_ir",
            "onnxruntime",
            "onnxscript",
            "PIL",
        ),
        *("polygraphy", "ray", "safetensors", "tensorrt", "tensorrt_rtx", "torch"),
        *("fastapi", "h11", "prometheus_client", "starlette", "uvicorn"),
    },
    "flowsr_calibration": {
        *("flowsr_calibration", "flowsr_runtime", "numpy", "onnx", "onnxruntime", "PIL"),
    },
    "flowsr_lp": {
        *("flowsr_lp", "flowsr_runtime.errors", "flowsr_runtime.geometry"),
        *("numpy", "PIL", "safetensors", "torch"),
    },
    "flowsr_runtime": {"flowsr_runtime", "numpy", "PIL"},
}

# The one file for each library that may be missing.
BACKEND_FILES = {
    "device.py": {"cuda"},
    "onnxruntime_session.py": {"onnxruntime"},
    "tensorrt_session.py": {"tensorrt", "tensorrt_rtx"},
    "tiff.py": {"tifffile"},
    "python_model.py": {"triton_python_backend_utils"},
}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

SOURCES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def imports_of(path: Path) -> set[str]:
    """Return the dotted names that a module imports, also inside functions."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    }
    return plain | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}


def is_allowed(name: str, allowed: set[str]) -> bool:
    top = name.split(".")[0]
    return top in sys.stdlib_module_names or top in allowed or name in allowed


def fenced_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def readme_commands() -> list[str]:
    text = "\n".join(fenced_blocks("sh")).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.startswith("flowsr-export ")]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_keeps_to_the_layers(package: str) -> None:
    wrong = {
        (path.name, name)
        for path in PACKAGES[package].rglob("*.py")
        for name in imports_of(path)
        if not is_allowed(name, LAYERS[package] | BACKEND_FILES.get(path.name, set()))
    }
    assert wrong == set()


def test_the_architecture_names_every_rule_of_the_lint() -> None:
    rules = ARCHITECTURE.split("**Lint.**")[1].split("**Parity.**")[0]
    assert set(re.findall(r"`([a-z0-9-]+)`", rules)) == {*RULES, *GEOMETRY_RULES}


def test_no_file_is_too_long() -> None:
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path: n for path, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_no_function_is_too_long() -> None:
    functions = [
        (path.name, node.name, (node.end_lineno or 0) - node.lineno + 1)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    assert [function for function in functions if function[2] > MAX_FUNCTION_LINES] == []


def test_the_wheel_holds_the_four_packages_and_nothing_else(tmp_path: Path) -> None:
    skipped = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, tmp_path / "source", ignore=skipped)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(tmp_path / "source")]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == expected


def test_the_base_install_is_three_libraries() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    assert re.findall(r'"(\w+)', block[1]) == ["click", "numpy", "pillow"]


def test_the_table_of_exit_codes_is_that_of_the_errors() -> None:
    table = {
        int(code): text for code, text in re.findall(r"^\| (\d+) \| (.+?) \|$", README, re.M)
    }
    shown = {int(code): text for code, text in re.findall(r"^ +(\d+) +(.+)$", EXIT_CODES, re.M)}
    raised = {getattr(errors, name).exit_code for name in errors.__all__}
    assert table == shown
    assert set(table) == raised | {0, 130}


@pytest.mark.parametrize("line", readme_commands())
def test_every_command_line_in_the_readme_parses(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group) and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None
        command, words = found, words[1:]
    assert words == ["--help"] or command.make_context(command.name, words)


def test_every_command_is_in_the_readme() -> None:
    section = README.split("## Commands")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `([\w-]+)[^`]*` \|", section, re.MULTILINE)
    assert sorted(listed) == sorted(main.list_commands(click.Context(main)))


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (12, 9), (90, 120, 40)).save("photo.png")
    for block in fenced_blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    with Image.open("large.png") as large:
        assert large.size == (48, 36)
