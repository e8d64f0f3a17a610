"""The life of an engine of PyTorch's Inductor on a CPU: built, run, stored, refused, pruned."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from flowsr_export.cli import main
from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Deployment
from flowsr_export.engine import build as build_module
from flowsr_export.engine.builder import Built
from flowsr_export.inputs.cases import Case, cases_of, sample_pictures
from flowsr_export.parity.compare import compare, tolerance_for
from flowsr_lp import load_checkpoint
from flowsr_runtime import Bundle, SessionSettings, Upscaler
from flowsr_runtime.backends.engines.inductor_engine import InductorEngine
from flowsr_runtime.backends.engines.inductor_session import InductorSession
from flowsr_runtime.bundle.engine_store import EngineKey, EngineStore
from flowsr_runtime.errors import BundleError, IntegrityError, ShapeError
from flowsr_runtime.geometry import Extent, Window
from flowsr_runtime.pictures.depth import to_depth
from flowsr_runtime.tiling.graph_inputs import graph_inputs
from tests.flowsr_export.conftest import Exported
from tests.flowsr_export.engine.inductor.engines import (
    EXACT,
    NEEDS_COMPILER,
    RANGE,
    SIZE,
    build,
    shared_bundle,
)

pytestmark = [pytest.mark.slow, NEEDS_COMPILER]

BENCH = (
    *("--scale", "3", "--lr-size", "20x24", "--no-memory", "--provider", "cpu", "-o", "r"),
    *("--duration", "20ms", "--warm-up", "10ms", "--blocks", "2"),
)
CLOSE = 1e-5  # float rounding of these small networks, ten times below the limit of `verify`


def feeds_of(case: Case) -> dict[str, NDArray[Any]]:
    window = Window.whole(case.lr, case.size)
    return graph_inputs(sample_pictures(case), window, latents=(), geometry=True)


@pytest.fixture(scope="module")
def built(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with an engine of one size and one of a range."""
    return shared_bundle(exported, tmp_path_factory)


