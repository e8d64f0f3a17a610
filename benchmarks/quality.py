"""Quality of a model and of bicubic on benchmark sets: luma PSNR and LPIPS.

Example:
    python benchmarks/quality.py --eval EVAL --alexnet ALEXNET --lpips LPIPS --json quality.json
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from flowsr_export.cases import Case
from flowsr_export.deployment import Network, deployment_of
from flowsr_export.progress import progress
from flowsr_lp import embedded_checkpoint, load_checkpoint
from flowsr_lp.perceptual import LPIPS

__all__ = ["Figures", "luma", "markdown", "measure", "measure_all", "psnr"]

# ITU-R BT.601 studio swing: 8-bit RGB to Y in [16, 235], as MATLAB's rgb2ycbcr, not rounded.
LUMA_OFFSET = 16.0
LUMA_WEIGHTS = np.array([65.481, 128.553, 24.966]) / 255

Picture = NDArray[np.uint8]
Method = Callable[[Picture, tuple[int, int]], Picture]


@dataclass(frozen=True)
class Figures:
    """Means over the pictures of a set.

    Attributes:
        dataset: Name of the set, a folder's.
        scale: Output pixels per input pixel.
        method: What enlarged the pictures.
        pictures: How many there were.
        psnr: PSNR of the luma in dB, the border shaved by the scale.
        lpips: LPIPS v0.1 (AlexNet) of the whole pictures, lower is better.
    """

    dataset: str
    scale: int
    method: str
    pictures: int
    psnr: float
    lpips: float


def luma(rgb: Picture) -> NDArray[np.float64]:
    """Return the luma of a picture (H, W, 3) uint8: Y of Y'CbCr in [16, 235], (H, W)."""
    return LUMA_OFFSET + rgb.astype(np.float64) @ LUMA_WEIGHTS


