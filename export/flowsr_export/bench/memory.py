"""The peak memory of a run, measured in a process of its own."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from flowsr_export.bench.targets import Measures, ModelTarget, load_engine
from flowsr_export.inputs.cases import Case
from flowsr_runtime.errors import FlowsrError
from flowsr_runtime.tiling.memory import peak_bytes, resident_bytes

__all__ = ["Memory", "measure_memory"]

NVIDIA_SMI_SECONDS = 10


@dataclass(frozen=True)
class Memory:
    """Memory of a process that loads a model and runs it twice.

    Attributes:
        host_bytes: Its largest resident size, None if the system does not tell it.
        libraries_bytes: Its resident size before the model was loaded.
        device_bytes: What the GPU holds more than before, None without one.
        trouble: Why there is no figure.
    """

    host_bytes: int | None = None
    libraries_bytes: int | None = None
    device_bytes: int | None = None
    trouble: str | None = None


def measure_memory(loading: ModelTarget, case: Case, measures: Measures) -> Memory:
    """Load a model in a new process, run it twice, and return the memory it took.

    Args:
        loading: The model and its backend.
        case: Sizes and batch.
        measures: What is run.
    """
    # A new interpreter: a forked one would hold this process's memory.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_run, loading, case, measures).result()
        except BrokenProcessPool:
            return Memory(trouble="its process was killed; memory ran out, it seems")
        except (FlowsrError, MemoryError, RuntimeError) as error:
            return Memory(trouble=" ".join(str(error).split()) or type(error).__name__)


def _run(loading: ModelTarget, case: Case, measures: Measures) -> Memory:
    _import_library(loading.backend)
    libraries, device = resident_bytes(), _device_bytes(loading)
    engine = load_engine(loading)
    try:
        call = engine.call(case, measures)
        call()
        call()
        after = _device_bytes(loading)
        held = None if device is None or after is None else max(after - device, 0)
        return Memory(peak_bytes(), libraries, held)
    finally:
        engine.close()


def _import_library(backend: str) -> None:
    """Import what a backend needs, so that it counts as a library."""
    if backend == "onnxruntime":
        import flowsr_runtime.backends.onnxruntime_session
    elif backend in ("tensorrt", "tensorrt_rtx"):
        import flowsr_runtime.backends.tensorrt_session  # noqa: F401
    else:
        import flowsr_export.deployment.interface  # noqa: F401


def _device_bytes(loading: ModelTarget) -> int | None:
    """Memory in use on the GPU that the loading is for, by any process."""
    program = shutil.which("nvidia-smi")
    if program is None or loading.place == "cpu":
        return None
    query = [program, f"--id={loading.device}", "--query-gpu=memory.used"]
    try:
        answer = subprocess.run(
            [*query, "--format=csv,noheader,nounits"],
            capture_output=True,
            check=True,
            text=True,
            timeout=NVIDIA_SMI_SECONDS,
        )
        return int(answer.stdout.split()[0]) << 20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
