"""What a certificate is about: each graph of a bundle on each provider, and its rounding."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any, cast

from numpy.typing import NDArray

from flowsr_export.certificate.cases import ADVERSARIAL, CertificateCase, Mode
from flowsr_export.deployment.interface import DTYPES, Deployment, Precision
from flowsr_export.onnx_graph.uint8_io import Uint8Session
from flowsr_export.parity.compare import Tolerance, graph_output, tolerance_for
from flowsr_export.parity.half_emulation import HalfPrecisionEmulator
from flowsr_export.parity.reference import restated_scale
from flowsr_export.parity.verify import GPU_PROVIDERS
from flowsr_runtime import (
    Bundle,
    MemoryBudgetError,
    ProviderError,
    Session,
    SessionSettings,
    Upscaler,
)
from flowsr_runtime.backends.onnxruntime_session import PROVIDERS, present_providers
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.geometry import Halo
from flowsr_runtime.tiling.tiles import pieces_of
from flowsr_runtime.upscaling.upscaler import HaloName

__all__ = ["Candidate", "precisions_of", "subjects_of", "tiled_output", "whole_output"]

# Tiles with their whole receptive field differ by float rounding alone, 1 is full range.
EXACT_SEAM = 1e-5
ONE_STEP = 1
QUANTISED = ("int8", "fp8")
ROUNDED_HERE = "a CPU has no such products; PyTorch rounds as a GPU does in its place"
WHOLE_ALONE = "only the bundle's graphs run in tiles; PyTorch's rounding is of whole pictures"
NOT_ON_A_GPU = (
    "not measured: this is the rounding that a GPU has, in PyTorch, not what a GPU gives"
)


@dataclass(frozen=True)
class Candidate:
    """A graph on what computes it.

    Attributes:
        name: As tables name it.
        precision: Of the graph.
        file: Its ONNX file in the bundle, None for the network restated in PyTorch.
        bundle: What the runtime is told of the graph.
        session: Runs it.
    """

    name: str
    precision: str
    file: str | None
    bundle: Bundle
    session: Session

    def kinds(self, trial: CertificateCase) -> tuple[Mode, ...]:
        """What is compared of a trial: tiles are the runtime's, and need a graph of it."""
        return () if trial.tiled and self.file is None else trial.kinds

    def bar_name(self, trial: CertificateCase, kind: Mode) -> str:
        """Name the bar of a comparison."""
        return f"{self.precision}, {kind}{', harsh' * self._is_beyond(trial)}"

    def bar(self, deployment: Deployment, trial: CertificateCase, kind: Mode) -> Tolerance:
        """Largest difference that is accepted of a comparison."""
        io = self.bundle.manifest.io
        if self._is_beyond(trial):
            return Tolerance(in_range=True)
        bar = replace(tolerance_for(deployment, self.precision, io), in_range=True)
        if self.precision != "fp32" or kind in ("whole", "exact tiles"):
            return bar
        if kind == "tiles" or io == "uint8":
            return Tolerance(max_steps=ONE_STEP, in_range=True)
        return Tolerance(max_abs=EXACT_SEAM, in_range=True)

    def _is_beyond(self, trial: CertificateCase) -> bool:
        """Whether eight-bit ranges, which photographs gave, meet a picture like none."""
        return self.precision in QUANTISED and trial.picture in ADVERSARIAL


def precisions_of(bundle: Bundle) -> list[str]:
    """Precisions of a bundle's graphs, in the order of its manifest."""
    files = bundle.manifest.files.items()
    models = (entry.precision for name, entry in files if name.endswith(".onnx"))
    return list(dict.fromkeys(precision for precision in models if precision is not None))


def subjects_of(
    bundle: Bundle,
    deployment: Deployment,
    settings: SessionSettings,
    precisions: Sequence[str],
    stack: ExitStack,
) -> tuple[list[Candidate], dict[str, str]]:
    """Open everything that a certificate compares with PyTorch.

    Args:
        bundle: The bundle.
        deployment: Its network.
        settings: Backend, provider, device and threads; no provider stands for each of ONNX
            Runtime's that starts.
        precisions: Those to compare.
        stack: Closes the sessions.

    Returns:
        The subjects, and by name what was not compared and why.

    Raises:
        ProviderError: If a provider that was asked for, or the CPU, does not start.
        BundleError: If a graph cannot be loaded.
    """
    several = settings.provider is None and settings.backend == "onnxruntime"
    subjects: list[Candidate] = []
    left_out: dict[str, str] = {}
    for precision in (name for name in precisions if name in precisions_of(bundle)):
        for provider in present_providers() if several else [settings.provider]:
            device = settings.device if not several or provider in GPU_PROVIDERS else 0
            requested = replace(settings, provider=provider, device=device, precision=precision)
            label = f"{settings.backend} {provider or 'cuda'} {precision}"
            if precision == "bf16" and provider == "cpu":
                left_out[label] = ROUNDED_HERE
                continue
            try:
                session = stack.enter_context(closing(requested.open(bundle)))
            except ProviderError as error:
                if not several or provider == "cpu":
                    raise
                left_out[label] = str(error)
                continue
            name = f"{session.backend} {session.provider} {precision}"
            file = bundle.model_name(precision)
            subjects.append(Candidate(name, precision, file, bundle, session))
    subjects += _rounded(bundle, deployment, precisions)
    return subjects, {**left_out, **_never_compared(settings, several, subjects)}


