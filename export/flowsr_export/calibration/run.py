"""Calibration of a bundle: pictures, ranges, corrections, a choice of blocks, gates."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
from onnx import ModelProto

from flowsr_calibration.bias import Correction, bias_corrections, with_corrections
from flowsr_calibration.codes import EightBits, codes_of
from flowsr_calibration.collect import TensorTap, collect, statistics_key
from flowsr_calibration.crops import CropPlan, Pictures, find_pictures
from flowsr_calibration.equalization import equalised, pairs_of
from flowsr_calibration.feeds import feeds_of, scales_for
from flowsr_calibration.layers import Layer, blocks_of, layers_of
from flowsr_calibration.panel import Agreement, HeldOutSet
from flowsr_calibration.quantize import QuantizationForm, quantised, tensors_of
from flowsr_calibration.ranges import Method, activation_range
from flowsr_calibration.sensitivity import BlockLoss, Choice, choose_blocks, rank_blocks
from flowsr_calibration.statistics import Statistics
from flowsr_export.calibration.gates import Budget, Gates, gated, load_lpips, luma_quality
from flowsr_export.onnx_graph.lint import require_clean
from flowsr_export.onnx_graph.multiply_adds import MacCount, count_macs
from flowsr_runtime import Bundle, UsageError, Window, output_size
from flowsr_runtime.bundle.manifest import Manifest

__all__ = ["Calibration", "CorrectionResult", "CalibrationConfig", "calibrate"]

WORK_LR = 128  # side at which shares are counted, at the largest scale of the calibration
TUNING_CROPS = 6  # of calibration pictures: choices are made on them
CORRECTED_CROPS = 16  # that biases are measured on
EQUALISED_CROPS = 64  # that the ranges of an equalised graph are measured on
HELD_OUT_CROPS = 18
LEAST_GAIN = 0.02  # dB that a correction must bring to be kept


@dataclass(frozen=True)
class CalibrationConfig:
    """How to calibrate.

    Attributes:
        images: Folder of pictures.
        type: "int8" or "fp8".
        method: How ranges are chosen.
        samples: Crops.
        side: Low-resolution pixels a side of a crop.
        seed: Of every draw.
        budget: What quantisation may cost.
        exclude: Patterns of blocks that stay float32.
        per_tensor: One step for each weight in place of one for each output channel.
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
    """One correction: with all blocks quantised, PSNR without it and with it.

    Attributes:
        name: What it is.
        before: Against the float32 graph, dB.
        after: The same with it.
        kept: Whether it is in the result.
    """

    name: str
    before: float
    after: float
    kept: bool


@dataclass(frozen=True)
class Calibration:
    """A quantised graph and everything that is said of it.

    Attributes:
        content: The ONNX file.
        choice: Which blocks are quantised.
        losses: What each block costs alone, the most costly first.
        trials: Corrections.
        gates: Figures on held-out pictures.
        excluded: Blocks that the config excluded.
        statistics: What was seen of the tensors.
        pictures: The pictures.
        work: Multiply-adds of the result.
        config: How it was made.
    """

    content: bytes
    choice: Choice
    losses: tuple[BlockLoss, ...]
    trials: tuple[CorrectionResult, ...]
    gates: Gates
    excluded: tuple[str, ...]
    statistics: Statistics
    pictures: Pictures
    work: MacCount
    config: CalibrationConfig


Report = Callable[[str, int, int], None]


