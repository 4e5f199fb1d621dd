"""Spelling SQL for many rows at once.

Every statement costs the store's thread some hand-overs of the interpreter lock, every row it reads too.
So rows go in as one statement of exactly that many rows, lists of keys as one JSON parameter, and what
many rows say comes back as one JSON value.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

ROWS_MAX: Final = 128
"""Rows of one statement. A prepared statement is kept with room for its parameters; larger ones gain
nothing and would fill the memory."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


@lru_cache(maxsize=ROWS_MAX * 8)
def placeholders(rows: int, width: int) -> str:
    """``(?,?),(?,?)`` for two rows of width 2."""
    row = "(" + ",".join("?" * width) + ")"
    return ",".join([row] * rows)


def execute_rows(
    db: sqlite3.Connection,
    before: str,
    rows: Sequence[Sequence[Any]],
    after: str = "",
    tail: tuple[Any, ...] = (),
) -> int:
    """Run ``before (?,…),(?,…) after`` over all rows, and give the number of rows changed.

    Args:
        before: ends where the rows begin, as ``INSERT INTO t VALUES``.
        rows: at least one, all of one width.
        after: what follows the rows.
        tail: parameters of `after`.
    """
    width = len(rows[0])
    changed = 0
    for start in range(0, len(rows), ROWS_MAX):
        part = rows[start : start + ROWS_MAX]
        flat: list[Any] = []
        for row in part:
            flat += row
        flat += tail
        changed += db.execute(f"{before} {placeholders(len(part), width)} {after}", flat).rowcount
    return changed


def as_json(values: Iterable[int] | Iterable[str]) -> str:
    """A list for ``IN (SELECT value FROM json_each(?))``."""
    return _encoder.encode(list(values)).decode()


def one(db: sqlite3.Connection, sql: str, parameters: Sequence[Any] = ()) -> Any:
    """The first column of the only row; None where there is no row."""
    row = db.execute(sql, parameters).fetchone()
    return None if row is None else row[0]


def listed(db: sqlite3.Connection, sql: str, parameters: Sequence[Any] = ()) -> Any:
    """What a query over ``json_group_array`` gives."""
    return _decoder.decode(db.execute(sql, parameters).fetchone()[0])