def whole_output(
    deployment: Deployment,
    subject: Candidate,
    trial: CertificateCase,
    feeds: dict[str, NDArray[Any]],
) -> NDArray[Any]:
    """Enlarge a trial's pictures at once.

    Returns:
        (B, 3, H, W), float32 or eight bits.

    Raises:
        ParityError: If the output has another size or type than is due.
    """
    eight_bit = subject.bundle.manifest.io == "uint8"
    run = Uint8Session(subject.session) if eight_bit else subject.session
    return graph_output(deployment, run, trial.case, feeds)


def tiled_output(
    subject: Candidate,
    trial: CertificateCase,
    rgb: NDArray[Any],
    halo: HaloName,
    temperature: float | None,
) -> tuple[NDArray[Any], int]:
    """Enlarge a trial's picture in tiles, as a program does.

    Args:
        subject: What enlarges it.
        trial: The trial; one picture.
        rgb: The picture, (1, 3, h, w) in [0, 1].
        halo: Which halo.
        temperature: Of the latents, None with a learned prior.

    Returns:
        (1, 3, H, W), float32 and unclamped or eight bits, and the number of tiles.

    Raises:
        MemoryBudgetError: If the picture is too small to be cut.
        NonFiniteError: If the model gives NaN or infinity.
    """
    image = rgb[0].transpose(1, 2, 0)
    eight_bit = subject.bundle.manifest.io == "uint8"
    if eight_bit:
        image = (image * 255).round().astype("uint8")
    upscaler, tiles = _cutting(subject, trial, halo)
    output = upscaler.upscale(
        image,
        size=trial.case.size,
        clamp=eight_bit,
        seed=trial.seed,
        temperature=temperature,
        warn=lambda line: None,  # the figures hold what exploded
    )
    return output.transpose(2, 0, 1)[None], tiles


def _cutting(
    subject: Candidate, trial: CertificateCase, name: HaloName
) -> tuple[Upscaler, int]:
    """Open the runtime with a memory budget that makes it cut the picture."""
    tiling = subject.bundle.manifest.tiling
    halo = tiling.exact if name == "exact" else tiling.halo
    budget = _budget(subject.bundle.manifest, trial, halo)
    upscaler = Upscaler(subject.bundle, subject.session, memory_budget=budget, halo=name)
    tiles = len(upscaler.plan(trial.case.lr, size=trial.case.size))
    if tiles == 1:
        raise MemoryBudgetError(
            f"tiles were not checked: {trial} is one tile of {budget} bytes"
        )
    return upscaler, tiles


def _budget(manifest: Manifest, trial: CertificateCase, halo: Halo) -> int:
    """Bytes that hold a quarter of the picture and its halo."""
    sides = []
    for source, target in zip(trial.case.lr, trial.case.size, strict=True):
        count = min(2, -(-target // halo.align))
        pieces = pieces_of(source, target, count=count, halo=halo, fade=halo.align)
        extents = [piece.extent for piece in pieces]
        patches = max(-(-extent.out_size // halo.patch) for extent in extents)
        sides.append((max(extent.lr_size for extent in extents), patches))
    (h, rows), (w, columns) = sides
    return manifest.memory.estimate(h * w, rows * columns)


def _rounded(
    bundle: Bundle, deployment: Deployment, precisions: Sequence[str]
) -> list[Candidate]:
    """The network rounded to half: to float16 in any case, to bfloat16 if the bundle is."""
    manifest = replace(bundle.manifest, io="float32")
    scale = restated_scale(bundle, deployment)
    subjects = []
    for name in (name for name in precisions if name in DTYPES and name != "fp32"):
        graph = HalfPrecisionEmulator(deployment, cast("Precision", name), scale)
        bare = Bundle(bundle.path, manifest)
        subjects.append(Candidate(graph.backend, name, None, bare, graph))
    return subjects


def _never_compared(
    settings: SessionSettings, several: bool, subjects: Sequence[Candidate]
) -> dict[str, str]:
    """Say what no subject of this certificate shows."""
    left_out = {}
    if any(subject.file is None for subject in subjects):
        left_out["tiles of rounded graphs"] = WHOLE_ALONE
    on_gpu = any(s.session.provider in GPU_PROVIDERS for s in subjects)
    if not on_gpu:
        left_out["half precision on a GPU"] = NOT_ON_A_GPU
    if settings.backend == "onnxruntime":
        left_out["TensorRT engines"] = "--backend tensorrt compares them, on their GPU"
        absent = set(PROVIDERS) - set(present_providers())
        for name in (name for name in PROVIDERS if several and name in absent):
            left_out[f"onnxruntime {name}"] = "not in the installed onnxruntime"
    if settings.provider is not None:
        left_out["other providers"] = f"--provider {settings.provider} was asked for"
    return left_out
