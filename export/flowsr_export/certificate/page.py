"""Write a certificate as JSON and as one HTML page that shows its worst cases."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flowsr_export.certificate.certify import Certificate, WorstCase
from flowsr_export.certificate.record import Record
from flowsr_export.parity.verify import ROUND_TRIP_TOLERANCE
from flowsr_export.reports.files import prepare_files, write_files
from flowsr_export.reports.page import Page, Section
from flowsr_export.reports.table import Table, three_digits
from flowsr_runtime.pictures.depth import to_depth

__all__ = [
    "amplification",
    "certificate_paths",
    "page_of",
    "summary_lines",
    "write_certificate",
]

NAMES = ("certificate.json", "certificate.html")
WHOLE = 160  # longest side of a whole image on the page, pixels
DETAIL = 33  # side of a detail, output pixels; odd, so that the difference is in its middle
ZOOM = 8  # page pixels per output pixel of a detail
MAX_AMPLIFICATION = 1 << 20  # more would show the rounding of zero
MARK = (255, 196, 61)
NON_FINITE = (255, 0, 255)


def certificate_paths(folder: Path, *, force: bool) -> list[Path]:
    """Return the files of a certificate, and make their folder.

    Raises:
        OutputError: If a file exists and `force` is false, or the folder cannot be made.
    """
    paths = [folder / name for name in NAMES]
    prepare_files(paths, force=force)
    return paths


def write_certificate(
    certificate: Certificate, folder: Path, command: str, *, force: bool = False
) -> list[Path]:
    """Write certificate.json and certificate.html, whatever the verdict is.

    Args:
        certificate: The certificate.
        folder: Folder of the files.
        command: Command line that made the certificate.
        force: Overwrite existing files.

    Returns:
        The files.

    Raises:
        OutputError: If a file exists and `force` is false, or cannot be written.
    """
    paths = certificate_paths(folder, force=force)
    texts = certificate.record.as_json(command), page_of(certificate, command).html()
    write_files(dict(zip(paths, texts, strict=True)))
    return paths


def page_of(certificate: Certificate, command: str) -> Page:
    """Return the content of the page."""
    record, worst = certificate.record, certificate.worst
    sections = [
        _section("Worst case" if i == 0 else f"Worst case of {one.check.candidate}", one)
        for i, one in enumerate(worst)
    ]
    return Page(
        "Parity certificate",
        command,
        [*_about_lines(record), *([] if certificate.passed else [record.trouble()])],
        [part(record) for part in (_candidates, _tolerances, _backends, _weights, _checks)],
        sections or [Section("Worst case", lines=["No comparison gave an image."])],
        passed=certificate.passed,
    )


def summary_lines(record: Record) -> list[str]:
    """Return a certificate as lines for a terminal."""
    lines = [
        f"{'against PyTorch float32':32}{'comparisons':>12}{'passed':>8}{'of tolerance':>14}"
    ]
    lines += [
        f"{one.name:32}{one.comparisons:12d}{one.passed:8d}{three_digits(one.used):>14}"
        for one in record.candidates
    ]
    lines += [
        f"{entry.second} against {entry.first}: {'' if entry.passed else 'not '}within "
        f"{entry.tolerance.limit:.3g}"
        for entry in record.backends
    ]
    for weights in record.weights:
        counts = f"{weights.tensors} tensors, {len(weights.changed)} changed"
        lines.append(f"weights of {weights.file}: {counts}")
    totals = record.verdict.totals
    return [
        *lines,
        *(line[0].lower() + line[1:].rstrip(".") for line in _not_compared_lines(record)),
        f"{totals.passed} of {totals.planned} comparisons within their tolerances, in "
        f"{record.seconds:g} s",
    ]


def amplification(difference: NDArray[np.float64]) -> int:
    """Return the power of two that makes the largest finite difference nearly full range."""
    finite = difference[np.isfinite(difference)]
    largest = float(finite.max()) if finite.size else 0.0
    if largest == 0:
        return 1
    return min(MAX_AMPLIFICATION, max(1, 1 << max(0, math.floor(-math.log2(largest)))))


def _about_lines(record: Record) -> list[str]:
    about, totals = record.about, record.verdict.totals
    bundle, machine, checkpoint = about["bundle"], about["machine"], about["checkpoint"]
    libraries = ", ".join(f"{name} {v}" for name, v in machine["libraries"].items())
    complete = "complete" if record.verdict.complete else "not complete"
    return [
        f"{bundle['family']}, scale {bundle['scale']}, of {bundle['path']}; {record.plan} "
        f"plan, {complete}: {totals.passed} of {totals.planned} comparisons within their "
        f"tolerances, {totals.missed} beyond, {totals.not_run} not made, in "
        f"{record.seconds:g} s. Made {record.made}.",
        f"Reference: {about['reference']}; the checkpoint's sha256 is "
        f"{checkpoint['model_sha256']}, its prior's {checkpoint['prior_sha256']}.",
        f"{machine['cpu']}, {machine['cores']} usable cores; {libraries}.",
        f"Flow's inverse(forward(x)): {record.round_trip:.3g} relative, tolerance "
        f"{ROUND_TRIP_TOLERANCE:g}.",
        *_not_compared_lines(record),
    ]


def _not_compared_lines(record: Record) -> list[str]:
    return [f"Not compared, {name}: {why}." for name, why in record.not_compared.items()] + [
        f"Not compared, {name}: PyTorch itself explodes, {values}."
        for name, values in record.exploded.items()
    ]


def _section(title: str, worst: WorstCase) -> Section:
    check, reference, output = worst.check, worst.reference, worst.output
    assert check.at is not None
    with np.errstate(invalid="ignore"):
        difference = np.abs(reference.astype(np.float64) - output)
    factor = amplification(difference)
    _, channel, row, column = check.at
    line = (
        f"{check.candidate}, {check.mode}, {check.case}: {three_digits(check.used)} of its "
        f"tolerance; largest difference {three_digits(check.max_abs)} of full range in row "
        f"{row}, column {column}, {('red', 'green', 'blue')[channel]}, marked."
    )
    expected = "PyTorch" if check.mode != "exact seam" else "the same graph, whole image"
    panels = {
        expected: _levels(reference),
        "result": _levels(output),
        f"difference, ×{factor}": _levels(difference * factor),
    }
    at = row, column
    whole = [
        (_whole(levels, at, keep_largest=name.startswith("difference")), name)
        for name, levels in panels.items()
    ]
    details = [(_detail(levels, at), f"{name}, detail") for name, levels in panels.items()]
    return Section(title, lines=[line, *check.why], images=[whole, details])


def _levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return (H, W, 3) levels of (3, H, W) values in [0, 1]; non-finite pixels are magenta."""
    rgb = values.transpose(1, 2, 0)
    clean = np.clip(np.nan_to_num(rgb), 0, 1).astype(np.float32)
    levels: NDArray[np.uint8] = to_depth(clean, 8)
    levels[~np.isfinite(rgb).all(axis=2)] = NON_FINITE
    return levels


