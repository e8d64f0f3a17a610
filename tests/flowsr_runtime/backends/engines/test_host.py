"""The name of a CPU's instruction set, which decides whether an engine runs on it."""

import re

import pytest

from flowsr_runtime.backends.engines.host import host_isa, isa_of

SERVER = "processor : 0\nflags\t\t: fpu sse2 avx2 avx512f avx512_vnni fma\n"


def test_this_machine_has_a_name_that_stays_the_same() -> None:
    assert re.fullmatch(
        r"cpu-[a-z0-9_]+-(avx512f|avx2|sve|asimd|plain)-[0-9a-f]{8}", host_isa()
    )
    assert host_isa() == host_isa()


@pytest.mark.parametrize(
    ("machine", "cpu_info", "expected"),
    [
        ("x86_64", SERVER, "cpu-x86_64-avx512f-"),
        ("x86_64", SERVER.replace("avx512f ", ""), "cpu-x86_64-avx2-"),
        ("aarch64", "Features : fp asimd sve\n", "cpu-aarch64-sve-"),
        ("riscv64", "", "cpu-riscv64-plain-"),
    ],
)
def test_the_name_states_architecture_and_widest_vectors(
    machine: str, cpu_info: str, expected: str
) -> None:
    assert isa_of(machine, cpu_info).startswith(expected)


def test_one_more_instruction_makes_another_name() -> None:
    assert isa_of("x86_64", SERVER) != isa_of("x86_64", SERVER.replace("fma", "fma amx_tile"))


def test_the_order_and_flags_of_the_system_do_not_matter() -> None:
    other = "flags : md_clear fma avx512_vnni avx512f avx2 sse2 ibrs\n"
    assert isa_of("x86_64", SERVER) == isa_of("x86_64", other)
