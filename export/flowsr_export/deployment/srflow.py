"""Deployment of SRFlow and SRFlow-LP at the scale they were trained for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from flowsr_export.deployment.interface import Compilable, Deployment, LatentModules, Precision
from flowsr_export.deployment.tracing import example_of, is_fixed, side_of
from flowsr_export.deployment.traits import FAMILIES
from flowsr_export.graph.linf.window import without_products
from flowsr_export.graph.receptive_field import DENSE_BLOCK_RADIUS, unet_radius
from flowsr_export.graph.srflow.folding import levels_of
from flowsr_export.graph.srflow.latents import SrflowEncodeGraph, SrflowSampleGraph
from flowsr_export.graph.srflow.level import CHUNK
from flowsr_export.graph.srflow.network import SrflowGraph, SrflowPlainGraph, SrflowSampledGraph
from flowsr_export.inputs.cases import Case, cases_of, sample_pictures
from flowsr_export.onnx_graph.multiply_adds import count_macs
from flowsr_lp import SrflowLP
from flowsr_runtime.bundle.engine_key import Profile
from flowsr_runtime.bundle.manifest import Latent
from flowsr_runtime.errors import ScaleError
from flowsr_runtime.geometry import Halo
from flowsr_runtime.tiling.memory import DEFAULT_MEMORY_BUDGET

__all__ = ["SrflowDeployment"]

TRACED_LR = (20, 26)  # even, different, not multiples of eight
LONGEST_SIDE = 1 << 20
WORK_LR = 64  # side at which the multiply-adds are counted
LR_ALIGN = 16  # low-resolution pixels per cell of the prior's deepest level
# Halos to try, in low-resolution pixels, on a strip that is longer than any tile.
HALOS = (32, 48, 64, 96, 128)
SEAM_LR = (32, 384)
# Side of a tile's core, in low-resolution pixels, that the default memory budget holds.
KEPT = 96
ROUND_TRIP_LR = (24, 24)


class SrflowDeployment(Deployment):
    """An SRFlow network, with a learned prior or sampled."""

    family = "srflow-lp"
    half_share = FAMILIES["srflow-lp"].half_share
    max_abs = 5e-4
    multiple = 2

    def __init__(self, network: SrflowLP) -> None:
        """Deploy a network in evaluation mode."""
        self.network = network
        self.scale = Fraction(network.srflow.scale)
        self._every_latent = tuple(
            Latent(f"latent{i}", x.channels, x.patch)
            for i, x in enumerate(network.srflow.latents)
        )
        self.latents = () if network.prior else self._every_latent

    def islands(self, precision: Precision) -> list[str]:
        """Return flow and couplings."""
        return ["flow", "coupling"]

    def graph(self, dtype: torch.dtype, scale: Fraction | None) -> nn.Module:
        """Return the deployment module.

        Raises:
            ScaleError: If `scale` is not the scale of the network.
        """
        if scale not in (None, self.scale):
            raise ScaleError(
                f"scale must be {self.scale}, the only scale of this network, got {scale}",
                option="scale",
            )
        graph = SrflowGraph(self.network, dtype).eval()
        if self.latents:
            return SrflowSampledGraph(graph)
        return graph if scale is None else SrflowPlainGraph(graph)

    def latent_modules(self) -> LatentModules:
        """Return the encoding of a picture, and with a prior the decoding of any latents."""
        graph = SrflowGraph(self.network).eval()
        sample = None if graph.prior is None else SrflowSampleGraph(graph)
        encode = SrflowEncodeGraph(graph, self.network.srflow)
        return LatentModules(encode, sample, self._every_latent)

    def reference_encoding(
        self, rgb: Tensor, target: Tensor
    ) -> tuple[Sequence[Tensor], Tensor]:
        """Encode pictures of even low-resolution sides; a density for each picture."""
        srflow = self.network.srflow
        conditions = srflow.condition(rgb)
        density = srflow.log_likelihood(target, conditions)
        return srflow.encode(target, conditions), density[:, None]

    def predicted_latents(self, rgb: Tensor, size: tuple[int, int]) -> Sequence[Tensor]:
        """Return the prior's latents, the finest first."""
        latents: list[Tensor] = self.network(rgb).latents
        return latents

    def compilable(
        self,
        dtype: torch.dtype,
        scale: Fraction | None,
        profile: Profile,
        *,
        fuse: bool = False,
    ) -> Compilable:
        """Return the module for a size or a range, whose sides are even."""
        fixed = is_fixed(profile)
        if not fixed:
            # Inductor fails on the prior's positions if they follow from symbolic sides: of a
            # range they follow from `geometry`, which the session makes if it is no input.
            scale = None
        module = without_products(self.graph(dtype, scale))
        if fuse:  # imported here: PyTorch logs three lines where Triton is missing
            from flowsr_export.graph.srflow.fused import fused_couplings

            module = fused_couplings(module)
        example = example_of(profile, self.latents, geometry=self.takes_geometry(scale))
        if fixed:
            return Compilable(module, example)
        halves = [side_of(f"half_{'hw'[i]}", profile["input"], 2 + i, 2) for i in (0, 1)]
        return Compilable(module, example, self._sides(example, halves))

    def example(self, scale: Fraction | None) -> dict[str, Tensor]:
        """Return inputs to trace `graph` with."""
        size = self.padded_size(Case(TRACED_LR, TRACED_LR))
        named = {"input": torch.rand(2, 3, *TRACED_LR)}
        if self.takes_geometry(scale):
            named["geometry"] = torch.tensor([*TRACED_LR, *size, 0, 0, 0, 0, *size])
        for latent in self.latents:
            named[latent.name] = torch.randn(2, latent.channels, *latent.grid(size))
        return named

    def vary(self, example: dict[str, Tensor]) -> dict[str, Any]:
        """Return dynamic sides, all multiples of those of the coarsest latent."""
        batch, *halves = (
            Dim(name, min=1, max=LONGEST_SIDE) for name in ("batch", "half_h", "half_w")
        )
        sides = self._sides(example, halves)
        return {name: dims and {0: batch, **dims} for name, dims in sides.items()}

    def _sides(self, example: dict[str, Tensor], halves: Sequence[Any]) -> dict[str, Any]:
        """Return the dynamic sides of the example's inputs.

        Args:
            example: Inputs by name.
            halves: Half the image's height and width, None for a fixed side.
        """
        factors = {"input": 2}
        for latent in self.latents:
            factors[latent.name] = int(2 * self.network.srflow.scale / latent.patch)
        return {
            name: {
                2 + i: _times(half, factors[name])
                for i, half in enumerate(halves)
                if half is not None
            }
            if name in factors
            else None
            for name in example
        }

    def takes_geometry(self, scale: Fraction | None) -> bool:
        """Whether the graph takes tiles and has a prior, whose upsampling needs geometry."""
        return scale is None and not self.latents

    def whole_only(self, scale: Fraction | None) -> bool:
        """Whether the graph is fixed-scale with a prior; others take tiles."""
        return scale is not None and not self.latents

    def reference(
        self, rgb: Tensor, size: tuple[int, int], latents: Sequence[Tensor] | None
    ) -> Tensor:
        """Upscale in eager PyTorch."""
        output: Tensor = self.network(rgb, latents).output
        return output

    def published(self) -> Callable[[Tensor, tuple[int, int]], Tensor]:
        """Return the network in the published order of operations."""
        from flowsr_lp.srflow.published_order import PublishedSrflow

        srflow = PublishedSrflow(self.network)
        return lambda rgb, size: srflow(rgb)

    def exported_cases(self, scale: Fraction | None) -> list[Case]:
        """Return an even, an odd and a narrow size."""
        return self._cases([(16, 16), (17, 22), (9, 31)])

    def verify_cases(self, scale: Fraction | None) -> list[Case]:
        """Return sides from 1 to 160, odd and even, batches of one and three."""
        small = self._cases([(1, 1), (1, 19), (8, 8), (15, 20), (23, 37)])
        large = self._cases([(64, 48), (160, 8), (11, 160)])
        return [*small, *(Case(c.lr, c.size, 3) for c in small[-2:]), *large]

    def seam_cases(self) -> list[Case]:
        """Return a strip of a photograph, which is cheaper than a square."""
        return self._cases([SEAM_LR])

    def exact_halo(self) -> Halo:
        """Return an upper bound in low-resolution pixels, summed over all layers."""
        srflow, prior = self.network.srflow, self.network.prior
        levels = levels_of(srflow)
        # low-resolution pixels of a level's cell; the coarsest level's is 2
        cells = [2.0 / (1 << i) for i in reversed(range(len(levels)))]
        features = 2 + 3 * DENSE_BLOCK_RADIUS * len(srflow.RRDB.RRDB_trunk) + 3 * cells[-1] + 2
        # each coupling's two 3x3 convolutions, the split's one, and the cell itself
        flow = sum(
            (2 * len(level.couplings) + 2) * cell
            for level, cell in zip(levels, cells, strict=True)
        )
        pixels = features + flow
        if prior is not None:
            reach = DENSE_BLOCK_RADIUS + unet_radius(len(prior.branch(1).down_layers))
            pixels += flow + cells[-1] * reach + 1
        return self._halo(int(-(-pixels // LR_ALIGN)) * LR_ALIGN)

    def halos(self) -> list[Halo]:
        """Return fixed halos below the receptive field, then the whole receptive field."""
        exact = self.exact_halo()
        return [*(self._halo(n) for n in HALOS if n < exact.pixels), exact]

    def memory(self, weights: int, halo: Halo | None) -> dict[str, int]:
        """Return the model of the peak activation memory in bytes.

        The peak is at the finest level: the conditions of its couplings and the nets of one
        chunk. Measured with ONNX Runtime at 64x64 and 96x96, float32: 35 to 38 KB per pixel
        for 16 couplings of 64 hidden channels. The budget holds a tile that is not mostly halo.
        """
        level = levels_of(self.network.srflow)[0]
        hidden = len(level.couplings[0].own)
        kept = len(level.couplings) * (hidden + 2 * level.couplings[0].width)
        cells = (self.network.srflow.scale // 2) ** 2
        base, per_pixel = weights + (32 << 20), 4 * cells * (kept + 4 * CHUNK * hidden)
        memory = {"base_bytes": base, "bytes_per_pixel": per_pixel, "bytes_per_patch": 0}
        if halo is not None:
            budget = base + (2 * halo.pixels + KEPT) ** 2 * per_pixel
            memory["budget_bytes"] = max(DEFAULT_MEMORY_BUDGET, budget)
        return memory

    def work(self, model: onnx.ModelProto, scale: Fraction | None) -> dict[str, int]:
        """Count per low-resolution pixel."""
        case = Case((WORK_LR, WORK_LR), (0, 0))
        shapes: dict[str, tuple[int, ...]] = {"input": (1, 3, *case.lr)}
        for latent in self.latents:
            grid = latent.grid(self.padded_size(case))
            shapes[latent.name] = (1, latent.channels, *grid)
        feeds = self.feeds(case, scale)
        values = {"geometry": feeds["geometry"]} if "geometry" in feeds else None
        total = count_macs(model, shapes, values).total
        return {"per_lr_pixel": round(total / WORK_LR**2), "per_patch": 0}

    def condition_numbers(self) -> list[float]:
        """Return the condition number of each coupling's folded 1x1 map, finest level first."""
        return [
            float(torch.linalg.cond(coupling.forward[0].flatten(1)))
            for level in levels_of(self.network.srflow)
            for coupling in level.couplings
        ]

    def round_trip(self) -> float:
        """Return the relative error on a photograph."""
        srflow = self.network.srflow
        (case,) = self._cases([ROUND_TRIP_LR])
        low = torch.from_numpy(sample_pictures(case))
        high = torch.from_numpy(sample_pictures(Case(case.size, case.size)))
        with torch.inference_mode():
            conditions = srflow.condition(low)
            back = srflow.decode(srflow.encode(high, conditions), conditions)
        return float((back - high).abs().max() / high.abs().max())

    def _cases(self, sizes: list[tuple[int, int]]) -> list[Case]:
        return cases_of(sizes, [Fraction(self.network.srflow.scale)])

    def _halo(self, pixels: int) -> Halo:
        scale = self.network.srflow.scale
        patch = max(latent.patch for latent in self.network.srflow.latents)
        return Halo(patch, LR_ALIGN * scale, LR_ALIGN, 0, pixels, ratio=scale)


def _times(side: Dim, factor: int) -> Any:
    return side if factor == 1 else factor * side
