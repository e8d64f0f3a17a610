"""The choice of blocks, on a network whose blocks add a known noise."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from onnx import ModelProto

from flowsr_calibration.layers import Layer
from flowsr_calibration.panel import Agreement, HeldOutSet, psnr
from flowsr_calibration.sensitivity import Choice, choose_blocks, rank_blocks

# Noise and multiply-adds of each block.
BLOCKS = {"a": (1e-3, 100), "b": (1e-5, 300), "c": (5e-4, 10), "d": (1e-6, 590)}
LAYERS = [
    Layer(f"{name}{i}", "Conv", "w", None, name, "x", "y") for name in BLOCKS for i in range(2)
]
WORK = {layer.node: BLOCKS[layer.block][1] // 2 for layer in LAYERS}


class NoisyPanel:
    """Adds the noise of the layers that are quantized."""

    def compare(self, layers: Sequence[Layer]) -> Agreement:
        blocks = {layer.block for layer in layers}
        found = psnr(sum(BLOCKS[name][0] for name in blocks))
        return Agreement(found, found, "", (0.0, 0.0, 0.0), 0)


PANEL = cast("HeldOutSet", NoisyPanel())
QUANTIZE = cast("Callable[[Sequence[Layer]], ModelProto]", lambda layers: layers)


def choose(least: float, **changes: Any) -> Choice:
    losses = rank_blocks(LAYERS, QUANTIZE, PANEL, WORK, 1000)
    return choose_blocks(
        LAYERS, losses, QUANTIZE, PANEL, lambda found: found.worst >= least, **changes
    )


def test_blocks_are_ranked_by_what_they_cost() -> None:
    losses = rank_blocks(LAYERS, QUANTIZE, PANEL, WORK, 1000)
    assert [loss.block for loss in losses] == ["a", "c", "b", "d"]
    assert [loss.share for loss in losses] == [0.1, 0.01, 0.3, 0.59]
    assert losses[0].noise == pytest.approx(1e-3)


def test_nothing_is_left_out_where_the_budget_holds() -> None:
    choice = choose(28.0)
    assert choice.point.left_out == ()
    assert choice.point.share == pytest.approx(1.0)
    assert len(choice.tried) == 1


def test_few_multiply_adds_are_given_up() -> None:
    choice = choose(29.9)  # without c it holds: c has the most noise for its work
    assert choice.point.left_out == ("c",)
    assert choice.point.share == pytest.approx(0.99)


def test_what_need_not_stay_out_comes_back() -> None:
    notes: list[str] = []
    # a must go; c goes first and comes back.
    choice = choose(32.9, advance=lambda steps, note: notes.append(note))
    assert len(notes) == len(choice.tried) == 4
    assert choice.point.left_out == ("a",)
    assert choice.point.holds
    assert {layer.block for layer in choice.layers} == {"b", "c", "d"}


def test_a_budget_that_cannot_hold_leaves_everything_out() -> None:
    choice = choose(float("inf"))
    assert choice.layers == ()
    assert set(choice.point.left_out) == set(BLOCKS)
