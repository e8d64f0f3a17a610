"""The weights of a bundle's graphs held against the network's own, value by value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from flowsr_export.certificate.candidates import QUANTISED, Candidate
from flowsr_export.deployment.interface import DTYPES, Deployment

__all__ = ["Weights", "compare_weights"]

# Inverses and norms are folded in float64: another library may round a value to the other side,
# one step of the stored type. A weight that is 1 % off is further in each of them.
STEPS = {"fp32": 1e-6, "fp16": 1e-3, "bf16": 8e-3}
TINY = 1e-7  # of the tensor's largest value: below it a difference means nothing
OWN = "eight_bit."  # constants of the conversion from and to eight bits


@dataclass(frozen=True)
class Weights:
    """What was found of the weights of a file.

    Attributes:
        file: The file.
        tensors: How many were compared: those that have the name of a parameter.
        values: Numbers in them.
        limit: Largest accepted difference of a value, relative to itself.
        changed: Names of those that are no weight of the network.
    """

    file: str
    tensors: int
    values: int
    limit: float
    changed: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether there are weights and each is the network's."""
        return self.tensors > 0 and not self.changed


def compare_weights(
    deployment: Deployment, scale: Fraction | None, subjects: Sequence[Candidate]
) -> tuple[list[Weights], dict[str, str]]:
    """Compare the weights of every file with those of the network restated in PyTorch.

    Outputs hardly show a small change of a weight that matters little; this shows it.

    Args:
        deployment: The network.
        scale: The scale that the graphs were restated with, None for any.
        subjects: Whose files.

    Returns:
        One entry for each file, and by name what was not compared and why.
    """
    files = {s.file: s for s in subjects if s.file is not None}
    found: list[Weights] = []
    left_out: dict[str, str] = {}
    for name, subject in files.items():
        if subject.precision in QUANTISED:
            left_out[f"weights of {name}"] = "they were equalised, corrected and quantised"
            continue
        graph = deployment.graph(DTYPES[subject.precision], scale)
        own = {key: _floats(value) for key, value in graph.state_dict().items()}
        found.append(_compared(name, subject, own))
    return found, left_out


def _compared(name: str, subject: Candidate, own: Mapping[str, NDArray[Any]]) -> Weights:
    model = onnx.load_from_string(subject.bundle.read(name))
    limit = STEPS[subject.precision]
    stored = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if (tensor.name in own or "." in tensor.name) and not tensor.name.startswith(OWN)
    }
    changed = [
        key
        for key, value in stored.items()
        if not any(_same(other, value, limit) for other in _named(own, key, value.shape))
    ]
    values = sum(value.size for value in stored.values())
    return Weights(name, len(stored), values, limit, tuple(changed))


def _named(
    own: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...]
) -> list[NDArray[Any]]:
    """Return the weight of a name, or every one of its shape if an older version named it."""
    if name in own:
        return [own[name]]
    return [value for value in own.values() if value.shape == shape]


def _same(own: NDArray[Any], stored: NDArray[Any], limit: float) -> bool:
    if own.shape != stored.shape:
        return False
    wide = own.astype(np.float64)
    floor = TINY * float(np.abs(wide).max(initial=0))
    return bool(
        np.all(np.abs(wide - stored.astype(np.float64)) <= limit * np.abs(wide) + floor)
    )


def _floats(value: torch.Tensor) -> NDArray[Any]:
    array: NDArray[Any] = value.detach().float().numpy()
    return array
