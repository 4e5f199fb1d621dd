"""Mail for a carrier, and what it reports of it."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ecorelay_adapters.envelope import Incoming

IDS = [f"01j5zk3m8v9w2x4y6z7abcde{n:02}" for n in range(60)]


def mail(n: int, text: str = "", *, urgent: bool = False) -> Incoming:
    return Incoming("message", "ben", IDS[n], text or f"words {n}", 0, urgent=urgent)


class Heard:
    """What a carrier reports."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.refused: list[str] = []
        self.read: list[str] = []
        self.sessions: list[str] = []
        self.another = False

    def pushed(self, msg_ids: Sequence[str]) -> None:
        self.accepted += msg_ids

    def failed(self, msg_ids: Sequence[str]) -> None:
        self.refused += msg_ids

    async def seen(self, msg_ids: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        self.read += msg_ids

    async def is_now(self, session: str) -> bool:
        await trio.lowlevel.checkpoint()
        self.sessions.append(session)
        return self.another
