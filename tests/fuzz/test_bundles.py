"""Mutated manifests and descriptions of engines are read or refused with one error."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsr_runtime import embedded_bundle
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.bundle.engine_entry import EngineEntry
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.bundle.onnx_file import is_self_contained
from flowsr_runtime.errors import BundleError
from tests.fuzz.mutations import FUZZ, mutated, refusal

TEXT = (embedded_bundle() / "bundle.json").read_bytes()
MODEL = (embedded_bundle() / "model.fp32.onnx").read_bytes()[-20_000:]
RAW: dict[str, Any] = json.loads(TEXT)

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**24, 2**31, 2**63, 2**64, 10**400, -1, 0]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["1e9_9_9", "\u0664", "\ud800", "a\0b", "../x", "9" * 2000]),
    st.just([]),
    st.just({}),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the built-in bundle."""
    copied = tmp_path_factory.mktemp("fuzz") / "b"
    return Path(shutil.copytree(embedded_bundle(), copied))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a manifest."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for name, held in inner:
        yield (*path, name)
        if isinstance(held, (dict, list)):
            yield from places(held, (*path, name))


PLACES = list(places(RAW))


@given(mutated([TEXT]))
@FUZZ
def test_a_mutated_bundle_json_is_read_or_refused(folder: Path, data: bytes) -> None:
    (folder / "bundle.json").write_bytes(data)
    message = refusal(lambda: Bundle.open(folder), BundleError)
    assert len(message or "") < 1000


@given(st.sampled_from(PLACES), VALUES)
@FUZZ
def test_a_value_of_another_kind_is_taken_or_refused(path: tuple[Any, ...], value: Any) -> None:
    raw = json.loads(TEXT)
    inner = raw
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    message = refusal(lambda: Manifest.parse(raw).memory.estimate(10**6, 10**6), BundleError)
    assert len(message or "") < 3000


@given(mutated([MODEL, MODEL[:300], b"\x3a\x06\x2a\x04\x6a\x02\x0a\x00"]))
@FUZZ
def test_a_mutated_model_is_searched_to_its_end(data: bytes) -> None:
    assert is_self_contained(data) in (True, False)


@given(mutated([b'{"seal": "0", "schema": 1, "engine": {}, "key": {"flavor": "tensorrt"}}']))
@FUZZ
def test_a_mutated_description_of_an_engine_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        EngineEntry.parse(data)
