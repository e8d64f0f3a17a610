"""Decode pictures in a process of its own, which can be ended: run with `python -m`.

A request on stdin is two numbers of 8 bytes, the size of the file and the largest number of
pixels, and the file. An answer on stdout is a number of 8 bytes and a pickled result.
"""

import os
import pickle
import signal
import struct
import sys
from typing import BinaryIO

from flowsr_runtime.errors import FlowsrError
from flowsr_runtime.pictures.files import read_picture
from flowsr_runtime.pictures.formats import open_image
from flowsr_runtime.pictures.picture import Picture

__all__ = ["main"]


def main() -> None:
    """Answer requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends this process
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # a library that prints must not spoil an answer
        while _answer(sys.stdin.buffer, answers):
            pass


def _answer(requests: BinaryIO, answers: BinaryIO) -> bool:
    head = requests.read(16)
    if len(head) < 16:
        return False
    size, max_pixels = struct.unpack(">QQ", head)
    payload = pickle.dumps(_result(requests.read(size), max_pixels), protocol=5)
    answers.write(struct.pack(">Q", len(payload)))
    answers.write(payload)
    answers.flush()
    return True


def _result(data: bytes, max_pixels: int) -> Picture | FlowsrError | tuple[int, int]:
    """Return the picture, the error, or the size (h, w) of a picture that is too large."""
    try:
        width, height = open_image(data, "the picture").size
    except Exception:  # decoders raise anything; read_picture reports it
        width = height = 0
    if width * height > max_pixels:
        return height, width
    try:
        return read_picture(data, max_pixels=max_pixels)
    except FlowsrError as error:
        return error


if __name__ == "__main__":
    main()
