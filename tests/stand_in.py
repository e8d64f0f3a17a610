"""Stand-in weights and pictures that depend on names and shapes alone."""

import re
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowsr_lp import (
    LinfLP,
    SrflowLP,
    linf_from_spec,
    prior_from_spec,
    srflow_from_spec,
    srflow_prior_from_spec,
)

ACTNORM = re.compile(r"flowUpsamplerNet\.layers\.\d+\.actnorm\.logs$")
# (pattern of the name, gain): every activation stays finite and of order one.
GAINS = (
    (r"conv_first", 0.04),  # RRDB trunks amplify about 1.2 times a block
    (r"RDB", 0.4),
    (r"flowUpsamplerNet", 0.3),
    (r"^encoder\.", 0.9),
    (r"^(layers|coef|freq)\.", 0.8),
    (r"", 1.25),
)


def value(name: str, shape: tuple[int, ...], salt: str) -> NDArray[np.float64]:
    """The array that the tensor called `name` holds in every golden file."""
    n = np.random.RandomState(zlib.crc32(f"{salt}/{name}".encode())).standard_normal(shape)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        return np.exp(0.1 * n)
    if ACTNORM.search(name):
        return 0.21 + 0.02 * n
    if leaf in ("running_mean", "bias", "logs"):
        return 0.02 * n
    square = len(shape) == 2 and shape[0] == shape[1]
    if square and ("imnet" in name or "invconv" in name):
        return np.asarray(np.eye(shape[0]) + 0.2 * n / np.sqrt(shape[0]))
    if len(shape) >= 2:
        gain = next(g for pattern, g in GAINS if re.search(pattern, name))
        return np.asarray(gain * n / np.sqrt(np.prod(shape[1:])))
    return 1.0 + 0.1 * n


def fill(module: nn.Module, salt: str = "g") -> nn.Module:
    """Give every floating-point tensor of a module its stand-in value."""
    state = {
        name: torch.from_numpy(np.asarray(value(name, tuple(t.shape), salt))).to(t.dtype)
        for name, t in module.state_dict().items()
        if t.is_floating_point()
    }
    module.load_state_dict(module.state_dict() | state)
    return module


def network(model: dict[str, Any], prior: dict[str, Any] | None, salt: str = "g") -> LinfLP:
    """Build a LINF-LP network with stand-in weights, in evaluation mode."""
    module = prior_from_spec(prior) if prior else None
    if module is not None:
        fill(module, salt)
    linf = linf_from_spec(model)
    fill(linf, salt)
    return LinfLP(linf, module).eval()


def srflow_network(
    model: dict[str, Any], prior: dict[str, Any] | None, salt: str = "g"
) -> SrflowLP:
    """Build an SRFlow-LP network with stand-in weights, in evaluation mode."""
    module = srflow_prior_from_spec(prior) if prior else None
    if module is not None:
        fill(module, salt)
    srflow = srflow_from_spec(model)
    fill(srflow, salt)
    return SrflowLP(srflow, module).eval()


def picture(height: int, width: int, salt: str = "g") -> NDArray[np.uint8]:
    """A smooth RGB picture, (height, width, 3) uint8; the one the golden files were made of."""
    rng = np.random.RandomState(zlib.crc32(f"image/{height}x{width}/{salt}".encode()))
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    out = np.zeros((height, width, 3))
    for c in range(3):
        for _ in range(6):
            fy, fx = rng.uniform(-0.45, 0.45, 2)
            amplitude, phase = rng.uniform(0.2, 1.0), rng.uniform(0, 2 * np.pi)
            out[..., c] += amplitude * np.cos(2 * np.pi * (fy * y + fx * x) + phase)
    out = 0.5 + out / (4 * np.abs(out).mean() + 1e-9) * 0.5
    return np.asarray(np.rint(np.clip(out, 0, 1) * 255), np.uint8)


def tensor(height: int, width: int, salt: str = "g") -> Tensor:
    """The picture as a batch of one in [0, 1], (1, 3, height, width)."""
    return torch.from_numpy(picture(height, width, salt)).permute(2, 0, 1)[None].float() / 255


def noise(*shape: int) -> Tensor:
    """Standard normal values that are the same in every run."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
