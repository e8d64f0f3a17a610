"""docs/reference/bundle.md lists the keys that a bundle has, and those that it needs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from flowsr_export.export_onnx.manifest import Request, draft_manifest
from flowsr_lp import embedded_checkpoint, load_checkpoint
from flowsr_runtime import BundleError, embedded_bundle
from flowsr_runtime.bundle.engine_entry import ENGINE_SCHEMA, EngineEntry
from flowsr_runtime.bundle.manifest import SCHEMA, Manifest
from tests.flowsr_export.conftest import Exported

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "bundle.md").read_text("utf-8")
BUILT_IN = json.loads((embedded_bundle() / "bundle.json").read_text("utf-8"))


def table(head: str) -> dict[str, str]:
    """The rows below a head; a row that names several keys counts for each of them."""
    body = PAGE.split(f"| {head} | value |\n| --- | --- |\n")[1].split("\n\n")[0]
    rows = [line.strip("|").split("|", 1) for line in body.splitlines()]
    return {
        key: f"{names}|{text}" for names, text in rows for key in re.findall(r"`(\w+)`", names)
    }


def needed() -> list[str]:
    return [key for key, row in table("key").items() if "†" in row.split("|")[0]]


@pytest.fixture
def bundles(exported: Exported) -> list[dict[str, Any]]:
    """Manifests of the built-in bundle, of an export, and of a guarded export."""
    checkpoint = load_checkpoint(*embedded_checkpoint())
    guarded = draft_manifest(checkpoint, Request(guard=True, io="uint8"))
    text = (exported.bundle / "bundle.json").read_text("utf-8")
    return [BUILT_IN, json.loads(text), dict(guarded.raw)]


def test_every_key_of_a_bundle_is_on_the_page(bundles: list[dict[str, Any]]) -> None:
    rows = table("key")
    for raw in bundles:
        assert set(raw) <= set(rows)
        for key in ("tool", "model", "picture", "memory", "verification", "graph", "scale"):
            assert all(f"`{name}`" in rows[key] for name in raw.get(key, {})), key
        assert set(raw["tiling"]) == set(table("key of `tiling`"))


def test_every_fact_about_a_graph_is_on_the_page(bundles: list[dict[str, Any]]) -> None:
    entries = [raw["files"].get("model.fp32.onnx", {}) for raw in bundles]
    assert {key for entry in entries for key in entry} <= set(
        table("key of a graph in `files`")
    )


def test_the_schemas_are_those_of_the_page() -> None:
    assert f"`schema` is {SCHEMA}." in PAGE
    assert f"describes it, schema {ENGINE_SCHEMA}:" in PAGE
    names = set(EngineEntry.__dataclass_fields__) - {"sha256", "size"}
    assert names <= set(PAGE.split("## Engines")[1].replace("`", " ").split())


def test_nine_keys_are_needed() -> None:
    assert len(needed()) == 9


@pytest.mark.parametrize("key", needed())
def test_a_bundle_without_a_needed_key_is_refused(key: str) -> None:
    raw = {name: value for name, value in BUILT_IN.items() if name != key}
    with pytest.raises(BundleError, match=f"lacks {key}"):
        Manifest.parse(raw)


def test_everything_else_may_be_missing_and_more_may_be_there() -> None:
    raw = {name: BUILT_IN[name] for name in needed()}
    assert Manifest.parse({**raw, "later": 1}).files == Manifest.parse(BUILT_IN).files
