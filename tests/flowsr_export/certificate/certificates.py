"""Bundles that are wrong on purpose, and certificates that are made up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from flowsr_export.certificate.certify import Certificate, Pictured
from flowsr_runtime import Bundle, embedded_bundle, write_bundle

__all__ = ["altered", "certificate", "check", "one_percent", "swapped_slots"]

MODEL = "model.fp32.onnx"
Change = Callable[[onnx.ModelProto], object]


def altered(
    target: Path, change: Change = lambda model: None, tiling: dict[str, int] | None = None
) -> Bundle:
    """Write the built-in bundle with another graph or tiling, and right hashes."""
    built_in = Bundle.open(embedded_bundle())
    raw = built_in.manifest.raw
    model = onnx.load_from_string(built_in.model_bytes())
    change(model)
    manifest = {
        **raw,
        "tiling": {**raw["tiling"], **(tiling or {})},
        "files": {MODEL: raw["files"][MODEL]},
    }
    return write_bundle(target, manifest, {MODEL: model.SerializeToString()})


def one_percent(model: onnx.ModelProto, weight: str = "encoder.body.3.body.0.weight") -> None:
    """Change one weight tensor by 1 %."""
    (tensor,) = (t for t in model.graph.initializer if t.name == weight)
    values = numpy_helper.to_array(tensor) * np.float32(1.01)
    tensor.CopyFrom(numpy_helper.from_array(values, weight))


def swapped_slots(model: onnx.ModelProto) -> str:
    """Let both neighbours of every row change places; return the name of the node."""
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        parts = [makers.get(name) for name in node.input]
        pair = len(parts) == 2 and all(
            p is not None and p.op_type == "Unsqueeze" for p in parts
        )
        if node.op_type == "Concat" and pair:
            node.input[:] = [node.input[1], node.input[0]]
            return str(node.name)
    raise AssertionError("the graph stacks no neighbours")


def check(**changes: Any) -> dict[str, Any]:
    """Return the record of a comparison that passed."""
    return {
        "subject": "onnxruntime cpu fp32",
        "kind": "whole",
        "trial": "photographs, ×2, 4x3 to 8x6, batch 1",
        "tiles": None,
        "bar": "fp32, whole",
        "max_abs": 1e-6,
        "p999_steps": 1e-4,
        "psnr": 140.0,
        "max_steps": 0,
        "equal": False,
        "used": 0.01,
        "at": [0, 1, 2, 3],
        "outcome": "passed",
        "why": [],
        **changes,
    }


def certificate(pictured: list[Pictured] | None = None, **changes: Any) -> Certificate:
    """Return a certificate of one comparison, by default one that passed."""
    checks = changes.pop("checks", [check()])
    worst = {"kind": "whole", "trial": "photographs", "max_abs": 1e-6, "used": 0.01}
    content = {
        "schema": 1,
        "made": "2026-01-02T03:04:05+00:00",
        "plan": "quick",
        "passed": True,
        "complete": True,
        "totals": {"planned": 1, "passed": 1, "missed": 0, "not_run": 0, "seconds": 1.5},
        "bundle": {"path": "built in", "family": "linf-lp", "scale": "any"},
        "checkpoint": {"model_sha256": "aa", "prior_sha256": "bb"},
        "reference": "PyTorch, eager, float32, cpu",
        "machine": {"cpu": "a CPU", "cores": 2, "libraries": {"torch": "2.13.0"}},
        "round_trip": {"relative_error": 1e-6, "bar": 1e-4, "passed": True},
        "not_compared": {"half precision on a GPU": "not measured"},
        "exploded": {"noise 0": "2 of 9 values lie outside"},
        "bars": {"fp32, whole": {"max_abs": 1e-4, "max_steps": 1, "p999_steps": None}},
        "subjects": [
            {
                "name": "onnxruntime cpu fp32",
                "file": "model.fp32.onnx",
                "comparisons": 1,
                "passed": 1,
                "max_steps": 0,
                "worst": worst,
            }
        ],
        "backends": [
            {
                "first": "onnxruntime cpu fp32",
                "second": "onnxruntime cpu fp32, not optimised",
                "runs": 2,
                "statistic": "max",
                "limit": 1e-4,
                "max_abs": 1e-6,
                "mean_abs": 1e-7,
                "passed": True,
            }
        ],
        "weights": [
            {
                "file": "model.fp32.onnx",
                "tensors": 2,
                "values": 9,
                "limit": 1e-6,
                "changed": [],
                "passed": True,
            }
        ],
        "checks": checks,
        **changes,
    }
    content["bars"]["fp32, whole"].setdefault("psnr", None)
    if pictured is None:
        zero = np.zeros((3, 6, 8), np.float32)
        pictured = [Pictured(checks[0], zero, zero + np.float32(0.001))]
    return Certificate(content, pictured)
