"""The light runtime of flowsr-lp: run a bundle without PyTorch."""

from flowsr_runtime.backends.contract import Session
from flowsr_runtime.backends.session import Choice, SessionSettings, open_session
from flowsr_runtime.bundle.directory import Bundle, embedded_bundle, write_bundle
from flowsr_runtime.errors import (
    BackendError,
    BundleError,
    BusyError,
    CancelledError,
    CheckpointError,
    FlowsrError,
    InputError,
    IntegrityError,
    LintError,
    MemoryBudgetError,
    NonFiniteError,
    OutputError,
    ParityError,
    PictureError,
    ProviderError,
    ScaleError,
    ShapeError,
    UsageError,
)
from flowsr_runtime.geometry import Window, output_size
from flowsr_runtime.installation import __version__
from flowsr_runtime.pictures.files import (
    Metadata,
    Picture,
    check_output,
    encode_picture,
    read_picture,
    write_picture,
)
from flowsr_runtime.upscaling.async_upscaler import AsyncUpscaler
from flowsr_runtime.upscaling.latents import (
    EncodedPicture,
    LatentCoder,
    blend_latents,
    latents_bytes,
    load_latents,
)
from flowsr_runtime.upscaling.pool import PendingPicture, UpscalerPool
from flowsr_runtime.upscaling.upscaler import Upscaler

__all__ = [
    "Upscaler",
    "Bundle",
    "embedded_bundle",
    "write_bundle",
    "UpscalerPool",
    "PendingPicture",
    "AsyncUpscaler",
    "LatentCoder",
    "EncodedPicture",
    "blend_latents",
    "latents_bytes",
    "load_latents",
    "Picture",
    "Metadata",
    "check_output",
    "encode_picture",
    "read_picture",
    "write_picture",
    "Choice",
    "Session",
    "SessionSettings",
    "open_session",
    "Window",
    "output_size",
    "__version__",
    "FlowsrError",
    "BackendError",
    "BundleError",
    "BusyError",
    "CancelledError",
    "CheckpointError",
    "InputError",
    "IntegrityError",
    "LintError",
    "MemoryBudgetError",
    "NonFiniteError",
    "OutputError",
    "ParityError",
    "PictureError",
    "ProviderError",
    "ScaleError",
    "ShapeError",
    "UsageError",
]
