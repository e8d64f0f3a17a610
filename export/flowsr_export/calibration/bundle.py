"""A calibrated graph on its way into a bundle, with everything that is said of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import onnx

from flowsr_export.calibration.report import frontier_picture, markdown, report_of
from flowsr_export.calibration.run import Calibration
from flowsr_runtime import Bundle, write_bundle
from flowsr_runtime.bundle.directory import check_replaceable, extend_bundle
from flowsr_runtime.errors import OutputError

__all__ = ["check_output_bundle", "write_calibrated"]

FOLDER = "calibration"


def check_output_bundle(bundle: Bundle, output: Path, precision: str, force: bool) -> None:
    """Refuse, before slow work, a place where the result cannot be written.

    Args:
        bundle: What is calibrated.
        output: The bundle that gets the graph; it may be `bundle` itself.
        precision: "int8" or "fp8".
        force: Replace what is there.

    Raises:
        OutputError: If something is there and `force` is not given, or it is no bundle.
    """
    if not _is_same(bundle, output):
        check_replaceable(output, force)
    elif _model_name(precision) in bundle.manifest.files and not force:
        raise OutputError(
            f"{output} holds {_model_name(precision)} already; replace it with force (--force)"
        )


def write_calibrated(
    bundle: Bundle, output: Path, done: Calibration, *, force: bool = False
) -> Bundle:
    """Write the bundle that holds the quantised graph beside the others, atomically.

    Args:
        bundle: What was calibrated.
        output: The bundle to write; `bundle` itself gets the files and keeps its engines,
            unless it had such a graph before: then the whole bundle is written again and
            its engines, which are of the old files, are gone.
        done: The calibration.
        force: Replace what is there.

    Returns:
        The bundle as it is now.

    Raises:
        OutputError: If it cannot be written; what was there is intact.
    """
    check_output_bundle(bundle, output, done.config.type, force)
    added, described = _files(done)
    if _is_same(bundle, output) and not set(added) & set(bundle.manifest.files):
        return extend_bundle(output, added, described)
    kept = {name: bundle.read(name) for name in bundle.manifest.files if name not in added}
    raw = dict(bundle.manifest.raw)
    listed = {name: entry for name, entry in raw["files"].items() if name in kept}
    manifest = {**raw, "files": {**listed, **described}}
    same = _is_same(bundle, output)
    return write_bundle(output, manifest, {**kept, **added}, force=force or same)


def _files(done: Calibration) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
    """The files of a calibration, and what bundle.json says of them."""
    kind = done.config.type
    statistics = f"{FOLDER}/statistics-{done.statistics.key[:16]}.npz"
    report = report_of(done)
    files = {
        _model_name(kind): done.content,
        statistics: done.statistics.to_bytes(),
        f"{FOLDER}/{kind}.json": (json.dumps(report, indent=1) + "\n").encode(),
        f"{FOLDER}/{kind}.md": markdown(done).encode(),
        f"{FOLDER}/{kind}.svg": frontier_picture(done),
    }
    model = onnx.load_from_string(done.content)
    entry = {
        "precision": kind,
        "opset": model.opset_import[0].version,
        "islands": [*report["excluded"], *report["left_out"]],
        "multiply_adds": {"share": report["share"], "of_weights": report["share_of_weights"]},
        "quantization": {
            "method": report["method"],
            "samples": report["samples"],
            "statistics": statistics,
            "statistics_key": report["statistics"],
            "report": f"{FOLDER}/{kind}.json",
            "blocks": [block["block"] for block in report["blocks"] if block["quantised"]],
            "corrections": [each["name"] for each in report["corrections"] if each["kept"]],
            "gates": report["gates"],
        },
    }
    return files, {_model_name(kind): entry}


def _model_name(precision: str) -> str:
    return f"model.{precision}.onnx"


def _is_same(bundle: Bundle, output: Path) -> bool:
    return output.exists() and os.path.samefile(bundle.path, output)