def psnr(a: Picture, b: Picture, shave: int) -> float:
    """Return the PSNR of the luma of two pictures in dB.

    Args:
        a: RGB picture, (H, W, 3) uint8.
        b: RGB picture of the same size.
        shave: Pixels left out on every side.

    Returns:
        Decibels against 255; infinite for equal pictures.
    """
    inner = (slice(shave, a.shape[0] - shave), slice(shave, a.shape[1] - shave))
    error = np.mean((luma(a)[inner] - luma(b)[inner]) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def measure(
    method: Method, folder: Path, scale: int, lpips: LPIPS, advance: Callable[[], None]
) -> tuple[int, float, float]:
    """Enlarge every picture of a folder and compare it with its original.

    Args:
        method: Maps an RGB picture (h, w, 3) uint8 and a size (H, W) to (H, W, 3) uint8.
        folder: Pairs `NAME_LR.png` and `NAME_HR.png`.
        scale: Output pixels per input pixel.
        lpips: Perceptual distance.
        advance: Called after each picture.

    Returns:
        Number of pictures, mean PSNR in dB, mean LPIPS.
    """
    decibels, distances = [], []
    for low, high in _pairs(folder):
        size = (low.shape[0] * scale, low.shape[1] * scale)
        output = method(low, size)
        rows, cols = min(size[0], high.shape[0]), min(size[1], high.shape[1])
        output, high = output[:rows, :cols], high[:rows, :cols]
        decibels.append(psnr(output, high, scale))
        with torch.inference_mode():
            distances.append(lpips(_tensor(output), _tensor(high)).item())
        advance()
    return len(decibels), float(np.mean(decibels)), float(np.mean(distances))


def measure_all(
    methods: dict[str, Method], jobs: list[tuple[Path, str, int]], lpips: LPIPS
) -> list[Figures]:
    """Measure every method on every (root folder, set, scale), with a bar on stderr."""
    folders = [root / name / f"x{scale}" for root, name, scale in jobs]
    total = sum(len(list(folder.glob("*_LR.png"))) for folder in folders) * len(methods)
    figures = []
    with progress("pictures", total) as bar:
        for folder, (_, name, scale) in zip(folders, jobs, strict=True):
            for method, enlarge in methods.items():
                values = measure(enlarge, folder, scale, lpips, bar.advance)
                figures.append(Figures(name, scale, method, *values))
    return figures


def markdown(figures: list[Figures]) -> str:
    """Return a table, one line for each set and scale, PSNR in dB / LPIPS for each method."""
    methods = list(dict.fromkeys(f.method for f in figures))
    cells = {(f.dataset, f.scale, f.method): f for f in figures}
    lines = [
        f"| set | scale | {' | '.join(methods)} |",
        f"|---|---|{'---|' * len(methods)}",
    ]
    for dataset, scale in dict.fromkeys((f.dataset, f.scale) for f in figures):
        row = (cells[dataset, scale, method] for method in methods)
        texts = (f"{f.psnr:.2f} / {f.lpips:.3f}" for f in row)
        lines.append(f"| {dataset} | ×{scale} | {' | '.join(texts)} |")
    return "\n".join(lines)


def bicubic(low: Picture, size: tuple[int, int]) -> Picture:
    """Enlarge with Keys' kernel at a = -0.5, which is MATLAB's bicubic too."""
    image = Image.fromarray(low).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(image)


def model_method(network: Network) -> Method:
    """Return a method that enlarges with a network and rounds to eight bits.

    A network without a learned prior decodes zeros, the mode of its flow.
    """
    deployment = deployment_of(network)

    def enlarge(low: Picture, size: tuple[int, int]) -> Picture:
        whole = deployment.padded_size(Case((low.shape[0], low.shape[1]), size))
        zeros = [torch.zeros(1, z.channels, *z.grid(whole)) for z in deployment.latents]
        with torch.inference_mode():
            output = deployment.reference(_tensor(low), size, zeros or None)
        rounded = output[0].clamp(0, 1).mul(255).round().to(torch.uint8)
        return np.asarray(rounded.permute(1, 2, 0))

    return enlarge


def _pairs(folder: Path) -> Iterator[tuple[Picture, Picture]]:
    paths = sorted(folder.glob("*_LR.png"))
    if not paths:
        raise click.UsageError(f"no NAME_LR.png in {folder}")
    for path in paths:
        yield _read(path), _read(path.with_name(path.name.replace("_LR", "_HR")))


def _read(path: Path) -> Picture:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _tensor(picture: Picture) -> torch.Tensor:
    return torch.tensor(picture).permute(2, 0, 1)[None].float() / 255


@click.command()
@click.option("--eval", "root", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--alexnet", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--lpips", "linear", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--model", type=click.Path(path_type=Path), help="The embedded one if not given.")
@click.option(
    "--prior", type=click.Path(path_type=Path), help="Its latent module; zeros without one."
)
@click.option("--set", "sets", multiple=True, default=("Set5", "Set14"), show_default=True)
@click.option("--scale", "scales", type=int, multiple=True, default=(2, 3, 4))
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write figures here."
)
def main(
    root: Path,
    alexnet: Path,
    linear: Path,
    model: Path | None,
    prior: Path | None,
    sets: tuple[str, ...],
    scales: tuple[int, ...],
    json_path: Path | None,
) -> None:
    """Measure a model and bicubic on the sets in --eval: SET/xSCALE/NAME_LR.png, NAME_HR.png.

    PSNR is that of the luma, the border shaved by the scale; LPIPS is v0.1 with AlexNet.
    Gray pictures count as RGB ones. Prints a Markdown table.
    """
    if model is None:
        model, prior = embedded_checkpoint()
    checkpoint = load_checkpoint(model, prior)
    methods: dict[str, Method] = {
        "bicubic": bicubic,
        "flowsr-lp" if prior else "flow's mode": model_method(checkpoint.network),
    }
    jobs = [(root, name, scale) for name in sets for scale in scales]
    figures = measure_all(methods, jobs, LPIPS(alexnet, linear))
    click.echo(markdown(figures))
    if json_path is not None:
        report: dict[str, Any] = {
            "model_sha256": checkpoint.model_sha256,
            "prior_sha256": checkpoint.prior_sha256,
            "figures": [asdict(f) for f in figures],
        }
        json_path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
