"""Graphs of latents: encode a picture, and decode a latent of any origin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch

from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Deployment
from flowsr_export.deployment.traits import FAMILIES
from flowsr_export.export_onnx.exporter import axes_of, checked_opset, onnx_from_module
from flowsr_export.export_onnx.manifest import Request
from flowsr_export.export_onnx.metadata import graph_metadata
from flowsr_export.export_onnx.model import opened
from flowsr_export.inputs.cases import Case, sample_pictures
from flowsr_export.onnx_graph.lint import require_clean
from flowsr_export.parity.reference import restated_scale
from flowsr_lp import Checkpoint
from flowsr_runtime import Bundle, ParityError, UsageError
from flowsr_runtime.bundle.directory import extend_bundle
from flowsr_runtime.errors import OutputError

__all__ = ["LatentModels", "add_latents", "check_latents", "exported_latents", "latent_models"]

STEP, WRITE = "graphs of latents", "write"
PRIOR_WEIGHT = 0.5  # of the prior's latent, where the graph is compared with PyTorch

# Largest accepted differences: of a latent relative to the largest one; of a log density, a sum
# with terms of both signs, to its value or 1; of an output in units of full range.
TOLERANCES = {"latent": 1e-4, "log_likelihood": 1e-3, "output": 1e-4}


@dataclass(frozen=True)
class LatentModels:
    """The graphs of latents of a network.

    Attributes:
        entry: `latent_graphs` of the manifest.
        contents: The ONNX files by name.
        entries: Facts about each file for `files` of the manifest.
    """

    entry: dict[str, Any]
    contents: dict[str, bytes]
    entries: dict[str, dict[str, Any]]


def check_latents(deployment: Deployment, request: Request) -> None:
    """Refuse a request without graphs of latents, before slow work.

    Args:
        deployment: The network.
        request: Settings of the export.

    Raises:
        UsageError: If the graph is not one of tiles with float32 images, in fp32.
    """
    got = None
    if request.scale is not None:
        got = f"scale {request.scale}"
    elif request.io != "float32" or request.precision != "fp32":
        got = "io uint8" if request.io != "float32" else request.precision
    if got is not None:
        rule = "latents must be of a graph of tiles in fp32 with float32 images"
        raise UsageError(f"{rule}, got {got}", option="latents")


def exported_latents(
    deployment: Deployment,
    opset: int | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, onnx.ModelProto]:
    """Export the graphs of latents, and lint them.

    Args:
        deployment: A network with such graphs.
        opset: As for `onnx_from_deployment`.
        metadata: As for `onnx_from_deployment`.

    Returns:
        `encode`, and with a prior `sample`.

    Raises:
        UsageError: If the opset is not supported.
        LintError: If a graph breaks a rule.
    """
    modules = deployment.latent_modules()
    latents = {latent.name: latent for latent in modules.latents}
    named = deployment.example(None)
    batch, _, *sides = named["input"].shape
    if deployment.scale is None:
        height, width = named["geometry"][8:].tolist()
    else:
        height, width = (int(side * deployment.scale) for side in sides)
    named |= {
        "target": torch.rand(batch, 3, height, width),
        "prior_weight": torch.full((1,), PRIOR_WEIGHT),
    }
    for name, latent in latents.items():
        named[name] = torch.randn(batch, latent.channels, *latent.grid((height, width)))
    picture, cells = ("batch", None, "H", "W"), ("batch", None, "rows", "cols")
    axes = {**axes_of(latents), "target": picture, "log_likelihood": cells}
    form = axes, checked_opset("fp32", opset), metadata or {}
    coded = [*latents, "log_likelihood"]
    models = {"encode": onnx_from_module(modules.encode.eval(), named, coded, *form)}
    if modules.sample is not None:
        models["sample"] = onnx_from_module(modules.sample.eval(), named, ["output"], *form)
    for model in models.values():
        require_clean(model, linf=FAMILIES[deployment.family].computes_geometry)
    return models


def latent_models(
    checkpoint: Checkpoint,
    deployment: Deployment,
    request: Request,
    begin: Callable[[str], None] = lambda step: None,
) -> LatentModels:
    """Export the graphs of latents and compare them with PyTorch.

    Args:
        checkpoint: The network.
        deployment: Deployment of the network.
        request: Settings of the export.
        begin: Called with the name of the step when it begins.

    Raises:
        LintError: If a graph breaks a rule.
        ParityError: If one differs from PyTorch.
    """
    begin(STEP)
    metadata = graph_metadata(checkpoint, deployment, None)
    models = exported_latents(deployment, request.opset, metadata)
    contents = {f"{name}.fp32.onnx": x.SerializeToString() for name, x in models.items()}
    differences = _differences(deployment, contents)
    entries = {
        name: {
            "opset": models[name.split(".")[0]].opset_import[0].version,
            "verification": differences[name],
        }
        for name in contents
    }
    sample = "sample.fp32.onnx"
    entry: dict[str, Any] = {
        "encode": "encode.fp32.onnx",
        "sample": sample if sample in contents else None,
    }
    latents = deployment.latent_modules().latents
    if len(latents) == 1:  # as schema 1 began
        entry |= {"channels": latents[0].channels, "patch": latents[0].patch}
    else:
        entry["latents"] = [asdict(latent) for latent in latents]
    return LatentModels(entry, contents, entries)


def add_latents(
    bundle: Bundle,
    checkpoint: Checkpoint,
    request: Request,
    begin: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Add the graphs of latents to a bundle.

    Args:
        bundle: The bundle; its present files stay.
        checkpoint: The network it was exported from; see `reference_of`.
        request: Settings of the export; its images and scale are the bundle's.
        begin: Called with each step when it begins.

    Returns:
        The extended bundle.

    Raises:
        UsageError: If the graph has no latents to encode.
        LintError: If a graph breaks a rule.
        ParityError: If one differs from PyTorch.
        OutputError: If the bundle has such graphs, or cannot be written.
    """
    deployment, manifest = deployment_of(checkpoint.network), bundle.manifest
    request = replace(request, scale=restated_scale(bundle, deployment), io=manifest.io)
    check_latents(deployment, request)
    if manifest.latent_graphs is not None:
        raise OutputError(f"{bundle.path} holds graphs of latents already", option="latents")
    done = latent_models(checkpoint, deployment, request, begin)
    begin(WRITE)
    return extend_bundle(bundle.path, done.contents, done.entries, latent_graphs=done.entry)


