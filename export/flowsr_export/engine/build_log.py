"""The builder's log: written to a file, and what can be learnt from it."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from flowsr_runtime.errors import OutputError

__all__ = ["BuildLog"]

SCRATCH = re.compile(r"Max Scratch Memory: (\d+) bytes")
LAYERS = "Layers:\n"
LOGGERS: dict[Any, Any] = {}  # by the library's module


@dataclass
class BuildLog:
    """What TensorRT said during a build; it may speak from several threads.

    Attributes:
        path: Every message is written there, with seconds and severity; None keeps none.
        errors: Messages of severity ERROR and above.
        warnings: Messages of severity WARNING.
        scratch: Activation memory of each profile so far, bytes.
        layers: The builder's list of layers, one text; empty if it gave none.
    """

    path: Path | None
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    scratch: list[int] = field(default_factory=list)
    layers: str = ""

    def __enter__(self) -> BuildLog:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._file: TextIO | None = None
        if self.path is not None:
            try:
                self._file = open(self.path, "w", encoding="utf-8")
            except OSError as error:
                reason = error.strerror or str(error)
                raise OutputError(f"log {self.path} cannot be written: {reason}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            file, self._file = self._file, None
        if file is not None:
            file.close()
        if self.path is not None and kind is not None and not issubclass(kind, Exception):
            self.path.unlink(missing_ok=True)  # an interrupted build leaves nothing

    def logger(self, trt: Any) -> Any:
        """Return the logger of the library's class that writes here from now on.

        The library keeps the first logger of a process and sends it some messages of every
        later build, so that there is one a process.

        Args:
            trt: The module `tensorrt` or `tensorrt_rtx`.
        """
        if trt not in LOGGERS:
            LOGGERS[trt] = _forwarding_logger(trt)
        LOGGERS[trt].log_to = self
        return LOGGERS[trt]

    def add(self, severity: str, text: str) -> None:
        """Take one message.

        Args:
            severity: INTERNAL_ERROR, ERROR, WARNING, INFO or VERBOSE.
            text: Its text, perhaps of several lines.
        """
        with self._lock:
            if self._file is not None:
                seconds = time.monotonic() - self._began
                self._file.write(f"{seconds:9.3f} {severity:7} {text}\n")
            if severity in ("ERROR", "INTERNAL_ERROR"):
                self.errors.append(text)
            elif severity == "WARNING":
                self.warnings.append(text)
            elif text.startswith(LAYERS):
                self.layers = text
            self.scratch += [int(size) for size in SCRATCH.findall(text)]


def _forwarding_logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the class comes with the module
        log_to: BuildLog

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            self.log_to.add(severity.name, msg)

    return Logger()
