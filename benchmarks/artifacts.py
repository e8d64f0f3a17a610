"""Artifacts of a LINF-LP model: mesh, values out of range, and made images.

Photographs are measured without the guard and with it. The made images are text, line art,
flat graphics, gradients, halftone, dither, checkerboards and pixel art, drawn from seeds that
training does not use; give fonts that it did not use either.

Example:
    python -m benchmarks.artifacts --images Set14/LR --fonts fonts -o artifacts
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flowsr_export.evaluation.imresize import matlab_bicubic
from flowsr_export.evaluation.mesh import mesh_pattern, mesh_ratio
from flowsr_export.evaluation.metrics import lr_psnr, psnr_y
from flowsr_export.evaluation.model import EvaluatedModel, torch_model
from flowsr_export.reports.table import markdown_rows
from flowsr_lp import LinfLP, embedded_checkpoint, load_checkpoint
from flowsr_lp.training.synthetic import KINDS, synthetic_image
from flowsr_runtime import output_size, read_picture

__all__ = ["Made", "Photo", "made_images", "markdown", "measure_made", "measure_photo"]

Picture = NDArray[np.uint8]

SCALES = ("2", "2.7", "3", "4")
WHOLE_SCALES = (2, 3, 4)
SEED = 20_261_127
OF_EACH_KIND = 3
SIDE = 192
AGREES = 60.0  # dB, a quarter of a step: more agreement with the input is not counted


@dataclass(frozen=True)
class Photo:
    """Figures of one photograph at one scale.

    Attributes:
        image: Name.
        scale: Output pixels per input pixel.
        mesh: Ratio of `mesh_ratio`.
        pattern: Eight-bit steps of `mesh_pattern`.
        out_of_range: Percent of the values outside [-0.1, 1.1] without the guard.
        guarded: The same with the guard.
    """

    image: str
    scale: str
    mesh: float
    pattern: float
    out_of_range: float
    guarded: float


@dataclass(frozen=True)
class Made:
    """Figures of one made image at one scale.

    Attributes:
        image: Kind and number.
        scale: Output pixels per input pixel.
        psnr: Luma, dB, minus bicubic's.
        agreement: Consistency with the input, dB, minus bicubic's.
        color: Largest difference of the channels in steps if the original is gray, else 0.
    """

    image: str
    scale: int
    psnr: float
    agreement: float
    color: int


def made_images(fonts: Sequence[Path]) -> dict[str, Picture]:
    """Return three images of each kind, (192, 192, 3) uint8, by name."""
    return {
        f"{kind} {number}": synthetic_image(
            SIDE, np.random.default_rng((SEED, place, number)), fonts, kind
        )
        for place, kind in enumerate(KINDS)
        for number in range(OF_EACH_KIND)
    }


def measure_photo(network: LinfLP, name: str, image: Picture, scale: str) -> Photo:
    """Upscale a photograph (h, w, 3) without the guard and with it."""
    size = output_size(image.shape[0], scale), output_size(image.shape[1], scale)
    bicubic, patch = matlab_bicubic(image, size), network.linf.patch_size
    with _guard(network, on=False) as model:
        plain = model.upscale(image, size, 0)
    with _guard(network, on=True) as model:
        guarded = model.upscale(image, size, 0)
    return Photo(
        name,
        scale,
        mesh_ratio(plain.picture, bicubic, patch),
        mesh_pattern(plain.picture, bicubic, patch),
        plain.out_of_range,
        guarded.out_of_range,
    )


def measure_made(
    network: LinfLP, name: str, original: Picture, scale: int
) -> tuple[Made, tuple[Picture, Picture]]:
    """Reduce a made image and upscale it, as the model ships; figures, bicubic and output."""
    size = original.shape[0], original.shape[1]
    low = matlab_bicubic(original, (size[0] // scale, size[1] // scale))
    bicubic = matlab_bicubic(low, size)
    output = torch_model(network).upscale(low, size, 0).picture
    gray = (np.ptp(low, axis=2) == 0).all()
    spread = int(np.ptp(output.astype(int), axis=2).max())
    figures = Made(
        name,
        scale,
        psnr_y(output, original, scale) - psnr_y(bicubic, original, scale),
        min(lr_psnr(output, low), AGREES) - min(lr_psnr(bicubic, low), AGREES),
        spread if gray else 0,
    )
    return figures, (bicubic, output)


def markdown(photos: Sequence[Photo], made: Sequence[Made]) -> str:
    """Return both tables and their worst figures."""
    worst = {
        "mesh ratio": max(photo.mesh for photo in photos),
        "mesh pattern, steps": max(photo.pattern for photo in photos),
        "out of range without the guard, %": max(photo.out_of_range for photo in photos),
        "out of range with the guard, %": max(photo.guarded for photo in photos),
        "made: luma PSNR minus bicubic's, dB": min(one.psnr for one in made),
        "made: LR-PSNR minus bicubic's, dB": min(one.agreement for one in made),
        "made: color in gray, steps": max(one.color for one in made),
    }
    lines = ["# Artifacts", ""]
    lines += markdown_rows(["worst of all", ""], [[k, f"{v:.4g}"] for k, v in worst.items()])
    cells = [
        [
            photo.image,
            f"×{photo.scale}",
            f"{photo.mesh:.2f}",
            f"{photo.pattern:.3f}",
            f"{photo.out_of_range:.4f}",
            f"{photo.guarded:.4f}",
        ]
        for photo in photos
    ]
    columns = ["photograph", "scale", "mesh", "pattern", "out of range, %", "guarded, %"]
    lines += ["", *markdown_rows(columns, cells), ""]
    rows = [
        [m.image, f"×{m.scale}", f"{m.psnr:+.2f}", f"{m.agreement:+.2f}", str(m.color)]
        for m in made
    ]
    lines += markdown_rows(["made image", "scale", "PSNR", "LR-PSNR", "color"], rows)
    return "\n".join(lines) + "\n"


@contextmanager
def _guard(network: LinfLP, *, on: bool) -> Iterator[EvaluatedModel]:
    before, network.linf.guard = network.linf.guard, on
    try:
        yield torch_model(network)
    finally:
        network.linf.guard = before


def _sheet(rows: Mapping[str, Sequence[Picture]]) -> Image.Image:
    """Originals, bicubic and output of every made image, three images to a row."""
    pad, label, across = 6, 14, OF_EACH_KIND
    step = 3 * SIDE + 4 * pad
    down = -(-len(rows) // across)
    sheet = Image.new("RGB", (across * step, down * (SIDE + label + pad)), (24, 25, 28))
    draw = ImageDraw.Draw(sheet)
    for place, (name, pictures) in enumerate(rows.items()):
        left, top = place % across * step, place // across * (SIDE + label + pad)
        draw.text((left, top), f"{name}: original, bicubic, model", (236, 237, 240))
        for column, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (left + column * (SIDE + pad), top + label))
    return sheet


@click.command()
@click.option("--model", type=click.Path(path_type=Path), help="Flow; the built-in one.")
@click.option("--prior", type=click.Path(path_type=Path), help="Its learned prior.")
@click.option(
    "--images",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of low-resolution photographs beside the shipped ones; may be repeated.",
)
@click.option("--fonts", type=click.Path(path_type=Path), help="Folder of .ttf fonts.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Name of the report.")
def main(
    model: Path | None,
    prior: Path | None,
    images: tuple[Path, ...],
    fonts: Path | None,
    output: Path | None,
) -> None:
    """Measure the artifacts of a model; writes OUTPUT.md, .json and .png."""
    network = load_checkpoint(*((model, prior) if model else embedded_checkpoint())).network
    assert isinstance(network, LinfLP)
    shipped = Path(str(files("flowsr_export.inputs") / "pictures"))
    paths = [path for folder in (shipped, *images) for path in sorted(folder.glob("*.png"))]
    inputs = {path.stem: read_picture(path).rgb for path in paths}
    photos = [
        measure_photo(network, name, image, scale)
        for name, image in inputs.items()
        for scale in SCALES
    ]
    originals = made_images(sorted(fonts.glob("*.ttf")) if fonts else [])
    made, shown = [], {}
    for name, original in originals.items():
        for scale in WHOLE_SCALES:
            figures, versions = measure_made(network, name, original, scale)
            made.append(figures)
        shown[name] = (original, *versions)
    text = markdown(photos, made)
    click.echo(text)
    if output is None:
        return
    output.with_suffix(".md").write_text(text)
    figures_of = {"photographs": [asdict(p) for p in photos], "made": [asdict(m) for m in made]}
    output.with_suffix(".json").write_text(json.dumps(figures_of, indent=1) + "\n")
    _sheet(shown).save(output.with_suffix(".png"))


if __name__ == "__main__":
    main()
