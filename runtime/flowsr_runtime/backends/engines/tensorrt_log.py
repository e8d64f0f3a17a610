"""Forward TensorRT's messages to `logging`, and translate its errors."""

import logging
import threading
from typing import Any, Final

from flowsr_runtime.errors import BundleError, FlowsrError, MemoryBudgetError, ProviderError

__all__ = ["TensorrtLog"]

logger = logging.getLogger(__name__)

_LEVELS: Final = {
    "INTERNAL_ERROR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.DEBUG,
    "VERBOSE": logging.DEBUG,
}
_OUT_OF_MEMORY: Final = ("outofmemory", "out of memory", "could not be allocated")


class TensorrtLog:
    """A logger for TensorRT that collects the errors of each thread."""

    def __init__(self, module: Any) -> None:
        """Create a logger for a module.

        Args:
            module: `tensorrt` or `tensorrt_rtx`.
        """
        self._name = module.__name__
        self._errors = _Errors()
        self.logger = _logger_class(module, self)()

    def receive(self, severity: str, text: str) -> None:
        """Receive a message; TensorRT calls this through its logger."""
        level = _LEVELS.get(severity, logging.WARNING)
        if level == logging.ERROR:
            self._errors.texts.append(" ".join(text.split()))
            level = logging.DEBUG  # it becomes an exception, which is reported once
        logger.log(level, "%s: %s", self._name, text)

    def failure(self, action: str) -> FlowsrError:
        """Return the exception for an action that failed in TensorRT."""
        text = self._take()
        if any(sign in text.lower() for sign in _OUT_OF_MEMORY):
            return MemoryBudgetError(
                f"{self._name} ran out of memory ({text}); give a smaller memory_budget",
                option="memory_budget",
            )
        return ProviderError(f"{self._name} failed to {action}: {text}")

    def refusal(self, value: str) -> BundleError:
        """Return the exception for a value that an engine does not take."""
        return BundleError(f"the engine does not take {value}: {self._take()}")

    def _take(self) -> str:
        text = "; ".join(self._errors.texts) or "no reason given"
        self._errors.texts.clear()
        return text


class _Errors(threading.local):
    def __init__(self) -> None:
        self.texts: list[str] = []


def _logger_class(module: Any, log: TensorrtLog) -> Any:
    class ForwardingLogger(module.ILogger):  # type: ignore[misc]  # a class of the library
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            log.receive(severity.name, msg)

    return ForwardingLogger
