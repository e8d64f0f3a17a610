"""Bundles are checked before use, and written completely or not at all."""

import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flowsr_runtime.atomic import replace_file
from flowsr_runtime.bundle.directory import (
    Bundle,
    check_replaceable,
    embedded_bundle,
    extend_bundle,
    write_bundle,
)
from flowsr_runtime.errors import (
    BundleError,
    IntegrityError,
    OutputError,
    ReplacedError,
    UsageError,
)

MODEL = {"model.fp32.onnx": b"model"}


def test_a_bundle_comes_back_as_it_was_written(
    tmp_path: Path, manifest: dict[str, Any]
) -> None:
    source = tmp_path / "input.png"
    source.write_bytes(b"png")
    written = write_bundle(tmp_path / "b", manifest, {**MODEL, "golden/input.png": source})
    opened = Bundle.open(tmp_path / "b")
    assert opened == written
    assert opened.model_bytes() == b"model"
    assert opened.read("golden/input.png") == b"png"
    assert opened.path_of("fp32") == tmp_path / "b" / "model.fp32.onnx"
    opened.check_files()


def test_hashes_are_filled_in_beside_what_is_said(bundle: Bundle) -> None:
    entry = json.loads((bundle.path / "bundle.json").read_text())["files"]["model.fp32.onnx"]
    assert entry["opset"] == 18
    assert entry["bytes"] == len(bundle.model_bytes())
    assert len(entry["sha256"]) == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: bytes([*data[:-1], data[-1] ^ 1]), "is damaged: sha256 .* says"),
        (lambda data: data[:-1], r"is damaged: \d+ bytes"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_changed_file_is_refused(bundle: Bundle, change: Any, message: str) -> None:
    path = bundle.path / "model.fp32.onnx"
    data = path.read_bytes()
    path.unlink()
    if change is not None:
        path.write_bytes(change(data))
    for read in (bundle.path_of, bundle.check_files, bundle.model_bytes):
        with pytest.raises(IntegrityError, match=rf"model\.fp32\.onnx {message}"):
            read()


@pytest.mark.parametrize("path", ["/", ".", ""])
def test_a_folder_without_a_manifest_is_refused(path: str) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle: no bundle\.json"):
        Bundle.open(path)


@pytest.mark.parametrize("text", ["", "{", '{"schema": NaN}', "\ufeff{}", "[" * 100_000])
def test_broken_json_is_refused_in_one_line(bundle: Bundle, text: str) -> None:
    (bundle.path / "bundle.json").write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=r"^.*bundle\.json is not valid JSON: .*$"):
        Bundle.open(bundle.path)