def calibrate(
    bundle: Bundle,
    config: CalibrationConfig,
    report: Report = lambda phase, done, total: None,
) -> Calibration:
    """Quantise a bundle's float32 graph.

    Args:
        bundle: It needs the fp32 graph; not changed.
        config: How.
        report: Called with a phase, the steps of it that are done, and how many it has.

    Returns:
        The graph, whether or not its gates hold.

    Raises:
        PictureError: If the pictures do not suffice.
        UsageError: If a pattern matches no block, the graph has none, or it does not take
            pictures of the crops' side.
        NonFiniteError: If the float32 graph gives a value that is not finite.
        LintError: If the result breaks a rule of deployed graphs.
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
        if config.side % self.manifest.multiple:
            raise UsageError(
                f"--crop must be a multiple of {self.manifest.multiple} for this bundle, got "
                f"{config.side}"
            )
        self.plan = CropPlan(
            config.samples, config.side, scales_for(self.manifest), config.seed
        )
        self.lpips = load_lpips(config.alexnet, config.lpips_weights)
        self.ranges: dict[str, float] = {}
        self.corrections: dict[str, Correction] = {}
        self.trials: list[CorrectionResult] = []

    def run(self) -> Calibration:
        config = self.config
        self.report("look at the pictures", 0, 1)
        pictures = find_pictures(config.images, self.plan)
        statistics = self._collected(pictures)
        self.ranges = self._ranges(statistics)
        seed = config.seed + 1
        tuning = replace(self.plan, samples=TUNING_CROPS, seed=seed)
        panel = HeldOutSet(
            self.content,
            self.manifest,
            list(tuning.crops(pictures.calibration)),
            threads=config.threads,
            quality=luma_quality,
        )
        self._correct(pictures, statistics, panel)
        work = work_of(self.model, self.manifest, self.plan)
        losses = self._ranked(panel, work)
        choice = self._chosen_blocks(panel, losses)
        made = self._quantised(choice.layers)
        require_clean(made, linf=self.manifest.family == "linf-lp")
        content = made.SerializeToString()
        self.report("compare held-out pictures", 0, 1)
        held = replace(self.plan, samples=HELD_OUT_CROPS, seed=seed)
        judges = HeldOutSet(
            self.content,
            self.manifest,
            list(held.crops(pictures.held_out)),
            threads=config.threads,
            quality=luma_quality,
        )
        gates = gated(judges, content, config.budget, self.lpips)
        if not choice.layers:
            nothing = "no block can be in eight bits within the budget"
            gates = replace(gates, missed=(*gates.missed, nothing))
        return Calibration(
            content,
            choice,
            tuple(losses),
            tuple(self.trials),
            gates,
            self.excluded,
            statistics,
            pictures,
            work_of(made, self.manifest, self.plan),
            config,
        )

    def _collected(self, pictures: Pictures) -> Statistics:
        """Statistics of the float32 graph, from a file if there are any."""
        tensors = tensors_of(self.model, self.layers)
        digest = hashlib.sha256(self.content).hexdigest()
        key = statistics_key(digest, tensors, self.plan, pictures)
        self.config.work.mkdir(parents=True, exist_ok=True)
        return collect(
            TensorTap(self.model, tensors, self.config.threads),
            self.manifest,
            self.plan,
            pictures.calibration,
            key=key,
            path=self.config.work / f"statistics-{key[:16]}.npz",
            channel_axes=_channel_axes(self.model, self.layers),
            advance=self._counter("see the crops", self.plan.samples),
        )

    def _correct(self, pictures: Pictures, statistics: Statistics, panel: HeldOutSet) -> None:
        """Try each correction with every block quantised, and keep those that help."""
        best = panel.compare(self._quantised(self.layers))
        if not self.config.per_tensor:
            whole = panel.compare(
                quantised(
                    self.model,
                    self.layers,
                    self.ranges,
                    QuantizationForm(self.config.type, True),
                )
            )
            kept = best.psnr >= whole.psnr
            self.trials.append(
                CorrectionResult("a step for each channel", whole.psnr, best.psnr, kept)
            )
            if not kept:
                self.form, best = QuantizationForm(self.config.type, True), whole
        best = self._equalise(pictures, statistics, panel, best)
        self._correct_biases(pictures, panel, best)

    def _equalise(
        self, pictures: Pictures, statistics: Statistics, panel: HeldOutSet, best: Agreement
    ) -> Agreement:
        pairs = pairs_of(self.model, self.layers)
        if not pairs:
            return best
        before = self.model, self.ranges
        self.model = equalised(self.model, pairs, statistics.channels)
        changed = tensors_of(
            self.model, [layer for p in pairs for layer in (*p.before, p.after)]
        )
        plan = replace(self.plan, samples=min(self.plan.samples, EQUALISED_CROPS))
        seen = collect(
            TensorTap(self.model, changed, self.config.threads),
            self.manifest,
            plan,
            pictures.calibration,
            key="equalised",
            advance=self._counter("see the equalised graph", plan.samples),
        )
        self.ranges = {**self.ranges, **self._ranges(seen)}
        found = panel.compare(self._quantised(self.layers))
        kept = found.psnr >= best.psnr + LEAST_GAIN
        self.trials.append(
            CorrectionResult("cross-layer equalisation", best.psnr, found.psnr, kept)
        )
        if kept:
            return found
        self.model, self.ranges = before
        return best

    def _correct_biases(self, pictures: Pictures, panel: HeldOutSet, best: Agreement) -> None:
        plan = replace(self.plan, samples=CORRECTED_CROPS, seed=self.config.seed + 2)
        crops = plan.crops(pictures.calibration)
        self.report("correct the biases", 0, 1)
        self.corrections = bias_corrections(
            self.model,
            self.layers,
            self.ranges,
            self.form,
            (feeds_of(self.manifest, crop) for crop in crops),
            self.config.threads,
        )
        found = panel.compare(self._quantised(self.layers))
        kept = found.psnr >= best.psnr + LEAST_GAIN
        self.trials.append(CorrectionResult("bias correction", best.psnr, found.psnr, kept))
        if not kept:
            self.corrections = {}

    def _ranked(self, panel: HeldOutSet, work: MacCount) -> list[BlockLoss]:
        counts = {name: product.count for name, product in work.by_node.items()}
        total = len(blocks_of(self.layers))
        return rank_blocks(
            self.layers,
            self._quantised,
            panel,
            counts,
            work.total,
            self._counter("quantise each block alone", total),
        )

    def _chosen_blocks(self, panel: HeldOutSet, losses: list[BlockLoss]) -> Choice:
        return choose_blocks(
            self.layers,
            losses,
            self._quantised,
            panel,
            self.config.budget.holds,
            self._counter("choose blocks", len(losses)),
        )

    def _quantised(self, layers: Sequence[Layer]) -> ModelProto:
        model = with_corrections(self.model, layers, self.corrections)
        return quantised(model, layers, self.ranges, self.form)

    def _ranges(self, statistics: Statistics) -> dict[str, float]:
        codes = codes_of(self.config.type)
        return {
            name: activation_range(histogram, self.config.method, codes)
            for name, histogram in statistics.histograms.items()
        }

    def _counter(self, phase: str, total: int) -> Callable[[int, str], None]:
        """Turn steps since the last call into the number of steps that are done."""
        done = 0

        def advance(steps: int, note: str) -> None:
            nonlocal done
            done += steps
            self.report(f"{phase}: {note}" if note else phase, min(done, total), total)

        return advance


def work_of(model: ModelProto, manifest: Manifest, plan: CropPlan) -> MacCount:
    """Count multiply-adds at 128×128 and the largest scale that was calibrated.

    Args:
        model: A graph of the bundle.
        manifest: The bundle's.
        plan: The crops.
    """
    lr = (WORK_LR, WORK_LR)
    size = (output_size(WORK_LR, plan.scales[-1]), output_size(WORK_LR, plan.scales[-1]))
    shapes: dict[str, tuple[int, ...]] = {"input": (1, 3, *lr)}
    for latent in manifest.latents:
        shapes[latent.name] = (1, latent.channels, *latent.grid(size))
    values = {"geometry": Window.whole(lr, size).geometry()} if manifest.geometry else None
    return count_macs(model, shapes, values)


def _chosen(model: ModelProto, patterns: Sequence[str]) -> tuple[list[Layer], tuple[str, ...]]:
    """Layers that may be quantised, and blocks that a pattern excludes."""
    layers = layers_of(model)
    if not layers:
        raise UsageError("the fp32 graph has no weights that name the modules of a network")
    names = list(blocks_of(layers))
    excluded: set[str] = set()
    for pattern in patterns:
        try:
            found = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise UsageError(f"--exclude is no pattern: {pattern!r}: {error}") from error
        if not found:
            raise UsageError(
                f"--exclude must match a block, got {pattern!r}; blocks: {', '.join(names)}"
            )
        excluded |= found
    kept = [layer for layer in layers if layer.block not in excluded]
    if not kept:
        raise UsageError("--exclude leaves no block that could be quantised")
    return kept, tuple(name for name in names if name in excluded)


def _channel_axes(model: ModelProto, layers: Sequence[Layer]) -> Mapping[str, int]:
    """Axis of the channels of what equalisation looks at."""
    return {
        pair.after.input: 1 if pair.after.kind == "Conv" else 0
        for pair in pairs_of(model, layers)
    }
