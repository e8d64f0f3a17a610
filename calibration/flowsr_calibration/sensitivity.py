"""Rank blocks by their quantization error, and choose the blocks that fit a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from onnx import ModelProto

from flowsr_calibration.layers import Layer, blocks_of
from flowsr_calibration.panel import Agreement, HeldOutSet

__all__ = ["BlockLoss", "Choice", "Point", "choose_blocks", "rank_blocks"]

Quantize = Callable[[Sequence[Layer]], ModelProto]
Holds = Callable[[Agreement], bool]

MAX_RETURNED: Final = 4  # blocks that are tried again after the budget holds


@dataclass(frozen=True)
class BlockLoss:
    """Error of quantizing one block alone.

    Attributes:
        block: Name of the block.
        multiply_adds: Multiply-adds of one run.
        share: Share of all multiply-adds, in [0, 1].
        psnr: PSNR against the float32 graph, all crops together, dB.
        worst: Lowest PSNR of a crop, dB.
    """

    block: str
    multiply_adds: int
    share: float
    psnr: float
    worst: float

    @property
    def noise(self) -> float:
        """Mean squared error, 1 is full range."""
        return float(10 ** (-self.psnr / 10))


@dataclass(frozen=True)
class Point:
    """One choice of blocks.

    Attributes:
        left_out: Blocks that stay float32, in the order of their exclusion.
        share: Share of the multiply-adds that is quantized, in [0, 1].
        agreement: Differences from the float32 graph.
        holds: Whether the budget holds.
    """

    left_out: tuple[str, ...]
    share: float
    agreement: Agreement
    holds: bool


@dataclass(frozen=True)
class Choice:
    """The chosen blocks, and all choices that were tried.

    Attributes:
        layers: Layers to quantize.
        point: The choice.
        tried: Every choice, starting with all blocks.
    """

    layers: tuple[Layer, ...]
    point: Point
    tried: tuple[Point, ...]


def rank_blocks(
    layers: Sequence[Layer],
    quantize: Quantize,
    panel: HeldOutSet,
    work: Mapping[str, int],
    total: int,
    advance: Callable[[int, str], None] = lambda steps, note: None,
) -> list[BlockLoss]:
    """Quantize each block alone.

    Args:
        layers: Layers that may be quantized.
        quantize: Returns the graph with some of them quantized.
        panel: Crops for comparisons.
        work: Multiply-adds by node.
        total: Multiply-adds of the whole graph.
        advance: Called after each block.

    Returns:
        The blocks, the one with the largest error first.
    """
    losses = []
    for block, members in blocks_of(list(layers)).items():
        agreement = panel.compare(quantize(members))
        count = sum(work[layer.node] for layer in members)
        losses.append(BlockLoss(block, count, count / total, agreement.psnr, agreement.worst))
        advance(1, block)
    return sorted(losses, key=lambda loss: loss.psnr)


def choose_blocks(
    layers: Sequence[Layer],
    losses: Sequence[BlockLoss],
    quantize: Quantize,
    panel: HeldOutSet,
    holds: Holds,
    advance: Callable[[int, str], None] = lambda steps, note: None,
) -> Choice:
    """Exclude blocks until a budget holds, with few multiply-adds in them.

    Errors of blocks add up approximately like noise. The blocks with the most noise per
    multiply-add are excluded first. Then excluded blocks return, the one with the most
    multiply-adds first, as long as the budget holds.

    Args:
        layers: Layers that may be quantized.
        losses: Errors of their blocks.
        quantize: Returns the graph with some of them quantized.
        panel: Crops for comparisons.
        holds: Whether the budget holds.
        advance: Called after each trial.

    Returns:
        The choice, which may be empty; its point states whether the budget holds.
    """
    by_name = {loss.block: loss for loss in losses}
    blocks = blocks_of(list(layers))

    def point(left_out: Sequence[str]) -> Point:
        kept = [layer for layer in layers if layer.block not in left_out]
        share = sum(by_name[name].share for name in blocks if name not in left_out)
        agreement = panel.compare(quantize(kept))
        advance(1, f"{len(left_out)} blocks left out")
        return Point(tuple(left_out), share, agreement, holds(agreement))

    waiting = sorted(losses, key=lambda loss: loss.noise / max(loss.multiply_adds, 1))
    best = point(())
    tried = [best]
    while not best.holds and waiting:
        best = point((*best.left_out, waiting.pop().block))
        tried.append(best)
    returning = sorted(best.left_out[:-1], key=lambda name: -by_name[name].multiply_adds)
    for name in returning[:MAX_RETURNED] if best.holds else []:
        back = point([other for other in best.left_out if other != name])
        tried.append(back)
        best = back if back.holds else best
    kept = tuple(layer for layer in layers if layer.block not in best.left_out)
    return Choice(kept, best, tuple(tried))
