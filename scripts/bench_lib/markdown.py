"""Tables that can be read in a terminal and are Markdown as well."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from scripts.bench_lib import compare

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scripts.bench_lib.compare import Row, Side
    from scripts.bench_lib.figures import Measured
    from scripts.bench_lib.growth import Growth


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; columns but the first are set right."""
    cells = [list(head), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    rule = ["-" * widths[0], *["-" * (width - 1) + ":" for width in widths[1:]]]
    lines = []
    for row in (cells[0], rule, *cells[1:]):
        padded = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join(lines)


def number(value: float) -> str:
    """With as many digits as mean something."""
    digits = 0 if value >= 1000 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}"


def measured(rows: Iterable[Measured]) -> str:
    """The catalogue: median, spread (half the range) and gate of each figure."""
    head = ("", "ecorelay", "compared with", "ratio", "gate", "")
    return grid(head, [_measured(row) for row in rows])


def _measured(row: Measured) -> tuple[str, ...]:
    unit = row.figure.unit
    verdict = {True: "ok", False: "**below**", None: ""}[row.ok]
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    return (
        row.figure.title,
        _values(row.ours, unit),
        _values(row.theirs, unit),
        ratio,
        row.figure.gate,
        verdict,
    )


def _values(values: list[float], unit: str) -> str:
    if not values:
        return ""
    median = statistics.median(values)
    spread = (max(values) - min(values)) / 2 / median * 100 if median else 0.0
    return f"{number(median)} {unit} ±{spread:.0f} %"


def growth(grown: Iterable[Growth]) -> str:
    """A table for each thing that there is more and more of."""
    tables = []
    for each in grown:
        head = [each.what, *[f"{size:,}" for size in each.sizes], "from the least to the most", ""]
        rows = []
        for line in each.lines:
            values = [number(value) for value in each.values.get(line.key, [])]
            values += ["missing"] * (len(each.sizes) - len(values))
            said, ok = each.verdict(line)
            verdict = {True: "ok", False: "**above**", None: ""}[ok]
            rows.append([f"{line.title}, {line.unit}", *values, said, verdict])
        tables.append(grid(head, rows) + (f"\n\nIt failed: {each.failure}" if each.failure else ""))
    return "\n\n".join(tables)


def comparison(rows: Iterable[Row], sides: Sequence[Side]) -> str:
    """What was measured of each, then by what factor ecorelay is better, then why something is missing."""
    rows = list(rows)
    names = [side.name for side in sides]
    values = grid(["", *names], [[_title(row), *[_cell(row, name) for name in names]] for row in rows])
    rivals = [name for name in names if name not in (compare.POWER, compare.PROCESS)]
    better = grid(
        [f"{compare.POWER} is better by", *[f"than {name}" for name in rivals]],
        [[row.figure.title, *[_factor(row, compare.POWER, name) for name in rivals]] for row in rows],
    )
    reasons = {(name, why): None for row in rows for name, why in row.reasons.items() if why != "has none"}
    missing = "".join(f"\n* {name} is missing: {why}" for name, why in reasons)
    kept = "\n".join(f"* **{side.name}** ({side.note}): {compare.ON_DISK[side.name]}." for side in sides)
    return f"On disk when a message is acknowledged:\n\n{kept}\n\n{values}\n\n{better}\n{missing}"


def _title(row: Row) -> str:
    return f"{row.figure.title}, {row.figure.unit}"


def _cell(row: Row, side: str) -> str:
    median = row.median(side)
    if median:
        return number(median)
    if median is not None:
        return "none in time"
    why = row.reasons.get(side)
    return "" if why is None else "none" if why == "has none" else "missing"


def _factor(row: Row, side: str, than: str) -> str:
    factor = row.better(side, than)
    return "" if factor is None else f"{factor:.2g} ×" if factor < 100 else f"{factor:,.0f} ×"
