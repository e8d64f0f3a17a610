"""The store returns complete, unchanged engines or none."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsr_runtime.atomic import replace_file
from flowsr_runtime.bundle.engine_entry import EngineEntry, _checksum
from flowsr_runtime.bundle.engine_store import EngineStore, LoadTarget, Removal
from flowsr_runtime.errors import BundleError, IntegrityError, OutputError, UsageError
from tests.flowsr_runtime.bundle.engine_keys import CHANGES, key

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("engine_fault_injection.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runtime'}"}
PLAN = bytes(range(256)) * 8
FACTS: dict[str, Any] = {"build_seconds": 12.5, "driver": "580.65", "layers": [1, {"é": None}]}
TARGET = LoadTarget("a" * 64, "tensorrt_rtx", "1.7.1.116", "8.9", "fp16")
ADDING = """
import sys
from flowsr_runtime.bundle.engine_store import EngineStore
from tests.flowsr_runtime.bundle.engine_keys import key
plan = sys.argv[2].encode() * 100_000
for _ in range(5):
    store = EngineStore(sys.argv[1])
    assert len(set(store.read(store.add(key(), plan, {})))) == 1
"""


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    """The store of a bundle that holds nothing else."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "bundle.json").write_text("{}")
    return EngineStore(tmp_path / "b")


@pytest.fixture
def entry(store: EngineStore) -> EngineEntry:
    """An engine of the store."""
    return store.add(key(), PLAN, FACTS)


def files_of(store: EngineStore) -> list[str]:
    return sorted(path.name for path in (store.bundle / "engines").iterdir())


def description(store: EngineStore, entry: EngineEntry) -> Path:
    return store.bundle / f"{entry.name}.json"


def test_an_engine_comes_back_as_it_was_added(store: EngineStore, entry: EngineEntry) -> None:
    found = store.find(key())
    assert found == entry
    assert store.read(entry) == PLAN
    assert entry.facts == FACTS
    assert store.entries() == [entry]
    assert (store.bundle / entry.name).read_bytes() == PLAN
    assert [path.name for path in store.bundle.parent.iterdir()] == ["b"]


def test_a_bundle_without_engines_has_none(store: EngineStore) -> None:
    assert (store.entries(), store.prune()) == ([], [])
    assert store.find(key()) is None


@pytest.mark.parametrize("field", CHANGES)
def test_one_changed_field_misses(store: EngineStore, entry: EngineEntry, field: str) -> None:
    assert store.find(key(**{field: CHANGES[field]})) is None


@given(position=st.integers(0, len(PLAN) - 1), bit=st.integers(0, 7))
def test_one_flipped_bit_of_the_plan_is_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    store, entry = shared_store(tmp_path_factory)
    path = store.bundle / entry.name
    path.write_bytes(flipped(PLAN, position, bit))
    with pytest.raises(IntegrityError, match=r"\.engine is damaged: sha256 .*; prune"):
        store.read(entry)


@given(position=st.integers(0, 1300), bit=st.integers(0, 7))
def test_one_flipped_bit_of_the_description_is_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    store, entry = shared_store(tmp_path_factory)
    path, text = description(store, entry), entry.render()
    path.write_bytes(flipped(text, position % len(text), bit))
    with pytest.raises(IntegrityError, match=r"\.engine\.json is damaged: .*; prune"):
        store.entries()
    with pytest.raises(IntegrityError, match=r"\.engine\.json is damaged: .*; prune"):
        store.find(key())


def shared_store(factory: pytest.TempPathFactory) -> tuple[EngineStore, EngineEntry]:
    """Return one store for all examples, its engine as written."""
    bundle = factory.getbasetemp() / "flipped"
    bundle.mkdir(exist_ok=True)
    (bundle / "bundle.json").touch()
    store, entry = EngineStore(bundle), EngineEntry.of(key(), PLAN, FACTS)
    (bundle / "engines").mkdir(exist_ok=True)
    replace_file(bundle / entry.name, PLAN)
    replace_file(description(store, entry), entry.render())
    return store, entry


def flipped(data: bytes, position: int, bit: int) -> bytes:
    return data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]


@pytest.mark.parametrize("size", [0, 1, len(PLAN) - 1, len(PLAN) + 1])
def test_a_plan_of_another_size_is_refused(
    store: EngineStore, entry: EngineEntry, size: int
) -> None:
    (store.bundle / entry.name).write_bytes((PLAN + b"x")[:size])
    with pytest.raises(IntegrityError, match=f"is damaged: {size} bytes, its description says"):
        store.read(entry)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "[" * 100_000, '{"seal": NaN}'])
def test_what_is_no_description_is_refused(
    store: EngineStore, entry: EngineEntry, text: str
) -> None:
    description(store, entry).write_text(text)
    with pytest.raises(IntegrityError, match=r"^[^\n]*\.engine\.json is damaged: [^\n]*$"):
        store.find(key())


def test_a_newer_schema_says_so(store: EngineStore, entry: EngineEntry) -> None:
    path = description(store, entry)
    content = {**json.loads(path.read_text()), "schema": 2}
    del content["seal"]
    path.write_text(json.dumps({**content, "seal": _checksum(content)}))
    with pytest.raises(BundleError, match="schema 2 is newer than this runtime reads"):
        store.entries()


def test_a_description_of_another_engine_is_refused(
    store: EngineStore, entry: EngineEntry
) -> None:
    other = EngineEntry.of(key(precision="fp32"), PLAN, {})
    description(store, entry).write_bytes(other.render())
    with pytest.raises(IntegrityError, match=r"-fp16-.*json describes engines/.*-fp32-"):
        store.entries()


