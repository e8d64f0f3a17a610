"""Two processes that train the same weights, on a CPU; several GPUs were not measured."""

import math
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from flowsr_lp.training.processes import Processes, joined
from flowsr_runtime.errors import FlowsrError, ProviderError, UsageError
from tests.flowsr_lp.training.ranks import crops, gradients, objective

ROOT = Path(__file__).parents[3]
# Largest difference of a float64 gradient from that of one process with the doubled batch, as
# a share of the largest gradient: sums have another order.
CLOSE = 1e-12


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    stdout: str
    stderr: str


def launched(*arguments: object) -> list[Ended]:
    """Run Python in two processes with the environment of torchrun; return how they ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = os.pathsep.join(str(ROOT / name) for name in (".", "export", "runtime"))
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = []
    for rank in ("0", "1"):
        own = {"RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": folders}
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={**os.environ, **shared, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
    try:
        outputs = [process.communicate(timeout=180) for process in started]
    finally:
        for process in started:
            process.kill()
    pairs = zip(started, outputs, strict=True)
    return [Ended(process.returncode, *output) for process, output in pairs]


def ranks(task: str, folder: Path) -> list[Ended]:
    """Run a task of `ranks.py` in two processes."""
    folder.mkdir(exist_ok=True)
    return launched(Path(__file__).with_name("ranks.py"), task, folder)


def loaded(folder: Path, name: str) -> list[dict[str, Tensor]]:
    """What both processes have saved under a name."""
    return [torch.load(folder / f"{name}.{rank}.pt", weights_only=True) for rank in (0, 1)]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def codes(ended: Sequence[Ended]) -> list[int]:
    return [each.code for each in ended]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rrdb", "mode"])
def test_the_gradients_are_those_of_one_process_with_all_crops(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = ranks(name, tmp_path)
    assert codes(ended) == [0, 0], ended
    first, second = loaded(tmp_path, name)
    assert same(first, second)
    parts = [crops(2, rank, doubled=True).batch_at(0) for rank in (0, 1)]
    assert not torch.equal(parts[0][0], parts[1][0])
    joint = tuple(torch.cat(pair) for pair in zip(*parts, strict=True))
    source = crops(4, doubled=True)
    monkeypatch.setattr(source, "batch_at", lambda step: joint)
    monkeypatch.setattr("flowsr_lp.training.loop.GRADIENT_NORM", math.inf)
    expected = gradients(objective(name), source, tmp_path / "alone", Processes())
    assert first.keys() == expected.keys()
    largest = max(grad.abs().max().item() for grad in expected.values())
    for parameter, grad in expected.items():
        torch.testing.assert_close(first[parameter], grad, atol=CLOSE * largest, rtol=0)


@pytest.mark.slow
def test_a_resumed_run_of_two_processes_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert codes(ranks("flow", whole)) == [0, 0]
    assert codes(ranks("interrupted", parts)) == [130, 130]
    assert torch.load(parts / "last.pt", weights_only=True)["step"] == 2
    assert codes(ranks("flow", parts)) == [0, 0]
    expected, got = loaded(whole, "weights"), loaded(parts, "weights")
    assert same(got[0], expected[0])
    assert same(expected[0], expected[1])
    state = torch.load(whole / "last.pt", weights_only=True)
    assert not torch.equal(state["noise"][0], state["other_noise"][0][0])


@pytest.mark.slow
def test_an_error_of_one_process_ends_both_with_one_line(tmp_path: Path) -> None:
    first, second = ranks("spoiled", tmp_path)
    assert (first.code, second.code) == (1, 1)
    assert first.stderr == ""
    assert second.stderr == "loss is not finite at step 1; lower the learning rate\n"


@pytest.mark.slow
def test_an_error_of_both_is_reported_by_the_first(tmp_path: Path) -> None:
    first, second = ranks("unequal", tmp_path)
    assert (first.code, second.code) == (1, 1)
    rule = "batch must be a multiple of 2, the number of processes, got 3"
    assert first.stderr == f"{rule}\n"
    assert second.stderr == ""


@pytest.mark.slow
def test_the_command_trains_in_two_processes_and_prints_once(
    tmp_path: Path, images: Path
) -> None:
    command = ("-m", "flowsr_export", "train", "flow", "--images", images, "-o", tmp_path)
    sizes = ("--n-resblocks", 1, "--n-feats", 8, "--hidden-dim", 8, "--flow-layers", 2)
    loop = ("--num-layer", 1, "--steps", 2, "--batch", 2, "--crop", 8, "--threads", 1)
    first, second = launched(*command, *sizes, *loop, "--validation", images, "--workers", 1)
    assert first.code == second.code == 0, first.stderr + second.stderr
    assert first.stdout.startswith(f"{tmp_path / 'model.safetensors'}  ")
    assert (second.stdout, second.stderr) == ("", "")
    assert (tmp_path / "log.jsonl").read_text().count("\n") == 1
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert state["recipe"]["processes"] == 2
    alone = subprocess.run(
        [sys.executable, *map(str, (*command, *sizes, *loop))],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(("export", "runtime", "."))},
        capture_output=True,
        text=True,
    )
    assert alone.returncode == 5
    assert "processes is 2, got None" in alone.stderr


@pytest.mark.slow
def test_an_error_of_the_command_is_one_line(tmp_path: Path) -> None:
    command = ("-m", "flowsr_export", "train", "flow", "--images", tmp_path / "none")
    first, second = launched(*command, "-o", tmp_path / "run")
    assert (first.code, second.code) == (5, 1)
    assert first.stderr == (
        f"flowsr-export: folder of images {tmp_path / 'none'} does not exist\n"
    )
    assert (second.stdout, second.stderr) == ("", "")


def test_a_process_without_a_gpu_of_its_own_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torchrun = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "LOCAL_RANK": "1"}
    for name, value in {**torchrun, "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)

    def alone(values: list[object], value: object) -> None:
        values[:] = [False, value]

    monkeypatch.setattr(torch.distributed, "all_gather_object", alone)
    with pytest.raises(ProviderError, match="a GPU for each process, got 1 for process 1"):
        joined("cuda").__enter__()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, RANK not set, MASTER_ADDR not set, MASTER_PO"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE is two, RANK 0, MASTER_ADDR not set"),
        (
            {"WORLD_SIZE": "2", "RANK": "-1", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "WORLD_SIZE is 2, RANK -1: start the run with torchrun, or without WORLD_SIZE",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "5", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"},
            "the processes of the run cannot connect: ",
        ),
    ],
)
def test_an_environment_that_is_not_torchruns_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(FlowsrError, match=message):
        joined("cpu").__enter__()


def test_one_process_needs_no_group() -> None:
    with joined("cpu") as processes:
        assert (processes.rank, processes.count, processes.first) == (0, 1, True)
        assert processes.gathered("a") == ["a"]
        processes.agree(None)
        with pytest.raises(FlowsrError, match="batch"):
            processes.agree(UsageError("batch"))
