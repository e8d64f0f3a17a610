"""The package runs as a module."""

import subprocess
import sys


def test_the_module_is_the_command_line() -> None:
    command = [sys.executable, "-m", "flowsr_export", "upscale", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: flowsr-export upscale")
