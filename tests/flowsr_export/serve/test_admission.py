"""How long a refused client is asked to wait."""

import pytest

from flowsr_export.serve.admission import AdmissionSlots
from flowsr_export.serve.responses import HttpError


def test_a_refused_client_is_asked_to_wait_as_long_as_pictures_take() -> None:
    places = AdmissionSlots(1)
    places.take()
    waits = []
    for seconds in (0.2, 9.0, 2000.0):
        places.note(seconds)
        with pytest.raises(HttpError, match="all 1 places are taken") as refused:
            places.take()
        waits.append(refused.value.headers["Retry-After"])
    assert waits == ["1", "2", "60"]
