"""Names and shapes of the tensors in released files."""

from pathlib import Path

import torch
from torch import Tensor

__all__ = ["released"]

KEYS = Path(__file__).parents[1] / "golden" / "keys"


def released(name: str) -> dict[str, Tensor]:
    """The names and shapes of a released file, on no device."""
    lines = (KEYS / f"{name}.txt").read_text().splitlines()
    pairs = (line.split() for line in lines)
    shapes = {key: shape.replace("scalar", "").split("x") for key, shape in pairs}
    return {
        key: torch.empty([int(side) for side in shape if side], device="meta")
        for key, shape in shapes.items()
    }
