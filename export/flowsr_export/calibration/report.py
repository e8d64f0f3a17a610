"""What a calibration found: JSON, a Markdown table, and a picture of the frontier."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowsr_calibration.panel import Agreement
    from flowsr_export.calibration.run import Calibration

__all__ = ["frontier_picture", "markdown", "report_of"]

WIDTH, HEIGHT = 7.0, 4.5  # inches
# The same SVG for the same figures: no date, no random ids.
STYLE: dict[Any, Any] = {"svg.hashsalt": "flowsr", "svg.fonttype": "none", "font.size": 9}


def report_of(done: Calibration) -> dict[str, Any]:
    """Return everything that is known of a calibration, for JSON."""
    config, choice = done.config, done.choice
    return {
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
            "skipped": list(done.pictures.skipped),
        },
        "budget": {"least_db": config.budget.least_db, "most_loss": config.budget.most_loss},
        "share": done.work.share(config.type),
        "share_of_weights": _share_of_weights(done),
        "left_out": list(choice.point.left_out),
        "excluded": list(done.excluded),
        "blocks": [
            {
                "block": loss.block,
                "multiply_adds": loss.multiply_adds,
                "share": loss.share,
                "psnr": _finite(loss.psnr),
                "worst": _finite(loss.worst),
                "quantised": loss.block not in choice.point.left_out,
            }
            for loss in done.losses
        ],
        "frontier": [
            {
                "left_out": list(point.left_out),
                "share": point.share,
                "holds": point.holds,
                **_agreement(point.agreement),
            }
            for point in choice.tried
        ],
        "corrections": [
            {
                "name": trial.name,
                "before": _finite(trial.before),
                "after": _finite(trial.after),
                "kept": trial.kept,
            }
            for trial in done.trials
        ],
        "gates": done.gates.as_dict(),
    }


def markdown(done: Calibration) -> str:
    """Return the figures as Markdown tables."""
    gates, point = done.gates, done.choice.point
    left_out = ", ".join(point.left_out) or "none"
    lpips = "not measured" if gates.lpips_loss is None else f"{gates.lpips_loss:+.4f}"
    shift = ", ".join(f"{value:+.3f}" for value in gates.colour_shift)
    lines = [
        f"# Calibration to {done.config.type}",
        "",
        f"{done.statistics.done} crops, method {done.config.method}, seed {done.config.seed}; "
        f"{done.work.share(done.config.type):.1%} of the multiply-adds in {done.config.type} "
        f"({_share_of_weights(done):.1%} of those with weights).",
        "",
        "| gate, on pictures that were held out | measured |",
        "| --- | --- |",
        f"| PSNR against float32, all crops | {gates.psnr:.2f} dB |",
        f"| the least of a crop | {gates.worst:.2f} dB, {gates.worst_crop} |",
        f"| fall of the luma PSNR against the originals | {gates.psnr_loss:.3f} dB |",
        f"| rise of LPIPS | {lpips} |",
        f"| shift of red, green, blue | {shift} steps |",
        f"| values that are not finite | {gates.non_finite} |",
        "",
        f"Left out: {left_out}.",
        "",
        "| correction, with every block quantised | without | with | kept |",
        "| --- | --- | --- | --- |",
        *(
            f"| {t.name} | {t.before:.2f} dB | {t.after:.2f} dB | {'yes' if t.kept else 'no'} |"
            for t in done.trials
        ),
        "",
        "| block, quantised alone | PSNR | least | multiply-adds | in the result |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {loss.block} | {loss.psnr:.2f} dB | {loss.worst:.2f} dB | {loss.share:.2%} | "
            f"{'float32' if loss.block in point.left_out else done.config.type} |"
            for loss in done.losses
        ),
        "",
        *(f"Skipped: {line}" for line in done.pictures.skipped),
    ]
    return "\n".join(lines).rstrip() + "\n"


def frontier_picture(done: Calibration) -> bytes:
    """Draw PSNR against the float32 graph over the share of multiply-adds in eight bits.

    Returns:
        An SVG file.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    tried, point = done.choice.tried, done.choice.point
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.subplots()
        for label, marker, values in (
            ("all crops", "o", [each.agreement.psnr for each in tried]),
            ("least of a crop", "x", [each.agreement.worst for each in tried]),
        ):
            pairs = [
                (100 * each.share, value)
                for each, value in zip(tried, values, strict=True)
                if math.isfinite(value)
            ]
            x, y = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            axes.plot(x, y, marker=marker, markersize=5, linewidth=0, label=label)
        if math.isfinite(point.agreement.psnr):
            where = (100 * point.share, point.agreement.psnr)
            axes.annotate("chosen", where, (8, -3), textcoords="offset points")
        if done.config.budget.least_db is not None:
            axes.axhline(done.config.budget.least_db, color="C3", linewidth=1, label="budget")
        axes.set_xlabel(f"multiply-adds in {done.config.type}, %")
        axes.set_ylabel("PSNR against float32, dB")
        axes.grid(alpha=0.3)
        axes.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _share_of_weights(done: Calibration) -> float:
    """Part of the products with weights that is in eight bits."""
    products = [each for each in done.work.by_node.values() if each.of_weights]
    total = sum(each.count for each in products)
    ours = sum(each.count for each in products if each.type == done.config.type)
    return ours / total if total else 0.0


def _agreement(found: Agreement) -> dict[str, Any]:
    return {
        "psnr": _finite(found.psnr),
        "worst": _finite(found.worst),
        "psnr_loss": found.quality_loss,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
