"""A program that PyInstaller freezes holds the built-in bundle and the backends."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from flowsr_runtime.pyinstaller import hook_folders

PROGRAM = """
import sys
from flowsr_runtime import Upscaler
with Upscaler.open(provider="cpu") as upscaler:
    print(upscaler.upscale(sys.argv[1], scale=2).size)
"""


def test_every_package_with_files_has_a_hook() -> None:
    (folder,) = hook_folders()
    hooks = sorted(path.name for path in Path(folder).glob("hook-*.py"))
    assert hooks == ["hook-flowsr_export.py", "hook-flowsr_runtime.py"]


@pytest.mark.slow
def test_a_frozen_program_upscales_with_the_built_in_bundle(tmp_path: Path) -> None:
    pytest.importorskip("PyInstaller")
    (tmp_path / "app.py").write_text(PROGRAM)
    Image.new("RGB", (6, 5)).save(tmp_path / "a.png")
    (folder,) = hook_folders()
    words = ["-y", "--additional-hooks-dir", folder, "--paths", str(Path(folder).parents[1])]
    # Other libraries of this environment would import them, in minutes.
    words += [
        f"--exclude-module={name}" for name in ("torch", "onnx", "scipy", "sympy", "pandas")
    ]
    freeze = [sys.executable, "-m", "PyInstaller", "--log-level", "ERROR", *words, "app.py"]
    subprocess.run(freeze, cwd=tmp_path, check=True)
    done = subprocess.run(
        [tmp_path / "dist" / "app" / "app", "a.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "(10, 12)\n"
