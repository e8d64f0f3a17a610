"""Candidates of a certificate: each graph on each provider, and the emulated half precision."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, cast

from numpy.typing import NDArray

from flowsr_export.certificate.cases import ADVERSARIAL, CertificateCase, Mode
from flowsr_export.deployment.interface import DTYPES, Deployment, Precision
from flowsr_export.onnx_graph.uint8_io import Uint8Session
from flowsr_export.parity.candidates import GPU_PROVIDERS, open_candidates
from flowsr_export.parity.compare import Tolerance, graph_output, tolerance_for
from flowsr_export.parity.half_emulation import HalfPrecisionEmulator
from flowsr_export.parity.reference import restated_scale
from flowsr_runtime import Bundle, MemoryBudgetError, Session, SessionSettings, Upscaler
from flowsr_runtime.backends.onnxruntime_session import PROVIDERS, present_providers
from flowsr_runtime.backends.session import AUTO
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.geometry import Halo
from flowsr_runtime.pictures.depth import to_depth
from flowsr_runtime.tiling.tiles import pieces_of
from flowsr_runtime.upscaling.upscaler import HaloName

__all__ = [
    "QUANTIZED",
    "Candidate",
    "certificate_candidates",
    "tiled_output",
    "whole_output",
]

# Tiles with their whole receptive field differ by float rounding only; 1 is full range.
EXACT_SEAM = 1e-5
ONE_STEP = 1
QUANTIZED = ("int8", "fp8")
EMULATED = "CPUs have no such products; PyTorch emulates the rounding of a GPU instead"
WHOLE_ONLY = "only the bundle's graphs run in tiles; the emulation runs whole images"
NOT_ON_A_GPU = "not measured: PyTorch emulates the rounding of a GPU, no GPU was used"


@dataclass(frozen=True)
class Candidate:
    """A graph on one backend and provider.

    Attributes:
        name: Name in tables.
        precision: Precision of the graph.
        file: ONNX file in the bundle, None for the network restated in PyTorch.
        bundle: Bundle as the runtime sees it.
        session: Session that runs the graph.
    """

    name: str
    precision: str
    file: str | None
    bundle: Bundle
    session: Session

    def modes(self, case: CertificateCase) -> tuple[Mode, ...]:
        """Return the comparisons of a case; tiles need a graph that the runtime runs."""
        return () if case.tiled and self.file is None else case.modes

    def tolerance_name(self, case: CertificateCase, mode: Mode) -> str:
        """Return the name of the tolerance of a comparison."""
        return f"{self.precision}, {mode}{', adversarial' * self._is_range_only(case)}"

    def tolerance(self, deployment: Deployment, case: CertificateCase, mode: Mode) -> Tolerance:
        """Return the tolerance of a comparison."""
        io = self.bundle.manifest.io
        if self._is_range_only(case):
            return Tolerance(in_range=True)
        tolerance = replace(tolerance_for(deployment, self.precision, io), in_range=True)
        if self.precision != "fp32" or mode in ("whole", "exact tiles"):
            return tolerance
        if mode == "tiles" or io == "uint8":
            return Tolerance(max_steps=ONE_STEP, in_range=True)
        return Tolerance(max_abs=EXACT_SEAM, in_range=True)

    def _is_range_only(self, case: CertificateCase) -> bool:
        """Return whether ranges calibrated on photographs meet an unnatural image."""
        return self.precision in QUANTIZED and case.picture in ADVERSARIAL


def certificate_candidates(
    bundle: Bundle,
    deployment: Deployment,
    settings: SessionSettings,
    precisions: Sequence[str],
    stack: ExitStack,
) -> tuple[list[Candidate], dict[str, str]]:
    """Open everything that a certificate compares with PyTorch.

    Args:
        bundle: The bundle.
        deployment: Network of the bundle.
        settings: As for `open_candidates`.
        precisions: Precisions to compare.
        stack: Closes the sessions.

    Returns:
        The candidates, and by name the reason why others are not compared.

    Raises:
        ProviderError: If the chosen provider, or the CPU, does not start.
        BundleError: If a graph cannot be loaded.
    """
    present = [name for name in precisions if name in bundle.precisions]
    sessions, not_compared = open_candidates(bundle, settings, present, stack, _unsupported)
    candidates = []
    for one, session in sessions.items():
        name = f"{session.backend} {session.provider} {one.precision}"
        file = bundle.model_name(one.precision)
        candidates.append(Candidate(name, one.precision, file, bundle, session))
    candidates += _emulated(bundle, deployment, precisions)
    return candidates, {**not_compared, **_never_compared(settings, candidates)}


def whole_output(
    deployment: Deployment,
    candidate: Candidate,
    case: CertificateCase,
    feeds: dict[str, NDArray[Any]],
) -> NDArray[Any]:
    """Upscale the images of a case at once.

    Returns:
        (B, 3, H, W), float32 or eight bits.

    Raises:
        ParityError: If the output has a wrong size or type.
    """
    uint8_io = candidate.bundle.manifest.io == "uint8"
    run = Uint8Session(candidate.session) if uint8_io else candidate.session
    return graph_output(deployment, run, case.sizes, feeds)


def tiled_output(
    candidate: Candidate,
    case: CertificateCase,
    rgb: NDArray[Any],
    temperature: float | None,
    halo: HaloName,
) -> tuple[NDArray[Any], int]:
    """Upscale the image of a case in tiles, as the runtime does.

    Args:
        candidate: The candidate.
        case: A case with one image.
        rgb: The image, (1, 3, h, w) in [0, 1].
        temperature: Standard deviation of the latents, None with a learned prior.
        halo: Overlap of the tiles.

    Returns:
        (1, 3, H, W), float32 and unclamped or eight bits, and the number of tiles.

    Raises:
        MemoryBudgetError: If the image is too small to be cut.
        NonFiniteError: If the model gives NaN or infinity.
    """
    image = rgb[0].transpose(1, 2, 0)
    uint8_io = candidate.bundle.manifest.io == "uint8"
    upscaler, tiles = _tiling_upscaler(candidate, case, halo)
    output = upscaler.upscale(
        to_depth(image, 8) if uint8_io else image,
        size=case.sizes.size,
        clamp=uint8_io,
        seed=case.seed,
        temperature=temperature,
        warn=lambda line: None,  # values out of range are counted elsewhere
    )
    return output.transpose(2, 0, 1)[None], tiles


def _tiling_upscaler(
    candidate: Candidate, case: CertificateCase, name: HaloName
) -> tuple[Upscaler, int]:
    """Open the runtime with a memory budget that makes it cut the image."""
    tiling = candidate.bundle.manifest.tiling
    halo = tiling.exact if name == "exact" else tiling.halo
    budget = _budget(candidate.bundle.manifest, case, halo)
    upscaler = Upscaler(candidate.bundle, candidate.session, memory_budget=budget, halo=name)
    tiles = len(upscaler.plan(case.sizes.lr, size=case.sizes.size))
    if tiles == 1:
        raise MemoryBudgetError(f"tiles were not checked: {case} is one tile of {budget} bytes")
    return upscaler, tiles


def _budget(manifest: Manifest, case: CertificateCase, halo: Halo) -> int:
    """Return the bytes that a quarter of the image and its halo need."""
    sides = []
    for source, target in zip(case.sizes.lr, case.sizes.size, strict=True):
        count = min(2, -(-target // halo.align))
        pieces = pieces_of(source, target, count=count, halo=halo, fade=halo.align)
        extents = [piece.extent for piece in pieces]
        patches = max(-(-extent.out_size // halo.patch) for extent in extents)
        sides.append((max(extent.lr_size for extent in extents), patches))
    (h, rows), (w, columns) = sides
    return manifest.memory.estimate(h * w, rows * columns)


def _unsupported(settings: SessionSettings) -> str | None:
    on_cpu = (settings.precision, settings.provider) == ("bf16", "cpu")
    return EMULATED if on_cpu else None


def _emulated(
    bundle: Bundle, deployment: Deployment, precisions: Sequence[str]
) -> list[Candidate]:
    """Return the network with emulated rounding to each half precision."""
    bare = Bundle(bundle.path, replace(bundle.manifest, io="float32"))
    scale = restated_scale(bundle, deployment)
    halves = [cast("Precision", one) for one in precisions if one in DTYPES and one != "fp32"]
    graphs = {name: HalfPrecisionEmulator(deployment, name, scale) for name in halves}
    return [Candidate(run.backend, name, None, bare, run) for name, run in graphs.items()]


def _never_compared(
    settings: SessionSettings, candidates: Sequence[Candidate]
) -> dict[str, str]:
    """Return the reasons why something is not compared with any candidate."""
    not_compared = {}
    if any(candidate.file is None for candidate in candidates):
        not_compared["tiles in emulated half precision"] = WHOLE_ONLY
    if not any(candidate.session.provider in GPU_PROVIDERS for candidate in candidates):
        not_compared["half precision on a GPU"] = NOT_ON_A_GPU
    if settings.backend in (AUTO, "onnxruntime"):
        not_compared["TensorRT engines"] = "backend tensorrt compares them, on their GPU"
        if settings.provider is None:
            for name in sorted(set(PROVIDERS) - set(present_providers())):
                not_compared[f"onnxruntime {name}"] = "not in the installed onnxruntime"
    if settings.provider is not None:
        not_compared["other providers"] = f"provider {settings.provider} was chosen"
    return not_compared
