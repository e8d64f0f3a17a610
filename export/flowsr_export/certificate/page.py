"""A certificate as JSON and as one HTML page with its worst cases pictured."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flowsr_export.certificate.certify import Certificate, Pictured
from flowsr_export.certificate.record import as_json
from flowsr_export.reports.table import Table
from flowsr_runtime.atomic import replace_file
from flowsr_runtime.errors import OutputError

__all__ = ["NAMES", "amplification", "as_html", "certificate_paths", "write_certificate"]

NAMES = ("certificate.json", "certificate.html")
WHOLE = 160  # longest side of a whole picture on the page, pixels
DETAIL = 33  # side of a detail, output pixels; odd, so that the place is in its middle
ENLARGED = 8  # a detail's pixels are shown this large
MOST = 1 << 20  # an amplification beyond this would show the rounding of zero
MARK = (255, 196, 61)
NO_NUMBER = (255, 0, 255)
EIGHT_BIT = 255

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>flowsr-export certificate</title>
<style>
body { font: 15px/1.5 sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0; }
td, th { border-bottom: 1px solid #ddd; padding: .2rem .6rem; text-align: right; }
td:first-child, th:first-child { text-align: left; }
figure { display: inline-block; margin: .3rem 1rem .3rem 0; vertical-align: top; }
figcaption { font-size: 13px; color: #555; }
img { image-rendering: pixelated; }
.green { color: #0a7d32; } .red { color: #b3261e; }
</style></head><body>
"""


def certificate_paths(folder: Path, *, force: bool) -> list[Path]:
    """Return the files of a certificate.

    Raises:
        OutputError: If one is there already and must not be overwritten.
    """
    paths = [folder / name for name in NAMES]
    for path in paths:
        if path.exists() and not force:
            raise OutputError(f"{path} exists; --force overwrites it")
    return paths


def write_certificate(
    certificate: Certificate, folder: Path, command: str, *, force: bool = False
) -> list[Path]:
    """Write certificate.json and certificate.html, whatever the verdict is.

    Args:
        certificate: What was found.
        folder: Where; it is made if missing.
        command: The command line that made it.
        force: Overwrite what is there.

    Returns:
        The files.

    Raises:
        OutputError: If one is there already, or cannot be written.
    """
    paths = certificate_paths(folder, force=force)
    contents = (
        as_json({"command": command, **certificate.content}),
        as_html(certificate, command),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, contents, strict=True):
            replace_file(path, text.encode("utf-8"))
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from error
    return paths


def as_html(certificate: Certificate, command: str) -> str:
    """Return a certificate as one page that needs no other file."""
    content = certificate.content
    word, colour = ("passed", "green") if certificate.passed else ("failed", "red")
    parts = [
        HEAD,
        f'<h1>Parity certificate: <span class="{colour}">{word}</span></h1>\n',
        f"<p><code>{html.escape(command)}</code></p>\n",
    ]
    lines = [*_about(content), *([] if certificate.passed else [certificate.trouble()])]
    parts += [f"<p>{html.escape(line)}</p>\n" for line in lines]
    for i, pictured in enumerate(certificate.pictured):
        title = "The worst case" if i == 0 else f"The worst case of {pictured.check['subject']}"
        parts.append(_pictures(title, pictured))
    if not certificate.pictured:
        parts.append("<p>No comparison gave a picture.</p>\n")
    parts += [table.html() for table in _tables(content)]
    return "".join([*parts, "</body></html>\n"])


def amplification(difference: NDArray[np.float64]) -> int:
    """Return the power of two that makes the largest finite difference nearly full range."""
    finite = difference[np.isfinite(difference)]
    largest = float(finite.max()) if finite.size else 0.0
    if largest == 0:
        return 1
    return min(MOST, max(1, 1 << max(0, math.floor(-math.log2(largest)))))


