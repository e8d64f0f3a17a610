"""Deployment of LINF and LINF-LP, for any scale or one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from flowsr_export.deployment.interface import (
    Compilable,
    Deployment,
    LatentModules,
    Precision,
    StageModules,
)
from flowsr_export.deployment.tracing import example_of, is_fixed, side_of
from flowsr_export.deployment.traits import FAMILIES
from flowsr_export.graph.folding import condition_numbers
from flowsr_export.graph.linf.latents import LinfEncodeGraph, LinfSampleGraph
from flowsr_export.graph.linf.network import LinfFixedGraph, LinfGraph
from flowsr_export.graph.linf.stages import (
    BRANCH,
    TABLES,
    LinfFeaturesGraph,
    LinfQueryGraph,
)
from flowsr_export.graph.linf.window import LinfGridGraph, LinfWindowGraph, without_products
from flowsr_export.graph.receptive_field import DENSE_BLOCK_RADIUS, encoder_radius, prior_radius
from flowsr_export.inputs.cases import Case, Scale, cases_of, sample_pictures
from flowsr_export.onnx_graph.multiply_adds import count_macs, per_pixel_and_patch
from flowsr_lp import LinfLP
from flowsr_lp.linf.encoder import SwinIR
from flowsr_lp.linf.model import low_frequency_residual, resize
from flowsr_lp.linf.swinir import WINDOW
from flowsr_runtime import output_size
from flowsr_runtime.bundle.engine_key import GRID, Profile, Range
from flowsr_runtime.bundle.manifest import Latent
from flowsr_runtime.geometry import Halo

__all__ = ["LinfDeployment"]

# Sizes to trace with: odd and even, at a scale that is not an integer and differs per axis, so
# that the exporter takes none of them for a constant.
TRACED_LR = (20, 25)
TRACED_SIZE = (61, 77)
WORK_LR = 64  # side at which the multiply-adds of a fixed-scale graph are counted
LR_ALIGN = 3  # stride of the prior's convolution on the image
# Bytes that attention holds for a low-resolution pixel and channel: the tokens, normalized and
# not, queries, keys and values, their windows, and the perceptron's hidden layer.
TOKENS_HELD = 4 * 9
# Shares of the whole receptive field to try as halos, the cheapest first.
SHARES = (0.25, 0.375, 0.5, 0.75, 1.0)
SEAM_LR = 96  # low-resolution side of the photograph on which seams are measured
WIDE_SEAM_LR = 144  # the same for encoders that see farther than a tile of it
SEAM_SCALES = (2, 4)
# Not an odd multiple: there the low-frequency residual is zero.
ROUND_TRIP = Case((24, 24), (96, 96))


class LinfDeployment(Deployment):
    """A LINF network, with a learned prior or sampled."""

    family = "linf-lp"
    half_share = FAMILIES["linf-lp"].half_share
    max_abs = 1e-4

    def __init__(self, network: LinfLP) -> None:
        """Deploy a network in evaluation mode."""
        self.network = network
        linf = network.linf
        self.latents = () if network.prior else (Latent("latent", linf.width, linf.patch_size),)

    def islands(self, precision: Precision) -> list[str]:
        """Return geometry, phase, resizing and sum, in bfloat16 the flow too."""
        names = ["geometry", "phase", "resizing", "sum"]
        return [*names, "flow"] if precision == "bf16" else names

    def graph(self, dtype: torch.dtype, scale: Fraction | None) -> nn.Module:
        """Return the deployment module."""
        graph = LinfGraph(self.network, dtype).eval()
        return graph if scale is None else LinfFixedGraph(graph, scale)

    def stages(self, dtype: torch.dtype) -> StageModules:
        """Return encoder and tables apart from what a scale costs."""
        graph = LinfGraph(self.network, dtype).eval()
        table: tuple[str | None, ...] = ("batch", "h", "w", None)
        axes = dict.fromkeys(TABLES, table)
        if graph.prior is not None:
            axes[BRANCH] = ("batch", None, "h_third", "w_third")
        return StageModules(LinfFeaturesGraph(graph), LinfQueryGraph(graph), axes)

    def latent_modules(self) -> LatentModules:
        """Return the encoding of a picture, and with a prior the decoding of any latent."""
        linf = self.network.linf
        graph = LinfGraph(self.network).eval()
        sample = None if graph.prior is None else LinfSampleGraph(graph)
        latent = Latent("latent", linf.width, linf.patch_size)
        return LatentModules(LinfEncodeGraph(graph, linf), sample, (latent,))

    def reference_encoding(
        self, rgb: Tensor, target: Tensor
    ) -> tuple[Sequence[Tensor], Tensor]:
        """Encode the difference from the interpolated image; a density for each patch."""
        linf, size = self.network.linf, (target.shape[2], target.shape[3])
        x = rgb * 2 - 1
        residual = target * 2 - 1 - resize(x, size)
        c = linf.condition(x, size, "extend")
        density = linf.log_likelihood(residual, c)
        return [linf.encode(residual, c)], density.reshape(len(rgb), -1)

    def predicted_latents(self, rgb: Tensor, size: tuple[int, int]) -> Sequence[Tensor]:
        """Return the prior's one latent."""
        return [self.network(rgb, size).latent]

    def compilable(
        self,
        dtype: torch.dtype,
        scale: Fraction | None,
        profile: Profile,
        *,
        fuse: bool = False,
    ) -> Compilable:
        """Return the module for a window, a range of windows, or whole images at a scale."""
        graph = without_products(LinfGraph(self.network, dtype).eval())
        if fuse:  # imported here: PyTorch logs three lines where Triton is missing
            from flowsr_export.graph.linf.fused import fused

            graph = fused(graph)
        fixed = is_fixed(profile)
        if scale is not None and fixed:
            example = example_of(profile, self.latents, geometry=False)
            return Compilable(LinfFixedGraph(graph, scale), example)
        # Of a range at one scale the session makes the geometry, which is no part of the graph.
        bounds = profile["geometry"] if scale is None else _whole(profile["input"], scale)
        profile = {**profile, "geometry": bounds}
        example = example_of(profile, self.latents, geometry=True)
        if fixed:
            return Compilable(LinfWindowGraph(graph, (bounds.opt[8], bounds.opt[9])), example)
        grid = _grid_ranges(bounds, graph.patch)
        lengths = [torch.zeros(item.opt, dtype=torch.uint8) for item in grid.values()]
        example |= dict(zip(grid, lengths, strict=True))
        sides = [side_of(name, item, 0) for name, item in grid.items()]
        dims: dict[str, Any] = {"geometry": None, **_input_sides(profile)}
        dims |= {name: _sides({0: side}) for name, side in zip(grid, sides, strict=True)}
        for latent in self.latents:
            dims[latent.name] = _sides({2 + i: side for i, side in enumerate(sides)})
        order = ["input", "geometry", *grid, *(latent.name for latent in self.latents)]
        return Compilable(
            LinfGridGraph(graph),
            {name: example[name] for name in order},
            {name: dims[name] for name in order},
        )

    def manifest_fields(self, scale: Fraction | None) -> dict[str, Any]:
        """Add the rule for patches beyond the edge (spec/linf.md "Borders") and the guard."""
        fields = {**super().manifest_fields(scale), "border": "extend"}
        return {**fields, "guard": True} if self.network.linf.guard else fields

    def example(self, scale: Fraction | None) -> dict[str, Tensor]:
        """Return inputs to trace `graph` with."""
        size = TRACED_SIZE
        if scale is not None:
            size = (output_size(TRACED_LR[0], scale), output_size(TRACED_LR[1], scale))
        named = {"input": torch.rand(2, 3, *TRACED_LR)}
        if scale is None:
            named["geometry"] = torch.tensor([*TRACED_LR, *size, 0, 0, 0, 0, *size])
        for latent in self.latents:
            named[latent.name] = torch.randn(2, latent.channels, *latent.grid(size))
        return named

    def takes_geometry(self, scale: Fraction | None) -> bool:
        """Whether `scale` is None: only the any-scale graph takes geometry."""
        return scale is None

    def whole_only(self, scale: Fraction | None) -> bool:
        """Whether `scale` is set: only fixed-scale graphs are limited to whole images."""
        return scale is not None

    def reference(
        self, rgb: Tensor, size: tuple[int, int], latents: Sequence[Tensor] | None
    ) -> Tensor:
        """Upscale in eager PyTorch."""
        output: Tensor = self.network(rgb, size, latents[0] if latents else None).output
        return output

    def published(self) -> Callable[[Tensor, tuple[int, int]], Tensor]:
        """Return the network in the published order of operations."""
        from flowsr_lp.linf.published_order import PublishedOrder

        return PublishedOrder(self.network)

    def set_guard(self, guard: bool | None) -> None:
        """Turn the guard on or off; None keeps it."""
        if guard is not None:
            self.network.linf.guard = guard

    def exported_cases(self, scale: Fraction | None) -> list[Case]:
        """Return three sizes at one scale or two."""
        scales: list[Scale] = [scale] if scale else [Fraction("1.3"), Fraction(4)]
        return cases_of([(24, 24), (17, 30), (9, 1)], scales)

    def verify_cases(self, scale: Fraction | None) -> list[Case]:
        """Return sides from 1 to 256, scales to 12, batches of one and three."""
        texts = ("1.3", "2", "3", "4", "8", "12")
        scales: list[Scale] = [Fraction(text) for text in texts]
        scales.insert(2, (Fraction("2.7"), Fraction("3.6")))
        sizes = [(1, 1), (1, 19), (31, 1), (16, 24), (23, 37)]
        small = cases_of(sizes, [scale] if scale else scales)
        large = cases_of([(96, 128), (256, 1), (5, 256)], [scale or Fraction(2)])
        return [*small, *(Case(c.lr, c.size, 3) for c in small[-2:]), *large]

    def seam_cases(self) -> list[Case]:
        """Return one photograph at two scales."""
        wide = encoder_radius(self.network.linf.encoder) > SEAM_LR
        side = WIDE_SEAM_LR if wide else SEAM_LR
        return cases_of([(side, side)], [Fraction(scale) for scale in SEAM_SCALES])

    def exact_halo(self) -> Halo:
        """Return the prior's reach in patches and the encoder's in low-resolution pixels."""
        patch, prior = self.network.linf.patch_size, self.network.prior
        # one pixel for the feature convolution, one for the low pass of the residual
        encoder = self.network.linf.encoder
        pixels = encoder_radius(encoder) + 2
        lr_align = math.lcm(LR_ALIGN, WINDOW) if isinstance(encoder, SwinIR) else LR_ALIGN
        if prior is None:
            return Halo(patch, patch, lr_align, 0, pixels)
        # The prior's image branch: a dense block, then interpolation at a third of the size.
        pixels = max(pixels, LR_ALIGN * (DENSE_BLOCK_RADIUS + 2) + 1)
        return Halo(patch, patch * prior.reduction, lr_align, prior_radius(prior), pixels)

    def halos(self) -> list[Halo]:
        """Return shares of the whole receptive field."""
        exact = self.exact_halo()
        return [_part(exact, share) for share in SHARES]

    def memory(self, weights: int, halo: Halo | None) -> dict[str, int]:
        """Return the model of the peak activation memory in bytes.

        The peak is at the Fourier features. Per patch it holds 8 times the hidden width (four
        neighbours, cosine and sine) and the flow's factors and shifts, plus a fifth; per
        low-resolution pixel the feature tables. It was checked against measured peaks of ONNX
        Runtime: at 128x128 and ×4, 4.6 KB per patch for 96 hidden channels and 324 outputs,
        9.7 KB for 256 and 540.
        """
        linf = self.network.linf
        hidden, features = linf.coef.out_channels, linf.coef.in_channels
        flow = 2 * linf.flow_layers * linf.width
        pixel = 4 * 2 * (hidden + features)
        if isinstance(linf.encoder, SwinIR):
            scores = 4 * 2 * WINDOW**2 * linf.encoder.num_heads
            pixel = max(pixel, scores + TOKENS_HELD * linf.encoder.embed_dim)
        return {
            "base_bytes": weights + (16 << 20),
            "bytes_per_pixel": pixel,
            "bytes_per_patch": round(1.2 * 4 * (8 * hidden + flow)),
        }

    def work(self, model: onnx.ModelProto, scale: Fraction | None) -> dict[str, int]:
        """Count per low-resolution pixel and per patch; at a fixed scale all per pixel."""
        if scale is None:
            encoder, size = self.network.linf.encoder, self.network.linf.patch_size
            if isinstance(encoder, SwinIR):
                pixel, patch = per_pixel_and_patch(model, size, continued=1)
                # Scores and their sums are products of results, which are not in the fit.
                pixel += 2 * WINDOW**2 * encoder.embed_dim * sum(encoder.depths)
            else:
                pixel, patch = per_pixel_and_patch(model, size)
            return {"per_lr_pixel": round(pixel), "per_patch": round(patch)}
        shapes: dict[str, tuple[int, ...]] = {"input": (1, 3, WORK_LR, WORK_LR)}
        side = output_size(WORK_LR, scale)
        for latent in self.latents:
            shapes[latent.name] = (1, latent.channels, *latent.grid((side, side)))
        total = count_macs(model, shapes).total
        return {"per_lr_pixel": round(total / WORK_LR**2), "per_patch": 0}

    def condition_numbers(self) -> list[float]:
        """Return the condition number of each layer's map in order."""
        return condition_numbers(self.network.linf.imnet)

    def round_trip(self) -> float:
        """Return the relative error on the residual of a photograph."""
        linf, size = self.network.linf, ROUND_TRIP.size
        x = (torch.from_numpy(sample_pictures(ROUND_TRIP)) - 0.5) / 0.5
        with torch.inference_mode():
            residual = low_frequency_residual(x, size)
            c = linf.condition(x, size, "extend")
            back = linf.decode(linf.encode(residual, c), c, size)
        return float((back - residual).abs().max() / residual.abs().max())


