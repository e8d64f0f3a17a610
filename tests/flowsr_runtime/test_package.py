"""The package stays light: what importing it costs, and what it may import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flowsr_runtime

SOURCES = sorted(Path(flowsr_runtime.__file__).parent.glob("*.py"))
LIGHT = {"flowsr_runtime", "numpy", "PIL"}
LIBRARIES = {
    "tiff": {"tifffile"},
    "device": {"cuda"},
    "onnxruntime_session": {"onnxruntime"},
    "tensorrt_session": {"tensorrt", "tensorrt_rtx"},
}
PROBE = "import sys, flowsr_runtime; print(*sys.modules)"


def loaded() -> set[str]:
    """Return the top-level modules that importing the package loads in a new process."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROBE], capture_output=True, check=True, text=True
    )
    bare = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        check=True,
        text=True,
    )
    return {name.split(".")[0] for name in set(done.stdout.split()) - set(bare.stdout.split())}


def test_importing_loads_numpy_and_pillow_alone() -> None:
    assert loaded() - set(sys.stdlib_module_names) == LIGHT


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_module_imports_no_other_room(source: Path) -> None:
    nodes = list(ast.walk(ast.parse(source.read_text(encoding="utf-8"))))
    names = [
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    ]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    roots = {name.split(".")[0] for name in names}
    ours = {"flowsr_runtime"} | LIBRARIES.get(source.stem, set())
    assert roots <= set(sys.stdlib_module_names) | {"numpy", "PIL"} | ours


def test_all_names_are_there() -> None:
    assert len(set(flowsr_runtime.__all__)) == len(flowsr_runtime.__all__)
    assert all(hasattr(flowsr_runtime, name) for name in flowsr_runtime.__all__)


def test_the_package_is_typed() -> None:
    assert (SOURCES[0].parent / "py.typed").is_file()
