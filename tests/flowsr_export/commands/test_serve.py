"""The `serve` command: startup, warning, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from click.testing import Result

RUNS_ON = "flowsr-export: runs on onnxruntime cpu, fp32\n"
Run = Callable[..., Result]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Limits of the apps that were served; none really is."""
    limits: list[Any] = []

    def run(server: Any, sockets: Any) -> None:
        limits.append(server.config.app.state.service.limits)

    monkeypatch.setattr(uvicorn.Server, "run", run)
    return limits


def test_it_listens_on_loopback_and_says_nothing_of_it(
    bundle: Path, run: Run, served: list[Any]
) -> None:
    done = run("serve", bundle, "--port", "0", "--queue", "3", "--jobs", "2", "--threads", "1")
    assert (done.exit_code, done.stderr) == (0, RUNS_ON)
    assert served[0].places == 5
    assert "127.0.0.1" in served[0].hosts


def test_another_host_is_warned_of_in_one_line(
    bundle: Path, run: Run, served: list[Any]
) -> None:
    done = run("serve", bundle, "--host", "0.0.0.0", "--port", "0")
    assert done.exit_code == 0
    assert done.stderr.count("\n") == 2
    assert done.stderr.endswith(RUNS_ON)
    assert "0.0.0.0 is reachable" in done.stderr
    assert served[0].hosts is None


def test_limits_are_taken(bundle: Path, run: Run, served: list[Any]) -> None:
    words = ("--max-body", "1M", "--max-pixels", "5", "--timeout", "2", "--body-timeout", "3")
    assert run("serve", bundle, "--port", "0", *words).exit_code == 0
    limits = served[0]
    assert (limits.max_body, limits.max_pixels) == (1 << 20, 5)
    assert (limits.timeout, limits.body_timeout) == (2.0, 3.0)


def test_a_bundle_that_is_none_is_refused_before_anything_listens(
    tmp_path: Path, run: Run, served: list[Any]
) -> None:
    done = run("serve", tmp_path)
    assert (done.exit_code, done.stdout, served) == (5, "", [])
    assert "is not a bundle" in done.stderr


def test_a_host_that_is_not_here_ends_with_2(bundle: Path, run: Run) -> None:
    done = run("serve", bundle, "--host", "no such host")
    assert done.exit_code == 2
    assert "cannot serve on no such host port 8000" in done.stderr


def test_json_is_the_address(bundle: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        def __init__(self, app: Any, *, access_log: bool, started: Callable[[], None]) -> None:
            self.run = lambda sockets: started()

    monkeypatch.setattr("flowsr_export.serve.http_server.make_server", Server)
    record = json.loads(run("serve", bundle, "--port", "0", "--json").stdout)
    assert (record["bundle"], record["runs_on"]) == (str(bundle), "onnxruntime cpu, fp32")
    assert record["url"].startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("left", "warned"), [(100 << 20, True), (1 << 50, False), (None, False)]
)
def test_more_jobs_than_the_container_has_memory_for_are_one_line(
    bundle: Path,
    run: Run,
    served: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    left: int | None,
    warned: bool,
) -> None:
    monkeypatch.setattr("flowsr_runtime.tiling.cgroups.memory_left", lambda: left)
    options = ("--port", "0", "--jobs", "3", "--max-memory", "64M")
    done = run("serve", bundle, *options)
    line = "3 jobs may take 192 MiB, and this container has 100 MiB left; give fewer --jobs"
    assert (done.exit_code, line in done.stderr) == (0, warned)
    assert done.stderr.count("\n") == 1 + warned