def _whole(images: Range, scale: Fraction) -> Range:
    """Return the range of `geometry` for whole images at a scale."""
    sizes = (images.min[2:], images.opt[2:], images.max[2:])
    pairs = [(lr, tuple(output_size(n, scale) for n in lr)) for lr in sizes]
    return Range(*((*lr, *size, 0, 0, 0, 0, *size) for lr, size in pairs))


def _grid_ranges(bounds: Range, patch: int) -> dict[str, Range]:
    """Return the ranges of the window's rows and columns of patches."""
    counts = {
        name: [-(-side[8 + i] // patch) for side in (bounds.min, bounds.opt, bounds.max)]
        for i, name in enumerate(GRID)
    }
    return {name: Range(*((count,) for count in three)) for name, three in counts.items()}


def _input_sides(profile: Profile) -> dict[str, Any]:
    """Return the dynamic sides of the image."""
    return {"input": _sides({i: side_of("hw"[i - 2], profile["input"], i) for i in (2, 3)})}


def _sides(dims: dict[int, Any]) -> dict[int, Any]:
    """Return the dimensions that are not fixed."""
    return {index: dim for index, dim in dims.items() if dim is not None}


def _part(exact: Halo, share: float) -> Halo:
    patches, pixels = (min(n, max(1, round(n * share))) for n in (exact.patches, exact.pixels))
    return Halo(exact.patch, exact.align, exact.lr_align, patches, pixels)
