"""A folder of good and of wrong inputs, and the check of a command that gets a wrong one."""

import hashlib
import json
import shlex
import shutil
import zipfile
from pathlib import Path

from click.testing import CliRunner
from PIL import Image

from flowsr_export.cli import main
from flowsr_lp import save_weights
from flowsr_runtime import write_bundle
from tests.flowsr_export.conftest import (
    fourfold_graph,
    fourfold_manifest,
    resizing_graph,
    small_manifest,
)
from tests.flowsr_export.networks import small, small_model, small_prior
from tests.stand_in import picture

__all__ = ["LINE", "Row", "assert_refused", "make_inputs"]

Row = tuple[str, int, str]
"""A command line, its exit code, and words of its one line on stderr."""

LINE = 240
"""Longest line for a person."""


def make_inputs(folder: Path) -> None:
    """Fill a folder."""
    good = write_bundle(
        folder / "good.bundle", small_manifest(), {"model.fp32.onnx": resizing_graph()}
    ).path
    files = {"model.fp32.onnx": fourfold_graph()}
    write_bundle(folder / "x4.bundle", fourfold_manifest(), files)
    for name, manifest in {
        "badjson.bundle": '{"schema": 1,',
        "newer.bundle": json.dumps({**small_manifest(), "schema": 99}),
        "list.bundle": "[]",
    }.items():
        shutil.copytree(good, folder / name)
        (folder / name / "bundle.json").write_text(manifest, encoding="utf-8")
    shutil.copytree(good, folder / "damaged.bundle")
    graph = bytearray(resizing_graph())
    graph[40] ^= 1
    (folder / "damaged.bundle" / "model.fp32.onnx").write_bytes(graph)
    (folder / "file.bundle").write_text("hello", encoding="utf-8")
    with zipfile.ZipFile(folder / "zip.bundle", "w") as archive:
        archive.writestr("bundle.json", "{}")
    for name, side in (("pictures", 24), ("large", 200)):
        (folder / name).mkdir()
        for salt in "abcd":
            Image.fromarray(picture(side, side, salt)).save(folder / name / f"{salt}.png")
    (folder / "empty").mkdir()
    photo = folder / "photo.png"
    Image.fromarray(picture(5, 6, "photo")).save(photo)
    (folder / "cut.png").write_bytes(photo.read_bytes()[:50])
    for name in ("text.png", "text.pth", "text.onnx", "text.json"):
        (folder / name).write_text("hello", encoding="utf-8")
    for name in ("empty.png", "empty.pth"):
        (folder / name).touch()
    (folder / "list.json").write_text("[]", encoding="utf-8")
    net = small()
    assert net.prior is not None
    save_weights(folder / "flow.safetensors", "model", small_model(), net.linf.state_dict())
    save_weights(folder / "prior.safetensors", "prior", small_prior(), net.prior.state_dict())


def tree(folder: Path) -> dict[str, str]:
    """Return the digests of all files, and the names of all folders."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def assert_refused(row: Row, folder: Path) -> None:
    """Run a command line and hold its exit code, its one line, and that nothing is written."""
    line, exit_code, words = row
    before = tree(folder)
    done = CliRunner().invoke(main, shlex.split(line))
    assert isinstance(done.exception, SystemExit), done.exception
    assert (done.exit_code, done.stdout) == (exit_code, ""), done.stderr
    assert done.stderr.startswith("flowsr-export: ")
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert len(done.stderr) <= LINE
    assert tree(folder) == before
