"""Replace a bundle again and again, with a fault at the first step, the second, and so on.

Run as `fault_injection.py FOLDER kill|fail exchange|rename`: each attempt is a process that
dies, or whose system call fails, at one step. After each, the bundle is opened and checked.
Prints one JSON list: [what the writer reported, which bundle is there] per step.
"""

import errno
import json
import os
import sys
from itertools import count
from pathlib import Path
from typing import Any

from flowsr_runtime import atomic as disk
from flowsr_runtime.bundle.directory import Bundle, write_bundle
from flowsr_runtime.errors import OutputError

STEPS = {"open", "os.fsync", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "ctypes.dlsym"}
MOST_STEPS = 32
REPORTS = {0: "done", 1: "refused", 9: "killed"}


def write(folder: Path, manifest: dict[str, Any], version: str) -> None:
    files = {"model.fp32.onnx": version.encode() * 1000, "golden/input.png": version.encode()}
    write_bundle(folder / "bundle", {**manifest, "version": version}, files, force=True)


def arm(step: int, fault: str) -> None:
    """Let the step with this number, counted from now, be the last or fail."""
    left = count(step, -1)
    fsync = os.fsync

    def audited_fsync(fd: Any) -> None:
        sys.audit("os.fsync", fd)
        fsync(fd)

    def hook(event: str, _: Any) -> None:
        if event in STEPS and next(left) == 0:
            if fault == "kill":
                os._exit(9)
            raise OSError(errno.ENOSPC, "No space left on device")

    os.fsync = audited_fsync
    sys.addaudithook(hook)


def attempt(folder: Path, manifest: dict[str, Any], step: int, fault: str) -> str:
    """Write the new version in a process of its own, with a fault, and return its report."""
    process = os.fork()
    if process == 0:
        arm(step, fault)
        try:
            write(folder, manifest, "new")
        except OutputError:
            os._exit(1)
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 2)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return REPORTS.get(status, f"exit {status}")


def main(folder: Path, fault: str, method: str) -> None:
    if method == "rename":
        disk._exchange = lambda first, second: False
    manifest = json.loads((folder / "manifest.json").read_text())
    outcomes = []
    for step in range(MOST_STEPS):
        write(folder, manifest, "old")
        report = attempt(folder, manifest, step, fault)
        bundle = Bundle.open(folder / "bundle")
        bundle.check_files()
        outcomes.append([report, bundle.manifest.raw["version"]])
    write(folder, manifest, "last")
    leftovers = sorted(path.name for path in folder.iterdir())
    sys.stdout.write(json.dumps({"outcomes": outcomes, "leftovers": leftovers}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
