"""Report of a calibration: JSON, Markdown tables, and a chart of the frontier."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flowsr_export.reports.table import Table, finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from flowsr_export.calibration.run import Calibration

__all__ = ["frontier_chart", "markdown", "report_of"]


def report_of(done: Calibration) -> dict[str, Any]:
    """Return everything about a calibration, for JSON."""
    config, choice = done.config, done.choice
    report = {
        "schema": 1,
        "type": config.type,
        "method": config.method,
        "samples": done.statistics.done,
        "crop_side": config.side,
        "seed": config.seed,
        "statistics": done.statistics.key,
        "pictures": {
            "calibration": len(done.pictures.calibration),
            "held_out": len(done.pictures.held_out),
            "skipped": done.pictures.skipped,
        },
        "budget": asdict(config.budget),
        "share": done.work.share(config.type),
        "share_of_weights": _share_of_weights(done),
        "left_out": choice.point.left_out,
        "excluded": done.excluded,
        "blocks": [
            {**asdict(loss), "quantized": loss.block not in choice.point.left_out}
            for loss in done.losses
        ],
        "frontier": [
            {
                **{"left_out": point.left_out, "share": point.share, "holds": point.holds},
                "psnr": point.agreement.psnr,
                "worst": point.agreement.worst,
                "psnr_loss": point.agreement.quality_loss,
            }
            for point in choice.tried
        ],
        "corrections": [asdict(one) for one in done.corrections],
        "gates": asdict(done.gates),
    }
    return dict(finite(report))


def markdown(done: Calibration) -> str:
    """Return the results as Markdown tables."""
    gates, left_out, target = done.gates, done.choice.point.left_out, done.config.type
    lpips = "not measured" if gates.lpips_loss is None else f"{gates.lpips_loss:+.4f}"
    shift = ", ".join(f"{value:+.3f}" for value in gates.color_shift)
    gate_rows = [
        ["PSNR against float32, all crops", f"{gates.psnr:.2f} dB"],
        ["lowest of a crop", f"{gates.worst:.2f} dB, {gates.worst_crop}"],
        ["decrease of the luma PSNR against the originals", f"{gates.psnr_loss:.3f} dB"],
        ["increase of LPIPS", lpips],
        ["shift of red, green, blue", f"{shift} steps"],
        ["values that are not finite", str(gates.non_finite)],
    ]
    corrections = [
        [c.name, f"{c.before:.2f} dB", f"{c.after:.2f} dB", "yes" if c.kept else "no"]
        for c in done.corrections
    ]
    blocks = []
    for loss in done.losses:
        values = [f"{loss.psnr:.2f} dB", f"{loss.worst:.2f} dB", f"{loss.share:.2%}"]
        blocks.append([loss.block, *values, "float32" if loss.block in left_out else target])
    kept = "Corrections with every block quantized", ["correction", "without", "with", "kept"]
    columns = ["block", "PSNR", "lowest", "multiply-adds", "in the result"]
    tables = (
        Table("Gates on held-out images", ["gate", "measured"], rows=gate_rows),
        Table(*kept, rows=corrections),
        Table("Blocks quantized alone", columns, rows=blocks),
    )
    parts = [
        f"# Calibration to {target}",
        f"{done.statistics.done} crops, method {done.config.method}, seed {done.config.seed}; "
        f"{done.work.share(target):.1%} of the multiply-adds in {target} "
        f"({_share_of_weights(done):.1%} of those with weights).",
        f"Left out: {', '.join(left_out) or 'none'}.",
        *(table.markdown() for table in tables),
        *(f"Skipped: {line}" for line in done.pictures.skipped),
    ]
    return "\n\n".join(parts) + "\n"


def frontier_chart(done: Calibration) -> str:
    """Draw PSNR against the float32 graph over the share of eight-bit multiply-adds.

    Returns:
        An SVG file.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    from flowsr_export.reports.svg import draw_svg

    return draw_svg(lambda axes: _draw_frontier(done, axes), (7.0, 4.5))


def _draw_frontier(done: Calibration, axes: Axes) -> None:
    tried, point, budget = done.choice.tried, done.choice.point, done.config.budget
    for label, marker, values in (
        ("all crops", "o", [one.agreement.psnr for one in tried]),
        ("lowest of a crop", "x", [one.agreement.worst for one in tried]),
    ):
        # matplotlib draws no value that is not finite.
        x, y = [100 * one.share for one in tried], finite(values)
        axes.plot(x, y, marker=marker, markersize=5, linewidth=0, label=label)
    if math.isfinite(point.agreement.psnr):
        position = (100 * point.share, point.agreement.psnr)
        axes.annotate("chosen", position, (8, -3), textcoords="offset points")
    if budget.least_db is not None:
        axes.axhline(budget.least_db, color="C3", linewidth=1, label="budget")
    axes.set_xlabel(f"multiply-adds in {done.config.type}, %")
    axes.set_ylabel("PSNR against float32, dB")
    axes.grid(alpha=0.3)
    axes.legend()


def _share_of_weights(done: Calibration) -> float:
    """Return the eight-bit share of the products with weights."""
    products = [product for product in done.work.by_node.values() if product.of_weights]
    total = sum(product.count for product in products)
    ours = sum(product.count for product in products if product.type == done.config.type)
    return ours / total if total else 0.0
