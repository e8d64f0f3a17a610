"""Statistics of a graph's tensors in bounded memory, which can be saved and continued."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "Histogram", "Statistics", "load_statistics"]

BINS: Final = 2048

SAMPLED: Final = 1 << 17
"""Values per tensor and crop that a histogram counts; extremes consider all values."""

FIRST_LIMIT: Final = 2.0**-20


@dataclass
class Histogram:
    """Histogram of the magnitudes of one tensor.

    The range is a power of two. It doubles for a larger value by merging pairs of bins, so
    earlier counts stay exact and the order of the images does not matter.

    Attributes:
        counts: Number of values in each bin, (BINS,) int64.
        limit: Upper edge of the last bin.
        largest: Largest magnitude.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    limit: float = FIRST_LIMIT
    largest: float = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the magnitudes of some values.

        Args:
            values: Finite values, any shape.
        """
        if values.size == 0:
            return
        largest = float(max(values.max(), -values.min()))
        self.largest = max(self.largest, largest)
        while self.limit <= largest:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate((merged, np.zeros_like(merged)))
            self.limit *= 2
        stride = -(-values.size // SAMPLED)
        # A stride that divides the row width would always sample the same columns.
        stride += 1 - stride % 2
        magnitudes = np.abs(values.reshape(-1)[::stride]) * np.float32(BINS / self.limit)
        index = np.minimum(magnitudes.astype(np.int32), BINS - 1)
        self.counts += np.bincount(index, minlength=BINS)


@dataclass
class Statistics:
    """Statistics of every tensor.

    Attributes:
        key: Digest of everything that determines the statistics: graph, images, crops.
        done: Number of crops.
        histograms: Histograms by tensor.
        channels: Largest magnitude of each channel, (C,), by tensor, if requested.
    """

    key: str
    done: int = 0
    histograms: dict[str, Histogram] = field(default_factory=dict)
    channels: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def add(self, tensors: Mapping[str, NDArray[Any]], per_channel: Collection[str]) -> None:
        """Add the tensors of one crop.

        Args:
            tensors: Float tensors by name.
            per_channel: Tensors with statistics per channel, (B, C, h, w) or (M, C).
        """
        for name, values in tensors.items():
            self.histograms.setdefault(name, Histogram()).add(values)
            if name in per_channel:
                others = tuple(i for i in range(values.ndim) if i != 1)
                largest = np.abs(values).max(axis=others).astype(np.float32)
                before = self.channels.get(name)
                self.channels[name] = largest if before is None else np.maximum(before, largest)
        self.done += 1

    def to_bytes(self) -> bytes:
        """Return the content of a file in NumPy's .npz format, reproducible byte for byte."""
        names = list(self.histograms)
        about: dict[str, Any] = {"key": self.key, "done": self.done, "tensors": names}
        channels = list(self.channels)
        about |= {"channels": channels}
        histograms = self.histograms.values()
        arrays: dict[str, NDArray[Any]] = {
            "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
            "counts": np.array([h.counts for h in histograms], np.int64).reshape(-1, BINS),
            "limits": np.array([h.limit for h in histograms]),
            "largest": np.array([h.largest for h in histograms]),
        }
        arrays.update({f"channels{i}": self.channels[name] for i, name in enumerate(channels)})
        return _archive(arrays)


def load_statistics(path: Path, key: str) -> Statistics | None:
    """Read saved statistics.

    Args:
        path: File.
        key: Expected key.

    Returns:
        The statistics, possibly of an interrupted run; None if the file is missing, damaged or
        has another key.
    """
    try:
        content = io.BytesIO(path.read_bytes())
        with np.load(content, allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes())
            if about["key"] != key:
                return None
            rows = zip(*(stored[one] for one in ("counts", "limits", "largest")), strict=True)
            histograms = {
                name: Histogram(counts, float(limit), float(largest))
                for name, (counts, limit, largest) in zip(about["tensors"], rows, strict=True)
            }
            channels = {
                name: stored[f"channels{i}"] for i, name in enumerate(about["channels"])
            }
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return Statistics(key, int(about["done"]), histograms, channels)


def _archive(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Pack arrays without the time stamps that `np.savez` writes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())
    return buffer.getvalue()
