"""Outputs of an evaluation in a folder: kept for others, or made elsewhere and scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flowsr_export.evaluation.dataset import Pair, read_opaque
from flowsr_export.evaluation.model import EvaluatedModel, Upscaled
from flowsr_export.evaluation.run import Result
from flowsr_runtime import write_picture
from flowsr_runtime.errors import PictureError
from flowsr_runtime.geometry import size_text
from flowsr_runtime.pictures.files import SUFFIXES

__all__ = ["keep", "scored"]


def keep(result: Result, folder: Path, *, force: bool) -> None:
    """Write an output as `FOLDER/METHOD/SET/x4/NAME.png`.

    Args:
        result: Result of a pair.
        folder: Folder; it is made.
        force: Replace an existing file.

    Raises:
        OutputError: If the file exists and `force` is false, or cannot be written.
    """
    row = result.row
    path = folder / row.method / row.dataset / f"x{row.scale}" / f"{row.picture}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, result.output, force=force)


def scored(folder: Path) -> EvaluatedModel:
    """Return a method whose outputs were made elsewhere.

    The output of an original lies in `FOLDER/SET/x4`, `FOLDER/x4` or `FOLDER`, and is called
    `NAME`, `NAMEx4`, `NAME_x4`, `NAME_SR`, `NAME_SRx4` or `NAME_out`, with any suffix.

    Args:
        folder: Folder of the outputs.

    Raises:
        PictureError: If it is not a folder.
    """
    if not folder.is_dir():
        raise PictureError(f"folder of outputs {folder} does not exist or is not a folder")

    def find(pair: Pair, size: tuple[int, int]) -> Upscaled:
        path = _output(folder, pair)
        picture = read_opaque(path)
        got = picture.shape[0], picture.shape[1]
        if got != size:
            needed = f"must be {size_text(size)} for {pair}"
            raise PictureError(f"{path} {needed}, got {size_text(got)}")
        return Upscaled(np.asarray(picture, np.uint8))

    def upscale(low: object, size: object, seed: object) -> Upscaled:
        raise AssertionError("outputs that were made elsewhere are found, not computed")

    about = {"family": "made elsewhere", "what": str(folder)}
    name = folder.absolute().name
    return EvaluatedModel(name, upscale, about=about, provider="none", find=find)


def _output(folder: Path, pair: Pair) -> Path:
    """Return the output of a pair."""
    at = f"x{pair.scale}"
    ends = ("", at, f"_{at}", "_SR", f"_SR{at}", f"_SR_{at}", "_out")
    names = {f"{pair.name}{end}".lower() for end in ends}
    for place in (folder / pair.dataset / at, folder / at, folder / pair.dataset, folder):
        found = [
            path
            for path in (sorted(place.iterdir()) if place.is_dir() else ())
            if path.suffix.lower() in SUFFIXES and path.stem.lower() in names
        ]
        if len(found) > 1:
            got = ", ".join(str(path) for path in found)
            raise PictureError(f"{pair} must have one output, got {got}")
        if found:
            return found[0]
    such = f"{pair.dataset}/{at}/{pair.name}.png"
    raise PictureError(f"{pair} has no output in {folder}, such as {such}")
