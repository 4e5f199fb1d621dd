"""Mail whose answer is kept beside it, many at once: a broadcast is asked for as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecorelay.daemon import store_mail
from ecorelay.daemon.store_sql import ROWS_MAX, insert_rows, one, padded, placeholders
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ecorelay.core.ops import Appended, AppendMail, SaveOp
    from ecorelay.daemon.store_ledger import Ledger


def append_saved(
    ledger: Ledger, units: Sequence[tuple[AppendMail, SaveOp]]
) -> list[tuple[Appended, None] | RelayError] | None:
    """These units, in this order: each wholly, or not at all.

    Returns:
        None where an op id is known, or comes twice: nothing was touched, and each is to be done by itself.
    """
    keys = list({(saved.no, saved.op_id) for _, saved in units})
    if len(keys) < len(units) or _any_known(ledger, keys):
        return None
    results = store_mail.append(ledger, [mail for mail, _ in units])
    done: list[tuple[Appended, None] | RelayError] = []
    rows = []
    for (_, saved), result in zip(units, results, strict=True):
        if isinstance(result, RelayError):
            done.append(result)
        else:
            done.append((result, None))
            rows.append((saved.no, saved.op_id, saved.request, saved.reply, saved.at))
    if rows:
        insert_rows(ledger.db, "ops", rows)
    return done


def _any_known(ledger: Ledger, keys: Sequence[tuple[int, str]]) -> bool:
    for start in range(0, len(keys), ROWS_MAX):
        size, flat = padded([value for key in keys[start : start + ROWS_MAX] for value in key], 2)
        sql = (
            f"SELECT 1 FROM (VALUES {placeholders(size, 2)}) AS v"
            " CROSS JOIN ops ON ops.no = v.column1 AND ops.op_id = v.column2 LIMIT 1"
        )
        if one(ledger.db, sql, flat) is not None:
            return True
    return False
