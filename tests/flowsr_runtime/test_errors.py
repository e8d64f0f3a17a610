"""Errors derive from the builtin a caller expects, and hold facts for the command line."""

import pickle

import pytest

from flowsr_runtime import errors
from flowsr_runtime.errors import FlowsrError

ERRORS = [getattr(errors, name) for name in errors.__all__ if name != "FlowsrError"]


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_has_a_builtin_and_an_exit_code(error: type[FlowsrError]) -> None:
    assert issubclass(error, FlowsrError)
    builtins = [base for base in error.__mro__ if base.__module__ == "builtins"]
    assert set(builtins) > {Exception, BaseException, object}
    assert 1 <= error.exit_code <= 7
    assert str(error("one line")) == "one line"


def test_an_error_keeps_its_facts_on_the_way_to_another_process() -> None:
    error = errors.BundleError("no engine", option="precision", build={"lr_size": (2, 3)})
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.option, copy.build) == (str(error), error.option, error.build)
