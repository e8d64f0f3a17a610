"""`train rrdb`, and flows that begin with its result."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file

from tests.flowsr_export.commands.trainings import LOOP, STILL, assert_refused

Run = Callable[..., Result]

SIZES = ("--nb", "1", "--nf", "4", "--gc", "2")
SHORT = (*LOOP[:4], *("--batch", "2", "--crop", "4"), *LOOP[10:])


@pytest.fixture
def rrdb(run: Run, pictures: Path, tmp_path: Path) -> Callable[..., Result]:
    """Train a tiny RRDB into the folder `rrdb`; later options win."""

    def train_rrdb(*options: object) -> Result:
        files = ("--images", pictures, "-o", tmp_path / "rrdb")
        return run("train", "rrdb", *files, *SIZES, *SHORT, *options)

    return train_rrdb


def test_an_srflow_begins_with_it(rrdb: Run, run: Run, pictures: Path, tmp_path: Path) -> None:
    done = rrdb()
    path = tmp_path / "rrdb" / "rrdb.safetensors"
    assert done.stdout == f"{path}  {path.stat().st_size / 1e6:.2f} MB  4 steps\n"
    files = ("--images", pictures, "-o", tmp_path / "flow", "--start", path)
    flow = ("--system", "srflow", "--blocks", "0", "--steps-per-level", "1")
    begun = run("train", "flow", *files, *flow, *SIZES, *SHORT, *STILL)
    assert begun.exit_code == 0, begun.output
    got = load_file(tmp_path / "flow" / "model.safetensors")
    trunk = load_file(path)
    names = [name for name in trunk if f"RRDB.{name}" in got]
    assert {name for name in trunk if name not in names} == {
        f"{layer}.{kind}"
        for layer in ("upconv2", "HRconv", "conv_last")
        for kind in ("weight", "bias")
    }
    for name in names:
        torch.testing.assert_close(got[f"RRDB.{name}"], trunk[name], atol=1e-9, rtol=0)


def test_a_linf_on_rrdb_begins_with_it_if_its_sizes_are_those_of_the_encoder(
    rrdb: Run, run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rrdb("--steps", "1")
    start = tmp_path / "rrdb" / "rrdb.safetensors"
    linf = ("--encoder", "rrdb", "--hidden-dim", "8", "--flow-layers", "1", "--num-layer", "1")
    files = ("--images", pictures, "-o", tmp_path / "linf", "--start", start)
    done = run("train", "flow", *files, *linf, *LOOP, *STILL)
    assert_refused(done, 2, "is of another architecture")
    sizes = {"nf": 4, "nb": 1, "gc": 2}
    from flowsr_lp.linf import encoder

    monkeypatch.setitem(encoder.ENCODERS, "rrdb", (encoder.RRDB, sizes))
    done = run("train", "flow", *files, *linf, *LOOP, *STILL)
    assert done.exit_code == 0, done.output
    got, trunk = load_file(tmp_path / "linf" / "model.safetensors"), load_file(start)
    names = [name for name in trunk if f"encoder.{name}" in got]
    assert len(names) == 34
    for name in names:
        torch.testing.assert_close(got[f"encoder.{name}"], trunk[name], atol=1e-9, rtol=0)


def test_it_begins_with_its_own_result(rrdb: Run, tmp_path: Path) -> None:
    rrdb()
    start = tmp_path / "rrdb" / "rrdb.safetensors"
    done = rrdb("--start", start, "-o", tmp_path / "again", *STILL)
    assert done.exit_code == 0, done.output
    first, second = load_file(start), load_file(tmp_path / "again" / "rrdb.safetensors")
    assert all(torch.allclose(first[name], second[name], atol=1e-9) for name in first)


def test_it_is_not_a_model(rrdb: Run, run: Run, tmp_path: Path) -> None:
    rrdb("--steps", "1")
    path = tmp_path / "rrdb" / "rrdb.safetensors"
    done = run("export-onnx", "--model", path, "-o", tmp_path / "a.bundle")
    assert_refused(done, 5, f"{path} holds a trunk, not a model")


def test_the_published_recipe_is_recorded(rrdb: Run, tmp_path: Path) -> None:
    assert rrdb("--recipe", "published", "--steps", "1").exit_code == 0
    state = torch.load(tmp_path / "rrdb" / "last.pt", weights_only=True)
    assert state["settings"]["ema_decay"] == 0
    assert state["recipe"]["scales"] == [4, 4]


@pytest.mark.parametrize(
    ("option", "exit_code", "words"),
    [
        (("--scale", "3"), 2, "'3' is not one of 4, 8"),
        (("--scale-range", "1,4"), 2, "scales must be 4, the only scale of this network"),
        (("--scale-per", "image"), 2, "scale_per image is for LINF, not RRDB"),
        (("--gray", "0.5"), 2, "gray is for LINF, not RRDB (--gray)"),
        (("--crop", "8"), 5, "no picture of at least 32 pixels a side in"),
        (("--start", "none.pth"), 5, "weights none.pth do not exist"),
    ],
)
def test_a_pre_training_that_makes_no_sense_is_refused(
    rrdb: Run, option: tuple[str, str], exit_code: int, words: str
) -> None:
    assert_refused(rrdb(*option), exit_code, words)
