"""Graphs of latents: encode a picture, and decode a latent of any origin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch

from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Deployment
from flowsr_export.export_onnx.exporter import axes_of, checked_opset, onnx_from_module
from flowsr_export.export_onnx.manifest import Request
from flowsr_export.export_onnx.metadata import graph_metadata
from flowsr_export.export_onnx.model import opened
from flowsr_export.inputs.cases import Case, sample_pictures
from flowsr_export.onnx_graph.lint import require_clean
from flowsr_lp import Checkpoint, LinfLP
from flowsr_lp.linf.model import resize
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
        UsageError: If the graph is not one of LINF at any scale with float32 images, in fp32.
    """
    got = None
    if deployment.family != "linf-lp":
        got = deployment.family
    elif request.scale is not None:
        got = f"scale {request.scale}"
    elif request.io != "float32" or request.precision != "fp32":
        got = "io uint8" if request.io != "float32" else request.precision
    if got is not None:
        rule = "latents must be of linf-lp at any scale in fp32 with float32 images"
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
    assert modules is not None, "checked by check_latents"
    named = deployment.example(None)
    batch, (height, width) = len(named["input"]), named["geometry"][8:].tolist()
    grid = modules.latent.grid((height, width))
    named |= {
        "target": torch.rand(batch, 3, height, width),
        "latent": torch.randn(batch, modules.latent.channels, *grid),
        "prior_weight": torch.full((1,), PRIOR_WEIGHT),
    }
    picture, cells = ("batch", None, "H", "W"), ("batch", None, "rows", "cols")
    axes = {**axes_of(("latent",)), "target": picture, "log_likelihood": cells}
    form = axes, checked_opset("fp32", opset), metadata or {}
    models = {
        "encode": onnx_from_module(
            modules.encode.eval(), named, ["latent", "log_likelihood"], *form
        )
    }
    if modules.sample is not None:
        models["sample"] = onnx_from_module(modules.sample.eval(), named, ["output"], *form)
    for model in models.values():
        require_clean(model)
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
    modules = deployment.latent_modules()
    assert modules is not None, "checked by check_latents"
    metadata = graph_metadata(checkpoint, deployment, None)
    models = exported_latents(deployment, request.opset, metadata)
    contents = {f"{name}.fp32.onnx": x.SerializeToString() for name, x in models.items()}
    differences = _differences(checkpoint.network, deployment, contents)
    entries = {
        name: {
            "opset": models[name.split(".")[0]].opset_import[0].version,
            "verification": differences[name],
        }
        for name in contents
    }
    sample = "sample.fp32.onnx"
    entry = {
        "encode": "encode.fp32.onnx",
        "sample": sample if sample in contents else None,
        "channels": modules.latent.channels,
        "patch": modules.latent.patch,
    }
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
    request = replace(request, scale=manifest.scale, io=manifest.io)
    check_latents(deployment, request)
    if manifest.latent_graphs is not None:
        raise OutputError(f"{bundle.path} holds graphs of latents already", option="latents")
    done = latent_models(checkpoint, deployment, request, begin)
    begin(WRITE)
    return extend_bundle(bundle.path, done.contents, done.entries, latent_graphs=done.entry)


def _differences(
    network: Any, deployment: Deployment, contents: Mapping[str, bytes]
) -> dict[str, dict[str, float]]:
    """Compare the graphs with the network at its exported cases, by file."""
    assert isinstance(network, LinfLP)
    worst = {name: dict.fromkeys(("latent", "log_likelihood"), 0.0) for name in contents}
    if "sample.fp32.onnx" in worst:
        worst["sample.fp32.onnx"] = {"output": 0.0}
    for name, content in contents.items():
        with closing(opened(content, name)) as session:
            for case in deployment.exported_cases(None):
                found = _difference(network, deployment, session, case, name)
                worst[name] = {
                    key: max(value, found[key]) for key, value in worst[name].items()
                }
    for name, values in worst.items():
        for key, value in values.items():
            if not value <= TOLERANCES[key]:
                raise ParityError(
                    f"{key} of {name} must equal PyTorch's within {TOLERANCES[key]:.2g}, "
                    f"got {value:.3g}"
                )
    return worst


@torch.inference_mode()
def _difference(
    network: LinfLP, deployment: Deployment, session: Any, case: Case, name: str
) -> dict[str, float]:
    """Return the differences of one graph at one case."""
    feeds = deployment.feeds(case, None)
    noise = feeds.pop("latent", None)
    rgb = torch.from_numpy(feeds["input"])
    if name.startswith("encode"):
        target = sample_pictures(Case(case.size, case.size, case.batch))
        outputs = session.outputs({**feeds, "target": target})
        x = rgb * 2 - 1
        c = network.linf.condition(x, case.size, "extend")
        residual = torch.from_numpy(target) * 2 - 1 - resize(x, case.size)
        latent = network.linf.encode(residual, c).numpy()
        density = network.linf.log_likelihood(residual, c).numpy().reshape(-1)
        far = np.abs(outputs["latent"] - latent).max() / np.abs(latent).max()
        apart = np.abs(outputs["log_likelihood"].reshape(-1) - density)
        return {
            "latent": float(far),
            "log_likelihood": float((apart / np.maximum(1, np.abs(density))).max()),
        }
    assert noise is None, "a network with a prior has no noise of its own"
    plain = network(rgb, case.size)
    mixed = PRIOR_WEIGHT * plain.latent
    weight = np.full(1, PRIOR_WEIGHT, np.float32)
    zero = np.zeros(plain.latent.shape, np.float32)
    output = session.run({**feeds, "latent": zero, "prior_weight": weight})
    expected = network(rgb, case.size, mixed).output.numpy()
    return {"output": float(np.abs(output - expected).max())}
