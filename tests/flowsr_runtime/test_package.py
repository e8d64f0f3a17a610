"""The package stays light, typed and complete."""

import subprocess
import sys
from pathlib import Path

import flowsr_runtime

LIGHT = {"flowsr_runtime", "numpy", "PIL"}
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


def test_the_package_is_typed() -> None:
    assert (Path(flowsr_runtime.__file__).parent / "py.typed").is_file()
