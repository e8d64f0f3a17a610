"""A server in a process of its own, full and under fire; no time decides."""

import asyncio
from collections import Counter

from benchmarks.serving.load import Load, burst, fire, load, markdown
from benchmarks.serving.requests import attacks
from flowsr_export.bench.local_server import serving


def test_no_request_to_a_full_server_goes_without_an_answer() -> None:
    with serving(["--queue", "2", "--threads", "1"]) as server:
        full = asyncio.run(load(server.port, clients=8, seconds=2.0, pause=0.05, side=48))
        moment = asyncio.run(burst(server.port, 40, 48))
    assert full.lost == moment.lost == 0
    assert set(full.seconds) == set(moment.seconds) == {200, 429}
    assert set(full.retry) <= {str(seconds) for seconds in range(1, 61)}


def test_malformed_requests_are_refused_and_the_server_lives() -> None:
    # A slow head takes the ten seconds of its deadline; the protocol's own tests shorten it.
    made = [attack for attack in attacks(54) if attack.kind != "a slow head"]
    with serving(["--queue", "99", "--threads", "1", "--body-timeout", "1"]) as server:
        ends = asyncio.run(fire(server.port, made))
        after = asyncio.run(burst(server.port, 1, 48))
        assert server.process.poll() is None
    counts = sum(ends.values(), Counter())
    assert sum(counts.values()) == len(made)
    assert {end for end in counts if not end.startswith("4")} <= {"200", "left"}
    assert list(after.seconds) == [200]


def test_the_report_has_a_row_for_each_status_and_kind() -> None:
    full = Load({200: [0.5, 0.7], 429: [0.001]}, lost=1)
    text = markdown(full, Load(), {"a bomb": Counter({"413": 3})}, {"alive": True})
    assert "| full queue, 200 | 2 | 1 | 600.0 |" in text
    assert "| a bomb | 3 | 413 ×3 |" in text
