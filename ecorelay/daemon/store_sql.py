"""Spelling SQL for many rows at once.

Every statement costs the store's thread some hand-overs of the interpreter lock, every row it reads too.
So rows go in as one statement of that many rows or some more, lists of keys as one JSON parameter, and what
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


@lru_cache(maxsize=64)
def placeholders(rows: int, width: int) -> str:
    """``(?,?),(?,?)`` for two rows of width 2."""
    row = "(" + ",".join("?" * width) + ")"
    return ",".join([row] * rows)


def padded(values: Sequence[Any], width: int = 1) -> tuple[int, list[Any]]:
    """Rows, one value after the other, brought to one of few numbers of rows by rows of NULLs.

    A statement is prepared for one number of rows, and only some of them are kept: without this a batch of a
    size not seen of late would cost more to prepare than to run.
    """
    rows = len(values) // width
    size = 1 << (rows - 1).bit_length()
    return size, [*values, *(None,) * ((size - rows) * width)]


def insert_rows(db: sqlite3.Connection, into: str, rows: Sequence[Sequence[Any]], after: str = "") -> int:
    """Insert all rows, and give the number of rows changed.

    Args:
        into: a table, perhaps with columns in brackets; the first of them takes no NULL.
        rows: at least one, all of one width.
        after: what follows the rows.
    """
    return execute_rows(
        db, f"INSERT INTO {into} SELECT * FROM (VALUES", rows, f") WHERE column1 NOTNULL {after}"
    )


def execute_rows(
    db: sqlite3.Connection,
    before: str,
    rows: Sequence[Sequence[Any]],
    after: str,
    tail: tuple[Any, ...] = (),
) -> int:
    """Run ``before (?,…),(?,…) after`` over all rows, and give the number of rows changed.

    Args:
        before: ends where the rows begin, as ``UPDATE t SET … FROM (VALUES``.
        rows: at least one, all of one width.
        after: what follows the rows. A row of NULLs, as `padded` adds, must do nothing there.
        tail: parameters of `after`.
    """
    width = len(rows[0])
    changed = 0
    for start in range(0, len(rows), ROWS_MAX):
        size, flat = padded([value for row in rows[start : start + ROWS_MAX] for value in row], width)
        changed += db.execute(f"{before} {placeholders(size, width)} {after}", (*flat, *tail)).rowcount
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
