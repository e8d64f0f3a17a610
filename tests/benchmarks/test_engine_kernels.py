"""The table of an engine's kernels: the slowest first, engines side by side."""

from benchmarks.engine_kernels import Measured, markdown


def test_kernels_of_two_engines_stand_side_by_side() -> None:
    before = Measured("plain.bundle", {"gather": 2.0, "mm": 1.0}, 58.25, 1.5, 900.0)
    after = Measured("fused.bundle", {"first_product": 0.5, "mm": 1.25}, 59.0, 1.25, None)
    lines = markdown([before, after]).splitlines()
    assert lines[2] == "| plain.bundle | 3.000 | 2 | 58.2 | 1.50 | 900 |"
    assert lines[3] == "| fused.bundle | 1.750 | 2 | 59.0 | 1.25 |  |"
    assert lines[7:] == [
        "| `gather` | 2.000 |  |",
        "| `mm` | 1.000 | 1.250 |",
        "| `first_product` |  | 0.500 |",
        "| 0 others | 0.000 | 0.000 |",
    ]


def test_what_the_table_has_no_room_for_is_summed() -> None:
    kernels = {f"k{i}": 1.0 for i in range(33)}
    lines = markdown([Measured("a", kernels, 60.0, 1.0, None)]).splitlines()
    assert lines[-1] == "| 3 others | 3.000 |"
