"""A loaded engine, and its pool of workers."""

import hashlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from flowsr_runtime.atomic import replace_file
from flowsr_runtime.backends.engines.tensorrt_log import TensorrtLog
from flowsr_runtime.backends.engines.tensorrt_worker import TensorrtWorker
from flowsr_runtime.bundle.engine_store import EngineEntry
from flowsr_runtime.cuda.device import Device
from flowsr_runtime.cuda.graph_cache import GraphCounters
from flowsr_runtime.errors import UsageError

__all__ = ["TensorrtEngine"]

logger = logging.getLogger(__name__)

_DIGEST: Final = 64
"""Length of the sha256 at the start of a kernel cache."""


class TensorrtEngine:
    """An engine on a device; several threads may call `worker` at once."""

    def __init__(
        self,
        module: Any,
        entry: EngineEntry,
        plan: bytes,
        device: Device,
        *,
        workers: int,
        graphs: int,
        cache: Path,
    ) -> None:
        """Load a plan.

        Args:
            module: `tensorrt` or `tensorrt_rtx`.
            entry: Entry of the plan.
            plan: Bytes of the plan, with a checked hash: loading them runs native code.
            device: The calling thread's device.
            workers: Largest number of concurrent runs.
            graphs: Largest number of CUDA graphs per worker, 0 for none.
            cache: File for kernels that TensorRT for RTX compiles on this device.

        Raises:
            MemoryBudgetError: If the device runs out of memory.
            ProviderError: If TensorRT cannot load the plan.
        """
        self.entry = entry
        self._module, self._device, self._cache_path = module, device, cache
        self._log = TensorrtLog(module)
        self._runtime = module.Runtime(self._log.logger)
        if entry.key.options.get("version_compatible") is True:
            self._runtime.engine_host_code_allowed = True  # such a plan holds its own runtime
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self._log.failure(f"load {entry.name}")
        # TensorRT for RTX captures graphs itself, after it has specialized its kernels.
        self._own_graphs = hasattr(module, "CudaGraphStrategy")
        self._graphs = graphs
        self._kernels: Any = None
        self._kernels_digest = ""
        self._config = self._configuration()
        self._limit = workers
        self._idle: list[TensorrtWorker] = []
        self._created = 0
        self._closed = False
        self._retired = GraphCounters()
        self._free = threading.Condition()

    @property
    def counters(self) -> GraphCounters:
        """Counters of CUDA graphs of the idle and closed workers."""
        with self._free:
            return sum((worker.graphs.counters for worker in self._idle), self._retired)

    @contextmanager
    def worker(self) -> Iterator[TensorrtWorker]:
        """Borrow a worker, after waiting for an idle one if all are busy.

        Yields:
            The worker, exclusively for the calling thread.

        Raises:
            UsageError: If the engine was closed.
            MemoryBudgetError: If the device has no memory for another worker.
        """
        worker = self._take()
        try:
            yield worker
        finally:
            self._give_back(worker)

    def close(self) -> None:
        """Free the engine; busy workers are freed when they are done."""
        self._device.use()
        with self._free:
            self._closed = True
            idle, self._idle = self._idle, []
            self._created -= len(idle)
            self._free.notify_all()
            for worker in idle:
                self._retire(worker)
        self._save_kernels()
        # Contexts before their engine, the engine before its runtime.
        self._config = self._kernels = self._engine = self._runtime = None

    def _take(self) -> TensorrtWorker:
        with self._free:
            while not (self._idle or self._created < self._limit or self._closed):
                self._free.wait()
            if self._closed:
                raise UsageError("the session is closed")
            if self._idle:
                return self._idle.pop()
            self._created += 1
        try:
            self._device.use()
            graphs = 0 if self._own_graphs else self._graphs
            arguments = (self._module, self._engine, self._config, self._device, self._log)
            return TensorrtWorker(*arguments, graphs)
        except BaseException:
            with self._free:
                self._created -= 1
                self._free.notify()
            raise

    def _give_back(self, worker: TensorrtWorker) -> None:
        with self._free:
            if self._closed:
                self._created -= 1
                self._retire(worker)
            else:
                self._idle.append(worker)
                self._free.notify()

    def _retire(self, worker: TensorrtWorker) -> None:
        worker.close()
        self._retired = self._retired + worker.graphs.counters

    def _configuration(self) -> Any:
        """Return the configuration of contexts, with memory managed by the worker."""
        strategy = self._module.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self._own_graphs:
            return strategy
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        if self._graphs:
            config.cuda_graph_strategy = self._module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._kernels = config.create_runtime_cache()
        self._load_kernels()
        config.set_runtime_cache(self._kernels)
        return config

    def _load_kernels(self) -> None:
        """Load the kernels of the cache, if their hash is correct."""
        try:
            data = self._cache_path.read_bytes()
        except OSError:
            return
        digest, kernels = data[:_DIGEST], data[_DIGEST:]
        if hashlib.sha256(kernels).hexdigest().encode() != digest:
            logger.warning("%s is damaged; kernels are compiled again", self._cache_path)
        elif not self._kernels.deserialize(kernels):
            logger.info("%s is of another driver or device", self._cache_path)
        else:
            self._kernels_digest = digest.decode()

    def _save_kernels(self) -> None:
        """Save newly compiled kernels."""
        if self._kernels is None:
            return
        kernels = bytes(self._kernels.serialize())
        digest = hashlib.sha256(kernels).hexdigest()
        if digest == self._kernels_digest:
            return
        try:
            replace_file(self._cache_path, digest.encode() + kernels)
        except OSError as error:
            logger.warning("%s cannot be written: %s", self._cache_path, error.strerror)
        self._kernels_digest = digest
