"""The package stays light: what importing it costs, and what it may import."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import flowsr_runtime

SOURCES = sorted(Path(flowsr_runtime.__file__).parent.glob("*.py"))
HEAVY = {"torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda", "click"}
LIBRARIES = {
    "device": {"cuda"},
    "onnxruntime_session": {"onnxruntime"},
    "tensorrt_session": {"tensorrt", "tensorrt_rtx"},
}
IMPORT_SECONDS = 0.3
PROBE = """
import json, sys, time
begin = time.process_time()
import flowsr_runtime
seconds = time.process_time() - begin
print(json.dumps([seconds, sorted(sys.modules)]))
"""


def probe() -> tuple[float, set[str]]:
    """Return the processor seconds of importing the package, and what is loaded then."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=SOURCES[0].parents[1],
        capture_output=True,
        check=True,
        text=True,
    )
    seconds, modules = json.loads(done.stdout)
    return seconds, set(modules)


def test_importing_is_quick_and_loads_nothing_heavy() -> None:
    runs = [probe() for _ in range(3)]
    assert min(seconds for seconds, _ in runs) < IMPORT_SECONDS
    assert not HEAVY & runs[0][1]


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
