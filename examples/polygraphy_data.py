"""Inputs of the any-scale graph for Polygraphy, whose random `geometry` divides by zero.

    polygraphy run model.fp32.onnx --onnxrt --data-loader-script polygraphy_data.py

With trtexec, write them to files and name these:

    python polygraphy_data.py
    trtexec --onnx=model.fp32.onnx --loadInputs=input:input.bin,geometry:geometry.bin
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

LR = (64, 96)  # height and width of the whole image, which is one tile here
SCALE = 4
RUNS = 3


def load_data() -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the inputs of each run: an image in [0, 1], and where it lies in the whole one."""
    random = np.random.default_rng(0)
    out = (LR[0] * SCALE, LR[1] * SCALE)
    geometry = np.array([*LR, *out, 0, 0, 0, 0, *out], dtype=np.int64)
    for _ in range(RUNS):
        yield {"input": random.random((1, 3, *LR), dtype=np.float32), "geometry": geometry}


if __name__ == "__main__":
    for name, values in next(load_data()).items():
        values.tofile(f"{name}.bin")
