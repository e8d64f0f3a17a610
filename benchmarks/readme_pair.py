"""The README's pair of pictures: a shipped photograph at ×4 by bicubic and by the model.

Example:
    python -m benchmarks.readme_pair docs/pair.webp
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from flowsr_runtime import Upscaler

__all__ = ["pair"]

SCALE = 4
GAP = 16
QUALITY = 82


def pair(photograph: Image.Image) -> Image.Image:
    """Return bicubic on the left and the built-in model on the right, four times as large."""
    size = photograph.width * SCALE, photograph.height * SCALE
    with Upscaler.open() as upscaler:
        ours = Image.fromarray(upscaler.upscale(np.asarray(photograph), SCALE))
    both = Image.new("RGB", (2 * size[0] + GAP, size[1]), (255, 255, 255))
    both.paste(photograph.resize(size, Image.Resampling.BICUBIC), (0, 0))
    both.paste(ours, (size[0] + GAP, 0))
    return both


def main(output: Path, name: str = "chelsea") -> None:
    """Write the pair of a shipped photograph."""
    folder = Path(__file__).parents[1] / "export" / "flowsr_export" / "inputs" / "pictures"
    with Image.open(folder / f"{name}_256.png") as photograph:
        pair(photograph.convert("RGB")).save(output, quality=QUALITY, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
