"""Every error is a FlowsrError, has its exit code, and is what a caller would catch."""

import pytest

from flowsr_runtime import errors
from flowsr_runtime.errors import FlowsrError

KINDS = [
    ("UsageError", ValueError, 2),
    ("ShapeError", ValueError, 2),
    ("ScaleError", ValueError, 2),
    ("PictureError", ValueError, 1),
    ("CheckpointError", ValueError, 1),
    ("BusyError", RuntimeError, 1),
    ("CancelledError", RuntimeError, 1),
    ("OutputError", OSError, 1),
    ("ParityError", ArithmeticError, 3),
    ("NonFiniteError", ArithmeticError, 3),
    ("MetricError", ArithmeticError, 3),
    ("PrecisionError", ArithmeticError, 3),
    ("LintError", ValueError, 3),
    ("BackendError", ImportError, 4),
    ("ProviderError", RuntimeError, 4),
    ("BundleError", ValueError, 5),
    ("IntegrityError", errors.BundleError, 5),
    ("MemoryBudgetError", MemoryError, 6),
    ("RegressionError", ArithmeticError, 7),
]


@pytest.mark.parametrize(("name", "builtin", "code"), KINDS)
def test_an_error_has_its_exit_code_and_builtin(
    name: str, builtin: type[Exception], code: int
) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, FlowsrError)
    assert issubclass(kind, builtin)
    assert kind.exit_code == code
    assert str(kind("one line")) == "one line"


def test_no_error_is_left_out() -> None:
    assert {name for name, *_ in KINDS} | {"FlowsrError"} == set(errors.__all__)
