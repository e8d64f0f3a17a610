"""Admission slots and loopback addresses."""

import pytest

from flowsr_export.serve.admission import AdmissionSlots, is_loopback
from flowsr_export.serve.responses import HttpError


@pytest.mark.parametrize(
    ("host", "own"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False), ("", False)]
)
def test_loopback_is_told_from_other_addresses(host: str, own: bool) -> None:
    assert is_loopback(host) is own


def test_a_refused_client_waits_as_long_as_recent_images_took() -> None:
    slots = AdmissionSlots(1)
    slots.acquire()
    waits = []
    for seconds in (0.2, 9.0, 2000.0):
        slots.record(seconds)
        with pytest.raises(HttpError, match="1 places") as refused:
            slots.acquire()
        waits.append(refused.value.headers["Retry-After"])
    assert waits == ["1", "2", "60"]
