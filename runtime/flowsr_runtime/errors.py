"""The errors of flowsr-lp, each with the exit code of a command that ends with it."""

from collections.abc import Mapping

__all__ = [
    "BackendError",
    "BundleError",
    "BusyError",
    "CancelledError",
    "CheckpointError",
    "DownloadError",
    "FlowsrError",
    "InputError",
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
    """An argument, or a combination of arguments, that is not valid."""

    exit_code = 2


class ShapeError(FlowsrError, ValueError):
    """An array whose shape or dtype the call does not take."""

    exit_code = 2


class ScaleError(FlowsrError, ValueError):
    """A scale or an output size that the model cannot produce."""

    exit_code = 2


class InputError(FlowsrError, ValueError):
    """An input file or folder that is missing, damaged or of another kind than expected."""

    exit_code = 5


class PictureError(InputError):
    """A picture file that is missing, damaged or of an unsupported kind."""


class CheckpointError(InputError):
    """A checkpoint that is missing, damaged or holds another model than expected."""


class DownloadError(FlowsrError, ConnectionError):
    """A download that did not begin or broke off."""


class OutputError(FlowsrError, OSError):
    """An output that exists already or cannot be written; the old content is intact."""


class ParityError(FlowsrError, ArithmeticError):
    """Two implementations of one model differ by more than the tolerance."""

    exit_code = 3


class NonFiniteError(FlowsrError, ArithmeticError):
    """A model returned NaN or infinity."""

    exit_code = 3


class MetricError(FlowsrError, ArithmeticError):
    """A quality metric that cannot be computed."""

    exit_code = 3


class PrecisionError(FlowsrError, ArithmeticError):
    """A model or an engine that computes in another precision than requested."""

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


class BundleError(InputError):
    """A bundle that is missing, damaged, of a newer schema, or incomplete."""


class IntegrityError(BundleError):
    """A file of a bundle that differs from its entry in the manifest."""


class ReplacedError(IntegrityError):
    """A bundle that another process replaced while it was read; open it again."""


class MemoryBudgetError(FlowsrError, MemoryError):
    """Work that does not fit in the memory it may use."""

    exit_code = 6


class RegressionError(FlowsrError, ArithmeticError):
    """A benchmark that is slower than its baseline by more than the tolerance."""

    exit_code = 7


class BusyError(FlowsrError, RuntimeError):
    """A pool whose workers are busy and whose queue is full; try again later."""


class CancelledError(FlowsrError, RuntimeError):
    """A call that was cancelled, and stopped between two tiles."""
