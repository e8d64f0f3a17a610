"""Listing, matching and pruning the engines of a bundle."""

from pathlib import Path
from typing import Any

import pytest

from flowsr_export.engine import listing as engine_listing
from flowsr_export.engine.build import EngineRequest, SizeSpec
from flowsr_export.engine.builder import Settings
from flowsr_export.engine.library import Library
from flowsr_export.engine.listing import list_engines, match_engines, prune_engines
from flowsr_runtime import Bundle
from flowsr_runtime.bundle.directory import write_bundle
from flowsr_runtime.cuda.device import Device
from flowsr_runtime.errors import BackendError, ProviderError
from tests.flowsr_export.engine.engines import L4, convolving_bundle, library, make_engine

SIZES = SizeSpec(pictures=((16, 16),), scales=("2",))
RTX = library("tensorrt-rtx")


@pytest.fixture
def stocked(tmp_path: Path) -> Bundle:
    """A bundle with one engine for 8.9 and one for 8.6."""
    bundle = Bundle.open(convolving_bundle(tmp_path / "b", "fp32", "fp16"))
    for capability in ("8.9", "8.6"):
        settings = Settings(compute_capabilities=(capability,))
        make_engine(bundle, RTX, EngineRequest("fp16", SIZES, settings))
    return bundle


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Say which library and which GPU this machine has."""

    def say(chosen: Library | None, device: Device | None) -> None:
        def load(flavour: str, device: object = None) -> Library:
            if chosen is None or flavour not in ("auto", chosen.flavour):
                raise BackendError(f"{flavour} is not installed")
            return chosen

        monkeypatch.setattr(engine_listing, "load_library", load)
        monkeypatch.setattr(engine_listing, "device_here", lambda index: device)

    return say


def test_sound_engines_are_listed(stocked: Bundle) -> None:
    listed = list_engines(stocked)
    assert {each.entry.key.compute_capability for each in listed} == {("8.6",), ("8.9",)}
    assert [(each.trouble, each.stale) for each in listed] == [(None, False)] * 2


def test_a_damaged_plan_is_seen(stocked: Bundle) -> None:
    plan = next(stocked.path.glob("engines/*.engine"))
    plan.write_bytes(plan.read_bytes()[:-1])
    troubles = [each.trouble for each in list_engines(stocked)]
    assert sum("is damaged" in str(trouble) for trouble in troubles) == 1


def test_an_engine_of_a_graph_that_is_gone_is_stale(stocked: Bundle, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (stocked.path / "engines").rename(kept)
    content = {"model.fp16.onnx": b"another graph"}
    raw = {**stocked.manifest.raw, "files": {"model.fp16.onnx": {"precision": "fp16"}}}
    replaced = write_bundle(stocked.path, raw, content, force=True)
    kept.rename(stocked.path / "engines")
    assert [each.stale for each in list_engines(replaced)] == [True, True]
    gone = prune_engines(replaced, everything=False, other_versions=False, dry_run=False)
    assert len(gone) == 4
    assert list_engines(replaced) == []


def test_sound_engines_are_not_pruned(stocked: Bundle) -> None:
    assert prune_engines(stocked, everything=False, other_versions=False, dry_run=False) == []


def test_a_dry_run_removes_nothing(stocked: Bundle) -> None:
    named = prune_engines(stocked, everything=True, other_versions=False, dry_run=True)
    assert len(named) == 4
    assert len(list_engines(stocked)) == 2


def test_engines_of_other_versions_are_pruned_when_asked(stocked: Bundle, here: Any) -> None:
    here(RTX, None)
    assert prune_engines(stocked, everything=False, other_versions=True, dry_run=True) == []
    here(Library(RTX.module, RTX.flavour, "1.8.0.1"), None)
    gone = prune_engines(stocked, everything=False, other_versions=True, dry_run=True)
    assert len(gone) == 4


def test_engines_of_a_library_that_is_not_here_are_kept(stocked: Bundle, here: Any) -> None:
    here(None, None)
    assert prune_engines(stocked, everything=False, other_versions=True, dry_run=True) == []


def test_what_loads_and_what_does_not_is_told_apart(stocked: Bundle, here: Any) -> None:
    here(RTX, L4)
    match = match_engines(stocked, "auto", "fp16")
    assert [entry.key.compute_capability for entry in match.loads] == [("8.9",)]
    (difference,) = match.differences
    assert (difference.field, difference.wanted, difference.found) == (
        "compute_capability",
        "8.9",
        "8.6",
    )


def test_every_field_that_differs_is_named(stocked: Bundle, here: Any) -> None:
    here(Library(RTX.module, RTX.flavour, "1.8.0.1"), None)
    match = match_engines(stocked, "tensorrt_rtx", "fp32", "12.0")
    assert match.loads == []
    assert {each.field for each in match.differences} == {
        "onnx_sha256",
        "version",
        "compute_capability",
        "precision",
    }


def test_without_a_gpu_the_device_has_to_be_said(stocked: Bundle, here: Any) -> None:
    here(RTX, None)
    with pytest.raises(ProviderError, match="compute_capability"):
        match_engines(stocked, "auto", "fp16")
