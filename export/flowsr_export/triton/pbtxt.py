"""Protocol buffers' text format: as much of it as a model's configuration needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

__all__ = ["Fields", "Word", "text_of"]


class Word(str):
    """The name of an enumeration's value, which is written without quotes."""

    __slots__ = ()


Scalar: TypeAlias = "str | int | bool"
Fields: TypeAlias = "Mapping[str, Scalar | Sequence[Scalar] | Fields | Sequence[Fields]]"
"""Values by name: a scalar, a message, or several of either. A map is a list of messages."""


def text_of(fields: Fields) -> str:
    """Return a message in text format.

    Args:
        fields: Its values, in the order in which they are to stand.

    Returns:
        The text, one field a line.
    """
    return "".join(f"{line}\n" for line in _lines(fields))


def _lines(fields: Fields) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _block(name, value)
        elif isinstance(value, (str, int)):
            yield f"{name}: {_scalar(value)}"
        else:
            yield from _several(name, value)


def _several(name: str, values: Sequence[Scalar] | Sequence[Fields]) -> Iterator[str]:
    scalars: list[str] = []
    for value in values:
        if isinstance(value, Mapping):
            yield from _block(name, value)
        else:
            scalars.append(_scalar(value))
    if scalars:
        yield f"{name}: [{', '.join(scalars)}]"


def _block(name: str, fields: Fields) -> Iterator[str]:
    yield f"{name} {{"
    for line in _lines(fields):
        yield f"  {line}"
    yield "}"


def _scalar(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, Word)):
        return str(value)
    return f'"{_escaped(value)}"'


def _escaped(text: str) -> str:
    """Escape what cannot stand in quotes; other bytes go as octal."""
    plain = {ord('"'): '\\"', ord("\\"): "\\\\", ord("\n"): "\\n"}
    pieces = []
    for byte in text.encode():
        printable = 32 <= byte < 127
        pieces.append(plain.get(byte) or (chr(byte) if printable else f"\\{byte:03o}"))
    return "".join(pieces)
