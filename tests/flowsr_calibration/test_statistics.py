from pathlib import Path

import numpy as np
import pytest

from flowsr_calibration.statistics import BINS, Histogram, Statistics, load_statistics


def values(seed: int, spread: float = 1.0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.asarray(np.random.default_rng(seed).normal(0, spread, 4000), np.float32)


def test_every_value_is_counted_once() -> None:
    histogram = Histogram()
    for seed, spread in enumerate((0.01, 5.0, 300.0)):
        histogram.add(values(seed, spread))
    assert histogram.counts.sum() == 12000
    assert histogram.limit / 2 <= histogram.largest < histogram.limit


def test_the_order_of_what_comes_does_not_matter() -> None:
    forward, backward = Histogram(), Histogram()
    parts = [values(seed, 10.0**seed) for seed in range(4)]
    for a, b in zip(parts, reversed(parts), strict=True):
        forward.add(a)
        backward.add(b)
    np.testing.assert_array_equal(forward.counts, backward.counts)


def test_bins_hold_what_a_histogram_of_everything_holds() -> None:
    histogram, seen = Histogram(), np.concatenate([values(0), values(1, 3.0)])
    histogram.add(seen[:4000])
    histogram.add(seen[4000:])
    index = np.minimum(np.abs(seen) * np.float32(BINS / histogram.limit), BINS - 1)
    np.testing.assert_array_equal(
        histogram.counts, np.bincount(index.astype(int), minlength=BINS)
    )


def test_the_largest_value_is_seen_though_the_counting_samples() -> None:
    many = np.zeros(1 << 20, np.float32)
    many[777_777] = -9.0
    histogram = Histogram()
    histogram.add(many)
    assert histogram.largest == 9.0
    assert histogram.counts.sum() < many.size / 4


def test_an_empty_tensor_adds_nothing() -> None:
    histogram = Histogram()
    histogram.add(np.zeros((0, 3), np.float32))
    assert (histogram.counts.sum(), histogram.largest) == (0, 0.0)


def filled(key: str = "k") -> Statistics:
    statistics = Statistics(key)
    for seed in range(2):
        tensor = values(seed).reshape(1, 4, 10, 100)
        statistics.add({"a": tensor, "b": tensor[0, 0]}, {"a": 1})
    return statistics


def test_statistics_come_back_from_a_file(tmp_path: Path) -> None:
    statistics = filled()
    (tmp_path / "s.npz").write_bytes(statistics.to_bytes())
    back = load_statistics(tmp_path / "s.npz", "k")
    assert back is not None
    assert (back.done, list(back.histograms)) == (2, ["a", "b"])
    assert back.to_bytes() == statistics.to_bytes()
    np.testing.assert_array_equal(back.channels["a"], statistics.channels["a"])


def test_the_largest_of_each_channel_is_over_all_crops() -> None:
    both = np.stack([values(seed).reshape(4, 1000) for seed in range(2)])
    np.testing.assert_array_equal(filled().channels["a"], np.abs(both).max(axis=(0, 2)))


@pytest.mark.parametrize(
    "content",
    [b"", b"not an archive", filled("other").to_bytes(), filled().to_bytes()[:-100]],
    ids=["empty", "other file", "other key", "truncated"],
)
def test_an_unusable_file_counts_as_missing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.npz").write_bytes(content)
    assert load_statistics(tmp_path / "s.npz", "k") is None
