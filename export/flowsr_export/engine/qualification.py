"""Run an engine before it is stored: every profile's shapes and the golden pair."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flowsr_export.engine.library import Library
from flowsr_export.inputs.cases import TEMPERATURE, Case, sample_pictures
from flowsr_runtime import Bundle
from flowsr_runtime.backends.self_test import GoldenPair
from flowsr_runtime.bundle.engine_store import EngineEntry, EngineKey, LoadTarget, Profile
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.errors import FlowsrError, MemoryBudgetError, ParityError
from flowsr_runtime.geometry import Window
from flowsr_runtime.pictures.depth import to_depth
from flowsr_runtime.pictures.pixels import full_range, padded, planes
from flowsr_runtime.tiling.graph_inputs import graph_inputs

if TYPE_CHECKING:
    from flowsr_runtime.backends.engines.inductor_engine import InductorEngine
    from flowsr_runtime.backends.engines.tensorrt_engine import TensorrtEngine
    from flowsr_runtime.cuda.device import Device

__all__ = ["bound_feeds", "loads_here", "open_engine", "qualify"]

OUTPUT = "output"
BOUNDS = ("min", "opt", "max")
# Largest difference of eight-bit images from the golden output, as a value near a half may be
# rounded either way; the least PSNR of precisions other than float32.
EIGHT_BIT_STEP = 1.001 / 255
LEAST_PSNR = {"fp16": 50.0, "bf16": 50.0, "int8": 38.0, "fp8": 38.0}

Feeds = dict[str, NDArray[Any]]
Engine: TypeAlias = "TensorrtEngine | InductorEngine"


def loads_here(key: EngineKey, library: Library, device: Device | None) -> bool:
    """Return whether a GPU of this machine can load an engine.

    Args:
        key: Key of the engine.
        library: Library that built it.
        device: The GPU, None without one.
    """
    if device is None:
        return False
    here = LoadTarget(
        key.onnx_sha256,
        library.flavour,
        library.version,
        device.compute_capability,
        key.precision,
        device.name,
    )
    return not key.incompatibilities(here)


@contextmanager
def open_engine(
    key: EngineKey, plan: bytes, library: Library, device: Device
) -> Iterator[TensorrtEngine]:
    """Load an engine that is not stored yet.

    Args:
        key: Key of the engine.
        plan: Its plan, built by this process.
        library: Library that built it.
        device: GPU that can load it.

    Yields:
        The engine, with one worker and without CUDA graphs.

    Raises:
        FlowsrError: As `TensorrtEngine`.
    """
    from flowsr_runtime.backends.engines.tensorrt_engine import TensorrtEngine

    device.use()
    with TemporaryDirectory(prefix="flowsr-engine-") as folder:
        engine = TensorrtEngine(
            library.module,
            EngineEntry.of(key, plan, {}),
            plan,
            device,
            workers=1,
            graphs=0,
            cache=Path(folder) / "kernels",
        )
        try:
            yield engine
        finally:
            engine.close()


def qualify(bundle: Bundle, key: EngineKey, engine: Engine) -> dict[str, Any]:
    """Run the minimum, optimal and maximum shapes of every profile, and the golden pair.

    Args:
        bundle: Bundle with the graph of the engine.
        key: Key of the engine.
        engine: The engine, loaded.

    Returns:
        Facts for its description: "runs", and "golden" with the largest difference and the
        PSNR; "golden" is None if the bundle has no golden pair or no profile takes it.

    Raises:
        ParityError: If a run fails, returns NaN or infinity, or misses the golden pair.
        MemoryBudgetError: If the device runs out of memory.
    """
    runs = 0
    for index, profile in enumerate(key.profiles):
        for bound in BOUNDS:
            feeds = bound_feeds(bundle.manifest, profile, bound)
            shape = "x".join(map(str, feeds["input"].shape))
            _run(engine, index, feeds, f"{bound} of profile {index}, input {shape}")
            runs += 1
    return {"runs": runs, "golden": _golden(bundle, key, engine)}


def bound_feeds(manifest: Manifest, profile: Profile, bound: str) -> Feeds:
    """Return inputs of one bound of a profile: photographs, a whole image, and noise.

    Args:
        manifest: Manifest of the model.
        profile: Ranges by input.
        bound: "min", "opt" or "max".
    """
    shapes = {name: getattr(item, bound) for name, item in profile.items()}
    batch, _, h, w = shapes["input"]
    rgb = sample_pictures(Case((h, w), (h, w), batch))
    feeds: Feeds = {"input": to_depth(rgb, 8) if manifest.io == "uint8" else rgb}
    noise = np.random.default_rng(0)
    for latent in manifest.latents:
        values = noise.standard_normal(shapes[latent.name], np.float32)
        feeds[latent.name] = values * np.float32(TEMPERATURE)
    if "geometry" in shapes:
        stated = shapes["geometry"]
        whole = Window.whole((h, w), (stated[8], stated[9])).geometry()
        taken = profile["geometry"].covers(tuple(whole.tolist()))
        feeds["geometry"] = whole if taken else np.array(stated, np.int64)
    elif manifest.geometry:  # it decides no shape, so the profile has no range for it
        scale = manifest.scale or 1
        feeds["geometry"] = Window.whole((h, w), (int(h * scale), int(w * scale))).geometry()
    return feeds


def _run(engine: Engine, index: int, feeds: Feeds, name: str) -> NDArray[Any]:
    try:
        with engine.worker() as worker:
            output = worker.run(index, feeds, OUTPUT)
    except MemoryBudgetError:
        raise
    except FlowsrError as error:
        raise ParityError(f"the engine fails at {name}, and is not stored: {error}") from error
    if not np.isfinite(output).all():
        raise ParityError(f"the engine returns NaN or infinity at {name}, and is not stored")
    return output


def _golden(
    bundle: Bundle, key: EngineKey, engine: Engine
) -> Mapping[str, float | None] | None:
    golden = GoldenPair.of(bundle)
    if golden is None:
        return None
    feeds = _golden_feeds(bundle.manifest, golden)
    sizes = {
        name: tuple(array.tolist()) if name == "geometry" else array.shape
        for name, array in feeds.items()
    }
    indices = [
        index
        for index, profile in enumerate(key.profiles)
        if all(item.covers(sizes[name]) for name, item in profile.items())
    ]
    if not indices:
        return None
    output = full_range(_run(engine, indices[0], feeds, "the golden pair")[0])
    height, width = golden.output.shape[1:]
    difference = np.abs(output[:, :height, :width].astype(np.float64) - golden.output)
    largest, mean_square = float(difference.max()), float(np.mean(difference**2))
    psnr = math.inf if mean_square == 0 else -10 * math.log10(mean_square)
    least = LEAST_PSNR.get(key.precision)
    limit = golden.max_abs if bundle.manifest.io == "float32" else EIGHT_BIT_STEP
    if (least is None and largest > limit) or (least is not None and psnr < least):
        rule = (
            f"PSNR must be at least {least:g} dB" if least else f"must be at most {limit:.3g}"
        )
        raise ParityError(
            f"the engine misses the golden pair of {bundle.path}, and is not stored: {rule}, "
            f"got a largest difference of {largest:.3g}, PSNR {psnr:.1f} dB"
        )
    return {"max_abs": largest, "psnr": psnr if math.isfinite(psnr) else None}


def _golden_feeds(manifest: Manifest, golden: GoldenPair) -> Feeds:
    """Return the inputs of the golden pair, padded as the graph needs."""
    picture = padded(golden.picture, manifest.multiple)
    (height, width), size = picture.shape[:2], golden.output.shape[1:]
    if manifest.scale is not None:
        size = int(height * manifest.scale), int(width * manifest.scale)
    return graph_inputs(
        planes(picture, manifest.io),
        Window.whole((height, width), (size[0], size[1])),
        latents=manifest.latents,
        geometry=manifest.geometry,
        seed=golden.seed,
        temperature=golden.temperature or 0.0,
    )
