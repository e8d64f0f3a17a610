"""Requests that are refused: status, one line, and what of our errors means which status."""

from __future__ import annotations

from collections.abc import Mapping

from flowsr_runtime.errors import (
    BusyError,
    FlowsrError,
    MemoryBudgetError,
    OutputError,
    PictureError,
    ScaleError,
    ShapeError,
    UsageError,
)

__all__ = ["HttpError", "http_error_from"]

# The first class that an error is an instance of decides.
STATUSES: tuple[tuple[type[FlowsrError], int], ...] = (
    (BusyError, 429),
    (PictureError, 400),
    (MemoryBudgetError, 413),
    (ScaleError, 422),
    (UsageError, 422),
    (ShapeError, 422),
    (OutputError, 422),
)


class HttpError(Exception):
    """A request that is not answered with a picture.

    Attributes:
        status: HTTP status.
        message: One line for the client.
        headers: Headers of the answer.
    """

    def __init__(
        self, status: int, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


def http_error_from(error: FlowsrError) -> HttpError:
    """Return how a request ends that one of our errors stopped.

    Args:
        error: What the library raised.

    Returns:
        The refusal; 500 where the request is not the reason.
    """
    for kind, status in STATUSES:
        if isinstance(error, kind):
            return HttpError(status, str(error))
    return HttpError(500, str(error))
