"""``ecorelay trace``: what became of one message, step by step, as far as it is proved."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from ecorelay import wire
from ecorelay.cli import screen, session, words

commands = typer.Typer(**words.TYPER)

_ENDED: Final = ("evicted", "expired", "dead")
_COLOURS: Final = {
    "unread": "yellow",
    "pushed": "cyan",
    "seen": "green",
    "replied": "green",
    "evicted": "red",
    "expired": "red",
    "dead": "red",
}


@commands.command(
    "trace",
    **words.with_example(
        "ecorelay trace 01j5zk3m8v9w2x4y6z7abcdefg", "ecorelay trace 01j5zk3m8v9w2x4y6z7abcdefg --json"
    ),
)
def trace(
    msg_id: Annotated[
        str,
        typer.Argument(
            metavar="MSG_ID", help="As `send`, `broadcast` or `inbox` showed it.", show_default=False
        ),
    ],
    as_json: words.Json = False,
) -> None:
    """Show what became of a message, step by step.

    One ladder for each recipient (stored, forwarded to its hub, pushed, seen, replied, or why it ended
    unseen), with the time since the step before, by this machine's clock. No step stands there without the
    event that proves it. Receipts are kept for some days after a message was read.

    """
    words.message_id(msg_id, "MSG_ID")
    session.run(lambda: _trace(msg_id, as_json))


async def _trace(msg_id: str, as_json: bool) -> None:
    async with session.looking_on() as hub:
        found = await hub.request(wire.Trace(req_id=0, msg_id=msg_id))
    if as_json:
        screen.out_json(**_fields(found))
        return
    screen.out(_shown(found))
    if found.group is not None:
        screen.say("lines of groups have no receipts: who read how far is each member's own")
    elif not found.receipts:
        screen.say("no receipt is kept of it any more")


def _shown(found: wire.Traced) -> str:
    facts = [found.kind, f"from {found.sender}"]
    if found.group is not None:
        facts.append(f"in group {found.group}")
    facts += [screen.clock(found.ts), screen.size(found.size)]
    if found.reply_to:
        facts.append(f"answers {found.reply_to}")
    if found.broadcast_id and found.broadcast_id != found.msg_id:
        facts.append(f"of broadcast {found.broadcast_id}")
    text = f"{screen.styled(screen.line(found.msg_id), 'dim')}  {screen.line(', '.join(facts))}\n"
    for receipt in found.receipts:
        style = _COLOURS.get(receipt.state, "bold")
        state = screen.styled(screen.line(receipt.state), style)
        text += f"to {screen.styled(screen.line(receipt.recipient), 'bold', 'cyan')}: {state}\n"
        rows = []
        before = 0
        for step, at, remark in _steps(receipt):
            since = screen.between(at - before) if before else ""
            rows.append((f"    {step}", screen.clock(at), since, screen.line(remark)))
            before = at
        text += screen.table(rows)
    return text


def _steps(receipt: wire.Receipt) -> list[tuple[str, int, str]]:
    """What happened, when, and what is to be said of it; in the order of time."""
    carrier = f"by {receipt.carrier}" if receipt.carrier else ""
    steps = [
        ("stored", receipt.stored_at, ""),
        ("forwarded", receipt.forwarded_at, "its hub has it"),
        ("pushed", receipt.pushed_at, carrier),
        ("seen", receipt.seen_at, ""),
        ("replied", receipt.replied_at, ""),
        (receipt.state if receipt.state in _ENDED else "ended", receipt.ended_at, receipt.reason),
    ]
    return sorted([step for step in steps if step[1]], key=lambda step: step[1])


def _fields(found: wire.Traced) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "msg_id": found.msg_id,
        "kind": found.kind,
        "from": found.sender,
        "ts": screen.timestamp(found.ts),
        "size": found.size,
    }
    for optional in ("reply_to", "broadcast_id", "group"):
        if (value := getattr(found, optional)) is not None:
            fields[optional] = value
    fields["receipts"] = [_receipt_fields(receipt) for receipt in found.receipts]
    return fields


def _receipt_fields(receipt: wire.Receipt) -> dict[str, Any]:
    fields: dict[str, Any] = {"to": receipt.recipient, "state": receipt.state}
    for name in ("stored", "forwarded", "pushed", "seen", "replied", "ended"):
        if at := getattr(receipt, f"{name}_at"):
            fields[f"{name}_at"] = screen.timestamp(at)
    if receipt.carrier:
        fields["carrier"] = receipt.carrier
    if receipt.reason:
        fields["reason"] = receipt.reason
    return fields
