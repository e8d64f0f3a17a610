"""The `serve-bundle` commands: a bundle in the form that a model server takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowsr_export.options.session import force_option, parse_memory

if TYPE_CHECKING:
    from flowsr_export.triton.config import Backend

__all__ = ["command"]


@click.group("serve-bundle")
def command() -> None:
    """Write a bundle in the form that a model server takes.

    \b
    Example:
      flowsr-export serve-bundle triton -o models
    """


@command.command("triton")
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "repository",
    required=True,
    type=click.Path(path_type=Path),
    help="Model repository; other models in it stay.",
)
@click.option("--name", default="flowsr", show_default=True, help="Of the model.")
@click.option(
    "--backend",
    type=click.Choice(["python", "onnxruntime", "tensorrt"]),
    default="python",
    show_default=True,
    help="python: pictures of any size, tiled by our runtime; the others: the bare graph.",
)
@click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda", "tensorrt", "openvino"]),
    default="cpu",
    show_default=True,
    help="What ONNX Runtime computes with; python and onnxruntime.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16", "int8", "fp8"]),
    default="fp32",
    show_default=True,
    help="Which of the bundle's graphs.",
)
@click.option("--engine", help="Which of the bundle's engines, where it has several; tensorrt.")
@click.option(
    "--instances",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Of the model, on each device.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Pictures of one size run at once; graphs without a geometry input.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="Requests that wait for a batch at most, 0 for any number.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of an instance.")
@click.option(
    "--memory-budget",
    type=parse_memory,
    metavar="BYTES",
    show_default="what the bundle states, or 1G",
    help="Memory for one run; a picture that needs more is tiled; python.",
)
@click.option(
    "--halo",
    type=click.Choice(["default", "exact"]),
    default="default",
    show_default=True,
    help="Overlap of tiles; python.",
)
@force_option
def triton_command(
    bundle: Path | None,
    repository: Path,
    name: str,
    backend: Backend,
    provider: str,
    precision: str,
    engine: str | None,
    instances: int,
    max_batch: int,
    max_queue: int,
    threads: int | None,
    memory_budget: int | None,
    halo: str,
    force: bool,
) -> None:
    """Write BUNDLE, or the built-in model, into a model repository of NVIDIA Triton.

    examples/triton_client.py is a client for all three backends.

    \b
    Examples:
      flowsr-export serve-bundle triton -o models
      flowsr-export serve-bundle triton x4.bundle -o models --backend onnxruntime --name x4
      tritonserver --model-repository models
    """
    from flowsr_export.triton.config import TritonModelConfig
    from flowsr_export.triton.repository import write_repository
    from flowsr_runtime import Bundle, embedded_bundle

    options = TritonModelConfig(
        name=name,
        backend=backend,
        provider=provider,
        precision=precision,
        instances=instances,
        max_batch=max_batch,
        max_queue=max_queue,
        threads=threads,
        memory_budget=memory_budget,
        halo=halo,
        engine=engine,
    )
    opened = Bundle.open(bundle or embedded_bundle())
    click.echo(write_repository(opened, repository, options, force=force))
