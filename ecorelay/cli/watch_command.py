"""``ecorelay watch``: what happens at the hub, as it happens."""

from __future__ import annotations

from typing import Annotated, Any, Final

import trio
import typer

from ecorelay import wire
from ecorelay.cli import screen, session, words
from ecorelay.errors import RelayError

commands = typer.Typer(**words.TYPER)

AGAIN_S: Final = 0.25
"""Between two looks for a hub."""
TEXT_SHOWN: Final = 300
"""Characters of a text."""
SENDERS_KNOWN: Final = 2000
"""Messages whose sender is remembered for what is told of them later."""
_GONE: Final = ("hub_unreachable", "timeout", "unexpected", "mailbox_error")
"""What a hub that stops, or starts, may be refused with; anything else ends the command."""

_COLOURS: Final = {
    "online": "green",
    "offline": "dim",
    "renamed": "cyan",
    "stored": "yellow",
    "pushed": "cyan",
    "seen": "green",
    "evicted": "red",
    "missed": "red",
}


_COUNTED: Final = {"stored": "to {} more", "room": "to {} in it", "evicted": "{} unread messages"}


@commands.command(
    "watch", **words.with_example("ecorelay watch", "ecorelay watch --no-texts", "ecorelay watch --json")
)
def watch(
    texts: Annotated[
        bool, typer.Option("--texts/--no-texts", help="Show the beginning of each text.")
    ] = True,
    as_name: words.As = None,
    as_json: words.Json = False,
) -> None:
    """Show what happens, live.

    Who comes and goes, and each message with what becomes of it: stored, pushed, seen, evicted. Nothing
    counts as seen by being shown here. Your own mail is in bold. Goes on when the hub is restarted,
    waits when none runs, ends with Ctrl-C. --json prints one object a line.

    """
    watcher = _Watcher(session.person(as_name), texts, as_json)
    session.run(watcher.run)


class _Watcher:
    def __init__(self, me: str, texts: bool, as_json: bool) -> None:
        self._me = me.lower()
        self._texts = texts
        self._as_json = as_json
        self._senders: dict[str, str] = {}
        self._waiting = False
        """The person knows that there is no hub."""

    async def run(self) -> None:
        """Watch hub after hub."""
        while True:
            try:
                async with session.at_running_hub(on_activity=self._show) as hub:
                    await hub.request(wire.Watch(req_id=0, texts=self._texts))
                    self._waiting = False
                    screen.say(f"watching {hub.welcome.hub_id}; Ctrl-C ends it")
                    over = await hub.wait_over()
                    await trio.lowlevel.checkpoint()  # what came with the goodbye is still to be shown
                    raise RelayError(over.code, f"the hub is gone ({over.message})")
            except RelayError as error:
                if error.code not in _GONE:
                    raise
                self._wait(error.message)
            await trio.sleep(AGAIN_S)

    def _wait(self, why: str) -> None:
        if not self._waiting:
            screen.say(f"{why}; waiting for one")
        self._waiting = True

    def _show(self, activity: wire.Activity) -> None:
        if self._as_json:
            screen.out_json(**_fields(activity, self._texts))
            return
        sender, recipient = self._between(activity)
        own = self._me in (sender.lower(), recipient.lower())
        screen.out(_shown(activity, sender, recipient, own))

    def _between(self, activity: wire.Activity) -> tuple[str, str]:
        """From whom to whom; what is told of a message later does not always say from whom it was."""
        match activity.what:
            case "stored" | "group":
                self._senders[activity.msg_id] = activity.peer
                if len(self._senders) > SENDERS_KNOWN:
                    del self._senders[next(iter(self._senders))]
                return activity.peer, activity.to
            case "pushed" | "seen":
                return activity.to or self._senders.get(activity.msg_id, "?"), activity.peer
            case _:
                return activity.peer, activity.to


def _shown(activity: wire.Activity, sender: str, recipient: str, own: bool) -> str:
    what, when = screen.line(activity.what), screen.styled(screen.clock(activity.ts), "dim")
    colour = _COLOURS.get(activity.what, "cyan")
    if activity.what == "missed":
        many = f"{activity.count} things happened that are not shown: this terminal was too slow"
        return f"{when}  {screen.styled(many, colour)}\n"
    who = screen.line(sender)
    if recipient:
        who += f" {screen.symbol('→', '->')} {screen.line(recipient)}"
    facts = [screen.styled(who, "bold") if own else who, screen.styled(what, colour)]
    if activity.carrier:
        facts.append(f"by {screen.line(activity.carrier)}")
    if activity.kind:
        facts.append(screen.line(activity.kind))
    if activity.count:
        facts.append(_COUNTED.get(activity.what, "{} times").format(activity.count))
    if activity.size:
        facts.append(screen.size(activity.size))
    if activity.msg_id:
        facts.append(screen.styled(screen.line(activity.msg_id), "dim"))
    text = f"{when}  {'  '.join(facts)}\n"
    if activity.text:
        cut = len(activity.text) > TEXT_SHOWN or activity.size > len(activity.text.encode())
        beginning = screen.line(activity.text[:TEXT_SHOWN]) + (screen.symbol("…", "...") if cut else "")
        text += "    " + (screen.styled(beginning, "bold") if own else beginning) + "\n"
    return text


def _fields(activity: wire.Activity, texts: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "what": activity.what,
        "ts": screen.timestamp(activity.ts),
        "peer": activity.peer,
        "to": activity.to,
        "msg_id": activity.msg_id,
        "kind": activity.kind,
        "size": activity.size,
        "carrier": activity.carrier,
        "count": activity.count,
    }
    if texts:
        fields["text"] = activity.text
    return fields
