"""Which blocks quantisation costs the most, and which to leave out so that a budget holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from onnx import ModelProto

from flowsr_calibration.layers import Layer, blocks_of
from flowsr_calibration.panel import Agreement, HeldOutSet

__all__ = ["BlockLoss", "Choice", "Point", "choose_blocks", "rank_blocks"]

Quantise = Callable[[Sequence[Layer]], ModelProto]
Holds = Callable[[Agreement], bool]

MOST_PUT_BACK: Final = 4  # trials of blocks that may be quantised after all


@dataclass(frozen=True)
class BlockLoss:
    """What it costs to quantise one block alone.

    Attributes:
        block: Its name.
        multiply_adds: Of one run.
        share: Part of all multiply-adds, in [0, 1].
        psnr: Against the float32 graph, all crops together, dB.
        worst: The least of a crop, dB.
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
        left_out: Blocks that stay float32, in the order in which they were left out.
        share: Multiply-adds that are quantised, in [0, 1].
        agreement: How far it is from the float32 graph.
        holds: Whether the budget holds.
    """

    left_out: tuple[str, ...]
    share: float
    agreement: Agreement
    holds: bool


@dataclass(frozen=True)
class Choice:
    """What is quantised, and what else was tried.

    Attributes:
        layers: Layers that are quantised.
        point: Their figures.
        tried: Every point, from all blocks on.
    """

    layers: tuple[Layer, ...]
    point: Point
    tried: tuple[Point, ...]


def rank_blocks(
    layers: Sequence[Layer],
    quantise: Quantise,
    panel: HeldOutSet,
    work: Mapping[str, int],
    total: int,
    advance: Callable[[int, str], None] = lambda steps, note: None,
) -> list[BlockLoss]:
    """Quantise each block alone.

    Args:
        layers: Layers that may be quantised.
        quantise: Gives the graph with some of them quantised.
        panel: Judges it.
        work: Multiply-adds by node.
        total: Multiply-adds of everything.
        advance: Called after each block.

    Returns:
        The blocks, the most costly first.
    """
    losses = []
    for block, members in blocks_of(list(layers)).items():
        found = panel.compare(quantise(members))
        count = sum(work[layer.node] for layer in members)
        losses.append(BlockLoss(block, count, count / total, found.psnr, found.worst))
        advance(1, block)
    return sorted(losses, key=lambda loss: loss.psnr)


def choose_blocks(
    layers: Sequence[Layer],
    losses: Sequence[BlockLoss],
    quantise: Quantise,
    panel: HeldOutSet,
    holds: Holds,
    advance: Callable[[int, str], None] = lambda steps, note: None,
) -> Choice:
    """Leave blocks out until a budget holds, giving up few multiply-adds.

    Errors of blocks add up almost as noise does, so that what a block left out gains is its
    noise. Those with the most noise for each multiply-add go first. Then what was left out
    comes back, the most multiply-adds first, where the budget holds with it.

    Args:
        layers: Layers that may be quantised.
        losses: Their blocks' losses.
        quantise: Gives the graph with some of them quantised.
        panel: Judges it.
        holds: Whether a budget holds.
        advance: Called after each trial.

    Returns:
        The choice; it may be nothing at all, whose point then holds or does not.
    """
    by_name = {loss.block: loss for loss in losses}
    blocks = blocks_of(list(layers))

    def point(left_out: Sequence[str]) -> Point:
        kept = [layer for layer in layers if layer.block not in left_out]
        share = sum(by_name[name].share for name in blocks if name not in left_out)
        agreement = panel.compare(quantise(kept))
        advance(1, f"{len(left_out)} blocks left out")
        return Point(tuple(left_out), share, agreement, holds(agreement))

    waiting = sorted(losses, key=lambda loss: loss.noise / max(loss.multiply_adds, 1))
    best = point(())
    tried = [best]
    while not best.holds and waiting:
        best = point((*best.left_out, waiting.pop().block))
        tried.append(best)
    returning = sorted(best.left_out[:-1], key=lambda name: -by_name[name].multiply_adds)
    for name in returning[:MOST_PUT_BACK] if best.holds else []:
        back = point([other for other in best.left_out if other != name])
        tried.append(back)
        best = back if back.holds else best
    kept = tuple(layer for layer in layers if layer.block not in best.left_out)
    return Choice(kept, best, tuple(tried))
