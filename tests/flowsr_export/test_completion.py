"""The script of `completion`, sourced in a shell."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from flowsr_export.cli import PROGRAMS

Run = Callable[..., Result]


def completed(words: str, program: str, tmp_path: Path) -> list[str]:
    """Return what bash offers for the last of some words."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    script = tmp_path / program
    script.write_text(
        f"#!{sys.executable}\nfrom flowsr_export.cli import main\nmain()\n", encoding="utf-8"
    )
    script.chmod(0o755)
    text = f"""
        source <({program} completion bash)
        COMP_WORDS=({program} {words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
        _{program.replace("-", "_")}_completion {program}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [bash, "--norc", "-c", text]
    done = subprocess.run(
        command, env=os.environ | path, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize("program", PROGRAMS)
def test_bash_completes_commands_and_options(program: str, tmp_path: Path) -> None:
    assert completed("upsc", program, tmp_path) == ["upscale"]
    assert completed("upscale --max", program, tmp_path) == ["--max-memory"]
    assert completed("upscale --provider cu", program, tmp_path) == ["cuda"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script_for_both_programs(shell: str, run: Run) -> None:
    text = run("completion", shell).stdout
    assert all(
        f"_{name.replace('-', '_').upper()}_COMPLETE={shell}" in text for name in PROGRAMS
    )
    assert json.loads(run("completion", shell, "--json").stdout)["script"] == text[:-1]
