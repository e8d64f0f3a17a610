"""Write a calibrated graph and its report into a bundle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import onnx

from flowsr_export.calibration.report import frontier_chart, markdown, report_of
from flowsr_export.calibration.run import Calibration
from flowsr_runtime import Bundle, write_bundle
from flowsr_runtime.bundle.directory import check_replaceable, extend_bundle
from flowsr_runtime.errors import OutputError

__all__ = ["check_output_bundle", "write_calibrated"]

FOLDER = "calibration"


def check_output_bundle(bundle: Bundle, output: Path, precision: str, force: bool) -> None:
    """Check before slow work that the result can be written.

    Args:
        bundle: Bundle to calibrate.
        output: Bundle that gets the graph; it may be `bundle` itself.
        precision: "int8" or "fp8".
        force: Replace an existing bundle or graph.

    Raises:
        OutputError: If it exists and `force` is false, or is not a bundle.
    """
    name = _model_name(precision)
    if not _is_same(bundle, output):
        check_replaceable(output, force)
    elif name in bundle.manifest.files and not force:
        raise OutputError(f"{output} contains {name}; force=True replaces it", option="force")


def write_calibrated(
    bundle: Bundle, output: Path, done: Calibration, *, force: bool = False
) -> Bundle:
    """Write the bundle with the quantized graph beside its other graphs, atomically.

    Args:
        bundle: The calibrated bundle.
        output: Bundle to write. `bundle` itself keeps its engines, unless it had such a graph
            before: then the bundle is rewritten without the engines of the old graph.
        done: The calibration.
        force: Replace an existing bundle or graph.

    Returns:
        The new bundle.

    Raises:
        OutputError: If it cannot be written; an existing bundle is intact.
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
    """Return the files of a calibration, and the entry of its graph in bundle.json."""
    precision = done.config.type
    statistics = f"{FOLDER}/statistics-{done.statistics.key[:16]}.npz"
    report = report_of(done)
    files = {
        _model_name(precision): done.content,
        statistics: done.statistics.to_bytes(),
        f"{FOLDER}/{precision}.json": (json.dumps(report, indent=1) + "\n").encode(),
        f"{FOLDER}/{precision}.md": markdown(done).encode(),
        f"{FOLDER}/{precision}.svg": frontier_chart(done).encode(),
    }
    model = onnx.load_from_string(done.content)
    entry = {
        "precision": precision,
        "opset": model.opset_import[0].version,
        "islands": [*report["excluded"], *report["left_out"]],
        "multiply_adds": {"share": report["share"], "of_weights": report["share_of_weights"]},
        "quantization": {
            "method": report["method"],
            "samples": report["samples"],
            "statistics": statistics,
            "statistics_key": report["statistics"],
            "report": f"{FOLDER}/{precision}.json",
            "blocks": [block["block"] for block in report["blocks"] if block["quantized"]],
            "corrections": [one["name"] for one in report["corrections"] if one["kept"]],
            "gates": report["gates"],
        },
    }
    return files, {_model_name(precision): entry}


def _model_name(precision: str) -> str:
    return f"model.{precision}.onnx"


def _is_same(bundle: Bundle, output: Path) -> bool:
    return output.exists() and os.path.samefile(bundle.path, output)
