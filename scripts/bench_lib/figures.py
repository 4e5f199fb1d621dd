"""What is measured: figures, the gates they must pass, and how runs become one number."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Literal

Better = Literal["more", "less"]


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Args:
        key: what a load calls it.
        title: what a person calls it.
        unit: of both hubs' values.
        better: which way is better.
        ratio: the gate on ecorelay / yardstick; None: only informs.
        bound: the gate on ecorelay's own value; None: only informs.
        over: the gate on ecorelay's value less the yardstick's; None: only informs.
    """

    key: str
    title: str
    unit: str
    better: Better
    ratio: float | None = None
    bound: float | None = None
    over: float | None = None

    @property
    def gate(self) -> str:
        """The gate, as written in the table."""
        sign = "≥" if self.better == "more" else "≤"
        parts = []
        if self.ratio is not None:
            parts.append(f"{sign} {self.ratio:g} ×")
        if self.bound is not None:
            parts.append(f"{sign} {self.bound:,g}")
        if self.over is not None:
            parts.append(f"{sign} {self.over:,g} more")
        return ", ".join(parts)


@dataclass
class Measured:
    """The values of one figure over all runs, alternating: `ours[i]` and `theirs[i]` are neighbours."""

    figure: Figure
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """Median of the ratios of neighbours: what slows the machine for a while slows both."""
        pairs = [a / b for a, b in zip(self.ours, self.theirs, strict=False) if b]
        return statistics.median(pairs) if pairs else None

    @property
    def ok(self) -> bool | None:
        """Whether the gate is passed; None without a gate, or without ours."""
        figure = self.figure
        if not self.ours or figure.ratio is figure.bound is figure.over is None:
            return None
        checks = []
        if figure.ratio is not None and self.ratio is not None:
            checks.append((self.ratio, figure.ratio))
        if figure.bound is not None:
            checks.append((statistics.median(self.ours), figure.bound))
        if figure.over is not None and self.theirs:
            checks.append((statistics.median(self.ours) - statistics.median(self.theirs), figure.over))
        if figure.better == "more":
            return all(value >= gate for value, gate in checks)
        return all(value <= gate for value, gate in checks)
