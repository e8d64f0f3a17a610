"""The errors of flowsr-lp, each with the exit code of a command that ends with it."""

from collections.abc import Mapping

__all__ = [
    "BackendError",
    "BundleError",
    "BusyError",
    "CancelledError",
    "CheckpointError",
    "FlowsrError",
    "IntegrityError",
    "LintError",
    "MemoryBudgetError",
    "MetricError",
    "NonFiniteError",
    "OutputError",
    "ParityError",
    "PictureError",
    "PrecisionError",
    "ProviderError",
    "RegressionError",
    "ScaleError",
    "ShapeError",
    "UsageError",
]


class FlowsrError(Exception):
    """A failure that a user can act on; its message is one line.

    Attributes:
        exit_code: Exit code of a command that ends with this error.
        option: Name of the argument that caused it, None if no single one did. A command line
            adds its own spelling of it.
        build: Facts about the engine to build, None if no engine is missing: "bundle" (path),
            "flavour" ("tensorrt" or "tensorrt_rtx"), "precision" and "io"; where they are
            known "compute_capability", "halo", "lr_size" (h, w), "size" (H, W), "scale"
            (vertical and horizontal Fraction), "memory_budget" (bytes), and "shapes": the
            "min", "opt" and "max" shape of the graph's input.
    """

    exit_code: int = 1

    def __init__(
        self,
        message: str = "",
        *,
        option: str | None = None,
        build: Mapping[str, object] | None = None,
    ) -> None:
        """Describe the failure."""
        super().__init__(message)
        self.option = option
        self.build = build


class UsageError(FlowsrError, ValueError):
    """An argument, or a combination of arguments, that makes no sense."""

    exit_code = 2


class ShapeError(FlowsrError, ValueError):
    """An array of another shape or dtype than the call takes."""

    exit_code = 2


class ScaleError(FlowsrError, ValueError):
    """A scale or an output size that the model cannot produce."""

    exit_code = 2


class PictureError(FlowsrError, ValueError):
    """A picture file that is missing, damaged or of a kind that is not read."""


class CheckpointError(FlowsrError, ValueError):
    """A checkpoint that is damaged or does not hold the model that is asked for."""


class OutputError(FlowsrError, OSError):
    """An output that exists already or could not be written; what stood there is intact."""


class ParityError(FlowsrError, ArithmeticError):
    """Two implementations of one model differ by more than the bar."""

    exit_code = 3


class NonFiniteError(FlowsrError, ArithmeticError):
    """A model gave NaN or infinity where a picture should be."""

    exit_code = 3


class MetricError(FlowsrError, ArithmeticError):
    """A figure of quality that could not be computed."""

    exit_code = 3


class PrecisionError(FlowsrError, ArithmeticError):
    """A model or an engine that computes in another precision than was asked for."""

    exit_code = 3


class LintError(FlowsrError, ValueError):
    """A graph that breaks a rule of the deployed graph."""

    exit_code = 3


class BackendError(FlowsrError, ImportError):
    """The library of an inference backend is not installed."""

    exit_code = 4


class ProviderError(FlowsrError, RuntimeError):
    """A backend's provider or device is missing, or did not start."""

    exit_code = 4


class BundleError(FlowsrError, ValueError):
    """A bundle that is damaged, of a newer schema, or lacks what is asked of it."""

    exit_code = 5


class IntegrityError(BundleError):
    """A file of a bundle is not the file that its manifest describes."""


class MemoryBudgetError(FlowsrError, MemoryError):
    """The work does not fit in the memory that it may use."""

    exit_code = 6


class RegressionError(FlowsrError, ArithmeticError):
    """Something became slower by more than was accepted."""

    exit_code = 7


class BusyError(FlowsrError, RuntimeError):
    """A pool whose workers are busy and whose queue is full; try again later."""


class CancelledError(FlowsrError, RuntimeError):
    """A call that was told to stop, and stopped between two tiles."""
