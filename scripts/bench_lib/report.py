"""The table for people, and the same for machines."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scripts.bench_lib.figures import Measured

_HEAD = ("benchmark", "ecorelay", "yardstick", "ratio", "gate", "")


def table(measured: Iterable[Measured]) -> str:
    """Median and spread (half the range, in percent of the median) of each figure, and its gate."""
    rows = [_HEAD, *[_row(each) for each in measured]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in (0, 4, 5) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _row(measured: Measured) -> tuple[str, ...]:
    ratio = measured.ratio
    verdict = {True: "ok", False: "BELOW", None: ""}[measured.ok]
    return (
        measured.figure.title,
        _value(measured.ours, measured.figure.unit),
        _value(measured.theirs, measured.figure.unit),
        "" if ratio is None else f"{ratio:.2f}",
        measured.figure.gate,
        verdict,
    )


def _value(values: list[float], unit: str) -> str:
    if not values:
        return "-"
    median = statistics.median(values)
    spread = (max(values) - min(values)) / 2 / median * 100 if median else 0.0
    digits = 0 if median >= 1000 else 1 if median >= 10 else 3 if median < 1 else 2
    return f"{median:,.{digits}f} {unit} ±{spread:2.0f}%"


def as_json(facts: Mapping[str, object], measured: Mapping[str, list[Measured]]) -> dict[str, object]:
    """Everything, runs one by one."""
    return {
        "machine": facts,
        "benchmarks": {
            name: {
                each.figure.key: {
                    "title": each.figure.title,
                    "unit": each.figure.unit,
                    "ecorelay": each.ours,
                    "yardstick": each.theirs,
                    "ratio": each.ratio,
                    "gate": each.figure.gate,
                    "ok": each.ok,
                }
                for each in figures
            }
            for name, figures in measured.items()
        },
    }
