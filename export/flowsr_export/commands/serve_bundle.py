"""The `serve-bundle` commands: write a bundle for a model server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowsr_export.options.command import Group
from flowsr_export.options.session import cuda_options
from flowsr_export.options.shared import (
    FILE,
    POSITIVE,
    bundle_argument,
    choice_option,
    force_option,
    halo_option,
    json_option,
    memory_budget_option,
    number_option,
    open_bundle,
    packs,
    precision_option,
    provider_option,
    threads_option,
)
from flowsr_export.options.values import WholeRange

if TYPE_CHECKING:
    from flowsr_export.triton.config import TritonModelConfig

__all__ = ["command"]


@click.group("serve-bundle", cls=Group)
def command() -> None:
    """Write a bundle in the format of a model server.

    \b
    Example:
      flowsr-export serve-bundle triton -o models
    """


@command.command("triton")
@bundle_argument
@click.option(
    "-o",
    "--output",
    "repository",
    required=True,
    type=FILE,
    help="Model repository; its other models are kept.",
)
@packs(
    "flowsr_export.triton.config:TritonModelConfig",
    click.option("--name", default="flowsr", show_default=True, help="Name of the model."),
    choice_option(
        "--backend",
        ["python", "onnxruntime", "tensorrt"],
        "Triton backend: python tiles images of any size with this project's runtime; the "
        "others run the bare graph.",
    ),
    provider_option("Execution provider of ONNX Runtime (python, onnxruntime).", "cpu"),
    precision_option("Precision of the bundle's graph."),
    click.option("--engine", help="Name of the engine, if the bundle has several (tensorrt)."),
    number_option("--instances", POSITIVE, 1, "Number of model instances per device."),
    number_option(
        "--max-batch",
        POSITIVE,
        8,
        "Maximum number of equally sized images per run, for graphs without a geometry input.",
    ),
    number_option(
        "--max-queue",
        WholeRange(min=0),
        64,
        "Maximum number of requests that wait for a batch; 0 means no limit.",
    ),
    threads_option,
    memory_budget_option,
    halo_option,
    *cuda_options,
    name="config",
)
@force_option
@json_option
def triton_command(
    bundle: Path | None,
    repository: Path,
    config: TritonModelConfig,
    force: bool,
    as_json: bool,
) -> None:
    """Write BUNDLE, or the built-in model, into a model repository of NVIDIA Triton.

    examples/triton_client.py is a client for all three backends.

    \b
    Examples:
      flowsr-export serve-bundle triton -o models
      flowsr-export serve-bundle triton x4.bundle -o models --backend onnxruntime --name x4
      tritonserver --model-repository models
    """
    from flowsr_export.triton.repository import write_repository

    path = write_repository(open_bundle(bundle), repository, config, force=force)
    click.echo(json.dumps({"path": str(path)}) if as_json else path)
