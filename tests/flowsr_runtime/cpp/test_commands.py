"""The C++ commands and package: results, threads and refusals."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from flowsr_runtime import Upscaler, embedded_bundle, read_picture, write_picture
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.errors import MemoryBudgetError, NonFiniteError
from tests.flowsr_runtime.cpp.library import (
    ROOT,
    SOURCE,
    CppError,
    CppLibrary,
    Progress,
    Warn,
    run_cmake,
)

Bundles = dict[str, Bundle]

ORIENTATION: Final = 0x0112
UNTESTED: Final = "flowsr-upscale: not tested: the bundle holds no golden pair\n"
PICTURES: Final = ROOT / "export" / "flowsr_export" / "inputs" / "pictures"
USAGE: Final = [
    (["--scael", "2"], "no such option: --scael"),
    (["--scale"], "--scale needs a value"),
    (["--scale", "4", "--size", "9x9"], "exactly one of --scale and --size"),
    (["--size", "9"], "--size must be such as 1920x1080, got 9"),
    (["--seed", "-1"], "--seed must be a whole number"),
    (["--max-memory", "much"], "--max-memory must be such as 800M"),
    (["--halo", "wide"], "--halo must be default or exact, got wide"),
    (["--scale=2", "--backend", "torch"], "backend must be auto, onnxruntime, openvino"),
    (["--scale=2", "--provider", "gpu"], "provider must be cpu or cuda, got gpu"),
    (["--scale", "0.5"], "scale must be at least 1, got 0.5"),
    (["--scale", "2,0.5"], "scale must be at least 1, got 0.5"),
    (["--scale", "2,4/2"], "--scale must be given once each, got"),
    ([], "give exactly one of scale and size"),
    (["--scale", "2", "--temperature", "1"], "takes no temperature"),
]


def picture_of(kind: str) -> Image.Image:
    """Return a small picture in one of the ways that PNG has."""
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (9, 13, 4), dtype=np.uint8)
    pixels[:4, :6, 3] = 0
    rgba = Image.fromarray(pixels)
    palette = rgba.convert("RGB").quantize(7)
    kinds = {
        "RGB": rgba.convert("RGB"),
        "RGBA": rgba,
        "L": rgba.convert("L"),
        "LA": rgba.convert("LA"),
        "1": rgba.convert("1"),
        "P": palette,
        "I;16": Image.fromarray(pixels.view(np.uint16)[:, :13, 0].copy()),
    }
    return kinds[kind]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A small RGB picture."""
    path = tmp_path / "in.png"
    picture_of("RGB").save(path)
    return path


def by_python(bundle: Bundle, source: Path, target: Path, scale: str) -> None:
    picture = read_picture(source)
    with Upscaler.open(bundle) as upscaler:
        write_picture(target, upscaler.upscale(picture.pixels, scale), like=picture)


def test_the_selftest_of_the_shipped_bundle_agrees(cpp: CppLibrary) -> None:
    done = cpp.run("flowsr-selftest", embedded_bundle())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("agrees: at most ")


def test_a_selftest_that_misses_its_bar_ends_with_code_3(
    cpp: CppLibrary, tmp_path: Path
) -> None:
    shutil.copytree(embedded_bundle(), tmp_path / "b")
    golden = Bundle.open(tmp_path / "b").read("golden/output.npy")
    values = np.frombuffer(golden[-24000:], dtype=np.float32).copy()
    values[100] += 0.5
    replace(tmp_path / "b", "golden/output.npy", golden[:-24000] + values.tobytes())
    done = cpp.run("flowsr-selftest", tmp_path / "b", "--json")
    assert done.returncode == 3
    assert '"passed": false, "max_abs": 0.5' in done.stdout


def replace(bundle: Path, name: str, content: bytes) -> None:
    """Change a file of a bundle and what the manifest says of it."""
    manifest = (bundle / "bundle.json").read_text()
    old, new = (sha256(each).hexdigest() for each in ((bundle / name).read_bytes(), content))
    (bundle / "bundle.json").write_text(manifest.replace(old, new))
    (bundle / name).write_bytes(content)