def _whole(
    levels: NDArray[np.uint8], at: tuple[int, int], *, keep_largest: bool
) -> Image.Image:
    """Return an image as large as the page shows it, with a frame around a pixel.

    Args:
        levels: (H, W, 3).
        at: Row and column of the pixel.
        keep_largest: Merge pixels to the largest level instead of the mean, so that a single
            wrong pixel stays visible.
    """
    step = -(-max(levels.shape[:2]) // WHOLE)
    h, w = (-(-n // step) for n in levels.shape[:2])
    edges = ((0, h * step - levels.shape[0]), (0, w * step - levels.shape[1]), (0, 0))
    blocks = np.pad(levels, edges, mode="edge").reshape(h, step, w, step, 3)
    merged = blocks.max(axis=(1, 3)) if keep_largest else np.rint(blocks.mean(axis=(1, 3)))
    factor = max(1, WHOLE // max(h, w))
    image = Image.fromarray(merged.astype(np.uint8)).resize(
        (w * factor, h * factor), Image.Resampling.NEAREST
    )
    y, x = (n * factor // step for n in at)
    reach = max(6, DETAIL // 2 * factor // step)
    ImageDraw.Draw(image).rectangle((x - reach, y - reach, x + reach, y + reach), outline=MARK)
    return image


def _detail(levels: NDArray[np.uint8], at: tuple[int, int]) -> Image.Image:
    """Return the surroundings of a pixel, magnified, with the pixel framed."""
    begin = [
        min(max(0, n - DETAIL // 2), max(0, side - DETAIL))
        for n, side in zip(at, levels.shape[:2], strict=True)
    ]
    crop = levels[begin[0] : begin[0] + DETAIL, begin[1] : begin[1] + DETAIL]
    size = (crop.shape[1] * ZOOM, crop.shape[0] * ZOOM)
    image = Image.fromarray(np.ascontiguousarray(crop)).resize(size, Image.Resampling.NEAREST)
    top, left = ((n - first) * ZOOM for n, first in zip(at, begin, strict=True))
    box = (left - 1, top - 1, left + ZOOM, top + ZOOM)
    ImageDraw.Draw(image).rectangle(box, outline=MARK)
    return image


def _candidates(record: Record) -> Table:
    columns = ["candidate", "comparisons", "passed", "largest of tolerance", "steps", "worst"]
    table = Table("Candidates compared with PyTorch", columns)
    for one in record.candidates:
        counts = [str(one.comparisons), str(one.passed), three_digits(one.used)]
        name = f"{one.name} (float32 products in TF32)" if one.tf32 else one.name
        table.rows.append([name, *counts, str(one.max_steps), one.worst or "none"])
    return table


def _tolerances(record: Record) -> Table:
    note = "tiles: default halo; exact tiles: whole receptive field; exact seam: no PyTorch."
    columns = ["tolerance", "max error", "steps", "p99.9 steps", "PSNR dB"]
    table = Table("Tolerances", columns, note)
    for name, tolerance in record.tolerances.items():
        limits = tolerance.max_abs, tolerance.max_steps, tolerance.p999_steps, tolerance.psnr
        table.rows.append([name, *("none" if x is None else f"{x:g}" for x in limits)])
    return table


def _backends(record: Record) -> Table:
    columns = ["compared", "with", "runs", "statistic", "limit", "max", "mean", "verdict"]
    table = Table("ONNX backends compared with each other, by Polygraphy", columns)
    for entry in record.backends:
        compared = [entry.second, entry.first, str(entry.runs), entry.tolerance.statistic]
        values = entry.tolerance.limit, entry.max_abs, entry.mean_abs
        verdict = "passed" if entry.passed else "missed"
        table.rows.append([*compared, *map(three_digits, values), verdict])
    return table


def _weights(record: Record) -> Table:
    columns = ["file", "tensors", "values", "limit", "changed"]
    note = "Relative difference of each value from the network's."
    table = Table("Weights", columns, note)
    for entry in record.weights:
        counts = [str(entry.tensors), str(entry.values), three_digits(entry.limit)]
        table.rows.append([entry.file, *counts, ", ".join(entry.changed) or "none"])
    return table


def _checks(record: Record) -> Table:
    columns = ["comparison", "candidate", "tiles", "max error", "steps", "PSNR dB"]
    columns += ["of tolerance", "outcome"]
    table = Table("Every comparison", columns)
    for check in sorted(record.checks, key=lambda check: check.outcome == "passed"):
        compared = [f"{check.mode}, {check.case}", check.candidate, str(check.tiles or "")]
        psnr = "equal" if check.max_abs == 0 else three_digits(check.psnr)
        values = [three_digits(check.max_abs), str(check.max_steps), psnr]
        outcome = "; ".join([check.outcome, *check.why])
        table.rows.append([*compared, *values, three_digits(check.used), outcome])
    return table
