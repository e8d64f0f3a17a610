"""Noise by position: known answers, normality, and equal windows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsr_runtime.errors import UsageError
from flowsr_runtime.tiling.noise import check_noise, latent, philox4x32

# Random123's kat_vectors, philox4x32 with 10 rounds.
KNOWN_ANSWERS = [
    ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    (
        [0xFFFFFFFF] * 4,
        (0xFFFFFFFF, 0xFFFFFFFF),
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
    ),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(
    counter: list[int], key: tuple[int, int], words: list[int]
) -> None:
    assert philox4x32(np.array(counter, dtype=np.uint32), key).tolist() == words


def test_philox_takes_many_counters_at_once() -> None:
    counters = np.arange(24, dtype=np.uint32).reshape(4, 3, 2)
    many = philox4x32(counters, (1, 2))
    assert many.shape == (4, 3, 2)
    np.testing.assert_array_equal(many[:, 2, 1], philox4x32(counters[:, 2, 1], (1, 2)))


@given(
    top=st.integers(0, 9),
    left=st.integers(0, 9),
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    seed=st.integers(0, 2**64 - 1),
)
def test_a_window_is_a_part_of_the_whole(
    top: int, left: int, rows: int, columns: int, seed: int
) -> None:
    whole = latent(seed, top=0, left=0, rows=15, columns=15, channels=4, temperature=0.7)
    window = latent(
        seed, top=top, left=left, rows=rows, columns=columns, channels=4, temperature=0.7
    )
    np.testing.assert_array_equal(window, whole[..., top : top + rows, left : left + columns])


def test_a_stream_is_word_three_of_the_counter() -> None:
    seed, counter = 0xA4093822 + (0x299F31D0 << 32), np.array([5, 6, 0, 2], dtype=np.uint32)
    words = philox4x32(counter, (0xA4093822, 0x299F31D0)).astype(float)
    radius = np.sqrt(-2 * np.log((words[0] + 1) / 2**32))
    noise = latent(seed, top=5, left=6, rows=1, columns=1, channels=1, temperature=1, stream=2)
    assert noise.item() == np.float32(radius * np.cos(2 * np.pi * words[1] / 2**32))


def test_the_first_value_follows_the_formula() -> None:
    noise = latent(0, top=0, left=0, rows=1, columns=1, channels=1, temperature=1)
    u, v = (0x6627E8D5 + 1) / 2**32, 0xE169C58D / 2**32
    expected = np.float32(np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v))
    assert noise.dtype == np.float32
    assert noise.tolist() == [[[[expected]]]]


def test_the_noise_is_standard_normal() -> None:
    noise = latent(3, top=0, left=0, rows=128, columns=128, channels=12, temperature=1)
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert abs((noise**4).mean() - 3) < 0.1
    channels = np.corrcoef(noise.reshape(12, -1))
    assert np.abs(channels - np.eye(12)).max() < 0.04


def test_rows_columns_and_channels_are_not_interchangeable() -> None:
    noise = latent(3, top=0, left=0, rows=8, columns=8, channels=8, temperature=1)[0]
    assert (noise == noise.transpose(0, 2, 1)).sum() == 64  # the diagonals
    assert (noise == noise.transpose(1, 0, 2)).sum() == 64


@pytest.mark.parametrize(("seed", "stream"), [(1 + 2**32, 0), (1, 1), (1, 2)])
def test_each_stream_and_both_words_of_the_seed_count(seed: int, stream: int) -> None:
    first, second = (
        latent(seed, top=2, left=3, rows=4, columns=4, channels=6, temperature=1, stream=stream)
        for seed, stream in ((1, 0), (seed, stream))
    )
    assert (first != second).all()


@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
def test_temperature_scales_the_noise(temperature: float) -> None:
    unit, scaled = (
        latent(9, top=0, left=0, rows=4, columns=4, channels=2, temperature=value)
        for value in (1.0, temperature)
    )
    np.testing.assert_array_equal(scaled, unit * np.float32(temperature))


@pytest.mark.parametrize(
    ("seed", "temperature", "message"),
    [
        (-1, 1, r"seed must be from 0 to 2\*\*64 - 1, got -1"),
        (2**64, 1, r"seed must be from 0 to 2\*\*64 - 1, got"),
        (1.5, 1, r"seed must be a whole number, got 1\.5"),
        (0, -0.1, r"temperature must be finite and at least 0, got -0\.1"),
        (0, float("nan"), "temperature must be finite and at least 0, got nan"),
        (0, float("inf"), "temperature must be finite and at least 0, got inf"),
        (0, "1", "temperature must be a number, got '1'"),
    ],
)
def test_a_wrong_seed_or_temperature_is_refused(
    seed: Any, temperature: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check_noise(seed, temperature)