def _about(content: dict[str, Any]) -> list[str]:
    bundle, machine, totals = content["bundle"], content["machine"], content["totals"]
    libraries = ", ".join(f"{name} {v}" for name, v in machine["libraries"].items())
    whole = "complete" if content["complete"] else "not complete"
    return [
        f"{bundle['family']}, scale {bundle['scale']}, of {bundle['path']}; {content['plan']} "
        f"plan, {whole}: {totals['passed']} of {totals['planned']} comparisons within their "
        f"bars, {totals['missed']} missed, {totals['not_run']} not made, in "
        f"{totals['seconds']:g} s. Made {content['made']}.",
        f"Reference: {content['reference']}; the checkpoint's sha256 is "
        f"{content['checkpoint']['model_sha256']}, its prior's "
        f"{content['checkpoint']['prior_sha256']}.",
        f"{machine['cpu']}, {machine['cores']} usable cores; {libraries}.",
        f"Flow's inverse(forward(x)): {content['round_trip']['relative_error']} relative, at "
        f"most {content['round_trip']['bar']:g}.",
        *(f"Not compared, {name}: {why}." for name, why in content["not_compared"].items()),
        *(
            f"Not compared, {name}: PyTorch itself explodes, {what}."
            for name, what in content["exploded"].items()
        ),
    ]


