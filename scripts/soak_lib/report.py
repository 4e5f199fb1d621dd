"""What a soak found, for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

import json
import os
import platform
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from scripts.soak_lib.judge import DISORDER, DOUBLE, LOSS
from scripts.soak_lib.watch import slope

if TYPE_CHECKING:
    from scripts.soak_lib.run import Soak

LIVES: Final = 8
"""Of each kind of process."""
SHOWN: Final = 40
"""Findings in the report; all are in the JSON beside it."""


def percentiles(values: list[float]) -> dict[str, float]:
    """In milliseconds."""
    if not values:
        return {}
    ordered = sorted(values)
    at = {f"p{p}": ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 95, 99)}
    return {"n": len(ordered)} | {
        name: round(value * 1000, 1) for name, value in (at | {"max": ordered[-1]}).items()
    }


def memory(soak: Soak) -> dict[str, dict[str, Any]]:
    """For each role: how long its longest life was, and how memory and descriptors moved in it."""
    roles: dict[str, list[Any]] = defaultdict(list)
    for life in soak.watch.lives.values():
        roles["adapters" if life.role.startswith("adapter") else life.role].append(life)
    found: dict[str, dict[str, Any]] = {}
    for role, lives in roles.items():
        row: dict[str, Any] = {
            "processes": len(lives),
            "mb_max": round(max(mb for life in lives for _, mb, _ in life.samples), 1),
            "fds_max": max(fds for life in lives for _, _, fds in life.samples),
        }
        settled = [(life, points) for life in lives if (points := life.settled())]
        if settled:
            slopes = [slope([(at, mb) for at, mb, _ in points]) for _, points in settled]
            fds = [slope([(at, float(n)) for at, _, n in points]) for _, points in settled]
            row["lives_long_enough"] = len(settled)
            row["minutes"] = round(sum(points[-1][0] - points[0][0] for _, points in settled) / 60, 1)
            row["kb_per_min"] = [round(each * 1000, 1) for each in slopes]
            row["fds_per_min"] = [round(each, 2) for each in fds]
            row["last_slope_kb_per_min"] = [
                round(slope([(at, mb) for at, mb, _ in points[len(points) // 2 :]]) * 1000, 1)
                for _, points in settled
            ]
        # Each life at the same age: what a hub that starts has to hold.
        young = sorted((life.samples[1][0], life.samples[1][1]) for life in lives if len(life.samples) > 1)
        if len(young) > 2:
            row["mb_when_young_first_last"] = [round(young[0][1], 1), round(young[-1][1], 1)]
        found[role] = row
    return found


def table(soak: Soak) -> dict[str, Any]:
    """All numbers."""
    judge = soak.judge
    settings = soak.settings
    kinds: dict[str, int] = defaultdict(int)
    deliveries: dict[str, int] = defaultdict(int)
    for message in judge.messages.values():
        if message.acked:
            kinds[message.begun.kind] += 1
        deliveries[message.begun.kind] += len(message.shown)
    return {
        "v": 1,
        "seed": settings.seed,
        "minutes": round(soak.seconds / 60, 1),
        "peers": settings.peers,
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
        "ended": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "acknowledged": dict(kinds),
        "deliveries": dict(deliveries),
        "tools": dict(soak.talk.tools),
        "faults": dict(judge.faults.most_common()),
        "checks": {"n": len(soak.quiet.checks), "longest_s": round(max(soak.quiet.checks, default=0), 1)},
        "losses": len(judge.of_kind(LOSS)),
        "duplicates": len(judge.of_kind(DOUBLE)),
        "reorderings": len(judge.of_kind(DISORDER)),
        "others": len([each for each in judge.findings if each.what not in (LOSS, DOUBLE, DISORDER)]),
        "findings": [[each.what, each.n, each.detail] for each in judge.findings],
        "refusals": dict(judge.refusals.most_common()),
        "refusals_all_tools": dict(soak.talk.refusals.most_common()),
        "told": dict(judge.ended),
        "notices": dict(soak.talk.notices),
        "receipts_watched": judge.counts["Steps"],
        "ack_ms": {name or "calm": percentiles(each) for name, each in sorted(judge.acks.items())},
        "push_ms": {name or "calm": percentiles(each) for name, each in sorted(judge.arrivals.items())},
        "linked_ms": {name: percentiles(each) for name, each in sorted(judge.linked.items())},
        "processes": memory(soak),
    }


def markdown(found: dict[str, Any]) -> str:
    """The same as a page."""
    lines = [
        f"# Soak: {found['minutes']:g} minutes, {sum(found['faults'].values())} faults, "
        f"{found['losses']} losses, {found['duplicates']} duplicates, {found['reorderings']} reorderings",
        "",
        f"Seed {found['seed']}, {found['peers']} peers on 3 hubs over TCP and a relay server; ended "
        f"{found['ended']}; {found['machine']}.",
        "",
        f"Other findings: {found['others']}.",
        f"All was there {found['checks']['n']} times of {found['checks']['n']} that it was looked for, "
        f"at the latest {found['checks']['longest_s']:g} s after all was whole."
        if not found["losses"]
        else "",
        "",
        "| what | acknowledged | shown to recipients |",
        "|---|---|---|",
        *[
            f"| {kind} | {n:,} | {found['deliveries'].get(kind, 0):,} |"
            for kind, n in found["acknowledged"].items()
        ],
        "",
        "| fault | times | links up again, ms: p50 | p95 | max |",
        "|---|---|---|---|---|",
    ]
    for kind, n in found["faults"].items():
        took = found["linked_ms"].get(kind, {})
        lines.append(
            f"| {kind} | {n} | " + " | ".join(str(took.get(p, "–")) for p in ("p50", "p95", "max")) + " |"
        )
    for title, key in (
        ("from a send to its acknowledgement, ms; begun", "ack_ms"),
        ("from a send to the push at its recipient, ms; begun", "push_ms"),
    ):
        lines += ["", f"| {title} | n | p50 | p95 | p99 | max |", "|---|---|---|---|---|---|"]
        for kind, values in found[key].items():
            where = "in calm" if kind == "calm" else f"in or within 10 s after: {kind}"
            row = " | ".join(str(values.get(p, "–")) for p in ("n", "p50", "p95", "p99", "max"))
            lines.append(f"| {where} | {row} |")
    lines += [
        "",
        "| process | lives | most MB | most descriptors | minutes in long lives | kB a minute in each "
        "| in the second half | descriptors a minute |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for role, row in found["processes"].items():
        slopes, late, fds = (
            ", ".join(map(str, row.get(key, [])[:LIVES])) or "–"
            for key in ("kb_per_min", "last_slope_kb_per_min", "fds_per_min")
        )
        lines.append(
            f"| {role} | {row['processes']} | {row['mb_max']} | {row['fds_max']} | {row.get('minutes', '–')} "
            f"| {slopes} | {late} | {fds} |"
        )
    for title, key in (
        ("refused sends", "refusals"),
        ("refusals of all tools", "refusals_all_tools"),
        ("ended with a receipt that says why", "told"),
    ):
        said = ", ".join(f"{name} {n}" for name, n in found[key].items()) or "none"
        lines += ["", f"{title}: {said}."]
    if found["findings"]:
        lines += ["", "## Findings", ""]
        lines += [f"* {what}, message {n}: {detail}" for what, n, detail in found["findings"][:SHOWN]]
    return "\n".join(lines) + "\n"


def as_json(found: dict[str, Any]) -> str:
    """For programs."""
    return json.dumps(found, indent=2) + "\n"
