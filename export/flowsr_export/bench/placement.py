"""Providers that the nodes of a graph run on, and copies between host and device."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowsr_export.inputs.cases import Case
from flowsr_export.inputs.feeds import graph_feeds
from flowsr_runtime import Bundle, SessionSettings
from flowsr_runtime.backends.cuda_provider import CudaOptions
from flowsr_runtime.backends.onnxruntime_session import PROVIDERS, OnnxRuntimeSession

__all__ = ["Placement", "count_nodes", "placement_of"]

KERNEL = "_kernel_time"
COPIES = ("MemcpyToHost", "MemcpyFromHost")


@dataclass(frozen=True)
class Placement:
    """Where ONNX Runtime runs the nodes of a graph.

    Attributes:
        provider: Provider of the session.
        precision: Precision of the graph.
        tf32: Whether float32 products are computed in TF32.
        nodes: Number of nodes by provider, the optimized graph's; the copies are not counted.
        kinds: Number of nodes by operator on providers other than the session's.
        copies: Nodes that copy between host and device.
    """

    provider: str
    precision: str
    tf32: bool
    nodes: dict[str, int]
    kinds: dict[str, int]
    copies: int

    def lines(self) -> list[str]:
        """Return the placement as lines of text."""
        counts = ", ".join(f"{count} on {name}" for name, count in self.nodes.items())
        kinds = ", ".join(f"{count} {name}" for name, count in self.kinds.items())
        elsewhere = f"; not on {self.provider}: {kinds}" if kinds else ""
        arithmetic = "TF32" if self.tf32 else "float32"
        return [
            f"nodes   {counts or 'none'}{elsewhere}",
            f"copies  {self.copies} between host and device",
            f"float32 products in {arithmetic}",
        ]


def placement_of(bundle: Bundle, settings: SessionSettings, case: Case) -> Placement:
    """Run a bundle once and count its nodes in ONNX Runtime's profile.

    Args:
        bundle: The bundle.
        settings: Settings with backend onnxruntime, and a provider and precision by name.
        case: Sizes and batch of the run.

    Raises:
        ProviderError: If the provider or the device is missing, or fails.
        BundleError: If the bundle holds no such model.
    """
    provider = settings.provider or "cpu"
    cuda = CudaOptions(settings.precision, settings.tf32, settings.convolution_search)
    with tempfile.TemporaryDirectory() as folder:
        session = OnnxRuntimeSession.open(
            bundle,
            provider=provider,
            device=settings.index,
            threads=settings.threads,
            precision=settings.precision,
            cuda=cuda,
            profile=Path(folder, "profile"),
        )
        session.run(graph_feeds(bundle.manifest, case))
        events = json.loads(session.end_profile().read_text(encoding="utf-8"))
        session.close()
    nodes, kinds, copies = count_nodes(events, PROVIDERS[provider])
    on_gpu = provider in ("cuda", "tensorrt")
    return Placement(
        provider, settings.precision, on_gpu and cuda.uses_tf32, nodes, kinds, copies
    )


def count_nodes(
    events: Iterable[Mapping[str, Any]], own: str
) -> tuple[dict[str, int], dict[str, int], int]:
    """Count the nodes of a profile.

    Args:
        events: Events of ONNX Runtime's profile.
        own: ONNX Runtime's name of the provider of the session.

    Returns:
        Nodes by provider, nodes by operator on other providers, and copies.
    """
    kernels = {
        event["name"]: event["args"]
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL)
    }
    copies = sum(facts.get("op_name") in COPIES for facts in kernels.values())
    placed = [facts for facts in kernels.values() if facts.get("op_name") not in COPIES]
    nodes = Counter(str(facts.get("provider")) for facts in placed)
    kinds = Counter(str(facts["op_name"]) for facts in placed if facts.get("provider") != own)
    return dict(nodes.most_common()), dict(kinds.most_common()), copies
