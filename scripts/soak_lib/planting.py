"""Break a promise on purpose: the proof that a soak can fail."""

from __future__ import annotations

import signal
import sqlite3
from typing import TYPE_CHECKING

import trio

from scripts.soak_lib.voices import LibraryVoice

if TYPE_CHECKING:
    import random

    from scripts.soak_lib.talk import Talk

PLANTS = ("loss",)
FOUND_S = 60.0


async def plant(_what: str, talk: Talk, chance: random.Random) -> None:
    """Take an acknowledged message out of the database of a hub that is down."""
    able = [p for p in talk.peers if p.manner in ("pull", "push") and not p.hub.on_demand]
    reader = chance.choice([p for p in able if p.manner == "pull"])
    writer = chance.choice([p for p in able if p is not reader and p.hub is reader.hub])
    hub = reader.hub
    reader.held = writer.held = True
    with trio.fail_after(FOUND_S):
        while not (isinstance(writer.voice, LibraryVoice) and reader.voice):  # noqa: ASYNC110 - seldom
            await trio.sleep(0.1)
        await trio.sleep(5)  # both have ended what they were doing
        msg_id = await writer.say(writer.voice, "mail", "send", reader.key, to=reader.address(hub))
        hub.signal(signal.SIGKILL)
        while hub.runs():  # noqa: ASYNC110 - another process
            await trio.sleep(0.05)
        db = sqlite3.connect(hub.paths.database)
        with db:
            [(mid,)] = db.execute("SELECT mid FROM messages WHERE msg_id = ?", (msg_id,)).fetchall()
            gone = db.execute("DELETE FROM ring WHERE mid = ?", (mid,)).rowcount
        db.close()
        assert gone == 1, "the message was there to be taken away"
        hub.launch()
        await hub.ready()
    reader.held = writer.held = False
