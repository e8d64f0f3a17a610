"""Add an engine again and again, with a fault at the first step, the second, and so on.

Run as `engine_fault_injection.py BUNDLE kill|fail none|damaged`: each attempt is a process that
dies, or whose system call fails, at one step; before it there is no such engine, or a damaged
one. After each, what the store hands out is checked, and pruned. Prints one JSON list:
[what the writer reported, whether the engine is there] per step.
"""

import json
import os
import sys
from pathlib import Path

from flowsr_runtime.bundle.engine_store import EngineStore
from flowsr_runtime.errors import IntegrityError, OutputError
from tests.flowsr_runtime.bundle.engine_keys import key
from tests.flowsr_runtime.fault_injection import REPORTS, arm

MOST_STEPS = 24
PLAN = b"plan" * 1000
OTHER = b"another" * 1000


def attempt(store: EngineStore, step: int, fault: str) -> str:
    """Add the engine in a process of its own, with a fault, and return its report."""
    process = os.fork()
    if process == 0:
        arm(step, fault)
        try:
            store.add(key(), PLAN, {"build_seconds": 1.5})
        except OutputError:
            os._exit(1)
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 2)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return REPORTS.get(status, f"exit {status}")


def prepare(store: EngineStore, before: str) -> None:
    store.prune(lambda entry: False)
    store.add(key(precision="fp32"), OTHER, {})
    if before == "damaged":
        entry = store.add(key(), PLAN[:-1] + b"x", {})
        (store.bundle / entry.name).write_bytes(b"plan that someone cut")


def found(store: EngineStore) -> bool:
    """Return whether the store hands the engine out; a damaged one is refused, then pruned."""
    try:
        entry = store.find(key())
        there = entry is not None and store.read(entry) == PLAN
    except IntegrityError:
        there = False
    store.prune()
    names = {entry.name: store.read(entry) for entry in store.entries()}
    assert names == {key(precision="fp32").file_name(): OTHER} | (
        {key().file_name(): PLAN} if there else {}
    )
    files = {path.name for path in (store.bundle / "engines").iterdir()}
    assert files == {f"{Path(n).name}{end}" for n in names for end in ("", ".json")}
    return there


def main(bundle: Path, fault: str, before: str) -> None:
    store = EngineStore(bundle)
    outcomes = []
    for step in range(MOST_STEPS):
        prepare(store, before)
        outcomes.append([attempt(store, step, fault), found(store)])
    sys.stdout.write(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
