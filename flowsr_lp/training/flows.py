"""Train a flow on a folder of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowsr_lp import (
    LINF,
    LinfLP,
    SRFlow,
    SrflowLP,
    linf_from_spec,
    load_checkpoint,
    save_weights,
    srflow_from_spec,
)
from flowsr_lp.linf.encoder import RRDB
from flowsr_lp.perceptual import load_tensors
from flowsr_lp.srflow.encoder import SrflowEncoder
from flowsr_lp.training.linf import FlowLoss
from flowsr_lp.training.loop import Held, steps_done
from flowsr_lp.training.penalties import Penalties
from flowsr_lp.training.run import (
    Loop,
    Started,
    at_own_scale,
    carry_out,
    check_linf_only,
    check_windows,
    cut_crops,
    held_out_crops,
    opened,
)
from flowsr_lp.training.srflow import EIGHT_BITS, SrflowFlowLoss, fit_norms
from flowsr_lp.training.windows import WindowFlowLoss
from flowsr_runtime.errors import CheckpointError, UsageError

__all__ = ["FILE", "begin", "flow_of", "save_flow", "train_flow"]

FILE = "model.safetensors"


def train_flow(
    spec: dict[str, Any],
    pixel_weight: float,
    penalties: Penalties,
    loop: Loop,
    started: Started,
    quant: float = EIGHT_BITS,
    trunk_from: float = 0.0,
) -> Path:
    """Train a flow by likelihood and write `model.safetensors` into the run's folder.

    Args:
        spec: `{"name": "linf" | "linf-patch" | "srflow", "args": {...}}`.
        pixel_weight: Weight of the L1 between the flow's mode and the truth.
        penalties: Weights of the penalties on artifacts (LINF).
        loop: Settings of the run.
        started: Called with the first step; returns the callback for every step.
        quant: The noise that gives a picture a density spans 1/quant of the range (SRFlow).
        trunk_from: Share of the steps after which the trunk is trained too; before, it keeps
            the weights of `loop.start` (SRFlow).

    Returns:
        The file.

    Raises:
        FlowsrError: If the request makes no sense, the pictures cannot be read, the folder
            holds another run or cannot be written, or the loss stops being finite.
    """
    with opened(loop) as processes:
        first = steps_done(loop.output)
        torch.manual_seed(loop.settings.seed)
        flow = srflow_from_spec(spec) if spec["name"] == "srflow" else linf_from_spec(spec)
        check_linf_only(flow, penalties, loop.augmentation)
        loop = at_own_scale(loop, flow)
        check_windows(loop, flow, penalties)
        if quant != EIGHT_BITS and isinstance(flow, LINF):
            raise UsageError(f"quant is for SRFlow, not LINF, got {quant:g}", option="quant")
        held = _held_trunk(flow, trunk_from, loop)
        new = loop.start is None or _begin_flow(flow, loop.start, spec["args"].get("blocks"))
        crops = cut_crops(loop, flow, processes)
        recipe = {
            "model": spec,
            "pixel_weight": pixel_weight,
            "penalties": asdict(penalties),
            **({} if quant == EIGHT_BITS else {"quant": quant}),
            **({} if held is None else {"trunk_from": trunk_from}),
        }
        objective = _flow_loss(flow, pixel_weight, penalties, loop, quant)
        if isinstance(flow, SRFlow) and first == 0 and new:
            objective.to(processes.device)
            batch = (each.to(processes.device) for each in crops.batch_at(0))
            fit_norms(flow, *batch, quant=quant)
        held_out = held_out_crops(loop, flow, processes)
        arguments = objective, crops, held_out, loop, processes, recipe, started
        carry_out(*arguments, partial(save_flow, spec), held)
    return loop.output / FILE


def flow_of(network: LinfLP | SrflowLP) -> LINF | SRFlow:
    """Return the flow of a network with a prior or without."""
    return network.linf if isinstance(network, LinfLP) else network.srflow


def begin(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Give a module weights of the same architecture."""
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    if shapes != {name: tensor.shape for name, tensor in module.state_dict().items()}:
        raise UsageError(f"{path} is of another architecture than the one to train")
    module.load_state_dict(weights)


def save_flow(spec: dict[str, Any], folder: Path, weights: dict[str, Tensor]) -> None:
    """Write a flow into a folder."""
    save_weights(folder / FILE, "model", spec, weights)


def _flow_loss(
    flow: LINF | SRFlow, pixel_weight: float, penalties: Penalties, loop: Loop, quant: float
) -> FlowLoss | SrflowFlowLoss:
    if isinstance(flow, SRFlow):
        return SrflowFlowLoss(flow, pixel_weight, quant)
    loss = FlowLoss if loop.scale_per == "step" else WindowFlowLoss
    return loss(flow, pixel_weight, penalties)


def _held_trunk(flow: LINF | SRFlow, trunk_from: float, loop: Loop) -> Held | None:
    """Return the trunk and the step from which it is trained."""
    if not trunk_from:
        return None
    if isinstance(flow, LINF) or not 0 < trunk_from <= 1:
        rule = f"trunk_from must be 0 for LINF and from 0 to 1 for SRFlow, got {trunk_from:g}"
        raise UsageError(rule, option="trunk_from")
    if loop.start is None:
        raise UsageError(
            f"trunk_from must be 0 without the weights of a trunk in start, got {trunk_from:g}",
            option="trunk_from",
        )
    return Held(flow.RRDB, round(trunk_from * loop.settings.steps))


def _begin_flow(flow: LINF | SRFlow, path: Path, blocks: Sequence[int] | None) -> bool:
    """Give a flow its initial weights; return whether they are those of its trunk alone."""
    module = flow.RRDB if isinstance(flow, SRFlow) else flow.encoder
    if isinstance(module, SrflowEncoder | RRDB):
        trunk = _rrdb(path)
        if trunk is not None:
            names = module.state_dict().keys() & trunk.keys()
            begin(module, {name: trunk[name] for name in names}, path)
            return True
    begin(flow, flow_of(load_checkpoint(path, blocks=blocks).network).state_dict(), path)
    return False


def _rrdb(path: Path) -> dict[str, Tensor] | None:
    """Return the weights of a pre-trained RRDB network; None if the file is none."""
    try:
        tensors = load_tensors(path)
    except (
        CheckpointError
    ):  # not a plain file of tensors: `load_checkpoint` reads it or says why
        return None
    return tensors if "conv_first.weight" in tensors else None
