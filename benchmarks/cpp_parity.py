"""Compare the C++ runtime with Python's over models, sizes, scales and tiles.

Both run the same bundle with the same settings on this machine. Different backends, such as
ONNX Runtime in Python and OpenVINO in C++, round differently.

Example:
    python runtime/cpp/onnxruntime_sdk.py -o build/onnxruntime
    cmake -S runtime/cpp -B build/cpp -DFLOWSR_ONNXRUNTIME_ROOT=build/onnxruntime
    cmake --build build/cpp
    python -m benchmarks.cpp_parity --build build/cpp edsr.bundle srflow.bundle
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from flowsr_export.reports.table import markdown_rows
from flowsr_runtime import Bundle, MemoryBudgetError, Upscaler, embedded_bundle, read_picture
from flowsr_runtime.pictures.pixels import full_range
from tests.flowsr_runtime.cpp.library import (
    ROOT,
    CppError,
    CppLibrary,
    load,
    request_of,
    settings_of,
)

__all__ = ["Case", "Figures", "cases_of", "compare", "markdown"]

PHOTOGRAPH = ROOT / "export" / "flowsr_export" / "inputs" / "pictures" / "coffee_256.png"
SIZES = ((1, 1), (5, 31), (48, 64), (256, 40))  # the last is larger than any halo
SCALES = ("2", "2.7", "3.6x2.7", "4")  # rows first in a pair
TEMPERATURE = 0.5
SEED = 7
CROP_ORIGIN = 100  # row and column of the photograph
UNLIMITED = 2**62  # bytes


@dataclass(frozen=True)
class Case:
    """One image upscaled in both languages.

    Attributes:
        size: Input size (h, w).
        scale: Factors (vertical, horizontal) as text, None for a model of one scale.
        tiled: Whether the image is cut into tiles.
    """

    size: tuple[int, int]
    scale: tuple[str, str] | None
    tiled: bool


@dataclass(frozen=True)
class Figures:
    """Differences between two outputs.

    Attributes:
        case: The case.
        tiles: Number of tiles.
        max_abs: Largest difference in units of full range, unclamped; None for a graph with
            eight-bit output.
        max_steps: Largest difference in eight-bit steps, after rounding.
        unequal: Number of values that differ after rounding.
        values: Number of values.
    """

    case: Case
    tiles: int
    max_abs: float | None
    max_steps: int
    unequal: int
    values: int


def cases_of(bundle: Bundle) -> list[Case]:
    """Return every size with every supported scale, whole and in tiles."""
    scales: list[tuple[str, str] | None] = [None]
    if bundle.manifest.scale is None:
        split = [text.split("x") for text in SCALES]
        scales = [(factors[0], factors[-1]) for factors in split]
    return [
        Case(size, scale, tiled)
        for size in SIZES
        for scale in scales
        for tiled in (False, True)
    ]


def compare(
    library: CppLibrary, bundle: Bundle, cases: list[Case], backend: str
) -> Iterator[Figures]:
    """Upscale parts of a photograph in both languages.

    Args:
        library: The C++ runtime.
        bundle: The model.
        cases: Cases; tiled ones are skipped if the image is too small.
        backend: Backend of the C++ runtime; Python's is ONNX Runtime on the CPU.

    Yields:
        The differences of each case.
    """
    image = read_picture(PHOTOGRAPH).rgb
    for case in cases:
        budget = _budget(library, bundle, case)
        if budget is None:
            continue
        (h, w), left = case.size, CROP_ORIGIN
        top = min(CROP_ORIGIN, len(image) - h)
        crop = image[top : top + h, left : left + w]
        with (
            Upscaler.open(bundle, memory_budget=budget) as python,
            library.open(bundle.path, backend=backend, memory_budget=budget) as other,
        ):
            yield _figures(case, python, other, crop)


def markdown(rows: dict[str, list[Figures]]) -> str:
    """Return a table with the largest differences of each model."""
    columns = ["model", "cases", "most tiles", "worst of full range", "worst step"]
    cells = []
    for name, figures in rows.items():
        differences = [one.max_abs for one in figures if one.max_abs is not None]
        worst = f"{max(differences):.2g}" if differences else "eight bits"
        tiles, steps = max(one.tiles for one in figures), max(one.max_steps for one in figures)
        unequal = sum(one.unequal for one in figures)
        values = sum(one.values for one in figures)
        counts = [str(len(figures)), str(tiles), worst, str(steps)]
        cells.append([name, *counts, f"{unequal} of {values}"])
    return "\n".join(markdown_rows([*columns, "unequal values"], cells))


def _budget(library: CppLibrary, bundle: Bundle, case: Case) -> int | None:
    """Return a memory budget for a whole or tiled run, None if the image cannot be cut."""
    request = request_of(**_factors(case))

    def run_bytes(budget: int) -> int:
        settings = settings_of(memory_budget=budget)
        return library.plan(bundle.path, case.size, request, settings)[2]

    needed = run_bytes(UNLIMITED)
    if not case.tiled:
        return needed
    for budget in (needed * 6 // 10, needed * 8 // 10, needed - 1):
        try:
            run_bytes(budget)
        except CppError as error:
            if error.code != MemoryBudgetError.exit_code:
                raise
        else:
            return budget
    return None


def _factors(case: Case) -> dict[str, Any]:
    if case.scale is None:
        return {}
    return {"scale_rows": case.scale[0], "scale_columns": case.scale[1]}


def _figures(case: Case, python: Upscaler, other: Any, crop: NDArray[np.uint8]) -> Figures:
    factors, temperature = _factors(case), None
    if python.bundle.manifest.latents:
        temperature = TEMPERATURE
        factors |= {"has_temperature": 1, "temperature": TEMPERATURE, "seed": SEED}
    noise: dict[str, Any] = {"seed": SEED, "temperature": temperature}
    max_abs = None
    if python.bundle.manifest.io == "float32":
        pixels = full_range(crop)
        expected = python.upscale(pixels, case.scale, clamp=False, **noise)
        max_abs = float(np.abs(expected - other.upscale(pixels, unclamped=1, **factors)).max())
    steps = np.abs(
        python.upscale(crop, case.scale, **noise).astype(int) - other.upscale(crop, **factors)
    )
    tiles = len(python.plan(case.size, case.scale))
    unequal = int(np.count_nonzero(steps))
    return Figures(case, tiles, max_abs, int(steps.max()), unequal, steps.size)


@click.command()
@click.argument("bundles", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--build", type=click.Path(path_type=Path), required=True, help="Build folder.")
@click.option("--backend", default="onnxruntime", show_default=True, help="C++ backend.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write every value.")
def main(bundles: tuple[Path, ...], build: Path, backend: str, report: Path | None) -> None:
    """Print the largest differences of the built-in model and of BUNDLES."""
    library = load(build)
    rows: dict[str, list[Figures]] = {}
    for path in (embedded_bundle(), *bundles):
        bundle = Bundle.open(path)
        name = str(path) if path.name in rows else path.name
        rows[name] = list(compare(library, bundle, cases_of(bundle), backend))
    click.echo(markdown(rows))
    if report is not None:
        plain = {name: [asdict(one) for one in figures] for name, figures in rows.items()}
        report.write_text(json.dumps(plain, indent=1) + "\n")


if __name__ == "__main__":
    main()