def test_what_is_no_folder_or_no_text_is_refused(bundle: Bundle) -> None:
    (bundle.path / "bundle.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match=r"bundle\.json cannot be read: 'utf-8' codec"):
        Bundle.open(bundle.path)
    with pytest.raises(BundleError, match=r"bundle\.json is not a directory"):
        Bundle.open(bundle.path / "bundle.json")


@pytest.mark.parametrize("name", ["b", "deep/er/b"])
@pytest.mark.parametrize("force", [True, False])
def test_a_place_that_cannot_be_written_is_refused_before_work(
    tmp_path: Path, name: str, force: bool
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file is not writable"):
        check_replaceable(tmp_path / "file" / name, force)


def test_a_place_in_folders_to_be_made_is_taken(tmp_path: Path) -> None:
    check_replaceable(tmp_path / "deep" / "er" / "b", force=False)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_there_or_there_twice_is_refused(
    tmp_path: Path, manifest: dict[str, Any]
) -> None:
    manifest["files"]["other.onnx"] = {"precision": "fp32"}
    bundle = write_bundle(tmp_path / "b", manifest, {**MODEL, "other.onnx": b"other"})
    with pytest.raises(BundleError, match="holds no int8 model; it has fp32"):
        bundle.path_of("int8")
    with pytest.raises(BundleError, match=r"holds several fp32 models: .*other"):
        bundle.path_of()
    with pytest.raises(BundleError, match=r"holds no bundle\.json"):
        bundle.read("bundle.json")


def test_a_bundle_is_not_replaced_without_force(
    bundle: Bundle, manifest: dict[str, Any]
) -> None:
    with pytest.raises(OutputError, match="force=True"):
        write_bundle(bundle.path, manifest, MODEL)
    bundle.check_files()


def test_force_replaces_a_bundle(bundle: Bundle, manifest: dict[str, Any]) -> None:
    replaced = write_bundle(bundle.path, manifest, MODEL, force=True)
    assert Bundle.open(bundle.path).model_bytes() == b"model"
    assert [path.name for path in bundle.path.parent.iterdir()] == [replaced.path.name]


def test_force_does_not_replace_what_is_no_bundle(
    tmp_path: Path, manifest: dict[str, Any]
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="home exists and is not a bundle; give another name"):
        write_bundle(tmp_path / "home", manifest, MODEL, force=True)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


def test_an_unreadable_manifest_is_never_written(
    bundle: Bundle, manifest: dict[str, Any]
) -> None:
    del manifest["tiling"]
    with pytest.raises(BundleError, match=r"bundle\.json lacks tiling"):
        write_bundle(bundle.path, manifest, MODEL, force=True)
    Bundle.open(bundle.path).check_files()


def test_nan_in_a_manifest_is_never_written(tmp_path: Path, manifest: dict[str, Any]) -> None:
    manifest["condition_numbers"] = [float("nan")]
    with pytest.raises(BundleError, match="manifest cannot be written as JSON"):
        write_bundle(tmp_path / "b", manifest, MODEL)
    assert list(tmp_path.iterdir()) == []


def test_a_described_file_needs_content(tmp_path: Path, manifest: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"without content: model\.fp32\.onnx"):
        write_bundle(tmp_path / "b", manifest, {"other.onnx": b""})


def test_a_folder_that_cannot_be_made_is_an_output_error(
    tmp_path: Path, manifest: dict[str, Any]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"bundle .* cannot be written: "):
        write_bundle(tmp_path / "file" / "b", manifest, MODEL)


def test_a_full_disk_leaves_the_old_bundle(
    bundle: Bundle, manifest: dict[str, Any], full_disk: None
) -> None:
    with pytest.raises(OutputError, match="cannot be written: No space left on device"):
        write_bundle(bundle.path, manifest, MODEL, force=True)
    Bundle.open(bundle.path).check_files()
    assert [path.name for path in bundle.path.parent.iterdir()] == [bundle.path.name]


def test_an_interrupted_replacement_is_put_back(bundle: Bundle) -> None:
    aside = bundle.path.with_name(f".{bundle.path.name}.old")
    bundle.path.rename(aside)
    Bundle.open(bundle.path).check_files()
    assert not aside.exists()


def test_leftovers_of_a_killed_writer_are_removed(
    tmp_path: Path, manifest: dict[str, Any]
) -> None:
    (tmp_path / ".b.new" / "golden").mkdir(parents=True)
    write_bundle(tmp_path / "b", manifest, MODEL)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_writers_take_turns(tmp_path: Path, manifest: dict[str, Any]) -> None:
    def write(content: bytes) -> None:
        write_bundle(tmp_path / "b", manifest, {"model.fp32.onnx": content * 1000}, force=True)

    writers = [threading.Thread(target=write, args=(bytes([65 + i]),)) for i in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(set(Bundle.open(tmp_path / "b").model_bytes())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_the_embedded_bundle_lies_in_the_package() -> None:
    assert embedded_bundle().parts[-3:] == ("flowsr_runtime", "bundles", "default")


HALF = {"model.fp16.onnx": {"precision": "fp16", "opset": 18}}


def test_a_file_is_added_beside_the_others(bundle: Bundle) -> None:
    (bundle.path / "engines").mkdir()
    (bundle.path / "engines" / "a.engine").write_bytes(b"plan")
    before = dict(bundle.manifest.files)
    extended = extend_bundle(bundle.path, {"model.fp16.onnx": b"half"}, HALF)
    assert extended == Bundle.open(bundle.path)
    assert extended.model_bytes("fp16") == b"half"
    assert extended.manifest.raw["files"]["model.fp16.onnx"]["opset"] == 18
    assert before.items() <= extended.manifest.files.items()
    assert (bundle.path / "engines" / "a.engine").read_bytes() == b"plan"
    extended.check_files()


def test_a_file_that_is_listed_is_not_replaced(bundle: Bundle) -> None:
    with pytest.raises(OutputError, match=r"holds model.fp32.onnx already"):
        extend_bundle(bundle.path, {"model.fp32.onnx": b"other"}, {})
    bundle.check_files()


def test_a_file_that_a_killed_writer_left_is_replaced(bundle: Bundle) -> None:
    (bundle.path / "model.fp16.onnx").write_bytes(b"ha")
    extend_bundle(bundle.path, {"model.fp16.onnx": b"half"}, HALF)
    assert Bundle.open(bundle.path).model_bytes("fp16") == b"half"


@pytest.mark.parametrize("name", ["model.fp16.onnx", "bundle.json"])
def test_a_writer_that_dies_at_a_file_leaves_the_old_bundle(
    name: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(path: Path, data: bytes) -> None:
        if path.name == name:
            raise OSError(28, "No space left on device")
        replace_file(path, data)

    monkeypatch.setattr("flowsr_runtime.bundle.directory.replace_file", die)
    with pytest.raises(OutputError, match=r"cannot be written: No space left on device"):
        extend_bundle(bundle.path, {"model.fp16.onnx": b"half"}, HALF)
    assert Bundle.open(bundle.path).manifest == bundle.manifest
    bundle.check_files()


def test_only_a_bundle_is_extended(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle .*nothing does not exist"):
        extend_bundle(tmp_path / "nothing", {"model.fp16.onnx": b"half"}, HALF)


def test_a_file_outside_the_bundle_is_not_written(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="must lie inside the bundle"):
        extend_bundle(bundle.path, {"../model.onnx": b"half"}, {})
    assert not (bundle.path.parent / "model.onnx").exists()


@pytest.mark.parametrize("where", ["graph", "attribute", "subgraph", "function"])
def test_a_model_with_data_in_another_file_is_refused(
    tmp_path: Path, manifest: dict[str, Any], where: str
) -> None:
    tensor = field(13, field(1, b"location") + field(2, b"w.bin")) + b"\x70\x01"
    attribute = field(5, field(5, tensor))
    model = {
        "graph": field(7, field(5, tensor)),
        "attribute": field(7, field(1, attribute)),
        "subgraph": field(7, field(1, field(5, field(6, field(5, tensor))))),
        "function": field(25, field(7, attribute)),
    }[where]
    bundle = write_bundle(tmp_path / "b", manifest, {"model.fp32.onnx": b"\x08\x08" + model})
    with pytest.raises(BundleError, match=r"model\.fp32\.onnx has data in another file"):
        bundle.model_bytes()


def field(number: int, content: bytes) -> bytes:
    """Return a field of protobuf with bytes, or a message of fewer than 128 bytes."""
    key = number << 3 | 2
    head = bytes([key]) if key < 128 else bytes([key & 127 | 128, key >> 7])
    assert len(content) < 128
    return head + bytes([len(content)]) + content


def test_a_file_of_another_size_is_not_read(bundle: Bundle) -> None:
    with (bundle.path / "model.fp32.onnx").open("wb") as file:
        file.truncate(1 << 40)  # sparse: it would not fit in memory
    with pytest.raises(IntegrityError, match=rf"is damaged: {1 << 40} bytes, bundle"):
        bundle.model_bytes()
    with (bundle.path / "bundle.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match=rf"bundle\.json has {1 << 40} bytes, more than"):
        Bundle.open(bundle.path)


def test_a_bundle_that_was_replaced_is_not_called_damaged(
    bundle: Bundle, manifest: dict[str, Any]
) -> None:
    write_bundle(bundle.path, manifest, {"model.fp32.onnx": b"another"}, force=True)
    with pytest.raises(ReplacedError, match="was replaced while it was read"):
        bundle.model_bytes()


def test_half_of_a_surrogate_pair_is_no_character(bundle: Bundle) -> None:
    path = bundle.path / "bundle.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"family": "', r'"family": "\ud83d\ude00'), encoding="utf-8")
    assert Bundle.open(bundle.path).manifest.family.startswith("\U0001f600")
    path.write_text(text.replace('"family": "', r'"family": "\ud83d'), encoding="utf-8")
    with pytest.raises(BundleError, match=r"bundle\.json is not valid JSON: .*surrogates"):
        Bundle.open(bundle.path)


def test_a_folder_that_may_not_be_entered_is_one_error(bundle: Bundle) -> None:
    bundle.path.parent.chmod(0o700)
    with as_nobody(), pytest.raises(BundleError, match=r"cannot be read: Permission denied"):
        Bundle.open(bundle.path)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Act as an ordinary user, whom the permissions of files bind."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_the_bundle_of_a_package_in_a_zip_file_is_unpacked_until_the_program_ends(
    tmp_path: Path,
) -> None:
    package = embedded_bundle().parents[1]
    archive = tmp_path / "packages.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in package.rglob("*"):
            if path.suffix != ".pyc":
                file.write(path, Path("flowsr_runtime") / path.relative_to(package))
    program = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'ditable' not in repr(f)];"
        f"sys.path.insert(0, {str(archive)!r}); import flowsr_runtime;"
        "from flowsr_runtime import Bundle, embedded_bundle;"
        "Bundle.open(embedded_bundle()).check_files();"
        "print(flowsr_runtime.__file__, embedded_bundle() == embedded_bundle(),"
        "embedded_bundle(), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    module, same, folder = done.stdout.splitlines()
    assert (module.startswith(str(archive)), same) == (True, "True")
    assert Path(folder).is_relative_to(tmp_path)
    assert not Path(folder).exists()
