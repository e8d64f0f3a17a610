"""Measure a CPU quota: `python -m benchmarks.serving.container`, as root on Linux.

A run in a cgroup with a quota of one CPU must take as long as one with one thread outside it,
within 10 % on an idle machine: more threads than the quota allows would wait for each other.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from flowsr_runtime.tiling.cgroups import cgroups

PERIOD = 100_000  # microseconds

PROGRAM = """
import sys, time
import numpy as np
from flowsr_runtime import Upscaler
image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
with Upscaler.open(provider="cpu", threads=int(sys.argv[1]) or None) as upscaler:
    upscaler.upscale(image, scale=4)
    began = time.perf_counter()
    for _ in range(3):
        upscaler.upscale(image, scale=4)
    print(time.perf_counter() - began)
"""


def main() -> None:
    """Print the seconds of both as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    folder = make_cgroup()
    try:
        pairs = [(seconds(folder, 0), seconds(None, 1)) for _ in range(rounds)]
    finally:
        folder.rmdir()
    quota, single = (statistics.median(column) for column in zip(*pairs, strict=True))
    record = {"quota_seconds": quota, "threads_1_seconds": single, "ratio": quota / single}
    sys.stdout.write(json.dumps(record, indent=1) + "\n")


def make_cgroup() -> Path:
    """Make a cgroup with a quota of one CPU, of version 1 or 2."""
    parent = next(each for each in cgroups("cpu") if (each / "cgroup.procs").is_file())
    folder = parent / f"flowsr-{os.getpid()}"
    folder.mkdir()
    if (folder / "cpu.max").is_file():
        (folder / "cpu.max").write_text(f"{PERIOD} {PERIOD}")
    else:
        (folder / "cpu.cfs_period_us").write_text(str(PERIOD))
        (folder / "cpu.cfs_quota_us").write_text(str(PERIOD))
    return folder


def seconds(folder: Path | None, threads: int) -> float:
    """Return the time of three upscales, in a cgroup if one is given."""
    join = "" if folder is None else f'echo $$ > "{folder}/cgroup.procs" && '
    command = ["sh", "-c", f'{join}exec "$@"', "sh", sys.executable, "-c", PROGRAM]
    done = subprocess.run([*command, str(threads)], capture_output=True, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    main()
