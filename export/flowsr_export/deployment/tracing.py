"""Arguments of `torch.export`, example inputs and dynamic sides, and what surrounds it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import floordiv
from typing import Any

import torch
from torch import Tensor, _meta_registrations
from torch.export import Dim

from flowsr_runtime.bundle.engine_key import Profile, Range
from flowsr_runtime.bundle.manifest import Latent

__all__ = ["IS_BEFORE_2_13", "example_of", "is_fixed", "side_of", "tracing"]

WINDOW = slice(8, 10)
IS_BEFORE_2_13 = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13)


def is_fixed(profile: Profile) -> bool:
    """Return whether a profile takes one size only; `geometry` then varies in position."""
    fixed = all(r.min == r.max for name, r in profile.items() if name != "geometry")
    bounds = profile.get("geometry")
    return fixed and (bounds is None or bounds.min[WINDOW] == bounds.max[WINDOW])


def example_of(
    profile: Profile, latents: Sequence[Latent], *, geometry: bool
) -> dict[str, Tensor]:
    """Return inputs of a profile's optimal sizes to trace a module with.

    Args:
        profile: Ranges by input.
        latents: Noise inputs.
        geometry: Whether the module takes `geometry`.
    """
    named = {"input": torch.rand(profile["input"].opt)}
    if geometry:
        h, w = profile["input"].opt[2:]
        bounds = profile.get("geometry")
        size = (h, w) if bounds is None else bounds.opt[WINDOW]  # any size, to trace with
        named["geometry"] = torch.tensor([h, w, *size, 0, 0, 0, 0, *size])
    for latent in latents:
        named[latent.name] = torch.randn(profile[latent.name].opt)
    return named


def side_of(name: str, bounds: Range, index: int, multiple: int = 1) -> Any:
    """Return the dynamic dimension of a side, or its share, None if it is fixed.

    Args:
        name: Name of the dimension.
        bounds: Range of an input.
        index: Index of the dimension.
        multiple: Number that the side is divided by.
    """
    least, most = -(-bounds.min[index] // multiple), bounds.max[index] // multiple
    if least == most:
        return None
    return Dim(name, min=least, max=most)


@contextmanager
def tracing(library: str) -> Iterator[None]:
    """Trace pooling of any size, and silence a library's deprecations and notes.

    PyTorch before 2.13 asks for the sign of a remainder when it divides sizes in a pooling,
    and cannot answer for a size that varies; `//` rounds down without the question.

    Args:
        library: Name of its logger, such as "torch.onnx".
    """
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    divide = _meta_registrations.div_rtn
    _meta_registrations.div_rtn = floordiv
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _meta_registrations.div_rtn = divide
        logger.setLevel(level)