def test_a_sound_engine_is_kept(store: EngineStore, entry: EngineEntry) -> None:
    assert store.add(key(), b"another build", {}) == entry
    assert store.read(entry) == PLAN


def test_a_damaged_engine_is_replaced(store: EngineStore, entry: EngineEntry) -> None:
    (store.bundle / entry.name).write_bytes(b"cut")
    fresh = store.add(key(), b"another build", {})
    assert store.read(fresh) == b"another build"
    assert store.entries() == [fresh]


@pytest.mark.parametrize("end", ["", ".json"])
def test_half_an_engine_is_ignored_and_pruned(
    store: EngineStore, entry: EngineEntry, end: str
) -> None:
    (store.bundle / f"{entry.name}{end}").unlink()
    assert store.entries() == []
    assert store.find(key()) is None
    assert len(store.prune()) == 1
    assert files_of(store) == []


def test_pruning_keeps_what_it_is_told_to_keep(store: EngineStore, entry: EngineEntry) -> None:
    store.add(key(precision="fp32"), b"plan", {})
    removed = store.prune(lambda each: each.key.precision == "fp16")
    assert [each.reason for each in removed] == ["not kept"] * 2
    assert store.entries() == [entry]
    assert store.prune() == []


def test_pruning_removes_what_is_damaged_or_left(
    store: EngineStore, entry: EngineEntry
) -> None:
    (store.bundle / entry.name).write_bytes(b"cut")
    (store.bundle / "engines" / ".x.tmp").write_bytes(b"left")
    (store.bundle / "engines" / "notes.txt").write_bytes(b"the user's own")
    expected = [
        Removal(f"{entry.name}.json", "damaged", len(entry.render())),
        Removal(entry.name, "damaged", 3),
        Removal("engines/.x.tmp", "left by a killed writer", 4),
    ]
    assert store.prune(dry_run=True) == expected
    assert len(files_of(store)) == 4
    assert store.prune() == expected
    assert files_of(store) == ["notes.txt"]


def test_a_link_out_of_the_bundle_is_refused(store: EngineStore, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (store.bundle / "engines").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="engines is a link; engines lie inside"):
        store.add(key(), PLAN, {})
    with pytest.raises(BundleError, match="engines is a link; engines lie inside"):
        store.prune()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_plan_that_is_a_link_is_refused(
    store: EngineStore, entry: EngineEntry, tmp_path: Path
) -> None:
    plan = store.bundle / entry.name
    plan.rename(tmp_path / "plan")
    plan.symlink_to(tmp_path / "plan")
    with pytest.raises(IntegrityError, match=r"\.engine is a link; engines lie inside"):
        store.read(entry)
    store.prune()
    assert (tmp_path / "plan").read_bytes() == PLAN
    assert files_of(store) == []


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle: no bundle\.json"):
        EngineStore(tmp_path).add(key(), PLAN, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("facts", [{"a": float("nan")}, {"a": {1, 2}}, {1: 0, "b": 0}])
def test_facts_that_are_no_json_are_refused(store: EngineStore, facts: dict[Any, Any]) -> None:
    with pytest.raises(UsageError, match="facts cannot be written as JSON: "):
        store.add(key(), PLAN, facts)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_an_output_error(store: EngineStore) -> None:
    with pytest.raises(OutputError, match="engines cannot be written: No space left on device"):
        store.add(key(), PLAN, {})
    assert store.entries() == []


def test_the_engine_made_for_a_device_comes_before_a_portable_one(store: EngineStore) -> None:
    portable = store.add(key(compute_capability=()), PLAN, {})
    several = store.add(key(compute_capability=("8.6", "8.9")), PLAN, {})
    own = store.add(key(), PLAN, {})
    store.add(key(precision="fp32"), PLAN, {})
    assert store.matching(TARGET) == [own, several, portable]


def test_a_device_without_an_engine_is_told_why(store: EngineStore) -> None:
    one = store.add(key(version="1.6.0.1", compute_capability=("8.6",)), PLAN, {})
    store.add(key(version="1.6.0.1", compute_capability=("8.6",), precision="fp32"), PLAN, {})
    assert store.matching(TARGET) == []
    assert [str(each) for each in store.explain_mismatch(TARGET)[:2]] == [
        f"{one.name}: version is 1.6.0.1, wanted 1.7.1.116",
        f"{one.name}: compute_capability is 8.6, wanted 8.9",
    ]


@pytest.mark.parametrize("before", ["none", "damaged"])
@pytest.mark.parametrize(("fault", "report"), [("kill", "killed"), ("fail", "refused")])
def test_a_fault_at_any_step_leaves_the_store_sound(
    store: EngineStore, fault: str, report: str, before: str
) -> None:
    command = [sys.executable, str(SCRIPT), str(store.bundle), fault, before]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    outcomes = [tuple(outcome) for outcome in json.loads(done.stdout)]
    assert {(report, False), ("done", True)} <= set(outcomes)
    assert set(outcomes) <= {(report, False), (report, True), ("done", True)}
    assert outcomes.count((report, False)) >= 8
    assert outcomes[-1] == ("done", True)


def test_two_processes_that_add_the_same_engine_do_not_disturb_each_other(
    store: EngineStore,
) -> None:
    command = [sys.executable, "-c", ADDING, str(store.bundle)]
    writers = [subprocess.Popen([*command, text], env=ENVIRONMENT) for text in "xyz"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(files_of(store)) == 2
    assert len(set(store.read(store.entries()[0]))) == 1