@pytest.fixture
def bundle(built: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(built.path, tmp_path / "copy.bundle")
    return Bundle.open(tmp_path / "copy.bundle")


@pytest.fixture(scope="module")
def session(built: Bundle) -> Iterator[InductorSession]:
    with closing(InductorSession.open(built, workers=2)) as opened:
        yield opened


@pytest.fixture(scope="module")
def deployment(exported: Exported) -> Deployment:
    return deployment_of(load_checkpoint(exported.model, exported.prior).network)


def test_an_engine_of_a_range_agrees_with_pytorch_at_its_sizes(
    deployment: Deployment, session: InductorSession
) -> None:
    cases = cases_of([(16, 24), (17, 30), (32, 40)], [Fraction("1.7"), Fraction(2)])
    stats = compare(deployment, session, cases, None, tolerance_for(deployment, "fp32"))
    assert max(one.max_abs for one in stats) < CLOSE


def test_an_engine_of_one_size_agrees_with_pytorch(
    deployment: Deployment, session: InductorSession
) -> None:
    (stats,) = compare(deployment, session, [SIZE], None, tolerance_for(deployment, "fp32"))
    assert stats.max_abs < CLOSE


def test_an_engine_of_one_size_takes_tiles_at_every_position(
    built: Bundle, session: InductorSession
) -> None:
    whole = Window.whole((48, 20), (144, 60))
    tile = replace(whole, rows=Extent(48, 144, 24, 48, 72, 144))
    feeds = graph_inputs(sample_pictures(SIZE), tile, latents=(), geometry=True)
    with closing(SessionSettings("onnxruntime").start(built)) as graph:
        np.testing.assert_allclose(session.run(feeds), graph.run(feeds), atol=CLOSE)


def test_inputs_of_any_strides_give_the_same_image(session: InductorSession) -> None:
    feeds = feeds_of(SIZE)
    channels_last = np.ascontiguousarray(feeds["input"].transpose(0, 2, 3, 1))
    view = channels_last.transpose(0, 3, 1, 2)
    assert not view.flags.c_contiguous
    view.flags.writeable = False
    np.testing.assert_array_equal(session.run({**feeds, "input": view}), session.run(feeds))


def test_the_engines_ran_before_they_were_stored(built: Bundle) -> None:
    exact, wide = sorted(EngineStore(built.path).entries(), key=lambda one: one.name)
    for entry in (exact, wide):
        assert entry.name.endswith(".pt2")
        assert entry.key.on_cpu
        assert entry.facts["qualified"] is True
        assert entry.facts["qualification"]["runs"] == 3


def test_auto_takes_an_engine_that_fits_before_onnx_runtime(built: Bundle) -> None:
    with closing(Upscaler.open(built)) as upscaler:
        assert upscaler.choice is not None
        assert str(upscaler.choice) == "inductor cpu, fp32"
        picture = to_depth(sample_pictures(SIZE)[0].transpose(1, 2, 0), 8)
        fast = upscaler.upscale(picture, 3)
    with closing(Upscaler.open(built, backend="onnxruntime")) as upscaler:
        expected = upscaler.upscale(picture, 3)
    assert np.abs(fast.astype(int) - expected).max() <= 1


def test_auto_passes_over_an_engine_that_never_ran(bundle: Bundle) -> None:
    store = EngineStore(bundle.path)
    for entry in store.entries():
        content = store.read(entry)
        (bundle.path / entry.name).unlink()
        store.add(entry.key, content, {**entry.facts, "qualified": False})
    backends = [one.backend for one in SessionSettings(device="cpu").candidates(bundle)]
    assert backends == ["onnxruntime"]
    named = SessionSettings("inductor").candidates(bundle)
    assert [(one.backend, one.provider) for one in named] == [("inductor", "cpu")]


def test_the_same_engine_is_kept(exported: Exported, built: Bundle) -> None:
    result = build(exported, built.path, *EXACT)
    assert result.exit_code == 0
    assert "kept: an engine with the same key exists" in result.output


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("onnx_sha256", "0" * 64),
        ("version", "2.0.0"),
        ("compute_capability", ("cpu-x86_64-avx2-00000000",)),
        ("compute_capability", ("9.0",)),
    ],
)
def test_an_engine_of_another_key_is_refused(field: str, value: object, bundle: Bundle) -> None:
    store = EngineStore(bundle.path)
    for entry in store.entries():
        content = store.read(entry)
        other = EngineKey(**{**vars(entry.key), field: value})
        for path in (bundle.path / entry.name, bundle.path / f"{entry.name}.json"):
            path.unlink()
        store.add(other, content, entry.facts)
    shown = value[0] if isinstance(value, tuple) else str(value)
    with pytest.raises(BundleError, match=f"{field} is {shown[:40]}, wanted") as caught:
        InductorSession.open(bundle)
    assert caught.value.build is not None
    assert caught.value.build["flavour"] == "inductor"


def test_a_flipped_byte_is_refused(bundle: Bundle) -> None:
    for entry in EngineStore(bundle.path).entries():
        path = bundle.path / entry.name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(IntegrityError, match="is damaged"):
        InductorSession.open(bundle)
    listed = CliRunner().invoke(main, ["engines", "list", str(bundle.path)])
    assert listed.exit_code == 5
    assert "DAMAGED" in listed.output


def test_stale_engines_are_listed_and_pruned(bundle: Bundle) -> None:
    listed = CliRunner().invoke(main, ["engines", "list", str(bundle.path), "--json"])
    assert [row["state"] for row in json.loads(listed.stdout)["engines"]] == ["ok", "ok"]
    pruned = CliRunner().invoke(main, ["engines", "prune", str(bundle.path), "--all"])
    assert pruned.exit_code == 0
    assert list((bundle.path / "engines").glob("*.pt2*")) == []


