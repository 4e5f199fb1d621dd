"""Hypothesis strategies for frames, derived from the types and limits in `ecorelay.wire`."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)


@cache
def frames_of(kind: type) -> st.SearchStrategy[Any]:
    """Frames (or parts of frames) of the struct type `kind`, within its limits."""
    fields = {}
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    for field in info.fields:
        fields[field.name] = _values(field.type)
        if field.default is not msgspec.NODEFAULT:
            fields[field.name] |= st.just(field.default)
    return st.builds(kind, **fields)


def _values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.StructType(cls=cls):
            return frames_of(cls)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.IntType(ge=low, le=high):
            return st.integers(min_value=low, max_value=high)
        case inspect.FloatType(ge=low, le=high):
            return st.floats(min_value=low, max_value=high, allow_nan=False, allow_infinity=False)
        case inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case inspect.StrType(pattern=str() as pattern):
            return st.from_regex(pattern)
        case inspect.StrType(max_length=longest, min_length=shortest):
            cut = TEXT if longest is None or longest >= 40 else TEXT.map(lambda text: text[:longest])
            return cut.filter(lambda text: len(text) >= (shortest or 0))
        case inspect.UnionType(types=types):
            return st.one_of(*map(_values, types))
        case inspect.TupleType(item_types=types):
            return st.tuples(*map(_values, types))
        case inspect.VarTupleType(item_type=item):
            return st.lists(_values(item), max_size=3).map(tuple)
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(_values(key), _values(value), max_size=3)
        case _:
            raise AssertionError(f"no strategy for {kind}")
