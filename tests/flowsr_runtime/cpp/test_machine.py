"""The C++ runtime names the instruction set of a CPU as Python does."""

import shutil
import subprocess
from pathlib import Path

import pytest

from flowsr_runtime.backends.engines.host import host_isa, isa_of
from tests.flowsr_runtime.backends.engines.test_host import SERVER
from tests.flowsr_runtime.cpp.library import SOURCE

CASES = [
    ("x86_64", SERVER),
    ("X86_64", SERVER.replace("avx512f ", "avx512f avx512f ")),
    ("x86_64", "flags : fpu\nflags : avx2\n"),
    ("aarch64", "processor : 1\nFeatures\t: fp asimd asimddp sve bf16\n"),
    ("riscv64", ""),
    ("riscv64", "flags\t:\n"),
]


def test_both_languages_name_the_same_instruction_set(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    main = tmp_path / "main.cpp"
    main.write_text(
        '#include "machine/machine.hpp"\n#include <iostream>\n'
        "int main(int count, char** words) {\n"
        "  using namespace flowsr::detail;\n"
        '  std::cout << (count == 3 ? isa_of(words[1], words[2]) : host_isa()) << "\\n";\n}\n'
    )
    program = tmp_path / "isa"
    sources = [
        str(SOURCE / "src" / f"{name}.cpp") for name in ("machine/machine", "bundle/sha256")
    ]
    words = ["g++", "-std=c++17", str(main), *sources, f"-I{SOURCE / 'src'}", "-ldl"]
    subprocess.run([*words, "-o", str(program)], check=True)

    def said(*given: str) -> str:
        done = subprocess.run([program, *given], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert said() == host_isa()
    for architecture, cpu_info in CASES:
        assert said(architecture, cpu_info) == isa_of(architecture, cpu_info)