def test_an_engine_that_misses_the_golden_pair_is_not_stored(
    exported: Exported, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EngineStore(bundle.path)
    (entry,) = (one for one in store.entries() if one.facts["qualification"]["golden"])
    compiled = Built(store.read(entry), 1.0, (), tuple(entry.facts["tensors"]), "", ())
    store.prune(lambda entry: False)
    run = InductorEngine.run

    def wrong(self: InductorEngine, *values: Any) -> NDArray[Any]:
        output: NDArray[Any] = run(self, *values) + np.float32(0.01)
        return output

    monkeypatch.setattr(build_module, "build_package", lambda *given: compiled)
    monkeypatch.setattr(InductorEngine, "run", wrong)
    result = build(exported, bundle.path, *RANGE)
    assert result.exit_code == 3
    assert "misses the golden pair" in result.output
    assert store.entries() == []


def test_a_killed_build_leaves_nothing(exported: Exported, bundle: Bundle) -> None:
    EngineStore(bundle.path).prune(lambda entry: False)
    before = sorted(path.name for path in bundle.path.rglob("*"))
    words = ["build-engine", bundle.path, "--model", exported.model, "--prior", exported.prior]
    words += ["--flavor", "inductor", "--device", "cpu", "--precision", "fp32", *EXACT]
    program = "import sys; from flowsr_export.cli import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    time.sleep(6)  # PyTorch is loaded, and nothing is stored before the qualification
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert sorted(path.name for path in bundle.path.rglob("*")) == before


def test_a_missing_input_and_another_type_are_refused(session: InductorSession) -> None:
    feeds = feeds_of(SIZE)
    with pytest.raises(ShapeError, match=r"input must be float32, got torch\.float64"):
        session.run({**feeds, "input": feeds["input"].astype(np.float64)})
    with pytest.raises(ShapeError, match="input geometry is missing"):
        session.run({"input": feeds["input"]})


def test_a_session_loads_the_engine_that_a_size_needs(built: Bundle) -> None:
    with closing(InductorSession.open(built)) as session:
        first = list(session.engines)
        session.run(feeds_of(Case((30, 30), (60, 60))))
        session.run(feeds_of(SIZE))
        assert len(first) == 1
        assert sorted(session.engines) == [e.name for e in EngineStore(built.path).entries()]
        assert session.library == f"pytorch {torch.__version__}"
        with pytest.raises(BundleError, match="input is 1x3x90x90, it takes 1x3x24x20"):
            session.run(feeds_of(Case((90, 90), (180, 180))))


def test_arrays_are_exchanged_by_dlpack(session: InductorSession) -> None:
    feeds, expected = feeds_of(SIZE), session.run(feeds_of(SIZE))
    np.testing.assert_array_equal(np.from_dlpack(session.run_device(feeds)), expected)
    out = np.empty_like(expected)
    assert session.run_device(feeds, out) is out
    np.testing.assert_array_equal(out, expected)
    with pytest.raises(ShapeError, match=r"out must be .* \(1, 3, 72, 60\), got .* \(1, 3, 1"):
        session.run_device(feeds, out[:, :, :1])


def test_verify_compares_the_sizes_that_the_engines_take(
    exported: Exported, built: Bundle
) -> None:
    named = ["--model", exported.model, "--prior", exported.prior, "--backend", "inductor"]
    words = ["verify", built.path, *named, "--json"]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    cases = [row["case"] for row in json.loads(result.stdout)["runs"]["inductor cpu"]]
    lrs = {tuple(case["lr"]) for case in cases}
    assert {(24, 20), (16, 16), (32, 40), (23, 37)} <= lrs


@pytest.mark.parametrize(
    "words",
    [
        ("bench", "{}", *BENCH),
        ("upscale", "{}", "a.png", "-o", "b.png", "--scale", "3"),
        ("inspect", "{}", "--engine", "--flavor", "inductor", "--precision", "fp32"),
    ],
    ids=lambda words: words[0],
)
def test_commands_run_an_engine(
    words: tuple[str, ...], built: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(to_depth(sample_pictures(SIZE)[0].transpose(1, 2, 0), 8)).save("a.png")
    backend = [] if words[0] == "inspect" else ["--backend", "inductor"]
    named = [word.format(built.path) for word in words]
    result = CliRunner().invoke(main, [*named, *backend])
    assert result.exit_code == 0, result.output
    assert "inductor" in result.output + str(list(tmp_path.glob("r*")))


def test_an_error_names_the_command_that_builds_the_engine(bundle: Bundle) -> None:
    EngineStore(bundle.path).prune(lambda entry: False)
    words = ["upscale", str(bundle.path), "none.png", "-o", "b.png", "--backend", "inductor"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 5
    assert "--flavor inductor --precision fp32 --device cpu" in result.stderr
