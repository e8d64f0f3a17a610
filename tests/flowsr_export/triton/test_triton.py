"""A real tritonserver with its python backend, over HTTP and gRPC.

It runs where FLOWSR_TRITON names the Python of an environment that holds nvidia-pytriton, which
carries the server, and what flowsr_runtime needs (numpy, pillow, onnxruntime).
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowsr_export.triton.config import TritonModelConfig
from flowsr_export.triton.repository import write_repository
from flowsr_runtime import Bundle, Upscaler, embedded_bundle
from tests.stand_in import picture

PYTHON = os.environ.get("FLOWSR_TRITON")
ROOT = Path(__file__).parents[3]
PATIENCE = 120.0

SMALL = 42_000_000
"""Bytes for one run that make tiles of the test's picture."""

pytestmark = pytest.mark.skipif(
    PYTHON is None,
    reason="FLOWSR_TRITON names no Python with nvidia-pytriton; docs/guides/serving.md has how",
)

WHERE = """
import pathlib, sys, pytriton
print(pathlib.Path(pytriton.__file__).parent, sys.base_prefix, *sys.version_info[:2], sep="\\n")
"""


@dataclass(frozen=True)
class Triton:
    """A server that runs; the addresses of its two protocols."""

    http: str
    grpc: str


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    folder = tmp_path_factory.mktemp("triton")
    bundle = Bundle.open(embedded_bundle())
    write_repository(bundle, folder / "models", TritonModelConfig(name="whole"))
    tiled = TritonModelConfig(name="tiled", memory_budget=SMALL, threads=1)
    write_repository(bundle, folder / "models", tiled)
    ports = free_ports(2)
    with (
        open(folder / "log", "w", encoding="utf-8") as log,
        subprocess.Popen(
            command_of(folder, ports),
            env=environment(),
            cwd=folder / "backends" / "python",
            stdout=log,
            stderr=log,
        ) as process,
    ):
        server = Triton(*(f"127.0.0.1:{port}" for port in ports))
        try:
            wait_until_ready(server, process, folder / "log")
            yield server
        finally:
            process.terminate()
            process.wait(PATIENCE)


def layout() -> tuple[Path, Path, str]:
    """Return where pytriton is, the prefix of its Python and the version."""
    done = subprocess.run(
        [str(PYTHON), "-c", WHERE], capture_output=True, text=True, check=True, cwd="/"
    )
    package, prefix, major, minor = done.stdout.split()
    return Path(package), Path(prefix), f"{major}.{minor}"


def command_of(folder: Path, ports: list[int]) -> list[str]:
    """Return what starts a server whose python backend finds our runtime.

    The backend's Python looks at no variable of the environment and at no virtual one, but
    first of all into the folder in which the server was started.
    """
    package, _, version = layout()
    server = package / "tritonserver"
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True)
    sources = [server / "backends" / "python", server / "python_backend_stubs" / version]
    sources += [package.parent, ROOT / "runtime"]
    for part in (part for source in sources for part in source.iterdir()):
        (backend / part.name).unlink(missing_ok=True)
        (backend / part.name).symlink_to(part)
    return [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={backend.parent}",
        *(f"--{name}-address=127.0.0.1" for name in ("http", "grpc")),
        f"--http-port={ports[0]}",
        f"--grpc-port={ports[1]}",
        "--allow-metrics=false",
        "--exit-timeout-secs=5",
    ]


def environment() -> dict[str, str]:
    """Return an environment in which the server finds Python's library and its own."""
    package, prefix, _ = layout()
    libraries = (prefix / "lib", package / "tritonserver" / "external_libs")
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries))}


def wait_until_ready(server: Triton, process: subprocess.Popen[bytes], log: Path) -> None:
    client = pytest.importorskip("tritonclient.http").InferenceServerClient(server.http)
    deadline = time.monotonic() + PATIENCE
    ready = False
    while not ready:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
        time.sleep(0.1)
        try:
            ready = client.is_server_ready() and client.is_model_ready("whole")
        except OSError:
            ready = False


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The client that the repository ships as an example."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.delitem(sys.modules, "triton_client", raising=False)
    return pytest.importorskip("triton_client")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize(("model", "budget"), [("whole", None), ("tiled", SMALL)])
def test_a_picture_is_bit_equal_to_the_upscalers(
    triton: Triton, example: Any, protocol: str, model: str, budget: int | None
) -> None:
    pixels = picture(70, 90, "triton")
    url = getattr(triton, protocol)
    large = example.upscale(pixels, Fraction("2.7"), model, protocol, url)
    with Upscaler.open(memory_budget=budget, threads=1) as upscaler:
        assert (len(upscaler.plan((70, 90), scale="2.7")) > 1) is (budget is not None)
        expected = upscaler.upscale(pixels, scale="2.7")
    np.testing.assert_array_equal(large, expected)


def infer(url: str, inputs: dict[str, np.ndarray[Any, Any]]) -> Any:
    library = pytest.importorskip("tritonclient.http")
    kinds = {"uint8": "UINT8", "int64": "INT64", "object": "BYTES", "float32": "FP32"}
    tensors = []
    for name, values in inputs.items():
        tensor = library.InferInput(name, list(values.shape), kinds[str(values.dtype)])
        tensor.set_data_from_numpy(values)
        tensors.append(tensor)
    client = library.InferenceServerClient(url)
    return client.infer("whole", tensors).as_numpy("output")


def test_a_scale_is_a_text_of_width_and_height(triton: Triton) -> None:
    pixels = picture(10, 12, "scale")
    scale = np.array(["2x3"], dtype=np.object_)
    assert infer(triton.http, {"input": pixels, "scale": scale}).shape == (30, 24, 3)


@pytest.mark.parametrize(
    ("scale", "words"),
    [("0.5", "scale must be at least 1"), ("a", "scale must be a finite number")],
)
def test_what_cannot_be_made_is_an_error_of_the_request(
    triton: Triton, scale: str, words: str
) -> None:
    error = pytest.importorskip("tritonclient.utils").InferenceServerException
    values = {"input": picture(10, 12, "a"), "scale": np.array([scale], dtype=np.object_)}
    with pytest.raises(error, match=words):
        infer(triton.http, values)
