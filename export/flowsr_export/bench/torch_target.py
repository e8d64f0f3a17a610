"""The network of a bundle in PyTorch: as published, as trained, or as it is exported."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from fractions import Fraction
from functools import partial
from typing import Literal

import torch
import torch._dynamo.config as dynamo
from torch import Tensor, nn

from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import DTYPES, Deployment, Network
from flowsr_export.inputs.cases import Case
from flowsr_export.inputs.feeds import graph_feeds
from flowsr_runtime import SessionSettings, UsageError, output_size
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.cuda.nvtx import is_profiled, nvtx_range
from flowsr_runtime.pictures.pixels import full_range

__all__ = ["TorchModel", "name_stages", "run_of"]

COMPILED_SIZES = 256

Feeds = dict[str, Tensor]
Run = Callable[[Feeds, tuple[int, int]], object]


class TorchModel:
    """A network in PyTorch.

    "torch" is the network as trained, and in half precision as it is exported; "published" is
    the order of operations of the published code. Both may be compiled.

    Attributes:
        measures: "graph" on the CPU; "gpu" on a GPU, where tensors stay there.
    """

    def __init__(self, network: Network, manifest: Manifest, settings: SessionSettings) -> None:
        """Move a network to its device, and restate or compile it.

        Args:
            network: The network of the bundle.
            manifest: Manifest of the bundle.
            settings: Backend, provider, threads and precision of a `ModelTarget`.

        Raises:
            UsageError: If the backend needs a learned prior.
        """
        torch.set_num_threads(settings.threads or torch.get_num_threads())
        # PyTorch would round the operands of float32 convolutions, and still call it float32.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        place = "cpu" if settings.provider == "cpu" else f"cuda:{settings.device}"
        self.measures: tuple[Literal["gpu", "graph"], ...] = ("gpu",)
        if place == "cpu":
            self.measures = ("graph",)
        self._place, self._manifest = torch.device(place), manifest
        self._run = run_of(network.to(self._place), settings.backend, settings.precision)

    def call(self, case: Case, measures: object) -> Callable[[], object]:
        """Return a function that makes one run; its inputs are on the device."""
        feeds = {
            name: torch.from_numpy(full_range(array) if name == "input" else array)
            for name, array in graph_feeds(self._manifest, case).items()
        }
        feeds = {name: feed.to(self._place) for name, feed in feeds.items()}

        def upscale() -> object:
            with torch.inference_mode():
                output = self._run(feeds, case.size)
            if self._place.type == "cuda":
                torch.cuda.synchronize(self._place)
            return output

        return upscale

    def close(self) -> None:
        """Free the network."""
        del self._run


def run_of(network: Network, backend: str, precision: str) -> Run:
    """Return a function that runs a network.

    Args:
        network: The network, on its device.
        backend: "torch", "torch-compiled", "published" or "published-compiled".
        precision: "fp32"; for the first two also "fp16" and "bf16", for the last also
            "autocast-fp16".

    Returns:
        A function of the graph's inputs by name and an output size.

    Raises:
        UsageError: If the published order has no learned prior to run.
    """
    deployment = deployment_of(network)
    device = next(network.parameters()).device
    if backend.startswith("published"):
        if network.prior is None:
            raise UsageError(f"backend {backend} needs a bundle with a learned prior")
        published = deployment.published()
        if backend == "published":
            return lambda feeds, size: published(feeds["input"], size)
        return _published_compiled(published, autocast=precision != "fp32")
    is_compiled = backend == "torch-compiled"
    if precision != "fp32":
        return _Exported(deployment, DTYPES[precision], device, is_compiled)
    if is_compiled:
        _compile_each_size(network)
    elif is_profiled():
        name_stages(network)

    def reference(feeds: Feeds, size: tuple[int, int]) -> Tensor:
        latents = [feed for name, feed in feeds.items() if name not in ("input", "geometry")]
        return deployment.reference(feeds["input"], size, latents or None)

    return reference


def name_stages(network: nn.Module) -> None:
    """Give the parts of a network NVTX ranges, such as "linf.encoder" and "prior".

    Args:
        network: The network; its parts get hooks.
    """
    opened: list[AbstractContextManager[None]] = []

    def begin(name: str, *call: object) -> None:
        opened.append(nvtx_range(name))
        opened[-1].__enter__()

    def end(*call: object) -> None:
        opened.pop().__exit__(None, None, None)

    for name, part in network.named_modules():
        if name and name.count(".") <= 1:
            part.register_forward_pre_hook(partial(begin, name))
            part.register_forward_hook(end, always_call=True)


class _Exported:
    """The network as it is exported: at one scale if the sizes have one."""

    def __init__(
        self, deployment: Deployment, dtype: torch.dtype, device: torch.device, compiled: bool
    ) -> None:
        self._deployment, self._dtype = deployment, dtype
        self._device, self._compiled = device, compiled
        self._graphs: dict[Fraction | None, nn.Module] = {}

    def __call__(self, feeds: Feeds, size: tuple[int, int]) -> Tensor:
        h, w = feeds["input"].shape[2:]
        scale = self._deployment.scale or _one_scale((h, w), size)
        if scale not in self._graphs:
            with self._device:  # its parts are made there
                graph = self._deployment.graph(self._dtype, scale).eval()
            if self._compiled:
                _compile_each_size(graph)
            self._graphs[scale] = graph
        if not self._deployment.takes_geometry(scale):
            feeds = {name: feed for name, feed in feeds.items() if name != "geometry"}
        output: Tensor = self._graphs[scale](**feeds)
        return output


def _one_scale(lr: tuple[int, int], size: tuple[int, int]) -> Fraction | None:
    """Return a scale that gives an output size, None if each axis needs its own."""
    candidates = [Fraction(out, n) for n, out in zip(lr, size, strict=True)]
    for scale in candidates:
        if tuple(output_size(n, scale) for n in lr) == size:
            return scale
    return None


def _published_compiled(
    published: Callable[[Tensor, tuple[int, int]], Tensor], *, autocast: bool
) -> Run:
    _allow_many_sizes()
    compiled = torch.compile(published, dynamic=False)

    def run(feeds: Feeds, size: tuple[int, int]) -> object:
        with torch.autocast("cuda", torch.float16, enabled=autocast):
            return compiled(feeds["input"], size)

    return run


def _compile_each_size(network: nn.Module) -> None:
    """Compile for each size separately; PyTorch 2.13 fails on LINF's patches of any size."""
    _allow_many_sizes()
    network.compile(dynamic=False)


def _allow_many_sizes() -> None:
    """Raise PyTorch's limit of eight sizes, beyond which it silently runs uncompiled."""
    dynamo.recompile_limit = dynamo.accumulated_recompile_limit = COMPILED_SIZES
    dynamo.fail_on_recompile_limit_hit = True
