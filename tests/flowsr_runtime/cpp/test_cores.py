"""The C++ runtime counts the same cores as Python on the same cgroup folders."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.flowsr_runtime.backends.cgroups import CASES, CORES, make
from tests.flowsr_runtime.cpp.library import SOURCE


def test_both_languages_count_the_same_cores(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    main = tmp_path / "main.cpp"
    main.write_text(
        '#include "machine/cores.hpp"\n#include <cstdlib>\nint main(int, char** words) {\n'
        "  return flowsr::detail::cores_within_quotas(std::atoi(words[1]), words[2], words[3]);"
        "\n}\n"
    )
    count = tmp_path / "count"
    sources = [str(main), str(SOURCE / "src" / "machine" / "cores.cpp"), f"-I{SOURCE / 'src'}"]
    subprocess.run(["g++", "-std=c++17", *sources, "-o", str(count)], check=True)
    for number, (membership, files, cores) in enumerate(CASES):
        mount = tmp_path / str(number)
        listed = make(mount, membership, files)
        assert subprocess.run([count, str(CORES), listed, mount]).returncode == cores
