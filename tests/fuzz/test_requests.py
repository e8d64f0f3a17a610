"""Requests of any text are taken or refused with one HTTP error, soon."""

import time
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fastapi")

from flowsr_export.serve.request import PARAMETERS, parse_parameters
from flowsr_export.serve.responses import HttpError
from flowsr_runtime.errors import ScaleError
from flowsr_runtime.geometry import exact_scale, parse_scale, parse_size
from tests.fuzz.mutations import FUZZ, SECONDS, refusal

NUMBERS = st.text("0123456789.eExX+-_/ \u0664\u0001", max_size=70)
TEXTS = st.one_of(NUMBERS, st.text(max_size=70))


@given(st.dictionaries(st.sampled_from([*PARAMETERS, "other"]), TEXTS, max_size=4))
@FUZZ
def test_parameters_are_taken_or_refused(texts: dict[str, str]) -> None:
    began = time.perf_counter()
    assert refusal(lambda: parse_parameters(texts), HttpError) != ""
    assert time.perf_counter() - began < SECONDS


@given(TEXTS)
@FUZZ
def test_a_scale_or_a_size_is_taken_or_refused(text: str) -> None:
    for parse in (exact_scale, parse_scale, parse_size):
        message = refusal(partial(parse, text), ScaleError)
        assert len(message or "") < 400
