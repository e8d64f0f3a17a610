"""The instruction set of this machine's CPU, for which Inductor compiles."""

import hashlib
import platform
import re
from functools import cache
from pathlib import Path
from typing import Final

from flowsr_runtime.bundle.engine_key import CPU_PREFIX

__all__ = ["host_isa", "isa_of"]

_CPU_INFO: Final = Path("/proc/cpuinfo")

_INSTRUCTIONS: Final = re.compile(
    r"avx\w*|amx\w*|sse\w*|ssse3|fma|f16c|bmi[12]|abm|popcnt|movbe|adx|gfni|vaes|aes|sha_ni"
    r"|pclmulqdq|vpclmulqdq|asimd\w*|sve\w*|bf16|i8mm|fphp"
)
"""Flags of a CPU that change the code that a compiler makes for it."""

_WIDEST: Final = ("avx512f", "avx2", "sve", "asimd")


@cache
def host_isa() -> str:
    """Return the instruction set of this CPU, such as "cpu-x86_64-avx512f-0f1e2d3c"."""
    try:
        text = _CPU_INFO.read_text(errors="replace")
    except OSError:
        text = ""
    return isa_of(platform.machine(), text)


def isa_of(machine: str, cpu_info: str) -> str:
    """Name the instruction set of a CPU.

    Args:
        machine: Architecture, such as "x86_64".
        cpu_info: Content of /proc/cpuinfo, empty if unknown.

    Returns:
        "cpu-", the architecture, the widest vectors, and a digest of all instructions: code
        compiled for one CPU may use an instruction that another of the same width lacks.
    """
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpu_info, re.MULTILINE)
    flags = sorted(filter(_INSTRUCTIONS.fullmatch, found[1].split() if found else ()))
    widest = next((name for name in _WIDEST if name in flags), "plain")
    digest = hashlib.sha256(" ".join(flags).encode()).hexdigest()[:8]
    return f"{CPU_PREFIX}{machine.lower()}-{widest}-{digest}"
