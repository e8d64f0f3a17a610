"""A batch skips bad images, reads ahead, and ends cleanly."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import flowsr_export.upscale.pipeline
from flowsr_export.upscale import outputs as outputs_module
from flowsr_export.upscale.jobs import Job, Request, plan
from flowsr_export.upscale.pipeline import STEPS, _Pipeline, upscale_all, upscale_file
from flowsr_runtime import Upscaler, read_picture, write_picture
from flowsr_runtime.errors import PictureError, UsageError

TWICE = Request(scale="2", size=None)
SECONDS = 30  # after which a thread that waits for another has failed


def save(path: Path, width: int = 4, height: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (40, 90, 140)).save(path)
    return path


def ignore(steps: int, note: str) -> None:
    pass


@pytest.fixture
def upscaler(bundle: Path) -> Iterator[Upscaler]:
    with Upscaler.open(bundle, threads=1) as opened:
        yield opened


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """Six pictures, each of another width, so that a swap would show."""
    sources = [save(tmp_path / f"{i}.png", width=4 + i) for i in range(6)]
    return plan(sources, tmp_path / "out")


def leftovers(jobs: list[Job]) -> list[str]:
    """Return the other files in the output folder."""
    names = {job.target.name for job in jobs}
    return [path.name for path in jobs[0].target.parent.iterdir() if path.name not in names]


def test_a_bad_picture_does_not_stop_the_others(upscaler: Upscaler, tmp_path: Path) -> None:
    sources = [save(tmp_path / "a.png"), tmp_path / "none.png", save(tmp_path / "c.png")]
    report = upscale_all(plan(sources, tmp_path / "out"), [upscaler], TWICE, ignore)
    assert [done.target.name for done in report.done] == ["a.png", "c.png"]
    assert [failure.source.name for failure in report.failures] == ["none.png"]
    assert report.exit_code == 5


def test_what_every_picture_would_meet_stops_the_batch(
    upscaler: Upscaler, tmp_path: Path
) -> None:
    warm = Request(scale="2", size=None, temperature=0.8)
    job = Job(save(tmp_path / "a.png"), tmp_path / "b.png")
    with pytest.raises(UsageError, match="temperature"):
        upscale_all([job], [upscaler], warm, ignore)


def test_an_exploded_picture_is_done_with_a_warning(exploding: Path, tmp_path: Path) -> None:
    sources = [save(tmp_path / "a.png"), save(tmp_path / "b.png")]
    with Upscaler.open(exploding, threads=1) as upscaler:
        jobs = plan(sources, tmp_path / "out")
        report = upscale_all(jobs, [upscaler], Request(scale=None, size=None), ignore)
    assert report.exit_code == 0
    assert [done.target.is_file() for done in report.done] == [True, True]
    assert all("exploded: 512 of 768 values" in str(done.warning) for done in report.done)


def test_a_sound_picture_has_no_warning(upscaler: Upscaler, tmp_path: Path) -> None:
    jobs = plan([save(tmp_path / "a.png")], tmp_path / "b.png")
    (done,) = upscale_all(jobs, [upscaler], TWICE, ignore).done
    assert done.warning is None


def test_the_bar_gets_equal_steps_for_each_picture(upscaler: Upscaler, tmp_path: Path) -> None:
    told: list[tuple[int, str]] = []
    sources = [save(tmp_path / "a.png"), tmp_path / "none.png"]
    jobs = plan(sources, tmp_path / "out")
    upscale_all(jobs, [upscaler], TWICE, lambda steps, note: told.append((steps, note)))
    assert sum(steps for steps, note in told if note == "a.png") == STEPS
    assert sum(steps for steps, note in told if note == "none.png") == STEPS


@pytest.mark.parametrize("overlap", [True, False])
def test_the_report_has_the_order_of_the_jobs(
    upscaler: Upscaler, jobs: list[Job], overlap: bool
) -> None:
    report = upscale_all(jobs, [upscaler], TWICE, ignore, overlap=overlap)
    assert [done.target for done in report.done] == [job.target for job in jobs]
    assert [done.width for done in report.done] == [8, 10, 12, 14, 16, 18]
    widths = [read_picture(job.target).rgb.shape[1] for job in jobs]
    assert widths == [8, 10, 12, 14, 16, 18]
    assert report.seconds > 0
    assert leftovers(jobs) == []


class Meeting:
    """Reading, the model and writing, each of which waits for the two others once."""

    def __init__(self, upscaler: Upscaler) -> None:
        self.bundle, self.provider = upscaler.bundle, upscaler.provider
        self.target = upscaler.target
        self._upscaler = upscaler
        self._barrier = threading.Barrier(3)
        self._calls = {"read": 0, "compute": 0, "write": 0}
        self.met: list[str] = []

    def _meet(self, stage: str, call: int) -> None:
        self._calls[stage] += 1
        if self._calls[stage] == call:
            self._barrier.wait(SECONDS)
            self.met.append(stage)

    def read(self, path: Path) -> Any:
        self._meet("read", 3)
        return read_picture(path)

    def upscale(self, *words: Any, **options: Any) -> Any:
        self._meet("compute", 2)
        return self._upscaler.upscale(*words, **options)

    def write(self, *words: Any, **options: Any) -> None:
        self._meet("write", 1)
        write_picture(*words, **options)


def test_one_picture_is_read_while_one_is_computed_and_one_is_written(
    upscaler: Upscaler, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = Meeting(upscaler)
    monkeypatch.setattr(outputs_module, "read_picture", meeting.read)
    monkeypatch.setattr(outputs_module, "write_picture", meeting.write)
    report = upscale_all(jobs, [meeting], TWICE, ignore)  # type: ignore[list-item]
    assert report.exit_code == 0
    assert sorted(meeting.met) == ["compute", "read", "write"]


class Counting:
    """Counts how many pictures are between reading and the end of writing."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def read(self, path: Path) -> Any:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        return read_picture(path)

    def write(self, *words: Any, **options: Any) -> None:
        write_picture(*words, **options)
        with self._lock:
            self.now -= 1


