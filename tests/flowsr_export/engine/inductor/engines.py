"""A bundle with engines of Inductor for a CPU, built once for all test processes."""

import fcntl
import os
import shutil
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner, Result

from flowsr_export.cli import main
from flowsr_export.inputs.cases import Case
from flowsr_runtime import Bundle
from tests.flowsr_export.conftest import Exported

RANGE: Final = ("--lr-size", "40x32", "--scale", "2")
EXACT: Final = ("--lr-size", "20x24", "--scale", "3", "--exact")
SIZE: Final = Case((24, 20), (72, 60))
"""Size of EXACT; the command takes widths first."""

NEEDS_COMPILER: Final = pytest.mark.skipif(
    shutil.which("g++") is None, reason="Inductor needs g++ to compile for a CPU"
)


def build(exported: Exported, bundle: Path, *options: str) -> Result:
    """Build an engine for this CPU into a bundle with the exported network."""
    named = ["--model", exported.model, "--prior", exported.prior]
    place = ["--flavor", "inductor", "--device", "cpu", "--precision", "fp32"]
    words = ["build-engine", bundle, *named, *place, *options]
    return CliRunner().invoke(main, [str(word) for word in words])


def shared_bundle(exported: Exported, factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle with an engine of one size and one of a range, 40 seconds to build."""
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with open(root / "inductor.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = root / "inductor.bundle"
        if not folder.exists():
            fresh = root / "building.bundle"
            shutil.copytree(exported.bundle, fresh)
            for options in (EXACT, RANGE):
                result = build(exported, fresh, *options)
                assert result.exit_code == 0, result.output
            fresh.rename(folder)
    return Bundle.open(folder)
