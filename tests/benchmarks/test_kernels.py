"""The table of kernels reads ptxas's report and says where nothing was measured."""

import pytest

from benchmarks.kernels import Resources, Time, _read_report, markdown

REPORT = """ptxas info    : Compiling entry function 'k' for 'sm_90a'
ptxas info    : Function properties for k
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 132 registers, used 1 barriers
"""
ROW = Resources("flow", "9.0", 132, 2048, 20, 128)


def test_registers_and_spills_are_read_from_the_report() -> None:
    assert _read_report(REPORT) == (132, 20)


def test_a_report_without_spills_is_refused() -> None:
    with pytest.raises(RuntimeError, match="registers and spills, got 'Used 12 registers'"):
        _read_report("Used 12 registers")


def test_the_tables_say_what_was_measured() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    text = markdown([ROW], [], "")
    assert "| flow | 9.0 | 128 | 132 | 2048 | 20 |" in text
    assert "No GPU: nothing was run" in text
    text = markdown([ROW], [Time("encode fp16", 0.25, 3.5, 1.125)], "a GPU")
    assert "Median times on a GPU:" in text
    assert "| encode fp16 | 0.250 | 3.500 | 1.125 |" in text
