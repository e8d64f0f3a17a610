"""Upscale a picture with the built-in model, or with a bundle.

pip install '.[cpu]'
python examples/quickstart.py photo.png large.png --scale 2.7
python examples/quickstart.py photo.png large.png --bundle edsr.bundle
"""

from __future__ import annotations

import argparse
from pathlib import Path

from flowsr_runtime import Upscaler, write_picture


def main() -> None:
    """Upscale one picture."""
    parser = argparse.ArgumentParser(description="Upscale a picture.")
    parser.add_argument("picture", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--scale", default="4")
    parser.add_argument("--bundle", type=Path, help="default: the built-in model")
    given = parser.parse_args()
    with Upscaler.open(given.bundle) as upscaler:
        print(upscaler)  # with the backend that was chosen
        large = upscaler.upscale(given.picture, given.scale)
    # Without force=True an existing file is an error. Depth, alpha and metadata are kept.
    write_picture(given.output, large, force=True)
    print(large)


if __name__ == "__main__":
    main()
