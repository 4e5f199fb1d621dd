"""Reads JSON objects that name what they are in `type`: one way for links and for relay servers."""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw, Struct

from ecorelay.errors import WireError

T = TypeVar("T")
_QUOTED_VALUE: Final = re.compile(r" value '.*'", re.DOTALL)
_CAPITAL: Final = re.compile(r"(?<!^)(?=[A-Z])")
_BROKEN: Final = "no valid JSON: bad UTF-8 or nested too deeply"


class _Typed(Struct):
    type: str = ""


def snake(name: str) -> str:
    """The type of a struct by the name of its class: ``HubHere`` is ``hub_here``."""
    return _CAPITAL.sub("_", name).lower()


def tags(union: Any) -> frozenset[str]:
    """The types of a union of tagged structs."""
    return frozenset(kind.__struct_config__.tag for kind in union.__args__)


def decode(
    decoder: msgspec.json.Decoder[T], known: frozenset[str], data: bytes | bytearray | str
) -> T | None:
    """One object; None: of a type that this version does not know.

    Args:
        decoder: for the union of all types.
        known: their tags, see :func:`tags`.
        data: the JSON.

    Raises:
        WireError: none of them; the sentence quotes nothing of it.
    """
    try:
        return decode_strictly(decoder, data)
    except WireError:
        try:
            kind = msgspec.json.decode(data, type=_Typed).type
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            kind = ""
        if kind and kind not in known:
            return None
        raise


def decode_strictly(decoder: msgspec.json.Decoder[T], data: bytes | bytearray | str | Raw) -> T:
    """The same where a type that is not known is an error too."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise WireError(_QUOTED_VALUE.sub(" value", str(error))) from None
    except msgspec.DecodeError as error:
        raise WireError(f"no valid JSON: {error}") from None
    except (UnicodeError, RecursionError):
        raise WireError(_BROKEN) from None
