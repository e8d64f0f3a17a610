"""Log and progress of a TensorRT build."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from flowsr_runtime.errors import OutputError

__all__ = ["BuildLog", "BuildProgress"]

logger = logging.getLogger(__name__)

SCRATCH = re.compile(r"Max Scratch Memory: (\d+) bytes")
LAYERS = "Layers:\n"
LOGGERS: dict[Any, Any] = {}  # by the library's module


@dataclass
class BuildLog:
    """Messages of a build, which TensorRT may send from several threads.

    A file that cannot be written any further, as on a full disk, does not end the build.

    Attributes:
        path: Log file with the time and severity of each message; None for no file. While
            another build writes it, this one has a file with the number of its process.
        errors: Messages of severity ERROR and above.
        warnings: Messages of severity WARNING.
        scratch: Activation memory in bytes of each profile built so far.
        layers: List of layers as one text; empty if the builder gave none.
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
                self._file = self._opened(self.path)
            except OSError as error:
                reason = error.strerror or str(error)
                raise OutputError(f"log {self.path} cannot be written: {reason}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._lock:
            file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:  # from what was not written yet
                self._end(error)
        if self.path is not None and kind is not None and not issubclass(kind, Exception):
            self.path.unlink(missing_ok=True)  # an interrupted build leaves nothing

    def _opened(self, path: Path) -> TextIO:
        """Open a log that no other build writes, and empty it."""
        file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            self.path = path.with_name(f"{path.stem}.{os.getpid()}{path.suffix}")
            return self.path.open("w", encoding="utf-8")
        except OSError:  # a file system without locks
            pass
        with suppress(OSError):  # what is no file, such as /dev/stderr, has nothing to cut
            file.truncate(0)
        return file

    def _end(self, error: OSError) -> None:
        """Write no more, and say so once; the build goes on."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # the rest of what was not written yet
                file.close()
        logger.warning("log %s is incomplete: %s", self.path, error.strerror or error)

    def logger(self, trt: Any) -> Any:
        """Return the process-wide logger of a library, forwarding to this log from now on.

        The library keeps the first logger of a process and sends it messages of later builds
        too, so each process has one logger per library.

        Args:
            trt: The module `tensorrt` or `tensorrt_rtx`.
        """
        if trt not in LOGGERS:
            LOGGERS[trt] = _forwarding_logger(trt)
        LOGGERS[trt].log_to = self
        return LOGGERS[trt]

    def add(self, severity: str, text: str) -> None:
        """Add one message.

        Args:
            severity: INTERNAL_ERROR, ERROR, WARNING, INFO or VERBOSE.
            text: Text of one or more lines.
        """
        with self._lock:
            if self._file is not None:
                seconds = time.monotonic() - self._began
                try:
                    self._file.write(f"{seconds:9.3f} {severity:7} {text}\n")
                except OSError as error:
                    self._end(error)
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


@dataclass
class _Phase:
    """A running phase, whose steps may be phases themselves."""

    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """Completed share of nested build phases; it never decreases.

    TensorRT may call it from several threads.
    """

    def __init__(self) -> None:
        """Start at 0."""
        self.canceled = False
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._share = 0.0

    def monitor(self, trt: Any) -> Any:
        """Return a progress monitor of the library that reports to this object.

        Args:
            trt: The module `tensorrt` or `tensorrt_rtx`.
        """

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # it comes with the module
            phase_start = staticmethod(self.start)
            step_complete = staticmethod(self.step)
            phase_finish = staticmethod(self.finish)

            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)

        return Monitor()

    def cancel(self) -> None:
        """Request the build to end at its next step."""
        self.canceled = True

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """Start a phase, at the top level or as a step of `parent`."""
        with self._lock:
            self._phases[phase] = _Phase(parent, steps)

    def step(self, phase: str, step: int) -> bool:
        """Record a finished step, counted from 0; return False to cancel the build."""
        with self._lock:
            if phase in self._phases:
                self._phases[phase].done = step + 1
        return not self.canceled

    def finish(self, phase: str) -> None:
        """End a phase."""
        with self._lock:
            self._phases.pop(phase, None)

    @property
    def phase(self) -> str:
        """Name of the innermost running phase, empty without one."""
        with self._lock:
            return next(reversed(self._phases), "")

    @property
    def share(self) -> float:
        """Completed share, from 0 to 1."""
        with self._lock:
            roots = [name for name, phase in self._phases.items() if phase.parent is None]
            self._share = max([self._share, *map(self._done, roots)])
            return min(self._share, 1.0)

    def _done(self, name: str) -> float:
        phase = self._phases[name]
        inside = [child for child, inner in self._phases.items() if inner.parent == name]
        return (phase.done + max(map(self._done, inside), default=0.0)) / max(phase.steps, 1)
