"""The C++ runtime, built once for the tests, and its C interface through ctypes."""

import ctypes
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from ctypes import (
    POINTER,
    byref,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int64,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT: Final = Path(__file__).parents[3]
SOURCE: Final = ROOT / "runtime" / "cpp"
JOBS: Final = 2
QUICK: Final = "-O1"
"""A third less time to build than with what a release has; the results are the same."""

MOST_PIECES: Final = 4096

Progress = ctypes.CFUNCTYPE(c_int, c_void_p, c_int64, c_int64)
Warn = ctypes.CFUNCTYPE(None, c_void_p, c_char_p)


class Settings(ctypes.Structure):
    """`flowsr_settings`."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("backend", c_char_p),
        ("provider", c_char_p),
        ("precision", c_char_p),
        ("device", c_int),
        ("threads", c_int),
        ("memory_budget", c_uint64),
        ("exact_halo", c_int),
        ("no_self_test", c_int),
        ("tf32", c_int),
        ("exhaustive_search", c_int),
    )


class Request(ctypes.Structure):
    """`flowsr_request`."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("scale_rows", c_char_p),
        ("scale_columns", c_char_p),
        ("height", c_int64),
        ("width", c_int64),
        ("channels", c_int),
        ("seed", c_uint64),
        ("has_temperature", c_int),
        ("temperature", c_double),
        ("has_prior_mix", c_int),
        ("prior_mix", c_double),
        ("temperature_map", POINTER(c_float)),
        ("map_height", c_int64),
        ("map_width", c_int64),
        ("unclamped", c_int),
        ("truncate", c_int),
        ("progress", Progress),
        ("warn", Warn),
        ("user", c_void_p),
    )


class Piece(ctypes.Structure):
    """`flowsr_piece`."""

    _fields_ = tuple(
        (name, c_int64)
        for name in (
            *("lr_begin", "lr_end", "out_begin", "out_end"),
            *("begin", "end", "fade_in", "fade_out"),
        )
    )


