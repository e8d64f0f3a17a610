"""Inputs made to stop or mislead the C++ runtime are refused with the words of Python."""

import shutil
import subprocess
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

import numpy as np
import pytest
from PIL import Image

from flowsr_runtime import Upscaler, read_picture
from flowsr_runtime.bundle.directory import Bundle, write_bundle
from flowsr_runtime.errors import BundleError, MemoryBudgetError, UsageError
from flowsr_runtime.tiling.cgroups import available_memory
from flowsr_runtime.tiling.memory import check_available
from flowsr_runtime.tiling.noise import latent
from tests.flowsr_runtime.backends.cgroups import make
from tests.flowsr_runtime.cpp.library import SOURCE, CppError, CppLibrary, request_of
from tests.flowsr_runtime.tiling.test_cgroups import CASES

OPENINGS: Final = 100
"""Of a bundle beside writers; a quarter met two halves before they were tried again."""

SPY: Final = """
#include <stdio.h>
#include <stdlib.h>
__attribute__((destructor)) static void tell(void) {
  const char* value = getenv("ORT_DISABLE_TELEMETRY");
  fprintf(stderr, "telemetry %s\\n", value ? value : "not set");
}
"""

THROWING: Final = """
#include <cstdio>
#include <vector>
#include "flowsr/flowsr.h"
int main(int, char** words) {
  flowsr_upscaler* upscaler = nullptr;
  if (flowsr_open(words[1], nullptr, &upscaler) != 0) return 9;
  flowsr_request request = FLOWSR_REQUEST_INIT;
  request.scale_rows = "2";
  request.channels = 3;
  request.progress = [](void*, int64_t, int64_t) -> int { throw 7; };
  std::vector<unsigned char> image(300), result(1200);
  const int code = flowsr_upscale_u8(upscaler, image.data(), 10, 10, &request, result.data());
  std::printf("%d %s", code, flowsr_last_error());
  flowsr_close(upscaler);
}
"""


def test_a_model_with_data_in_another_file_is_refused_alike(
    cpp: CppLibrary, tmp_path: Path, manifest: dict[str, Any]
) -> None:
    tensor = b"\x6a\x02\x0a\x00\x70\x01"
    model = b"\x3a" + bytes([len(tensor) + 2]) + b"\x2a" + bytes([len(tensor)]) + tensor
    path = write_bundle(tmp_path / "b", manifest, {"model.fp32.onnx": model}).path
    words = r"model\.fp32\.onnx has data in another file, which nothing checks$"
    with pytest.raises(BundleError, match=words):
        Bundle.open(path).check_files()
    with pytest.raises(CppError, match=words) as error:
        cpp.check(path)
    assert error.value.code == 5


def test_a_window_of_noise_beyond_the_counter_is_refused_alike(cpp: CppLibrary) -> None:
    words = f"a window of noise must lie within {2**32} cells"
    with pytest.raises(CppError, match=words):
        cpp.noise(0, 0, (2**63 - 1, 0, 1, 1, 1), 1.0)
    with pytest.raises(UsageError, match=words):
        latent(0, top=2**63 - 1, left=0, rows=1, columns=1, channels=1, temperature=1.0)


def test_too_many_threads_are_refused_alike(cpp: CppLibrary, bundle: Bundle) -> None:
    words = "threads must be at most 1024, got 100000"
    with pytest.raises(CppError, match=words) as error:
        cpp.open(bundle.path, threads=100_000)
    assert error.value.code == 2
    with pytest.raises(UsageError, match=words):
        Upscaler.open(bundle, backend="onnxruntime", threads=100_000)


