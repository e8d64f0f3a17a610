"""How far a build has come, from the phases that TensorRT's progress monitor reports."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

__all__ = ["BuildProgress"]


@dataclass
class _Phase:
    """A phase that has begun; its steps may be phases themselves."""

    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """Phases inside phases as one share that never falls; TensorRT may call it from threads."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self.canceled = False
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._share = 0.0

    def monitor(self, trt: Any) -> Any:
        """Return a progress monitor of the library's class that reports here.

        Args:
            trt: The module `tensorrt` or `tensorrt_rtx`.
        """
        progress = self

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # it comes with the module
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)

            def phase_start(
                self, phase_name: str, parent_phase: str | None, num_steps: int
            ) -> None:
                progress.start(phase_name, parent_phase, num_steps)

            def step_complete(self, phase_name: str, step: int) -> bool:
                return progress.step(phase_name, step)

            def phase_finish(self, phase_name: str) -> None:
                progress.finish(phase_name)

        return Monitor()

    def cancel(self) -> None:
        """Have the build end at its next step."""
        self.canceled = True

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """Begin a phase, as a step of another or by itself."""
        with self._lock:
            self._phases[phase] = _Phase(parent, steps)

    def step(self, phase: str, step: int) -> bool:
        """Finish a step, counted from 0; False asks TensorRT to stop."""
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
        """The innermost phase now, empty before the first and after the last."""
        with self._lock:
            return next(reversed(self._phases), "")

    @property
    def share(self) -> float:
        """What is done, from 0 to 1."""
        with self._lock:
            roots = [name for name, phase in self._phases.items() if phase.parent is None]
            self._share = max([self._share, *map(self._done, roots)])
            return min(self._share, 1.0)

    def _done(self, name: str) -> float:
        phase = self._phases[name]
        inside = [each for each, inner in self._phases.items() if inner.parent == name]
        return (phase.done + max(map(self._done, inside), default=0.0)) / max(phase.steps, 1)
