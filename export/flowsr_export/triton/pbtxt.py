"""Write protocol buffers' text format, as far as a model configuration needs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

__all__ = ["Fields", "Word", "text_of"]


class Word(str):
    """Name of an enumeration value, written without quotes."""

    __slots__ = ()


Scalar: TypeAlias = "str | int | bool"
Fields: TypeAlias = "Mapping[str, Scalar | Sequence[Scalar] | Fields | Sequence[Fields]]"
"""Values by name: scalars, messages, or lists of either. A map is a list of messages."""


def text_of(fields: Fields) -> str:
    """Return a message in text format.

    Args:
        fields: Values in the order of the text.

    Returns:
        Text with one field per line.
    """
    return "".join(f"{line}\n" for line in _lines(fields))


def _lines(fields: Fields) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, (str, int)):
            yield f"{name}: {_scalar(value)}"
        elif isinstance(value, Mapping):
            yield from (f"{name} {{", *(f"  {line}" for line in _lines(value)), "}")
        else:
            scalars = [_scalar(item) for item in value if not isinstance(item, Mapping)]
            if scalars:
                yield f"{name}: [{', '.join(scalars)}]"
            for message in (item for item in value if isinstance(item, Mapping)):
                yield from _lines({name: message})


def _scalar(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, Word)):
        return str(value)
    return f'"{_escaped(value)}"'


def _escaped(text: str) -> str:
    """Escape quotes, backslashes and newlines; other unprintable bytes become octal."""
    plain = {ord('"'): '\\"', ord("\\"): "\\\\", ord("\n"): "\\n"}
    pieces = []
    for byte in text.encode():
        printable = 32 <= byte < 127
        pieces.append(plain.get(byte) or (chr(byte) if printable else f"\\{byte:03o}"))
    return "".join(pieces)