@pytest.mark.parametrize("scale", ["1e9_9_9_9", "1_0", "\u0664", "1e999", "9" * 1001])
def test_a_scale_of_another_grammar_is_refused_alike(
    cpp: CppLibrary, bundle: Bundle, scale: str
) -> None:
    words = "scale must be"
    with cpp.open(bundle.path) as other, pytest.raises(CppError, match=words) as theirs:
        other.target((4, 4), request_of(scale_rows=scale))
    with Upscaler.open(bundle) as upscaler, pytest.raises(ValueError, match=words) as ours:
        upscaler.target((4, 4), scale)
    rule = str(ours.value).split(", got")[0]
    assert str(theirs.value).startswith(rule)


def test_an_exception_of_a_callback_does_not_cross_the_c_interface(
    cpp: CppLibrary, bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "a.cpp").write_text(THROWING, encoding="utf-8")
    options = [f"-I{SOURCE / 'include'}", "-L", str(cpp.folder), "-lflowsr"]
    build = ["g++", "-std=c++17", "a.cpp", "-o", "a", *options, f"-Wl,-rpath,{cpp.folder}"]
    subprocess.run(build, check=True, cwd=tmp_path)
    done = subprocess.run(
        ["./a", str(bundle.path)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1 a callback threw an exception of another kind"


@pytest.mark.parametrize("cut", ["flipped", "short", "without its end"])
def test_a_damaged_png_is_refused_by_both(
    cpp: CppLibrary, bundle: Bundle, tmp_path: Path, cut: str
) -> None:
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(20, 20, 3)).save(source)
    data = bytearray(source.read_bytes())
    at = data.index(b"IDAT") + 20
    data[at] ^= 4 * (cut == "flipped")
    ends = {"flipped": len(data), "short": at, "without its end": len(data) - 12}
    source.write_bytes(data[: ends[cut]])
    done = cpp.run("flowsr-upscale", bundle.path, source, target, "--scale", "2")
    if cut == "without its end":
        assert done.returncode == 0
        assert "in.png: its end is missing, but none of its pixels" in done.stderr
        assert read_picture(source).size == (20, 20)
        return
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)
    with pytest.raises(ValueError, match=r"in\.png is damaged"):
        read_picture(source)


