"""Upscale images with a bundle."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.backends.contract import Session
from flowsr_runtime.backends.session import AUTO, Choice, SessionSettings
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.errors import ScaleError, UsageError
from flowsr_runtime.geometry import Number, output_size, size_for, size_text
from flowsr_runtime.pictures.alpha import fill_hidden
from flowsr_runtime.pictures.picture import Picture
from flowsr_runtime.pictures.pixels import allocate, check_image, padded
from flowsr_runtime.tiling.memory import (
    ON_HOST,
    MemoryBudget,
    check_available,
    give_back_memory,
)
from flowsr_runtime.tiling.planner import TilePlanner
from flowsr_runtime.tiling.shared_plan import shared_plans
from flowsr_runtime.tiling.tiles import Plan
from flowsr_runtime.upscaling.calls import Call, fill_together
from flowsr_runtime.upscaling.cancellation import Cancel, raise_if_cancelled
from flowsr_runtime.upscaling.in_flight import InFlightCalls
from flowsr_runtime.upscaling.opening import check_settings, chosen, default_budget
from flowsr_runtime.upscaling.sampling import Noise, SampleSession, noise_of
from flowsr_runtime.upscaling.scales import (
    MergedProgress,
    ScaleOrPair,
    check_scales,
    pixels_of,
    tiled_scales,
    work_of,
)
from flowsr_runtime.upscaling.shared_features import (
    FeatureCache,
    SharingSession,
    why_not_shared,
)
from flowsr_runtime.upscaling.tile_loop import Progress, TileLoop

__all__ = ["Upscaler"]

PixelT = TypeVar("PixelT", np.uint8, np.uint16, np.float32)
HaloName = Literal["default", "exact"]
Size = tuple[int, int]

logger = logging.getLogger(__name__)


class Upscaler:
    """A loaded model that upscales images; many threads may call `upscale` at once.

    `memory_budget` bounds the activations of one run, and features that tiles share. The output
    images, and one row of tiles of each in float32, come on top; with `resample` also the
    model's whole output and the resampled image, both in float32: 12 bytes per pixel each, and
    about 10 more while a channel is resampled. `max_memory` bounds the sum, for one call at a
    time.

    Attributes:
        bundle: The bundle.
        choice: How the bundle is run, None if the caller opened the session.
        memory_budget: Bytes of activations that one run may take.
        halo: "default" or "exact".
        features: Features that are kept for further scales of an image; see `open`.
        why_not_shared: One line that says why scales do not share them, None if they do.
    """

    def __init__(
        self,
        bundle: Bundle,
        session: Session,
        *,
        memory_budget: int | None = None,
        max_memory: int | None = None,
        halo: HaloName = "default",
        choice: Choice | None = None,
        feature_cache: int = 0,
    ) -> None:
        """Combine a bundle and a session of its model; see `open`."""
        check_settings(
            halo,
            memory_budget=memory_budget,
            max_memory=max_memory,
            feature_cache=feature_cache,
        )
        tiling = bundle.manifest.tiling
        self.bundle = bundle
        self.choice = choice
        self._options: dict[str, Any] | None = None
        self.memory_budget = memory_budget or max_memory or default_budget(bundle, session)
        self._budget = MemoryBudget.of(self.memory_budget, max_memory, session.provider)
        self.halo = halo
        self._session = session
        self.why_not_shared = why_not_shared(bundle, session, max_memory)
        self.features = FeatureCache(feature_cache)
        self._running: Session = session
        if feature_cache and self.why_not_shared is None:
            self._running = SharingSession(session, self.features)
        self._in_flight = InFlightCalls("upscaler", session.close)
        self._halo = tiling.exact if halo == "exact" else tiling.halo
        # Tiles with an exact halo agree to float rounding and need no blending.
        self._fade = 0 if halo == "exact" else self._halo.align
        self._limits = session.limits
        if self._limits is not None and halo == "exact":
            self._limits = replace(self._limits, build={**self._limits.build, "halo": halo})

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        *,
        backend: str = AUTO,
        provider: str | None = None,
        device: int | str = 0,
        threads: int | None = None,
        precision: str = AUTO,
        workers: int | None = None,
        cuda_graphs: int = 0,
        memory_budget: int | None = None,
        max_memory: int | None = None,
        halo: HaloName = "default",
        feature_cache: int = 0,
        self_test: bool = True,
        tf32: bool = False,
        convolution_search: str = "heuristic",
    ) -> "Upscaler":
        """Load a model.

        Args:
            bundle: Bundle or its directory, None for the one that ships with the package.
            backend: "auto" takes an engine of the bundle that fits the device, else ONNX
                Runtime on CUDA if it starts, else on the CPU an engine or ONNX Runtime.
                "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx" and "inductor" are taken
                strictly; the last three need an engine.
            provider: "cpu", "cuda", "tensorrt" or "openvino", taken strictly: a provider of
                ONNX Runtime; TensorRT only has "cuda", inductor "cpu" and "cuda". None for
                "cpu" with "onnxruntime".
            device: "cpu", "cuda" or "cuda:1", or the index of the GPU to use if one is used.
            threads: CPU threads, None for the number of usable cores; not for TensorRT.
            precision: "fp32", "fp16", "bf16", "int8" or "fp8"; "auto" takes the bundle's one
                graph, of several fp16 on a GPU and fp32 on a CPU.
            workers: Largest number of concurrent runs on a GPU, None for four; TensorRT only.
            cuda_graphs: Largest number of CUDA graphs, 0 for none; see `SessionSettings`.
            memory_budget: Bytes of activations that one run may take, None for the bundle's
                own setting, or 1 GiB, or 16 GiB with an engine; larger images are tiled.
            max_memory: On the CPU, bytes that the process may take in total, with the model,
                the image, the result and its file; on a GPU, bytes of its memory that one run
                may take. None for no bound except `memory_budget`.
            halo: "default": tiles agree to one 8-bit step; "exact": to float rounding.
            feature_cache: Bytes of features to keep, 0 for none, 1 for those of the latest
                image alone: a later call with an image that was upscaled whole before, at any
                scale, then costs the query stage alone. For bundles with stage graphs on ONNX
                Runtime, without `max_memory`.
            self_test: Whether the bundle's golden pair is run first; see `SessionSettings`.
            tf32: As for `SessionSettings`.
            convolution_search: As for `SessionSettings`.

        Returns:
            The upscaler.

        Raises:
            UsageError: If an argument is invalid.
            BackendError: If the backend's library is not installed.
            ProviderError: If the provider or the device is missing.
            BundleError: If the bundle is missing, damaged or of a newer schema.
            ParityError: If the golden pair is missed.
        """
        bounds: dict[str, Any] = {"memory_budget": memory_budget, "max_memory": max_memory}
        bounds["feature_cache"] = feature_cache
        check_settings(halo, **bounds)
        named = (backend, provider, device, threads, precision, workers, cuda_graphs)
        settings = SessionSettings(*named, self_test, tf32, convolution_search, max_memory)
        opened, session, choice = chosen(bundle, settings)
        upscaler = cls(opened, session, **bounds, halo=halo, choice=choice)
        names = ("backend", "provider", "device", "threads", "precision", "workers")
        options = {name: getattr(settings, name) for name in (*names, "cuda_graphs")}
        options |= {"self_test": self_test, "tf32": tf32, "halo": halo, **bounds}
        options |= {"bundle": opened.path, "convolution_search": convolution_search}
        upscaler._options = options
        return upscaler

    def __reduce__(self) -> tuple[Callable[..., "Upscaler"], tuple[dict[str, Any]]]:
        """Pickle how this was opened, so that another process opens its own."""
        if self._options is None:
            raise UsageError("this upscaler was given its session; open one in each process")
        return _reopened, (self._options,)

    def __repr__(self) -> str:
        session = self._session
        runs_on = self.choice or f"{session.backend} {session.provider}"
        return f"<Upscaler {self.bundle.path.name}: {runs_on}>"

    @property
    def provider(self) -> str:
        """Provider that computes, such as "cpu" or "cuda"."""
        return self._session.provider

    def target(
        self,
        source: Size,
        scale: Number | tuple[Number, Number] | None = None,
        *,
        size: Size | None = None,
        resample: bool = False,
    ) -> Size:
        """Return the output size of `upscale`, without computing anything.

        Args:
            source: Input size (h, w).
            scale: As for `upscale`.
            size: As for `upscale`.
            resample: As for `upscale`.

        Returns:
            Output size (H, W).

        Raises:
            ScaleError: If the scale or size cannot be produced.
            UsageError: If `resample` is given for a bundle of any scale.
        """
        fixed = self.bundle.manifest.scale
        if fixed is None:
            if resample:
                raise UsageError(
                    "resample is for bundles of one scale; this one makes any size by itself",
                    option="resample",
                )
            return size_for(source, scale=scale, size=size)
        model_size = size_for(source, scale=fixed, size=None)
        if scale is None and size is None:
            return model_size
        target = size_for(source, scale=scale, size=size)
        if target != model_size and not resample:
            raise ScaleError(
                f"this model only supports scale {float(fixed):g}, got {size_text(target)} "
                f"for {size_text(source)}; resample=True reaches any other size after it",
                option="resample",
            )
        return target

    def plan(
        self,
        source: Size,
        scale: Number | tuple[Number, Number] | None = None,
        *,
        size: Size | None = None,
        resample: bool = False,
        pixel_bytes: int = 3,
    ) -> Plan:
        """Return the tiles of an image, without computing anything.

        Args:
            source: Input size (h, w).
            scale: As for `upscale`.
            size: As for `upscale`.
            resample: As for `upscale`.
            pixel_bytes: Bytes per pixel: channels times bytes per channel.

        Returns:
            The tiles, and the estimated memory of one run and of the process, for the image
            padded to the model's multiple and at the model's scale.

        Raises:
            ScaleError: If the scale or size cannot be produced.
            UsageError: If `resample` is given for a bundle of any scale.
            MemoryBudgetError: If even the smallest tile does not fit.
            BundleError: If no engine takes the image or tiles of it.
        """
        target = self.target(source, scale, size=size, resample=resample)
        planner, budget = self._planner(source, target, pixel_bytes)
        return planner.plan(budget)

    @overload
    def upscale(
        self,
        image: NDArray[PixelT],
        scale: Number | tuple[Number, Number] | None = ...,
        *,
        size: Size | None = ...,
        resample: bool = ...,
        clamp: bool = ...,
        truncate: bool = ...,
        seed: int = ...,
        temperature: float | None = ...,
        prior_mix: float | None = ...,
        temperature_map: NDArray[Any] | None = ...,
        progress: Progress | None = ...,
        warn: Callable[[str], None] | None = ...,
        cancel: Cancel | None = ...,
    ) -> NDArray[PixelT]: ...

    @overload
    def upscale(
        self,
        image: Picture | str | os.PathLike[str],
        scale: Number | tuple[Number, Number] | None = ...,
        *,
        size: Size | None = ...,
        resample: bool = ...,
        clamp: bool = ...,
        truncate: bool = ...,
        seed: int = ...,
        temperature: float | None = ...,
        prior_mix: float | None = ...,
        temperature_map: NDArray[Any] | None = ...,
        progress: Progress | None = ...,
        warn: Callable[[str], None] | None = ...,
        cancel: Cancel | None = ...,
    ) -> Picture: ...

    @overload
    def upscale(
        self,
        image: Image.Image,
        scale: Number | tuple[Number, Number] | None = ...,
        *,
        size: Size | None = ...,
        resample: bool = ...,
        clamp: bool = ...,
        truncate: bool = ...,
        seed: int = ...,
        temperature: float | None = ...,
        prior_mix: float | None = ...,
        temperature_map: NDArray[Any] | None = ...,
        progress: Progress | None = ...,
        warn: Callable[[str], None] | None = ...,
        cancel: Cancel | None = ...,
    ) -> Image.Image: ...

    @overload
    def upscale(
        self,
        image: NDArray[Any] | Picture | Image.Image | str | os.PathLike[str],
        *,
        scales: Sequence[ScaleOrPair],
        clamp: bool = ...,
        truncate: bool = ...,
        seed: int = ...,
        temperature: float | None = ...,
        prior_mix: float | None = ...,
        temperature_map: NDArray[Any] | None = ...,
        progress: Progress | None = ...,
        warn: Callable[[str], None] | None = ...,
        cancel: Cancel | None = ...,
    ) -> list[Any]: ...

    def upscale(
        self,
        image: NDArray[Any] | Picture | Image.Image | str | os.PathLike[str],
        scale: ScaleOrPair | None = None,
        *,
        scales: Sequence[ScaleOrPair] | None = None,
        size: Size | None = None,
        resample: bool = False,
        clamp: bool = True,
        truncate: bool = False,
        seed: int = 0,
        temperature: float | None = None,
        prior_mix: float | None = None,
        temperature_map: NDArray[Any] | None = None,
        progress: Progress | None = None,
        warn: Callable[[str], None] | None = None,
        cancel: Cancel | None = None,
    ) -> NDArray[Any] | Picture | Image.Image | list[Any]:
        """Upscale one image; alpha is resized bilinearly and leaves no fringe.

        Args:
            image: Array, gray (h, w), or (h, w, 1 to 4) as in `Picture.pixels`; uint8, uint16,
                or float32 in [0, 1]; a `Picture`; an image of Pillow; or a picture file.
            scale: Output pixels per input pixel, at least 1, one number or (row, column).
            scales: Several scales, instead of `scale`. The results equal those of separate
                calls. With stage graphs in the bundle the encoder runs once for the image if
                it fits the memory budget, or with the exact halo for each tile; one line of
                `warn` says where it does not.
            size: Output size (H, W), instead of `scale`. A bundle of one scale needs neither.
            resample: Reach other sizes with a bundle of one scale, by Lanczos after the model.
            clamp: Clamp the result to [0, 1]; only a float32 result can be unclamped.
            truncate: Convert to uint8 by floor(255 x), as SRFlow's script does.
            seed: Random seed for the noise, 64 bits unsigned; used with `temperature` only.
            temperature: Standard deviation of the noise n; required by a bundle without a
                learned prior, where 0 gives the mode. A bundle with one needs graphs of
                latents for it, and then decodes prior_mix * z_LP + temperature * n.
            prior_mix: Factor of the prior's latent z_LP; 0 with a temperature, else 1.
            temperature_map: Factors of the temperature, gray (rows, columns) over the image,
                uint8, uint16 or float32 in [0, 1].
            progress: Called with (tiles done, tiles in all) after each tile; the second number
                grows when memory runs out.
            warn: Called with one line when memory runs out and tiles are halved, and when
                values lie far out of range or the graph's guard shrank patches, which a graph
                of uint8 hides; None logs the line.
            cancel: Event or function that stops the call before the next tile; see `Cancel`.

        Returns:
            The kind of image that was given, a `Picture` for a file: of the input's dtype and
            channels, with H = floor(h * scale + 1/2) rows, its ICC profile and its metadata.
            With `scales` a list of them.

        Raises:
            ShapeError: If the type, shape or dtype of `image` is not supported.
            PictureError: If the file or Pillow's image cannot be read.
            CancelledError: If `cancel` stopped the call.
            ScaleError: If the scale or size cannot be produced.
            UsageError: If another argument does not fit the image or the bundle.
            BundleError: If no engine takes the image or tiles of it.
            MemoryBudgetError: If the memory is too small for the smallest tiles.
            NonFiniteError: If the model returns NaN or infinity.
        """
        options: dict[str, Any] = {"size": size, "resample": resample, "clamp": clamp}
        options |= {"truncate": truncate, "seed": seed, "temperature": temperature}
        options |= {"prior_mix": prior_mix, "temperature_map": temperature_map}
        options |= {"progress": progress, "warn": warn, "cancel": cancel}
        if scales is not None:
            check_scales(scales, scale=scale, size=size)
            return self._upscale_many(image, scales, options)
        pixels, like = pixels_of(image)
        with self._in_flight.track():
            call = self._begin(pixels, scale, **options)
            call.fill()
            large = like(call.finish(warn or logger.warning))
        return large  # type: ignore[no-any-return]  # of the image's kind

    def close(self) -> None:
        """Refuse further calls, and free the model after the calls of other threads.

        Called from within a call, as in `progress`, it returns at once, and the end of that
        call frees the model. Closing twice has no effect.
        """
        self._in_flight.close()
        give_back_memory()

    def check_process(self) -> None:
        """Check that this was not opened before the process was forked.

        Raises:
            UsageError: If it was: its threads are those of the parent.
        """
        self._in_flight.check_process()

    def __enter__(self) -> "Upscaler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _upscale_many(self, image: Any, scales: Sequence[Any], options: Any) -> list[Any]:
        """Upscale an image to several scales; see `upscale`."""
        pixels, like = pixels_of(image)
        clamp, truncate = options["clamp"], options["truncate"]
        check_image(pixels, clamp=clamp, truncate=truncate, io=self.bundle.manifest.io)
        warn = options["warn"] or logger.warning
        plans = [self.plan(pixels.shape[:2], scale) for scale in scales]
        shared = {} if self.why_not_shared else self._shared_plans(pixels, scales, plans)
        alone = {i: plan for i, plan in enumerate(plans) if i not in shared}
        reason = self.why_not_shared or tiled_scales([scales[i] for i in alone], alone.values())
        if reason is not None and len(scales) > 1:
            warn(reason)
        tiles_of = [len(shared.get(i, plan)) for i, plan in enumerate(plans)]
        steps = MergedProgress(options["progress"], tiles_of)
        session: Session = self._session
        if self.why_not_shared is None:
            session = SharingSession(session, FeatureCache(1))
        results: dict[int, Any] = {}

        def begin(i: int, session: Session, plan: Plan | None = None) -> Call:
            part = {**options, "progress": steps.part(i)}
            return self._begin(pixels, scales[i], **part, session=session, plan=plan)

        with self._in_flight.track():
            if shared:
                cache = FeatureCache(1)
                tiles = SharingSession(self._session, cache, tiles=True)
                calls = {i: begin(i, tiles, plan) for i, plan in shared.items()}
                fill_together([*calls.values()], cache.clear)
                results = {i: like(call.finish(warn)) for i, call in calls.items()}
            for i in alone:
                call = begin(i, session)
                call.fill()
                results[i] = like(call.finish(warn))
        return [results[i] for i in range(len(scales))]

    def _shared_plans(
        self, pixels: NDArray[Any], scales: Sequence[Any], plans: Sequence[Plan]
    ) -> dict[int, Plan]:
        """Return plans with shared tiles, by the place of each scale that needs tiles.

        Not with the default halo, with which another cut would change the results.
        """
        tiled = [i for i, plan in enumerate(plans) if len(plan) > 1]
        if len(tiled) < 2 or self.halo != "exact":
            return {}
        picture = Picture(pixels)
        targets = [self.target(picture.size, scales[i]) for i in tiled]
        planners = [self._planner(picture.size, one, picture.pixel_bytes)[0] for one in targets]
        shared = shared_plans(planners, self.memory_budget, work_of(self.bundle.manifest))
        return dict(zip(tiled, shared or (), strict=False))

    def _begin(
        self,
        image: NDArray[Any],
        scale: Number | tuple[Number, Number] | None,
        *,
        size: Size | None,
        resample: bool,
        clamp: bool,
        truncate: bool,
        seed: int,
        temperature: float | None,
        prior_mix: float | None,
        temperature_map: NDArray[Any] | None,
        progress: Progress | None,
        warn: Callable[[str], None] | None,
        cancel: Cancel | None,
        session: Session | None = None,
        plan: Plan | None = None,
    ) -> Call:
        """Check an array and how it is upscaled, and allocate the result; see `upscale`."""
        check_image(image, clamp=clamp, truncate=truncate, io=self.bundle.manifest.io)
        noise = noise_of(
            self.bundle.manifest,
            self._session,
            seed=seed,
            temperature=temperature,
            prior_mix=prior_mix,
            temperature_map=temperature_map,
        )
        target: Size = self.target(image.shape[:2], scale, size=size, resample=resample)
        progress, picture = raise_if_cancelled(cancel, progress), Picture(image)
        check_available(picture.size, target, picture.pixel_bytes)
        result = allocate((*target, len(picture.mode)), image.dtype)
        running, warn = session or self._running, warn or logger.warning
        loop = self._tile_loop(running, picture, target, noise, progress, warn, plan)
        return Call(picture, result, loop, clamp, truncate)

    def _tile_loop(
        self,
        session: Session,
        picture: Picture,
        target: Size,
        noise: Noise,
        progress: Progress | None,
        warn: Callable[[str], None],
        plan: Plan | None,
    ) -> TileLoop:
        source, manifest = picture.size, self.bundle.manifest
        graphs = manifest.latent_graphs
        if noise.prior_weight is not None and graphs is not None and graphs.sample is not None:
            session = SampleSession(self._session, graphs.sample, noise.prior_weight)
        rgb = picture.rgb if picture.alpha is None else fill_hidden(picture.rgb, picture.alpha)
        planner, budget = self._planner(source, target, picture.pixel_bytes)
        return TileLoop(
            manifest=manifest,
            session=session,
            image=padded(rgb, manifest.multiple),
            planner=planner,
            plan=plan or planner.plan(budget),
            size=target if manifest.scale is None else _scaled(source, manifest.scale),
            noise=noise,
            progress=progress,
            warn=warn,
        )

    def _planner(self, source: Size, target: Size, pixel_bytes: int) -> tuple[TilePlanner, int]:
        """Return the planner of a picture, and the bytes that its plan may take."""
        manifest, model_size = self.bundle.manifest, target
        if manifest.scale is not None:
            model_size = _scaled(source, manifest.scale)
        budget, resident = self._budget.shares(source, model_size, target, pixel_bytes)
        if manifest.scale is not None:
            height, width = (-(-n // manifest.multiple) * manifest.multiple for n in source)
            source, model_size = (height, width), _scaled((height, width), manifest.scale)
        planner = TilePlanner(
            source,
            model_size,
            halo=self._halo,
            memory=manifest.memory,
            fade=self._fade,
            whole_only=manifest.tiling.whole_only,
            limits=self._limits,
            resident=resident,
            equal=self.provider not in ON_HOST,
        )
        return planner, budget


def _reopened(options: dict[str, Any]) -> Upscaler:
    return Upscaler.open(**options)


def _scaled(source: Size, scale: Fraction) -> Size:
    return output_size(source[0], scale), output_size(source[1], scale)
