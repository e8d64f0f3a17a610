"""The folder with ONNX Runtime's headers and library, without a network."""

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any, Final

import pytest

from tests.flowsr_runtime.cpp.library import sdk_module

HEADERS: Final = {
    "package/ios/Headers/onnxruntime_cxx_api.h": "// C++",
    "package/ios/Headers/onnxruntime_c_api.h": "#define ORT_API_VERSION 20\n",
    "package/other/coreml.h": "// of something else",
    "package/readme.md": "",
}


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, with a registry that holds `HEADERS` and a library of version 1.32.0."""
    module = sdk_module()

    def pack(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        folder = Path(command[command.index("--pack-destination") + 1])
        with tarfile.open(folder / "package.tgz", "w:gz") as tar:
            for name, text in HEADERS.items():
                item = tarfile.TarInfo(name)
                item.size = len(text)
                tar.addfile(item, io.BytesIO(text.encode()))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(module.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(module.subprocess, "run", pack)
    monkeypatch.setattr(module, "library_path", lambda: Path("/lib/libonnxruntime.so.1.32.0"))
    return module


def test_headers_and_library_lie_side_by_side(sdk: Any, tmp_path: Path) -> None:
    line = sdk.make_sdk(tmp_path)
    assert line.endswith("headers of 1.20, library 1.32.0")
    names = sorted(path.name for path in (tmp_path / "include").iterdir())
    assert names == ["onnxruntime_c_api.h", "onnxruntime_cxx_api.h"]
    for name in ("libonnxruntime.so.1", "libonnxruntime.so"):
        link = tmp_path / "lib" / name
        assert str(link.readlink()) == "/lib/libonnxruntime.so.1.32.0"
    assert sdk.make_sdk(tmp_path) == line


def test_headers_newer_than_the_library_are_refused(
    sdk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdk, "library_path", lambda: Path("/lib/libonnxruntime.so.1.19.2"))
    with pytest.raises(sdk.SdkError, match=r"headers are of 1\.20, the library is 1\.19\.2"):
        sdk.make_sdk(tmp_path)


def test_without_npm_it_says_so(
    sdk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdk.shutil, "which", lambda name: None)
    with pytest.raises(sdk.SdkError, match="npm is not installed"):
        sdk.make_sdk(tmp_path)


def test_a_registry_that_fails_is_named(
    sdk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(sdk.subprocess, "run", fail)
    with pytest.raises(sdk.SdkError, match="npm could not fetch"):
        sdk.make_sdk(tmp_path)


def test_a_package_without_the_headers_is_refused(
    sdk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(HEADERS, "package/ios/Headers/onnxruntime_cxx_api.h")
    with pytest.raises(sdk.SdkError, match=r"holds no onnxruntime_cxx_api\.h"):
        sdk.make_sdk(tmp_path)


def test_the_library_is_that_of_the_python_package() -> None:
    assert sdk_module().library_path().name.startswith("libonnxruntime.so.1.")
