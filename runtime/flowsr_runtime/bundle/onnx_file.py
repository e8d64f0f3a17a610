"""Find tensors of an ONNX file that lie in other files, without the onnx package."""

from collections.abc import Iterator
from typing import Final

__all__ = ["is_self_contained"]

# Fields of the messages of onnx.proto that lead to tensors, by the kind of message.
_FIELDS: Final = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse",
        23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of a tensor
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types


def is_self_contained(model: bytes) -> bool:
    """Return whether no tensor of a model lies in another file.

    ONNX Runtime would look for that file in the working directory, and nothing checks its hash.

    Args:
        model: ONNX file. Of one that is no protobuf, what can be read counts: the libraries
            refuse it.
    """
    view = memoryview(model)
    waiting = [("model", 0, len(view))]
    while waiting:
        kind, begin, end = waiting.pop()
        for field, wire, at, stop in _fields(view, begin, end):
            located = field == _DATA_LOCATION and bytes(view[at:stop]) != b"\0"
            if kind == "tensor" and (located or field == _EXTERNAL_DATA):
                return False
            inner = _FIELDS[kind].get(field)
            if inner is not None and wire == _BYTES:
                waiting.append((inner, at, stop))
    return True


def _fields(view: memoryview, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, begin and end of the content of each field of a message."""
    at = begin
    while at < end:
        key, at = _varint(view, at, end)
        wire, begin = key & 7, at
        if wire == _VARINT:
            _, at = _varint(view, at, end)
        elif wire == _BYTES:
            size, begin = _varint(view, at, end)
            at = begin + size
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            return
        if at > end:
            return
        yield key >> 3, wire, begin, at


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    """Return a number of 7 bits per byte, and the position after it."""
    value = shift = 0
    while at < end and shift < 70:
        byte = view[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            break
    return value, at