def _pictures(title: str, pictured: Pictured) -> str:
    check, reference, output = pictured.check, pictured.reference, pictured.output
    with np.errstate(invalid="ignore"):
        difference = np.abs(reference.astype(np.float64) - output)
    factor = amplification(difference)
    _, channel, row, column = check["at"]
    against = "PyTorch" if check["kind"] != "exact seam" else "the same graph, whole picture"
    used = "no number" if check["used"] is None else f"{check['used']:.3g} of its bar"
    lines = [
        f"{check['subject']}, {check['kind']}, {check['trial']}: {used}; largest difference "
        f"{_shown(check['max_abs'])} of full range in row {row}, column {column}, "
        f"{('red', 'green', 'blue')[channel]}, marked.",
        *check["why"],
    ]
    names = (f"{against}", "result", f"difference, ×{factor}")
    panels = (
        _eight_bits(reference),
        _eight_bits(output),
        _eight_bits(difference * factor),
    )
    figures = [_figure(_whole(panels[i], (row, column), i == 2), names[i]) for i in range(3)]
    figures.append("<br>\n")
    figures += [
        _figure(_detail(panel, (row, column)), f"{name}, detail")
        for panel, name in zip(panels, names, strict=True)
    ]
    text = "".join(f"<p>{html.escape(line)}</p>\n" for line in lines)
    return f"<h2>{html.escape(title)}</h2>\n{text}{''.join(figures)}\n"


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return (H, W, 3) levels of (3, H, W) values in [0, 1]; what is no number is magenta."""
    rgb = values.transpose(1, 2, 0)
    bad = ~np.isfinite(rgb).all(axis=2)
    levels: NDArray[np.uint8] = np.rint(np.clip(np.nan_to_num(rgb), 0, 1) * EIGHT_BIT).astype(
        np.uint8
    )
    levels[bad] = NO_NUMBER
    return levels


def _whole(levels: NDArray[np.uint8], place: tuple[int, int], largest: bool) -> Image.Image:
    """Return a picture as large as the page shows it, with a frame around the place.

    Args:
        levels: (H, W, 3).
        place: Row and column.
        largest: Keep the largest level of the pixels that become one, so that a single wrong
            one is not averaged away.
    """
    step = -(-max(levels.shape[:2]) // WHOLE)
    h, w = (-(-n // step) for n in levels.shape[:2])
    edges = ((0, h * step - levels.shape[0]), (0, w * step - levels.shape[1]), (0, 0))
    blocks = np.pad(levels, edges, mode="edge").reshape(h, step, w, step, 3)
    joined = blocks.max(axis=(1, 3)) if largest else np.rint(blocks.mean(axis=(1, 3)))
    factor = max(1, WHOLE // max(h, w))
    image = Image.fromarray(joined.astype(np.uint8)).resize(
        (w * factor, h * factor), Image.Resampling.NEAREST
    )
    y, x = (n * factor // step for n in place)
    reach = max(6, DETAIL // 2 * factor // step)
    ImageDraw.Draw(image).rectangle((x - reach, y - reach, x + reach, y + reach), outline=MARK)
    return image


def _detail(levels: NDArray[np.uint8], place: tuple[int, int]) -> Image.Image:
    """Return what is around a place, its pixels enlarged as they are and the place framed."""
    begin = [
        min(max(0, at - DETAIL // 2), max(0, side - DETAIL))
        for at, side in zip(place, levels.shape[:2], strict=True)
    ]
    crop = levels[begin[0] : begin[0] + DETAIL, begin[1] : begin[1] + DETAIL]
    size = (crop.shape[1] * ENLARGED, crop.shape[0] * ENLARGED)
    image = Image.fromarray(np.ascontiguousarray(crop)).resize(size, Image.Resampling.NEAREST)
    top, left = ((at - first) * ENLARGED for at, first in zip(place, begin, strict=True))
    box = (left - 1, top - 1, left + ENLARGED, top + ENLARGED)
    ImageDraw.Draw(image).rectangle(box, outline=MARK)
    return image


def _figure(image: Image.Image, caption: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    text = html.escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>\n"
    )


def _tables(content: dict[str, Any]) -> list[Table]:
    tables = (_subjects, _bars, _backends, _weights, _checks)
    return [table(content) for table in tables]


def _subjects(content: dict[str, Any]) -> Table:
    columns = ["what", "comparisons", "passed", "largest of its bar", "steps", "worst case"]
    table = Table("What was compared with PyTorch", columns)
    for subject in content["subjects"]:
        worst = subject["worst"] or {"used": None, "kind": "none", "trial": "none"}
        counts = [str(subject[name]) for name in ("comparisons", "passed")]
        place = f"{worst['kind']}, {worst['trial']}"
        table.rows.append(
            [subject["name"], *counts, _shown(worst["used"]), str(subject["max_steps"]), place]
        )
    return table


def _bars(content: dict[str, Any]) -> Table:
    note = (
        "tiles: default halo; exact tiles: whole receptive field; exact seam: without PyTorch."
    )
    columns = ["bar", "max error", "steps", "p99.9 steps", "PSNR dB"]
    table = Table("Bars", columns, note)
    for name, bar in content["bars"].items():
        limits = (bar["max_abs"], bar["max_steps"], bar["p999_steps"], bar["psnr"])
        table.rows.append([name, *("none" if x is None else f"{x:g}" for x in limits)])
    return table


def _backends(content: dict[str, Any]) -> Table:
    columns = ["compared", "with", "runs", "statistic", "limit", "max", "mean", "verdict"]
    table = Table("ONNX backends among each other, by Polygraphy", columns)
    for entry in content["backends"]:
        figures = [_shown(entry[name]) for name in ("limit", "max_abs", "mean_abs")]
        names = [entry["second"], entry["first"], str(entry["runs"]), entry["statistic"]]
        table.rows.append([*names, *figures, "passed" if entry["passed"] else "missed"])
    return table


def _weights(content: dict[str, Any]) -> Table:
    columns = ["file", "tensors", "values", "limit", "changed"]
    note = "Each value against the network's, relative to itself."
    table = Table("Weights", columns, note)
    for entry in content["weights"]:
        counts = [str(entry["tensors"]), str(entry["values"]), _shown(entry["limit"])]
        table.rows.append([entry["file"], *counts, ", ".join(entry["changed"]) or "none"])
    return table


def _checks(content: dict[str, Any]) -> Table:
    columns = ["comparison", "what", "tiles", "max error", "steps", "PSNR dB", "of its bar", ""]
    table = Table("Every comparison", columns)
    for check in _bad_first(content["checks"]):
        table.rows.append(
            [
                f"{check['kind']}, {check['trial']}",
                check["subject"],
                str(check["tiles"] or ""),
                _shown(check["max_abs"]),
                str(check["max_steps"]),
                "equal" if check["equal"] else _shown(check["psnr"]),
                _shown(check["used"]),
                "; ".join([check["outcome"], *check["why"]]),
            ]
        )
    return table


def _bad_first(checks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(checks, key=lambda check: bool(check["outcome"] == "passed"))


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"