class CppError(Exception):
    """A code of the C interface that is not 0."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def settings_of(**values: Any) -> Settings:
    """Return settings; text as str."""
    return Settings(struct_size=ctypes.sizeof(Settings), **_encoded(values))


def request_of(**values: Any) -> Request:
    """Return a request; text as str, three channels unless they are given."""
    given = {"channels": 3, **values}
    return Request(struct_size=ctypes.sizeof(Request), **_encoded(given))


class CppUpscaler:
    """An open `flowsr_upscaler`."""

    def __init__(self, library: "CppLibrary", handle: c_void_p) -> None:
        self._library, self._handle = library, handle

    def target(self, source: tuple[int, int], request: Request) -> tuple[int, int]:
        height, width = c_int64(), c_int64()
        self._library.call(
            "flowsr_target", self._handle, *source, byref(request), byref(height), byref(width)
        )
        return height.value, width.value

    def upscale(self, image: NDArray[Any], **values: Any) -> NDArray[Any]:
        """Enlarge (h, w, channels) of uint8, uint16 or float32."""
        image = np.ascontiguousarray(image)
        request = request_of(channels=image.shape[2], **values)
        target = self.target((image.shape[0], image.shape[1]), request)
        result = np.empty((*target, image.shape[2]), dtype=image.dtype)
        kind = {"uint8": "u8", "uint16": "u16", "float32": "f32"}[str(image.dtype)]
        pointers = (image.ctypes.data_as(c_void_p), result.ctypes.data_as(c_void_p))
        size = image.shape[:2]
        name = f"flowsr_upscale_{kind}"
        self._library.call(name, self._handle, pointers[0], *size, byref(request), pointers[1])
        return result

    @property
    def untested(self) -> str:
        """Reason why the golden pair was not run, "" if it was met."""
        return str(self._library.native.flowsr_untested(self._handle).decode())

    @property
    def choice(self) -> str:
        """Backend, provider, device and precision that run."""
        return str(self._library.native.flowsr_choice(self._handle).decode())

    def close(self) -> None:
        self._library.native.flowsr_close(self._handle)

    def __enter__(self) -> "CppUpscaler":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass(frozen=True)
class CppLibrary:
    """The built library and commands.

    Attributes:
        folder: Build folder.
        native: The library as ctypes has it.
    """

    folder: Path
    native: ctypes.CDLL

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function that returns a code.

        Raises:
            CppError: If the code is not 0.
        """
        code = getattr(self.native, name)(*arguments)
        if code != 0:
            raise CppError(code, self.native.flowsr_last_error().decode())

    def open(self, bundle: Path, **settings: Any) -> CppUpscaler:
        handle = c_void_p()
        wanted = settings_of(**settings)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(self.folder / "cache"))
            self.call("flowsr_open", os.fsencode(bundle), byref(wanted), byref(handle))
        return CppUpscaler(self, handle)

    def with_bundle(self, path: Path, use: Callable[[c_void_p], Any]) -> Any:
        """Open a bundle, use it and close it."""
        handle = c_void_p()
        self.call("flowsr_bundle_open", os.fsencode(path), byref(handle))
        try:
            return use(handle)
        finally:
            self.native.flowsr_bundle_close(handle)

    def check(self, path: Path) -> None:
        self.with_bundle(path, lambda handle: self.call("flowsr_bundle_check", handle))

    def plan(
        self, path: Path, source: tuple[int, int], request: Request, settings: Settings
    ) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]], int]:
        """Return the pieces of rows and of columns as tuples, and the bytes of a run."""
        axes = [(Piece * MOST_PIECES)(), (Piece * MOST_PIECES)()]
        counts, run_bytes = [c_size_t(), c_size_t()], c_uint64()
        stores = [
            each
            for axis, count in zip(axes, counts, strict=True)
            for each in (axis, c_size_t(MOST_PIECES), byref(count))
        ]

        def use(handle: c_void_p) -> None:
            asked = (byref(request), byref(settings))
            self.call("flowsr_bundle_plan", handle, *source, *asked, *stores, byref(run_bytes))

        self.with_bundle(path, use)
        rows, columns = (
            [tuple(getattr(piece, name) for name, *_ in Piece._fields_) for piece in axis[:n]]
            for axis, n in zip(axes, (count.value for count in counts), strict=True)
        )
        return rows, columns, run_bytes.value

    def output_size(self, pixels: int, scale: str) -> int:
        result = c_int64()
        self.call("flowsr_output_size", pixels, scale.encode(), byref(result))
        return result.value

    def noise(self, seed: int, stream: int, window: tuple[int, ...], temperature: float) -> Any:
        """Return noise of a window (top, left, rows, columns, channels)."""
        result = np.empty((window[4], window[2], window[3]), dtype=np.float32)
        where = result.ctypes.data_as(c_void_p)
        self.call("flowsr_noise", seed, stream, *window, temperature, where)
        return result

    def run(
        self, command: str, *words: object, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a built command, with some variables of the environment."""
        return subprocess.run(
            [str(self.folder / command), *map(str, words)],
            env={**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache"), **environment},
            capture_output=True,
            text=True,
            check=False,
        )


def build(folder: Path, *options: str) -> Path:
    """Build the runtime with warnings as errors; skip the test where it cannot be.

    Args:
        folder: Where to build; made if missing.
        options: More options of cmake.

    Returns:
        Build folder.
    """
    for tool in ("cmake", "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    run_cmake(
        SOURCE, folder, "-DFLOWSR_WERROR=ON", f"-DCMAKE_CXX_FLAGS_RELEASE={QUICK}", *options
    )
    return folder


def shared_library(factory: pytest.TempPathFactory) -> CppLibrary:
    """Return the runtime with ONNX Runtime, built once for all test processes.

    It has backend inductor too where PyTorch is installed.
    """
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with open(root / "cpp.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "cpp" / "done").exists():
            backends = (f"-DFLOWSR_ONNXRUNTIME_ROOT={onnxruntime_sdk()}", torch_option())
            build(root / "cpp", *backends)
            (root / "cpp" / "done").touch()
    return load(root / "cpp")


def run_cmake(source: Path, folder: Path, *options: str) -> None:
    """Configure and build a project; skip the test where libpng is not installed."""
    configured = _said(["cmake", "-S", str(source), "-B", str(folder), *options])
    if "Could NOT find PNG" in configured.stderr:
        pytest.skip("libpng is not installed; apt-get install libpng-dev")
    assert configured.returncode == 0, configured.stderr
    built = _said(["cmake", "--build", str(folder), "--parallel", str(JOBS)])
    assert built.returncode == 0, built.stdout + built.stderr


def _said(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def onnxruntime_sdk() -> Path:
    """Return a folder with ONNX Runtime's headers and library; skip where it cannot be had.

    The headers stay in the build folder of the clone, so that they are fetched once.
    """
    given = os.environ.get("FLOWSR_ONNXRUNTIME_ROOT")
    if given:
        return Path(given)
    module, folder = sdk_module(), ROOT / "build" / "onnxruntime"
    try:
        module.make_sdk(folder)
    except module.SdkError as error:
        pytest.skip(f"no headers of ONNX Runtime: {error}")
    return folder


def torch_option() -> str:
    """Return the option of cmake for the installed PyTorch, or for none."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return "-DFLOWSR_INDUCTOR=OFF"
    return f"-DFLOWSR_TORCH_ROOT={Path(spec.origin).parent}"


def load(folder: Path) -> CppLibrary:
    """Load a built library and declare its functions."""
    native = ctypes.CDLL(str(folder / "libflowsr.so"))
    request, settings, pointer = POINTER(Request), POINTER(Settings), POINTER(c_void_p)
    pieces = (POINTER(Piece), c_size_t, POINTER(c_size_t))
    size = (c_int64, c_int64)
    whole = POINTER(c_int64)
    signatures: dict[str, tuple[Any, ...]] = {
        "flowsr_bundle_open": (c_char_p, pointer),
        "flowsr_bundle_check": (c_void_p,),
        "flowsr_bundle_close": (c_void_p,),
        "flowsr_bundle_plan": (
            *(c_void_p, *size, request, settings, *pieces, *pieces, POINTER(c_uint64)),
        ),
        "flowsr_open": (c_char_p, settings, pointer),
        "flowsr_close": (c_void_p,),
        "flowsr_target": (c_void_p, *size, request, whole, whole),
        "flowsr_output_size": (c_int64, c_char_p, whole),
        "flowsr_noise": (c_uint64, c_uint32, *(c_int64,) * 5, c_double, c_void_p),
    }
    for kind in ("u8", "u16", "f32"):
        arguments = (c_void_p, c_void_p, *size, request, c_void_p)
        signatures[f"flowsr_upscale_{kind}"] = arguments
    for name, arguments in signatures.items():
        function = getattr(native, name)
        function.argtypes, function.restype = arguments, c_int
    native.flowsr_close.restype = native.flowsr_bundle_close.restype = None
    for name in ("flowsr_untested", "flowsr_choice"):
        function = getattr(native, name)
        function.argtypes, function.restype = (c_void_p,), c_char_p
    native.flowsr_last_error.restype = c_char_p
    native.flowsr_version.restype = native.flowsr_backends.restype = c_char_p
    return CppLibrary(folder, native)


def _encoded(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.encode() if isinstance(value, str) else value
        for name, value in values.items()
    }


def sdk_module() -> Any:
    spec = importlib.util.spec_from_file_location(
        "onnxruntime_sdk", SOURCE / "onnxruntime_sdk.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
