import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

INTERPRETED = Path(__file__).parent / "interpreted.py"
NAMES = [
    node.name
    for node in ast.parse(INTERPRETED.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_kernels_agree_with_pytorch_in_the_interpreter(name: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x"]
    result = subprocess.run(
        [*command, f"{INTERPRETED}::{name}"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:]
    assert " passed" in result.stdout
