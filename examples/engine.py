"""Upscale a picture on a TensorRT engine of a bundle, and time it.

    pip install '.[tensorrt-rtx]'
    flowsr-export build-engine -o small.bundle --size 1920x1080
    python examples/engine.py small.bundle photo.png large.png

The engine must fit the GPU. With --any the program also runs without one, and says why the
engine was not taken.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from flowsr_runtime import FlowsrError, Upscaler, read_picture, write_picture


def main() -> None:
    """Upscale one picture twice: the first run also loads kernels."""
    parser = argparse.ArgumentParser(description="Upscale a picture on a TensorRT engine.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--backend", default="tensorrt_rtx", help="tensorrt_rtx or tensorrt")
    parser.add_argument("--any", action="store_true", help="take another backend if need be")
    parser.add_argument("--scale", default="4")
    given = parser.parse_args()
    try:
        upscaler = Upscaler.open(given.bundle, backend="auto" if given.any else given.backend)
    except FlowsrError as error:
        raise SystemExit(f"no engine runs here: {error}") from error
    with upscaler:
        print(upscaler)
        for name, reason in upscaler.choice.passed_over.items() if upscaler.choice else ():
            print(f"not {name}: {reason}")
        picture = read_picture(given.picture)
        for _ in range(2):
            began = time.perf_counter()
            large = upscaler.upscale(picture, given.scale)
            print(f"{(time.perf_counter() - began) * 1000:.1f} ms")
    write_picture(given.output, large, force=True)


if __name__ == "__main__":
    main()
