"""The C++ runtime against Python's: the worst difference over models, sizes, scales and tiles.

Both run the same bundle with the same settings on this machine. Where the backends differ, as
ONNX Runtime in Python and OpenVINO in C++, so do their roundings.

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

from flowsr_runtime import Bundle, MemoryBudgetError, Upscaler, embedded_bundle, read_picture
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
SCALES = ("2", "2.7", "3.6x2.7", "4")  # the second is of the columns
TEMPERATURE = 0.5
SEED = 7
EIGHT_BIT = 255
CROP_ORIGIN = 100  # row and column of the photograph
ENDLESS = 2**62  # bytes


@dataclass(frozen=True)
class Case:
    """One picture enlarged in both languages.

    Attributes:
        size: Input size (h, w).
        scale: Factors (vertical, horizontal) as text, None for a model of one scale.
        tiled: Whether it is cut into tiles.
    """

    size: tuple[int, int]
    scale: tuple[str, str] | None
    tiled: bool


@dataclass(frozen=True)
class Figures:
    """How far two answers are from each other.

    Attributes:
        case: What was enlarged.
        tiles: How many tiles it was.
        max_abs: Largest difference in units of full range, unclamped; None for a graph that
            gives eight bits.
        max_steps: Largest difference in eight-bit steps, after rounding.
        unequal: Values that differ after rounding.
        values: Values in all.
    """

    case: Case
    tiles: int
    max_abs: float | None
    max_steps: int
    unequal: int
    values: int


def cases_of(bundle: Bundle) -> list[Case]:
    """Return every size with every scale that a bundle makes, whole and in tiles."""
    scales: list[tuple[str, str] | None] = [None]
    if bundle.manifest.scale is None:
        split = [text.split("x") for text in SCALES]
        scales = [(each[0], each[-1]) for each in split]
    return [
        Case(size, scale, tiled)
        for size in SIZES
        for scale in scales
        for tiled in (False, True)
    ]


def compare(
    library: CppLibrary, bundle: Bundle, cases: list[Case], backend: str
) -> Iterator[Figures]:
    """Enlarge parts of a photograph in both languages.

    Args:
        library: The C++ runtime.
        bundle: The model.
        cases: What to enlarge; tiles that a picture is too small for are left out.
        backend: Of the C++ runtime; Python's is ONNX Runtime on the CPU.

    Yields:
        The figures of each case.
    """
    image = read_picture(PHOTOGRAPH).rgb
    for case in cases:
        budget = _budget(library, bundle, case)
        if budget is None:
            continue
        crop = _crop(image, case.size)
        with (
            Upscaler.open(bundle, memory_budget=budget) as python,
            library.open(bundle.path, backend=backend, memory_budget=budget) as other,
        ):
            yield _figures(case, python, other, crop)


def markdown(rows: dict[str, list[Figures]]) -> str:
    """Return a table with the worst figures of each model."""
    lines = [
        "| model | cases | most tiles | worst of full range | worst step | unequal values |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, figures in rows.items():
        differences = [each.max_abs for each in figures if each.max_abs is not None]
        worst = f"{max(differences):.2g}" if differences else "eight bits"
        unequal, values = (
            sum(getattr(each, field) for each in figures) for field in ("unequal", "values")
        )
        lines.append(
            f"| {name} | {len(figures)} | {max(each.tiles for each in figures)} | {worst} | "
            f"{max(each.max_steps for each in figures)} | {unequal} of {values} |"
        )
    return "\n".join(lines)


def _crop(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    top, left = min(CROP_ORIGIN, len(image) - size[0]), CROP_ORIGIN
    return image[top : top + size[0], left : left + size[1]]


def _budget(library: CppLibrary, bundle: Bundle, case: Case) -> int | None:
    """Return a memory budget that makes the case whole or tiles, None if it cannot be."""
    request = request_of(**_factors(case))

    def run_bytes(budget: int) -> int:
        wanted = settings_of(memory_budget=budget)
        return library.plan(bundle.path, case.size, request, wanted)[2]

    needed = run_bytes(ENDLESS)
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
        pixels = crop.astype(np.float32) / np.float32(EIGHT_BIT)
        due = python.upscale(pixels, case.scale, clamp=False, **noise)
        max_abs = float(np.abs(due - other.upscale(pixels, unclamped=1, **factors)).max())
    steps = np.abs(
        python.upscale(crop, case.scale, **noise).astype(int) - other.upscale(crop, **factors)
    )
    tiles = len(python.plan(case.size, case.scale))
    unequal = int(np.count_nonzero(steps))
    return Figures(case, tiles, max_abs, int(steps.max()), unequal, steps.size)


@click.command()
@click.argument("bundles", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--build", type=click.Path(path_type=Path), required=True, help="Build folder.")
@click.option("--backend", default="onnxruntime", show_default=True, help="Of the C++ runtime.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write every figure.")
def main(bundles: tuple[Path, ...], build: Path, backend: str, report: Path | None) -> None:
    """Print the worst figures of the built-in model and of BUNDLES."""
    library = load(build)
    rows: dict[str, list[Figures]] = {}
    for path in (embedded_bundle(), *bundles):
        bundle = Bundle.open(path)
        name = str(path) if path.name in rows else path.name
        rows[name] = list(compare(library, bundle, cases_of(bundle), backend))
    click.echo(markdown(rows))
    if report is not None:
        plain = {name: [asdict(each) for each in figures] for name, figures in rows.items()}
        report.write_text(json.dumps(plain, indent=1) + "\n")


if __name__ == "__main__":
    main()
