"""The host's share is measured with a graph that costs nothing."""

from click.testing import CliRunner

from benchmarks.host_share import host_seconds, main


def test_tiles_of_an_image_have_one_size_and_cover_it() -> None:
    seconds, session = host_seconds((270, 300), 64 << 20, 1)
    assert seconds > 0
    ((size, runs),) = session.runs.items()
    assert runs > 1
    assert runs * size[0] * size[1] >= 1080 * 1200


def test_the_table_has_a_row_for_each_image() -> None:
    done = CliRunner().invoke(main, ["--rounds", "1"])
    assert done.exit_code == 0
    assert done.output.count(" to ") == 2
