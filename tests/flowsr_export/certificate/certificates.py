"""Damaged bundles, and fake certificates."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from flowsr_export.certificate.certify import Certificate, WorstCase
from flowsr_export.certificate.cross_checks import Weights
from flowsr_export.certificate.record import (
    Check,
    Record,
    judge,
    summarize_candidate,
)
from flowsr_export.parity.compare import Tolerance
from flowsr_export.parity.session_comparison import Comparison, MetricLimit
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
    del manifest["stages"]  # of another graph
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


GRAPH = "onnxruntime cpu fp32"


def check(**changes: Any) -> Check:
    """Return a comparison that passed."""
    values: dict[str, Any] = {
        **{"candidate": GRAPH, "mode": "whole", "case": "photographs, ×2", "seed": 0},
        **{"picture": "photographs", "scale": "2", "lr": (3, 4), "size": (6, 8), "batch": 1},
        **{"tolerance": "fp32, whole", "outcome": "passed", "max_abs": 1e-6, "max_steps": 0},
        **{"p999_steps": 1e-4, "psnr": 140.0, "used": 0.01, "at": (0, 1, 2, 3)},
    }
    return Check(**values | changes)


def certificate(
    checks: tuple[Check, ...] = (check(),), worst: list[WorstCase] | None = None
) -> Certificate:
    """Return a certificate of some comparisons, by default of one that passed."""
    session = SimpleNamespace(backend="onnxruntime", provider="cpu")
    candidate: Any = SimpleNamespace(
        name=GRAPH, precision="fp32", file="model.fp32.onnx", session=session
    )
    limit = MetricLimit("max", 1e-4)
    backends = (Comparison(GRAPH, f"{GRAPH}, not optimized", 2, limit, 1e-6, 1e-7, True),)
    weights = (Weights("model.fp32.onnx", 2, 9, 1e-6, ()),)
    record = Record(
        made="2026-01-02T03:04:05+00:00",
        plan="quick",
        seconds=1.5,
        verdict=judge([one.key for one in checks], checks, 1e-6, backends, weights),
        round_trip=1e-6,
        about={
            "bundle": {"path": "built in", "family": "linf-lp", "scale": "any"},
            "checkpoint": {"model_sha256": "aa", "prior_sha256": "bb"},
            "reference": "PyTorch, eager, float32, cpu",
            "machine": {"cpu": "a CPU", "cores": 2, "libraries": {"torch": "2.13.0"}},
        },
        not_compared={"half precision on a GPU": "not measured"},
        exploded={"noise 0": "2 of 9 values lie outside"},
        tolerances={"fp32, whole": Tolerance(max_abs=1e-4, max_steps=1)},
        candidates=(summarize_candidate(candidate, checks),),
        backends=backends,
        weights=weights,
        checks=checks,
    )
    if worst is None:
        zero = np.zeros((3, 6, 8), np.float32)
        worst = [WorstCase(checks[0], zero, zero + np.float32(0.001))]
    return Certificate(record, worst)