def _differences(
    deployment: Deployment, contents: Mapping[str, bytes]
) -> dict[str, dict[str, float]]:
    """Compare the graphs with the network at its exported cases, by file."""
    worst: dict[str, dict[str, float]] = {}
    for name, content in contents.items():
        difference = _of_encode if name.startswith("encode") else _of_sample
        with closing(opened(content, name)) as session:
            found = [difference(deployment, session, case) for case in _cases(deployment)]
        worst[name] = {key: max(one[key] for one in found) for key in found[0]}
    for name, values in worst.items():
        for key, value in values.items():
            if not value <= TOLERANCES[key]:
                raise ParityError(
                    f"{key} of {name} must equal PyTorch's within {TOLERANCES[key]:.2g}, "
                    f"got {value:.3g}"
                )
    return worst


def _cases(deployment: Deployment) -> list[Case]:
    """Return the exported cases with low-resolution sides that the graphs take."""
    return [
        replace(case, lr=deployment.padded(case.lr), size=deployment.padded_size(case))
        for case in deployment.exported_cases(None)
    ]


@torch.inference_mode()
def _of_encode(deployment: Deployment, session: Any, case: Case) -> dict[str, float]:
    """Return the differences of `encode` at one case; that of the latents is the largest."""
    target = sample_pictures(Case(case.size, case.size, case.batch))
    feeds = {**deployment.feeds(case, None), "target": target}
    outputs = session.outputs({name: feeds[name] for name in session.inputs})
    rgb = torch.from_numpy(feeds["input"])
    latents, density = deployment.reference_encoding(rgb, torch.from_numpy(target))
    far = 0.0
    for latent, expected in zip(deployment.latent_modules().latents, latents, strict=True):
        apart = np.abs(outputs[latent.name] - expected.numpy()).max()
        far = max(far, float(apart / expected.abs().max()))
    found, stated = outputs["log_likelihood"].reshape(case.batch, -1), density.numpy()
    if stated.shape[1] == 1:  # the cells' shares of the density of a picture
        found = found.sum(axis=1, keepdims=True, dtype=np.float64)
    wrong = np.abs(found - stated) / np.maximum(1, np.abs(stated))
    return {"latent": far, "log_likelihood": float(wrong.max())}


@torch.inference_mode()
def _of_sample(deployment: Deployment, session: Any, case: Case) -> dict[str, float]:
    """Return the difference of `sample` at one case, without noise."""
    feeds = deployment.feeds(case, None)
    rgb = torch.from_numpy(feeds["input"])
    mixed = [PRIOR_WEIGHT * z for z in deployment.predicted_latents(rgb, case.size)]
    for latent, z in zip(deployment.latent_modules().latents, mixed, strict=True):
        feeds[latent.name] = np.zeros(z.shape, np.float32)
    output = session.run({**feeds, "prior_weight": np.full(1, PRIOR_WEIGHT, np.float32)})
    expected = deployment.reference(rgb, case.size, mixed).numpy()
    return {"output": float(np.abs(output - expected).max())}
