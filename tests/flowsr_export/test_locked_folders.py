"""Paths in a folder that may not be read or written: one line from every command."""

import ctypes
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image

Run = Callable[..., Result]

VERSION_3 = 0x20080522  # of capget and capset
READ_ANY = (1 << 1) | (1 << 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH

COMMANDS = """
upscale locked/b.bundle ok/a.png -o ok/o.png --scale 2
upscale --bundle locked/b.bundle ok/a.png -o ok/o.png --scale 2
upscale ok/b.bundle locked/a.png -o ok/o.png --scale 2
upscale ok/b.bundle locked -o ok/o --scale 2
upscale ok/b.bundle locked -o ok/o --recursive --scale 2
upscale ok/b.bundle locked/below -o ok/o --scale 2
upscale ok/b.bundle ok/a.png -o locked/o.png --scale 2
upscale ok/b.bundle ok -o locked/o --scale 2
inspect locked/b.bundle
demo locked/b.bundle -o ok/demo
demo -o locked/demo
engines list locked/b.bundle
engines prune locked/b.bundle --other-versions
export-onnx --model locked/x.pth -o ok/n.bundle
export-onnx -o locked/n.bundle
calibrate locked/b.bundle --images ok -o ok/c.bundle
calibrate --images locked -o ok/c.bundle
calibrate --images locked/below -o ok/c.bundle
calibrate ok/b.bundle --images ok -o locked/c.bundle
build-engine locked/b.bundle --size 64x64 --scale 2
build-engine ok/b.bundle --size 64x64 --scale 2 --export-profile locked/p.json
build-engine ok/b.bundle --size 64x64 --scale 2 -o locked/e.bundle
verify locked/b.bundle
verify ok/b.bundle --model locked/x.pth
verify --locate locked/m.onnx
verify ok/b.bundle --quick -o locked/certificate
bench locked/b.bundle -o ok/r
bench ok/b.bundle -o locked/r
bench compare locked/c.json locked/c.json
evaluate ok/b.bundle --hr locked --metric psnr -o ok/e
evaluate ok/b.bundle --hr locked/below --metric psnr -o ok/e
evaluate ok/b.bundle --hr ok --metric psnr -o locked/e
serve locked/b.bundle --port 0
serve-bundle triton locked/b.bundle -o ok/repo
serve-bundle triton ok/b.bundle -o locked/repo
fetch edsr-baseline-linf.pth -o locked/f --base-url http://127.0.0.1:9
train flow --images locked -o ok/t
train flow --images ok -o locked/t
"""


@contextmanager
def without_privileges() -> Iterator[None]:
    """Act as root whom the permissions of files bind, in this thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice 32 bits
    if os.geteuid() != 0 or libc.capget(header, sets) != 0:
        yield  # an ordinary user is bound already
        return
    before = sets[0]
    sets[0] &= ~READ_ANY & 0xFFFFFFFF
    if libc.capset(header, sets) != 0:
        pytest.skip("privileges cannot be laid down here")
    try:
        yield
    finally:
        sets[0] = before
        libc.capset(header, sets)


@pytest.fixture
def folders(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An open and a locked folder, the current ones."""
    for name in ("ok", "locked"):
        (tmp_path / name / "below").mkdir(parents=True)
        shutil.copytree(bundle, tmp_path / name / "b.bundle")
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
        (tmp_path / name / "x.pth").write_bytes(b"PK")
        (tmp_path / name / "c.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "locked").chmod(0o000)
    yield tmp_path
    (tmp_path / "locked").chmod(0o755)


@pytest.mark.parametrize("command", COMMANDS.strip().splitlines())
def test_a_path_in_a_locked_folder_is_one_line(folders: Path, run: Run, command: str) -> None:
    run("--help")  # modules are not what is locked
    with without_privileges():
        done = run(*command.split())
    assert done.exit_code in (1, 2, 5), done.output
    refusal = done.stderr.splitlines()[-1]
    words = ("Permission denied", "not readable", "not writable", "read-only")
    assert any(word in refusal for word in words), refusal
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (folders / "ok").iterdir() if path.is_file()) == [
        *("a.png", "c.json", "x.pth")
    ]
