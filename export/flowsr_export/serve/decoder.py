"""Processes that decode images; unlike a thread, one that takes too long can be ended."""

from __future__ import annotations

import atexit
import pickle
import struct
import subprocess
import sys
from contextlib import suppress
from threading import Lock

from flowsr_export.serve.responses import HttpError
from flowsr_runtime.errors import FlowsrError, PictureError
from flowsr_runtime.pictures.picture import Picture

__all__ = ["DecodeCall", "Decoder", "borrow", "give_back"]

MOST_IDLE = 4
"""Processes that are kept for later images."""

PROGRAM = """
import sys
sys.path[:0] = {paths}
from flowsr_runtime.pictures.decode_worker import main
main()
"""

_idle: list[Decoder] = []
_lock = Lock()


class Decoder:
    """One process that decodes one image after another."""

    def __init__(self) -> None:
        """Start the process."""
        program = PROGRAM.format(paths=[path for path in sys.path if path])
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.ended = False

    def decode(self, data: bytes, max_pixels: int) -> Picture:
        """Decode an image.

        Args:
            data: The file.
            max_pixels: Largest number of pixels.

        Returns:
            The image.

        Raises:
            HttpError: 413 if it has more pixels.
            FlowsrError: If it cannot be read, or decoding it ended the process.
        """
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        try:
            requests.write(struct.pack(">QQ", len(data), max_pixels))
            requests.write(data)
            requests.flush()
            (size,) = struct.unpack(">Q", answers.read(8))
            result = pickle.loads(answers.read(size))
        except (OSError, ValueError, struct.error, EOFError, pickle.UnpicklingError) as error:
            self.end()
            raise PictureError("the picture is damaged: it ended its decoder") from error
        if isinstance(result, FlowsrError):
            raise result
        if isinstance(result, tuple):
            height, width = result
            most = f"at most {max_pixels} pixels"
            raise HttpError(413, f"an image must have {most}, got {width}x{height}")
        assert isinstance(result, Picture)
        return result

    def end(self) -> None:
        """End the process at once; an image that is being decoded fails."""
        self.ended = True
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the process and free its pipes, when no image is being decoded."""
        self.end()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


class DecodeCall:
    """The decoding of one image, which another thread may stop."""

    def __init__(self, data: bytes, max_pixels: int) -> None:
        """Prepare a call; see `Decoder.decode`."""
        self._data, self._max_pixels = data, max_pixels
        self._decoder: Decoder | None = None
        self._stopped = False
        self._lock = Lock()

    def run(self) -> Picture:
        """Decode the image; see `Decoder.decode`."""
        decoder = borrow()
        try:
            with self._lock:
                if self._stopped:
                    raise PictureError("the decoding was stopped")
                self._decoder = decoder
            return decoder.decode(self._data, self._max_pixels)
        finally:
            with self._lock:
                self._decoder = None
            give_back(decoder)

    def stop(self) -> None:
        """End the decoding; `run` raises soon."""
        with self._lock:
            self._stopped = True
            if self._decoder is not None:
                self._decoder.end()


def borrow() -> Decoder:
    """Return an idle process, or a new one."""
    with _lock:
        if _idle:
            return _idle.pop()
    return Decoder()


def give_back(decoder: Decoder) -> None:
    """Keep a process for later images, or end it."""
    with _lock:
        if not decoder.ended and len(_idle) < MOST_IDLE:
            _idle.append(decoder)
            return
    decoder.close()


def _close_idle() -> None:
    with _lock:
        while _idle:
            _idle.pop().close()


atexit.register(_close_idle)
