"""Error responses."""

import json

from flowsr_export.serve.responses import ErrorResponse, HttpError


def test_an_error_body_is_json_whatever_the_words_are() -> None:
    answer = ErrorResponse(HttpError(400, 'a "quoted"\n  line', {"Retry-After": "1"}))
    assert json.loads(bytes(answer.body)) == {"error": 'a "quoted" line'}