def test_the_first_frame_of_an_animated_png_is_read_by_both(
    cpp: CppLibrary, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    frames = [Image.new("RGB", (6, 5), color) for color in ("gray", "navy")]
    frames[0].save(source, save_all=True, append_images=frames[1:])
    done = cpp.run("flowsr-upscale", bundle.path, source, target, "--scale", "2")
    line = f"{source}: only the first of its frames is read"
    assert done.returncode == 0
    assert done.stderr.splitlines()[0] == f"flowsr-upscale: {line}"
    with Upscaler.open(bundle) as upscaler:
        due = upscaler.upscale(read_picture(source).pixels, scale=2)
    assert caplog.messages == [line]
    np.testing.assert_array_equal(read_picture(target).pixels, due)


@pytest.mark.parametrize("kind", ["GIF", "JPEG"])
def test_a_picture_of_a_format_that_only_python_reads_is_named(
    cpp: CppLibrary, bundle: Bundle, tmp_path: Path, kind: str
) -> None:
    source = tmp_path / "in.png"
    Image.new("CMYK" if kind == "JPEG" else "P", (6, 5)).save(source, kind)
    done = cpp.run("flowsr-upscale", bundle.path, source, tmp_path / "out.png", "--scale", "2")
    line = f"flowsr-upscale: {source} is not a PNG picture\n"
    assert (done.returncode, done.stderr) == (5, line)
    assert read_picture(source).size == (5, 6)


def test_a_bundle_that_was_replaced_is_not_called_damaged(
    cpp: CppLibrary, tmp_path: Path, manifest: dict[str, Any]
) -> None:
    path = write_bundle(tmp_path / "b", manifest, {"model.fp32.onnx": b"one"}).path

    def check(handle: Any) -> None:
        write_bundle(path, manifest, {"model.fp32.onnx": b"another"}, force=True)
        cpp.call("flowsr_bundle_check", handle)

    with pytest.raises(CppError, match=r"b was replaced while it was read$") as error:
        cpp.with_bundle(path, check)
    assert error.value.code == 5


def test_a_reader_beside_two_writers_opens_one_bundle_or_the_other(
    cpp: CppLibrary, bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "b"
    contents = {name: bundle.read(name) for name in bundle.manifest.files}
    ended, model, sizes = Event(), bundle.model_name(), set()

    def write(seed: int) -> None:
        text = b"\x32" + bytes([8 + seed]) + bytes(8 + seed)  # ModelProto.doc_string
        other = {**contents, model: contents[model] + text}
        while not ended.is_set():
            write_bundle(path, bundle.manifest.raw, other, force=True)

    write_bundle(path, bundle.manifest.raw, contents)
    writers = [Thread(target=write, args=(seed,)) for seed in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(OPENINGS):
            with cpp.open(path, no_self_test=1) as upscaler:
                sizes.add(upscaler.target((4, 5), request_of(scale_rows="2")))
    finally:
        ended.set()
        for writer in writers:
            writer.join()
    assert sizes == {(8, 10)}


def test_a_result_larger_than_the_memory_is_refused_alike(
    cpp: CppLibrary, bundle: Bundle, tmp_path: Path
) -> None:
    source = tmp_path / "in.png"
    Image.new("RGB", (300, 200)).save(source)
    done = cpp.run("flowsr-upscale", bundle.path, source, tmp_path / "o.png", "--scale", "1000")
    with pytest.raises(MemoryBudgetError, match=r"300x200 to 300000x200000 needs") as ours:
        check_available((200, 300), (200_000, 300_000), 3)
    rule = str(ours.value).split(", and")[0]
    assert (done.returncode, done.stderr.count("\n")) == (6, 1)
    assert done.stderr.startswith(f"flowsr-upscale: {rule}, and ")


def test_both_languages_find_the_same_memory(tmp_path: Path) -> None:
    main = tmp_path / "main.cpp"
    main.write_text(
        '#include "machine/available_memory.hpp"\n#include <cstdio>\n'
        "int main(int, char** words) {\n"
        "  const auto left = flowsr::detail::available_memory(words[1], words[2], words[3]);\n"
        '  std::printf("%lld", left ? static_cast<long long>(*left) : -1LL);\n}\n'
    )
    sources = [main, SOURCE / "src" / "machine" / "available_memory.cpp"]
    options = [f"-I{SOURCE / 'src'}", f"-I{SOURCE / 'include'}", "-std=c++17"]
    program = tmp_path / "left"
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    subprocess.run(["g++", *options, *map(str, sources), "-o", str(program)], check=True)
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:   500 kB\n")
    for number, (membership, files, _) in enumerate(CASES):
        mount = tmp_path / str(number)
        listed = make(mount, membership, files)
        for kernel in (meminfo, tmp_path / "none"):
            done = subprocess.run(
                [program, listed, mount, kernel], capture_output=True, check=True
            )
            due = available_memory(listed, mount, kernel)
            assert int(done.stdout) == (-1 if due is None else due)


def test_the_commands_switch_the_telemetry_off_unless_the_user_did_not(
    cpp: CppLibrary, bundle: Bundle, tmp_path: Path
) -> None:
    library = tmp_path / "spy.c"
    library.write_text(SPY)
    spy = tmp_path / "spy.so"
    subprocess.run(["gcc", "-shared", "-fPIC", str(library), "-o", str(spy)], check=True)
    for command in ("flowsr-upscale", "flowsr-selftest"):
        for given, due in (({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")):
            done = cpp.run(command, "--version", LD_PRELOAD=str(spy), **given)
            assert done.stderr == f"telemetry {due}\n"


@pytest.mark.parametrize("command", ["flowsr-upscale", "flowsr-selftest"])
def test_a_full_disk_at_stdout_is_one_line(cpp: CppLibrary, command: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [str(cpp.folder / command), "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr == f"{command}: stdout cannot be written: No space left on device\n"
