"""The measurement of a CPU quota."""

import json

import pytest

from benchmarks.serving import container


def test_both_times_and_their_ratio_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Folder:
        """A cgroup that is removed."""

        removed = False

        def rmdir(self) -> None:
            self.removed = True

    folder = Folder()
    monkeypatch.setattr("sys.argv", ["container", "--rounds", "3"])
    monkeypatch.setattr(container, "make_cgroup", lambda: folder)
    monkeypatch.setattr(
        container, "seconds", lambda group, threads: 3.0 if group is folder else 2.0
    )
    container.main()
    record = json.loads(capsys.readouterr().out)
    assert record == {"quota_seconds": 3.0, "threads_1_seconds": 2.0, "ratio": 1.5}
    assert folder.removed
