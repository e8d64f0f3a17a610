"""Base classes of the library, and objects that refuse new attributes."""

from typing import Any, TypeAlias

from tests.doubles.trt_names import Severity

__all__ = ["Closed", "ILogger", "IOutputAllocator", "IProfiler", "IProgressMonitor", "Log"]


class Bound(type):
    """As pybind11 does: a derived class has to call the `__init__` of its base."""

    def __call__(cls, *args: Any, **options: Any) -> Any:
        made = super().__call__(*args, **options)
        if not getattr(made, "_is_bound", False):
            raise TypeError(
                f"{cls.__name__}.__init__() must be called when overriding __init__"
            )
        return made


class Base(metaclass=Bound):
    def __init__(self) -> None:
        self._is_bound = True


class ILogger(Base):
    Severity: TypeAlias = Severity
    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING
    INFO = Severity.INFO
    VERBOSE = Severity.VERBOSE

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError("log() must be overridden")


class IProgressMonitor(Base):
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError("phase_start() must be overridden")

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError("phase_finish() must be overridden")

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError("step_complete() must be overridden")


class IProfiler(Base):
    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError("report_layer_time() must be overridden")


class IOutputAllocator(Base):
    """Has no methods of its own: the library calls those of the derived class."""


class Log:
    """What the double says to a program's logger."""

    def __init__(self, logger: ILogger) -> None:
        if not isinstance(logger, ILogger):
            raise TypeError("__init__(): incompatible constructor arguments.")
        self.logger = logger

    def error(self, text: str) -> None:
        self.logger.log(Severity.ERROR, text)

    def warning(self, text: str) -> None:
        self.logger.log(Severity.WARNING, text)

    def info(self, text: str) -> None:
        self.logger.log(Severity.INFO, text)


class Closed:
    """An object that takes no attribute that it does not have, as pybind11's."""

    def __setattr__(self, name: str, value: Any) -> None:
        known = name.startswith("_") or hasattr(type(self), name) or name in self.__dict__
        if not (known or self.__dict__.get("_open", True)):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)
