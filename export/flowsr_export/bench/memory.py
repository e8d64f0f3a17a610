"""The peak memory of a run, measured in a separate process."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from flowsr_export.bench.targets import Measures, ModelTarget, load_model
from flowsr_export.inputs.cases import Case
from flowsr_export.machine.nvidia_smi import used_gpu_bytes
from flowsr_runtime.errors import FlowsrError
from flowsr_runtime.tiling.memory import peak_bytes, resident_bytes

__all__ = ["Memory", "measure_memory"]


@dataclass(frozen=True)
class Memory:
    """Memory of a process that loads a model and runs it twice.

    Attributes:
        host_bytes: Peak resident size, None if the system does not report it.
        libraries_bytes: Resident size before the model was loaded.
        device_bytes: Growth of the memory in use on the GPU, None without one.
        trouble: Reason why there is no value.
    """

    host_bytes: int | None = None
    libraries_bytes: int | None = None
    device_bytes: int | None = None
    trouble: str | None = None

    @property
    def model_bytes(self) -> int | None:
        """Peak memory above that of the libraries."""
        if self.host_bytes is None or self.libraries_bytes is None:
            return None
        return self.host_bytes - self.libraries_bytes


def measure_memory(target: ModelTarget, case: Case, measures: Measures) -> Memory:
    """Load a model in a new process, run it twice, and return the memory it took.

    Args:
        target: Model and backend.
        case: Sizes and batch.
        measures: Kind of run.
    """
    # A new interpreter: a forked one would share this process's memory.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_run, target, case, measures).result()
        except BrokenProcessPool:
            return Memory(trouble="its process was killed, probably for lack of memory")
        except (FlowsrError, MemoryError, RuntimeError) as error:
            return Memory(trouble=" ".join(str(error).split()) or type(error).__name__)


def _run(target: ModelTarget, case: Case, measures: Measures) -> Memory:
    _import_library(target.settings.backend)
    libraries, device = resident_bytes(), _device_bytes(target)
    model = load_model(target)
    try:
        call = model.call(case, measures)
        call()
        call()
        after = _device_bytes(target)
        growth = None if device is None or after is None else max(after - device, 0)
        return Memory(peak_bytes(), libraries, growth)
    finally:
        model.close()


def _import_library(backend: str) -> None:
    """Import the library of a backend before its memory is measured."""
    if backend == "onnxruntime":
        import flowsr_runtime.backends.onnxruntime_session
    elif backend == "openvino":
        import flowsr_runtime.backends.openvino_session
    elif backend == "inductor":
        import flowsr_runtime.backends.engines.inductor_session
    elif backend in ("tensorrt", "tensorrt_rtx"):
        import flowsr_runtime.backends.engines.tensorrt_session  # noqa: F401
    else:
        import flowsr_export.deployment.interface  # noqa: F401


def _device_bytes(target: ModelTarget) -> int | None:
    return None if target.place == "cpu" else used_gpu_bytes(target.settings.index)
