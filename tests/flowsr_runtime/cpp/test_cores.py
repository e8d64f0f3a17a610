"""The C++ runtime counts the same cores as Python on the same cgroup folders."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from flowsr_runtime.backends.cores import usable_cores
from tests.flowsr_runtime.cpp.library import SOURCE

CORES: Final = 8
V2: Final = "0::/a/b\n"
V1: Final = "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n0::/\n"
PERIOD: Final = {"cpu.cfs_period_us": "100000\n"}
CASES: Final[list[tuple[str, dict[str, str]]]] = [
    (V2, {}),
    (V2, {"cpu.max": "max 100000\n"}),
    (V2, {"cpu.max": "250000 100000\n"}),
    (V2, {"cpu.max": "50000 100000\n"}),
    (V2, {"cpu.max": "1600000 100000\n"}),
    (V2, {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}),
    (V2, {"unified/a/b/cpu.max": "400000 100000\n", "a/cpu.max": "500000 100000"}),
    (V2, {"cpu.max": "damaged", "cpu.cfs_quota_us": "200000", **PERIOD}),
    (V2, {"cpu.max": "3x 1"}),
    (V2, {"cpu.max": "300000 0"}),
    *((V1, {"cpu.cfs_quota_us": text, **PERIOD}) for text in ("-1\n", "200000\n", "20000\n")),
    (V1, {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}),
    (V1, {f"cpu,cpuacct/docker/{name}": "200000" for name in ("1/cpu.cfs_quota_us", "x")}),
    (V1, {"memory/cpu.max": "100000 100000"}),
    ("0::/../..\n", {"cpu.max": "100000 100000"}),
]


def test_both_languages_count_the_same_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)), raising=False)
    main = tmp_path / "main.cpp"
    main.write_text(
        '#include "cores.hpp"\n#include <cstdlib>\nint main(int, char** words) {\n'
        "  return flowsr::detail::cores_within_quotas(std::atoi(words[1]), words[2], words[3]);"
        "\n}\n"
    )
    count = tmp_path / "count"
    sources = [str(main), str(SOURCE / "src" / "cores.cpp"), f"-I{SOURCE / 'src'}"]
    subprocess.run(["g++", "-std=c++17", *sources, "-o", str(count)], check=True)
    by_python, by_cpp = [], []
    for number, (membership, files) in enumerate(CASES):
        mount = tmp_path / str(number)
        for name, text in {"membership": membership, **files}.items():
            (mount / name).parent.mkdir(parents=True, exist_ok=True)
            (mount / name).write_text(text)
        listed = mount / "membership"
        by_python.append(usable_cores(listed, mount))
        by_cpp.append(subprocess.run([count, str(CORES), listed, mount]).returncode)
    assert by_cpp == by_python
    assert set(by_python) == {1, 2, 3, 4, CORES}
