"""Calibrate a bundle: collect ranges, correct, choose blocks, check the gates."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
from onnx import ModelProto

from flowsr_calibration.bias import Correction, bias_corrections, with_corrections
from flowsr_calibration.codes import EightBits, codes_of
from flowsr_calibration.collect import TensorTap, collect, statistics_key
from flowsr_calibration.crops import (
    HELD_OUT,
    CropPlan,
    Pictures,
    feeds_of,
    find_pictures,
    scales_for,
)
from flowsr_calibration.equalization import equalize_pairs, pairs_of
from flowsr_calibration.layers import Layer, blocks_of, layers_of
from flowsr_calibration.panel import Agreement, HeldOutSet
from flowsr_calibration.quantize import QuantizationForm, quantize_layers, tensors_of
from flowsr_calibration.ranges import Method, activation_range
from flowsr_calibration.sensitivity import BlockLoss, Choice, choose_blocks, rank_blocks
from flowsr_calibration.statistics import Statistics
from flowsr_export.calibration.gates import Budget, Gates, gated, load_lpips, luma_quality
from flowsr_export.deployment.traits import FAMILIES
from flowsr_export.inputs.run_sizes import RunSize
from flowsr_export.onnx_graph.lint import require_clean
from flowsr_export.onnx_graph.multiply_adds import MacCount, count_macs
from flowsr_runtime import Bundle, OutputError, UsageError, output_size
from flowsr_runtime.bundle.manifest import Manifest

__all__ = ["Calibration", "CorrectionResult", "CalibrationConfig", "calibrate"]

WORK_LR = 128  # side for counting multiply-adds, at the largest scale of the calibration
TUNING_CROPS = 6  # crops of calibration images for choices
CORRECTED_CROPS = 16  # crops for measuring biases
EQUALIZED_CROPS = 64  # crops for measuring the ranges of an equalized graph
HELD_OUT_CROPS = 18
WANTED_PICTURES = round(HELD_OUT_CROPS / HELD_OUT)  # each judging crop of another image
MIN_GAIN = 0.02  # gain of a correction that is kept, dB


@dataclass(frozen=True)
class CalibrationConfig:
    """Options of a calibration.

    Attributes:
        images: Folder of images.
        type: "int8" or "fp8".
        method: Method that chooses ranges.
        samples: Number of crops.
        side: Low-resolution pixels a side of a crop.
        seed: Random seed.
        budget: Limits on the loss of quality.
        exclude: Regular expressions of blocks that stay float32.
        per_tensor: One step for each weight instead of one for each output channel.
        alexnet: AlexNet's weights, for LPIPS.
        lpips_weights: LPIPS's own weights.
        threads: CPU threads, None for all cores.
        work: Folder that keeps the statistics.
    """

    images: Path
    work: Path
    type: EightBits = "int8"
    method: Method = "mse"
    samples: int = 200
    side: int = 48
    seed: int = 0
    budget: Budget = field(default_factory=Budget)
    exclude: tuple[str, ...] = ()
    per_tensor: bool = False
    alexnet: Path | None = None
    lpips_weights: Path | None = None
    threads: int | None = None


@dataclass(frozen=True)
class CorrectionResult:
    """Effect of one correction with all blocks quantized.

    Attributes:
        name: Name of the correction.
        before: PSNR against the float32 graph without it, dB.
        after: PSNR with it, dB.
        kept: Whether it is in the result.
    """

    name: str
    before: float
    after: float
    kept: bool


@dataclass(frozen=True)
class Calibration:
    """A quantized graph and its report.

    Attributes:
        content: The ONNX file.
        choice: The quantized blocks.
        losses: Error of each block alone, the largest first.
        corrections: Corrections.
        gates: Measurements on held-out images.
        excluded: Blocks that the config excluded.
        statistics: Statistics of the tensors.
        pictures: The images.
        work: Multiply-adds of the result.
        config: Options.
    """

    content: bytes
    choice: Choice
    losses: tuple[BlockLoss, ...]
    corrections: tuple[CorrectionResult, ...]
    gates: Gates
    excluded: tuple[str, ...]
    statistics: Statistics
    pictures: Pictures
    work: MacCount
    config: CalibrationConfig

    @property
    def images(self) -> str:
        """Number of usable images that were given, and of those that are wanted."""
        given = len(self.pictures.calibration) + len(self.pictures.held_out)
        return f"{given} usable images were given, {WANTED_PICTURES} or more are wanted"


Report = Callable[[str, int, int], None]


def calibrate(
    bundle: Bundle,
    config: CalibrationConfig,
    report: Report = lambda phase, done, total: None,
) -> Calibration:
    """Quantize a bundle's float32 graph.

    Args:
        bundle: Bundle with an fp32 graph; not changed.
        config: Options.
        report: Called with a phase, its completed steps, and its total steps.

    Returns:
        The graph, even if a gate is violated.

    Raises:
        PictureError: If there are too few usable images.
        UsageError: If a pattern matches no block, the graph has no blocks, or its inputs
            cannot have the crops' side.
        NonFiniteError: If the float32 graph gives a value that is not finite.
        LintError: If the result violates a rule of deployed graphs.
    """
    return _Run(bundle, config, report).run()


class _Run:
    """One calibration, step by step."""

    def __init__(self, bundle: Bundle, config: CalibrationConfig, report: Report) -> None:
        self.config, self.report, self.manifest = config, report, bundle.manifest
        self.content = bundle.model_bytes("fp32")
        self.model = onnx.load_from_string(self.content)
        self.layers, self.excluded = _chosen(self.model, config.exclude)
        self.form = QuantizationForm(config.type, config.per_tensor)
        step, scales = self.manifest.multiple, scales_for(self.manifest)
        if config.side % step:
            wrong = f"side must be a multiple of {step} for this bundle, got {config.side}"
            raise UsageError(wrong, option="side")
        self.plan = CropPlan(config.samples, config.side, scales, config.seed)
        self.lpips = load_lpips(config.alexnet, config.lpips_weights)
        self.ranges: dict[str, float] = {}
        self.bias_corrections: dict[str, Correction] = {}
        self.results: list[CorrectionResult] = []

    def run(self) -> Calibration:
        config = self.config
        self.report("read the images", 0, 1)
        pictures = find_pictures(config.images, self.plan)
        statistics = self._collected(pictures)
        self.ranges = self._ranges(statistics)
        seed = config.seed + 1
        tuning = replace(self.plan, samples=TUNING_CROPS, seed=seed)
        panel = self._panel(tuning, pictures.calibration)
        self._correct(pictures, statistics, panel)
        work = work_of(self.model, self.manifest, self.plan)
        losses = rank_blocks(
            self.layers,
            self._quantized,
            panel,
            {name: product.count for name, product in work.by_node.items()},
            work.total,
            self._counter("quantize each block alone", len(blocks_of(self.layers))),
        )
        choice = choose_blocks(
            self.layers,
            losses,
            self._quantized,
            panel,
            config.budget.holds,
            self._counter("choose blocks", len(losses)),
        )
        model = self._quantized(choice.layers)
        require_clean(model, linf=FAMILIES[self.manifest.family].computes_geometry)
        content = model.SerializeToString()
        self.report("compare held-out images", 0, 1)
        held = replace(self.plan, samples=HELD_OUT_CROPS, seed=seed)
        gates = gated(self._panel(held, pictures.held_out), content, config.budget, self.lpips)
        if not choice.layers:
            violation = "budget must allow a block in eight bits, got none"
            gates = replace(gates, missed=(*gates.missed, violation))
        return Calibration(
            content,
            choice,
            tuple(losses),
            tuple(self.results),
            gates,
            self.excluded,
            statistics,
            pictures,
            work_of(model, self.manifest, self.plan),
            config,
        )

    def _panel(self, plan: CropPlan, pictures: Sequence[Path]) -> HeldOutSet:
        return HeldOutSet(
            self.content,
            self.manifest,
            list(plan.crops(pictures)),
            threads=self.config.threads,
            quality=luma_quality,
        )

    def _collected(self, pictures: Pictures) -> Statistics:
        """Return the statistics of the float32 graph, from a file if possible."""
        tensors = tensors_of(self.model, self.layers)
        digest = hashlib.sha256(self.content).hexdigest()
        key = statistics_key(digest, tensors, self.plan, pictures)
        try:
            self.config.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"cannot be made: {error.strerror or error}"
            raise OutputError(f"folder {self.config.work} {reason}", option="work") from error
        # Equalization needs the channels of the tensors between its pairs.
        readers = [pair.after for pair in pairs_of(self.model, self.layers)]
        return collect(
            TensorTap(self.model, tensors, self.config.threads),
            self.manifest,
            self.plan,
            pictures.calibration,
            key=key,
            path=self.config.work / f"statistics-{key[:16]}.npz",
            per_channel=[one.input for one in readers],
            advance=self._counter("collect statistics", self.plan.samples),
        )

    def _correct(self, pictures: Pictures, statistics: Statistics, panel: HeldOutSet) -> None:
        """Try each correction with every block quantized, and keep the useful ones."""
        best = panel.compare(self._quantized(self.layers))
        if not self.config.per_tensor:
            form = QuantizationForm(self.config.type, per_tensor=True)
            whole = panel.compare(quantize_layers(self.model, self.layers, self.ranges, form))
            if not self._helps("one step per channel", whole, best, 0.0):
                self.form, best = form, whole
        best = self._equalize(pictures, statistics, panel, best)
        self._correct_biases(pictures, panel, best)

    def _equalize(
        self, pictures: Pictures, statistics: Statistics, panel: HeldOutSet, best: Agreement
    ) -> Agreement:
        pairs = pairs_of(self.model, self.layers)
        if not pairs:
            return best
        before = self.model, self.ranges
        self.model = equalize_pairs(self.model, pairs, statistics.channels)
        changed = tensors_of(
            self.model, [layer for p in pairs for layer in (*p.before, p.after)]
        )
        plan = replace(self.plan, samples=min(self.plan.samples, EQUALIZED_CROPS))
        statistics_after = collect(
            TensorTap(self.model, changed, self.config.threads),
            self.manifest,
            plan,
            pictures.calibration,
            key="equalized",
            advance=self._counter("measure the equalized graph", plan.samples),
        )
        self.ranges = {**self.ranges, **self._ranges(statistics_after)}
        agreement = panel.compare(self._quantized(self.layers))
        if self._helps("cross-layer equalization", best, agreement):
            return agreement
        self.model, self.ranges = before
        return best

    def _correct_biases(self, pictures: Pictures, panel: HeldOutSet, best: Agreement) -> None:
        plan = replace(self.plan, samples=CORRECTED_CROPS, seed=self.config.seed + 2)
        crops = plan.crops(pictures.calibration)
        self.report("correct the biases", 0, 1)
        self.bias_corrections = bias_corrections(
            self.model,
            self.layers,
            self.ranges,
            self.form,
            (feeds_of(self.manifest, crop) for crop in crops),
            self.config.threads,
        )
        agreement = panel.compare(self._quantized(self.layers))
        if not self._helps("bias correction", best, agreement):
            self.bias_corrections = {}

    def _helps(
        self, name: str, before: Agreement, after: Agreement, gain: float = MIN_GAIN
    ) -> bool:
        """Record the effect of a correction, and return whether it gains enough dB."""
        kept = after.psnr >= before.psnr + gain
        self.results.append(CorrectionResult(name, before.psnr, after.psnr, kept))
        return kept

    def _quantized(self, layers: Sequence[Layer]) -> ModelProto:
        model = with_corrections(self.model, layers, self.bias_corrections)
        return quantize_layers(model, layers, self.ranges, self.form)

    def _ranges(self, statistics: Statistics) -> dict[str, float]:
        codes = codes_of(self.config.type)
        return {
            name: activation_range(histogram, self.config.method, codes)
            for name, histogram in statistics.histograms.items()
        }

    def _counter(self, phase: str, total: int) -> Callable[[int, str], None]:
        """Return a function that reports the total of its steps."""
        done = 0

        def advance(steps: int, note: str) -> None:
            nonlocal done
            done += steps
            self.report(f"{phase}: {note}" if note else phase, min(done, total), total)

        return advance


def work_of(model: ModelProto, manifest: Manifest, plan: CropPlan) -> MacCount:
    """Count multiply-adds at 128x128 and the largest scale of the calibration.

    Args:
        model: A graph of the bundle.
        manifest: Manifest of the bundle.
        plan: The crops.
    """
    side = output_size(WORK_LR, plan.scales[-1])
    return count_macs(model, *RunSize((WORK_LR, WORK_LR), (side, side)).shapes(manifest))


def _chosen(model: ModelProto, patterns: Sequence[str]) -> tuple[list[Layer], tuple[str, ...]]:
    """Return the layers that may be quantized, and the excluded blocks."""
    layers = layers_of(model)
    if not layers:
        raise UsageError("fp32 graph must have weights with the names of modules, got none")
    names = list(blocks_of(layers))
    excluded: set[str] = set()
    for pattern in patterns:
        try:
            matches = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            wrong = f"exclude must be regular expressions, got {pattern!r}: {error}"
            raise UsageError(wrong, option="exclude") from error
        if not matches:
            wrong = f"exclude must match a block, got {pattern!r}; blocks: {', '.join(names)}"
            raise UsageError(wrong, option="exclude")
        excluded |= matches
    kept = [layer for layer in layers if layer.block not in excluded]
    if not kept:
        raise UsageError("exclude must leave a block, got patterns for all", option="exclude")
    return kept, tuple(name for name in names if name in excluded)