@pytest.mark.parametrize("name", ["bundle.json", "model.fp32.onnx", "golden/output.npy"])
def test_a_flipped_byte_ends_with_code_5(cpp: CppLibrary, tmp_path: Path, name: str) -> None:
    shutil.copytree(embedded_bundle(), tmp_path / "b")
    path = tmp_path / "b" / name
    data = bytearray(path.read_bytes())
    data[-2] ^= 0x80
    path.write_bytes(data)
    done = cpp.run("flowsr-selftest", tmp_path / "b")
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "L", "LA", "1", "P", "I;16"])
def test_the_command_writes_the_picture_that_python_writes(
    cpp: CppLibrary, bundle: Bundle, tmp_path: Path, kind: str
) -> None:
    source, ours, due = (tmp_path / name for name in ("in.png", "cpp.png", "python.png"))
    picture_of(kind).save(source)
    done = cpp.run("flowsr-upscale", bundle.path, source, ours, "--scale", "2.7x3.6")
    assert (done.returncode, done.stderr) == (0, UNTESTED)
    picture = read_picture(source)
    with Upscaler.open(bundle) as upscaler:
        write_picture(due, upscaler.upscale(picture.pixels, ("3.6", "2.7")), like=picture)
    got, wanted = read_picture(ours), read_picture(due)
    assert got.mode == wanted.mode
    np.testing.assert_array_equal(got.pixels, wanted.pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright(
    cpp: CppLibrary, bundle: Bundle, tmp_path: Path, orientation: int
) -> None:
    source, ours, due = (tmp_path / name for name in ("in.png", "cpp.png", "python.png"))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture_of("RGBA").save(source, exif=exif)
    assert cpp.run("flowsr-upscale", bundle.path, source, ours, "--scale", "1").returncode == 0
    by_python(bundle, source, due, "1")
    np.testing.assert_array_equal(read_picture(ours).pixels, read_picture(due).pixels)


def test_the_color_profile_is_kept(cpp: CppLibrary, bundle: Bundle, tmp_path: Path) -> None:
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture_of("RGB").save(tmp_path / "made.png", icc_profile=made)
    # libpng calls the profile of this photograph a known incorrect one.
    for source in (tmp_path / "made.png", PICTURES / "chelsea_256.png"):
        target = tmp_path / f"large_{source.name}"
        done = cpp.run("flowsr-upscale", bundle.path, source, target, "--scale=1")
        assert (done.returncode, done.stderr) == (0, UNTESTED)
        profile = read_picture(source).icc
        assert profile is not None
        assert read_picture(target).icc == profile


def test_missing_arguments_are_named(cpp: CppLibrary) -> None:
    done = cpp.run("flowsr-upscale")
    assert done.returncode == 2
    assert "give BUNDLE, IN.png and OUT.png" in done.stderr


@pytest.mark.parametrize(
    ("name", "words", "code", "message"),
    [
        ("none.png", ["--scale", "2"], 5, "none.png does not exist"),
        ("bundle.json", ["--scale", "2"], 5, "is not a PNG picture"),
        *(("in.png", words, 2, message) for words, message in USAGE),
        ("in.png", ["--scale", "2", "--backend", "tensorrt"], 4, "built without backend"),
        ("in.png", ["--scale", "2", "--provider", "cuda"], 4, "provider cuda"),
        ("in.png", ["--scale", "2", "--precision", "fp16"], 5, "holds no fp16 model"),
        ("in.png", ["--scale", "2", "--max-memory", "5"], 6, "memory_budget must be"),
    ],
)
def test_what_cannot_be_is_one_line_and_its_code(
    cpp: CppLibrary,
    bundle: Bundle,
    picture: Path,
    name: str,
    words: list[str],
    code: int,
    message: str,
) -> None:
    shutil.copy(bundle.path / "bundle.json", picture.parent)
    out = picture.with_name("out.png")
    done = cpp.run("flowsr-upscale", bundle.path, picture.with_name(name), out, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_nothing_is_overwritten_without_force(
    cpp: CppLibrary, bundle: Bundle, picture: Path
) -> None:
    before = picture.read_bytes()
    words = (bundle.path, picture, picture, "--scale", "2")
    assert cpp.run("flowsr-upscale", *words).returncode == 1
    assert picture.read_bytes() == before
    assert cpp.run("flowsr-upscale", *words, "--force").returncode == 0
    assert read_picture(picture).rgb.shape == (18, 26, 3)


def test_a_damaged_picture_is_refused(cpp: CppLibrary, bundle: Bundle, picture: Path) -> None:
    data = picture.read_bytes()
    picture.write_bytes(data[: len(data) // 2])
    out = picture.with_name("out.png")
    done = cpp.run("flowsr-upscale", bundle.path, picture, out, "--scale", "2")
    assert done.returncode == 5
    assert "in.png is damaged" in done.stderr


def test_values_that_are_not_finite_are_refused_as_in_python(
    cpp: CppLibrary, bundles: Bundles
) -> None:
    black = np.full((8, 9, 3), 128, dtype=np.uint8)
    black[3, 4] = 0
    with (
        Upscaler.open(bundles["dividing"]) as python,
        pytest.raises(NonFiniteError, match="NaN or infinity") as due,
    ):
        python.upscale(black, 1)
    with (
        cpp.open(bundles["dividing"].path) as other,
        pytest.raises(CppError, match="NaN or infinity") as got,
    ):
        other.upscale(black, scale_rows="1")
    assert (got.value.code, str(got.value)) == (3, str(due.value))


def test_memory_that_runs_out_is_told_as_in_python(
    cpp: CppLibrary, bundles: Bundles, photo: NDArray[np.uint8]
) -> None:
    due, got = list[str](), list[str]()
    with (
        Upscaler.open(bundles["huge"]) as python,
        pytest.raises(MemoryBudgetError, match="there are no tiles smaller") as refused,
    ):
        python.upscale(photo, 3, warn=due.append)
    warn = Warn(lambda _, line: got.append(line.decode()))
    with (
        cpp.open(bundles["huge"].path) as other,
        pytest.raises(CppError, match="there are no tiles smaller") as error,
    ):
        other.upscale(photo, scale_rows="3", warn=warn)
    assert len(got) > 1
    assert got == due
    assert (error.value.code, str(error.value)) == (6, str(refused.value))


def test_the_command_says_once_that_memory_ran_out(
    cpp: CppLibrary, bundles: Bundles, picture: Path
) -> None:
    out = picture.with_name("out.png")
    done = cpp.run("flowsr-upscale", bundles["huge"].path, picture, out, "--scale", "3")
    assert done.returncode == 6
    lines = done.stderr.splitlines()
    assert all(line.startswith("flowsr-upscale: out of memory") for line in lines)
    assert "there are no tiles smaller" in lines[-1]


@pytest.mark.parametrize("budget", [0, 30_000])
@pytest.mark.parametrize("name", ["exploding", "guarded"])
def test_values_out_of_range_are_told_as_in_python(
    cpp: CppLibrary, bundles: Bundles, photo: NDArray[np.uint8], name: str, budget: int
) -> None:
    told: list[str] = []
    with Upscaler.open(bundles[name], memory_budget=budget or None) as python:
        python.upscale(photo, 2.7, warn=told.append)
    with cpp.open(bundles[name].path, memory_budget=budget) as other:
        warn = Warn(lambda _, line: told.append(line.decode()))
        other.upscale(photo, scale_rows="2.7", warn=warn)
    assert len(told) == 2
    assert told[0] == told[1]


def test_progress_is_told_after_each_tile(
    cpp: CppLibrary, bundles: Bundles, photo: NDArray[np.uint8]
) -> None:
    told: list[tuple[int, int]] = []

    def note(_: Any, done: int, tiles: int) -> int:
        told.append((done, tiles))
        return 0

    with cpp.open(bundles["bilinear"].path, memory_budget=30_000) as upscaler:
        upscaler.upscale(photo, scale_rows="3", progress=Progress(note))
    assert len(told) > 1
    assert told == [(i + 1, len(told)) for i in range(len(told))]


def test_a_call_is_cancelled_between_two_tiles(
    cpp: CppLibrary, bundles: Bundles, photo: NDArray[np.uint8]
) -> None:
    stop = Progress(lambda _, done, tiles: int(done == 2))
    with (
        cpp.open(bundles["bilinear"].path, memory_budget=30_000) as upscaler,
        pytest.raises(CppError, match=r"cancelled after 2 of \d+ tiles") as error,
    ):
        upscaler.upscale(photo, scale_rows="3", progress=stop)
    assert error.value.code == 1


def test_threads_share_an_upscaler_and_get_the_same_pictures(
    cpp: CppLibrary, bundles: Bundles, photo: NDArray[np.uint8]
) -> None:
    pictures = [np.ascontiguousarray(np.roll(photo, i, axis=0)) for i in range(24)]
    with cpp.open(bundles["bilinear"].path, memory_budget=30_000, threads=1) as upscaler:

        def enlarge(picture: NDArray[Any]) -> NDArray[Any]:
            return upscaler.upscale(picture, scale_rows="2.7")

        serial = [enlarge(picture) for picture in pictures]
        with ThreadPoolExecutor(4) as pool:
            parallel = list(pool.map(enlarge, pictures))
    np.testing.assert_array_equal(parallel, serial)


def test_programs_of_others_find_the_package(cpp: CppLibrary, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    install = ["cmake", "--install", str(cpp.folder), "--prefix", str(prefix)]
    subprocess.run(install, check=True, capture_output=True)
    library = next(prefix.rglob("libflowsr.so"))
    described = ["cmake", "-E", "env", "readelf", "-d", str(library)]
    paths = subprocess.run(described, check=True, capture_output=True, text=True).stdout
    assert "path: [$ORIGIN:" in paths  # a library beside it comes before the builder's
    example = shutil.copytree(SOURCE / "example", tmp_path / "example")
    folder = tmp_path / "built"
    run_cmake(example, folder, f"-DCMAKE_PREFIX_PATH={prefix}")
    gradient = (np.arange(12 * 16 * 3) // 3).astype(np.uint8).reshape(12, 16, 3)
    with Upscaler.open() as upscaler:
        due = upscaler.upscale(gradient, 2.7)
    line = f"{due.shape[0]}x{due.shape[1]} {due.mean():.3f}\n"
    for program in ("enlarge_cpp", "enlarge_c"):
        command = [str(folder / program), str(embedded_bundle())]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == line
    missing = [str(folder / "enlarge_c"), str(tmp_path / "none")]
    assert subprocess.run(missing, capture_output=True, check=False).returncode == 5
    tool = [str(prefix / "bin" / "flowsr-selftest"), str(embedded_bundle())]
    assert subprocess.run(tool, capture_output=True, check=False).returncode == 0


def test_the_service_upscales_every_picture_of_its_stream(
    cpp: CppLibrary, tmp_path: Path
) -> None:
    program = tmp_path / "service"
    link = ["-L", str(cpp.folder), "-lflowsr", f"-Wl,-rpath,{cpp.folder}"]
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-I", str(SOURCE / "include")]
    source = ROOT / "examples" / "service.cpp"
    command = ["g++", *flags, str(source), *link, "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True)
    rng = np.random.default_rng(11)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((9, 13), (7, 5))]
    with Upscaler.open(device="cpu") as upscaler:
        due = b"".join(_ppm(upscaler.upscale(image, 2.7)) for image in images)
    words = [str(program), str(embedded_bundle()), "2.7"]
    stream = b"".join(map(_ppm, images))
    assert subprocess.run(words, input=stream, capture_output=True, check=True).stdout == due
    for wrong, line in ((b"P5 1 1 255\n0", b"must be binary PPM"), (stream[:-1], b"cut off")):
        done = subprocess.run(words, input=wrong, capture_output=True, check=False)
        assert (done.returncode, line in done.stderr) == (2, True)
    missing = [str(program), str(tmp_path / "none"), "4"]
    assert subprocess.run(missing, capture_output=True, check=False).returncode == 5


def _ppm(image: NDArray[np.uint8]) -> bytes:
    """Return a picture as binary PPM."""
    return b"P6\n%d %d\n255\n" % (image.shape[1], image.shape[0]) + image.tobytes()


@pytest.mark.parametrize("shared", [True, False], ids=["stages", "without stages"])
def test_several_scales_equal_the_runs_of_python(
    cpp: CppLibrary, staged: Bundle, bundle: Bundle, tmp_path: Path, picture: Path, shared: bool
) -> None:
    model = staged if shared else bundle
    done = cpp.run(
        "flowsr-upscale", model.path, picture, tmp_path / "out.png", "--scale", "1.5,2,2.7x3.6"
    )
    assert done.returncode == 0, done.stderr
    assert ("has no stage graphs" in done.stderr) is not shared
    for scale in ("1.5", "2", "2.7x3.6"):
        columns, _, rows = scale.partition("x")
        with Upscaler.open(model) as upscaler:
            expected = upscaler.upscale(picture, (rows or columns, columns))
        made = read_picture(tmp_path / f"out_x{scale}.png")
        np.testing.assert_array_equal(made.pixels, expected.pixels)


def test_a_bundle_with_wrong_stages_is_refused(
    cpp: CppLibrary, staged: Bundle, tmp_path: Path, picture: Path
) -> None:
    text = (staged.path / "bundle.json").read_text()
    changed = text.replace('"query": "query.fp32.onnx"', '"query": "gone.onnx"')
    (staged.path / "bundle.json").write_text(changed)
    done = cpp.run("flowsr-upscale", staged.path, picture, tmp_path / "out.png", "--scale", "2")
    assert done.returncode == 5
    assert "stages.0.query in bundle.json must be an ONNX file" in done.stderr
