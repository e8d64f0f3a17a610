"""What surrounds `torch.export`."""

import logging
import warnings

import pytest
import torch
from torch import Tensor, _meta_registrations, nn
from torch.export import Dim

from flowsr_export.deployment.tracing import tracing


class Pooled(nn.Module):
    """A pooling of whatever sides are left over."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool (B, C, h, w)."""
        return torch.nn.functional.max_pool2d(x, 2)


def ask_for_the_sign(x: int, y: int) -> int:
    """Divide as PyTorch before 2.13."""
    q, r = x // y, x % y
    return q - 1 if r != 0 and bool(r < 0) != bool(y < 0) else q


def test_a_pooling_of_any_size_is_traced_by_every_pytorch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_meta_registrations, "div_rtn", ask_for_the_sign)
    args, vary = (torch.rand(1, 1, 8, 9),), ({2: Dim("rows", min=4, max=64)},)
    with pytest.raises(torch._dynamo.exc.UserError, match="Constraints violated"):
        torch.export.export(Pooled(), args, dynamic_shapes=vary, strict=False)
    with tracing("torch.onnx"):
        exported = torch.export.export(Pooled(), args, dynamic_shapes=vary, strict=False)
    for rows in (4, 7, 10):
        assert exported.module()(torch.rand(1, 1, rows, 9)).shape == (1, 1, rows // 2, 4)
    assert _meta_registrations.div_rtn is ask_for_the_sign


def test_notes_of_the_library_are_silent_while_it_traces() -> None:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with tracing("torch.onnx"):
        assert logger.level == logging.ERROR
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
    assert logger.level == level
