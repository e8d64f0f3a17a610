"""The C++ commands under sanitizers on mutated pictures and manifests; `make fuzz` alone."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given

from flowsr_runtime import embedded_bundle
from flowsr_runtime.pictures.formats import kind_of
from tests.flowsr_runtime.cpp.library import build, onnxruntime_sdk
from tests.fuzz.mutations import FUZZ, mutated
from tests.fuzz.test_pictures import SEEDS

pytestmark = pytest.mark.skipif(
    "FLOWSR_FUZZ_EXAMPLES" not in os.environ,
    reason="a build with sanitizers takes a minute; make fuzz makes one",
)

SANITIZERS: Final = "-fsanitize=address,undefined -fno-sanitize-recover=undefined"
PICTURES: Final = [data for data in SEEDS if kind_of(data) == "PNG"]
MANIFEST: Final = (embedded_bundle() / "bundle.json").read_bytes()


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands, built with sanitizers, and of their inputs."""
    folder = tmp_path_factory.mktemp("sanitized")
    root = f"-DFLOWSR_ONNXRUNTIME_ROOT={onnxruntime_sdk()}"
    build(folder, root, f"-DCMAKE_CXX_FLAGS={SANITIZERS}")
    shutil.copytree(embedded_bundle(), folder / "b")
    return folder


@given(mutated(PICTURES))
@FUZZ
def test_a_mutated_png_is_read_or_refused_without_a_fault(tools: Path, data: bytes) -> None:
    (tools / "in.png").write_bytes(data)
    words = [str(embedded_bundle()), "in.png", "out.png", "--scale", "1", "--force"]
    assert_sound(tools, ["./flowsr-upscale", *words, "--no-self-test"])


@given(mutated([MANIFEST]))
@FUZZ
def test_a_mutated_manifest_is_read_or_refused_without_a_fault(
    tools: Path, data: bytes
) -> None:
    (tools / "b" / "bundle.json").write_bytes(data)
    assert_sound(tools, ["./flowsr-selftest", "b"])


def assert_sound(folder: Path, command: Sequence[str]) -> None:
    # Libraries keep what they allocate; a failed allocation is an error of the input.
    options = {"ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1"}
    done = subprocess.run(
        [*command, "--threads", "1"],
        cwd=folder,
        env={**os.environ, **options},
        capture_output=True,
        check=False,
    )
    assert done.returncode in (0, 1, 2, 3, 5, 6), done.stderr.decode()
    assert b"runtime error" not in done.stderr