@pytest.mark.parametrize(("overlap", "most"), [(True, 3), (False, 1)])
def test_few_pictures_are_in_memory(
    upscaler: Upscaler,
    jobs: list[Job],
    overlap: bool,
    most: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counting = Counting()
    monkeypatch.setattr(outputs_module, "read_picture", counting.read)
    monkeypatch.setattr(outputs_module, "write_picture", counting.write)
    upscale_all(jobs, [upscaler], TWICE, ignore, overlap=overlap)
    assert (counting.now, counting.most <= most) == (0, True)


class Waiting:
    """An upscaler that goes on only when the other one is busy as well."""

    def __init__(self, upscaler: Upscaler, barrier: threading.Barrier) -> None:
        self.target, self.provider = upscaler.target, upscaler.provider
        self._upscaler = upscaler
        self._barrier = barrier
        self.calls = 0

    def upscale(self, *words: Any, **options: Any) -> Any:
        self.calls += 1
        self._barrier.wait(SECONDS)
        return self._upscaler.upscale(*words, **options)


def test_each_picture_goes_to_an_upscaler_that_is_free(
    upscaler: Upscaler, jobs: list[Job]
) -> None:
    barrier = threading.Barrier(2)
    both = [Waiting(upscaler, barrier), Waiting(upscaler, barrier)]
    report = upscale_all(jobs, both, TWICE, ignore)  # type: ignore[arg-type]
    assert [done.width for done in report.done] == [8, 10, 12, 14, 16, 18]
    assert [each.calls for each in both] == [3, 3]


def test_beside_a_gpu_several_files_are_encoded_at_once(
    upscaler: Upscaler, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flowsr_export.upscale.pipeline, "usable_cores", lambda: 4)
    writers = threading.Barrier(3)

    def write(*words: Any, **options: Any) -> None:
        writers.wait(SECONDS)  # nothing is written before three files are encoded at once
        write_picture(*words, **options)

    monkeypatch.setattr(outputs_module, "write_picture", write)
    on_gpu = Waiting(upscaler, threading.Barrier(1))
    on_gpu.provider = "cuda"
    report = upscale_all(jobs, [on_gpu], TWICE, ignore)  # type: ignore[list-item]
    assert (report.exit_code, len(report.done)) == (0, 6)


def test_an_interruption_ends_after_the_file_that_is_being_written(
    upscaler: Upscaler, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, stopped = threading.Event(), threading.Event()
    stop = _Pipeline.stop

    def write(*words: Any, **options: Any) -> None:
        begun.set()
        assert stopped.wait(SECONDS)
        write_picture(*words, **options)

    def interrupt(*words: Any, **options: Any) -> None:
        assert begun.wait(SECONDS)
        raise KeyboardInterrupt("by hand")

    def tell_that_it_stopped(line: _Pipeline) -> None:
        stop(line)
        stopped.set()

    monkeypatch.setattr(outputs_module, "write_picture", write)
    monkeypatch.setattr(flowsr_export.upscale.pipeline, "wait", interrupt)
    monkeypatch.setattr(_Pipeline, "stop", tell_that_it_stopped)
    steps: list[int] = []
    names: list[str] = []
    with pytest.raises(KeyboardInterrupt, match="1 of 6 images are done"):
        upscale_all(
            jobs, [upscaler], TWICE, lambda n, _: steps.append(n), finished=names.append
        )
    (there,) = [job for job in jobs if job.target.exists()]
    assert names == [there.source.name]
    assert sum(steps) < 6 * STEPS  # the bar does not jump over images that were not made
    assert read_picture(there.target).rgb.shape[0] == 8
    assert leftovers(jobs) == []


def test_the_reason_of_an_end_is_the_first_error(
    upscaler: Upscaler, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path) -> Any:
        if path.name == "2.png":
            raise ZeroDivisionError("a bug")
        return read_picture(path)

    monkeypatch.setattr(outputs_module, "read_picture", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        upscale_all(jobs, [upscaler], TWICE, ignore)
    assert not jobs[-1].target.exists()
    assert leftovers(jobs) == []


def test_memory_that_runs_out_for_one_picture_does_not_stop_the_others(
    upscaler: Upscaler, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(path: Path) -> Any:
        if path.name == "2.png":
            raise MemoryError("Unable to allocate 9 GiB")
        return read_picture(path)

    monkeypatch.setattr(outputs_module, "read_picture", scarce)
    report = upscale_all(jobs, [upscaler], TWICE, ignore)
    assert len(report.done) == 5
    assert report.exit_code == 6
    assert [f.reason for f in report.failures] == [
        f"{jobs[2].source}: out of memory: Unable to allocate 9 GiB"
    ]


def test_one_picture_alone_is_enlarged(upscaler: Upscaler, tmp_path: Path) -> None:
    job = Job(save(tmp_path / "a.png"), tmp_path / "b.png")
    assert upscale_file(job, upscaler, TWICE).height == 8
    assert read_picture(job.target).size == (8, 8)
    with pytest.raises(PictureError, match=r"none\.png does not exist"):
        upscale_file(Job(tmp_path / "none.png", tmp_path / "c.png"), upscaler, TWICE)


def test_a_warning_is_a_line_when_it_happens(upscaler: Upscaler, tmp_path: Path) -> None:
    events: list[str] = []

    class Scarce:
        """An upscaler that warns twice of each image."""

        target, provider = upscaler.target, upscaler.provider

        def upscale(self, pixels: Any, *, warn: Any, **options: Any) -> Any:
            warn("out of memory")
            warn("out of memory")
            events.append("after the warning")
            return upscaler.upscale(pixels, warn=warn, **options)

    jobs = plan([save(tmp_path / "a.png")], tmp_path / "o.png")
    report = upscale_all(
        jobs,
        [Scarce()],  # type: ignore[list-item]
        TWICE,
        ignore,
        warn=events.append,
    )
    assert events == [f"{tmp_path / 'a.png'}: out of memory", "after the warning"]
    assert report.done[0].warning == "out of memory"
