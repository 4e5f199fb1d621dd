"""A seeded random life of a session whose hooks fetch its mail: nothing is lost, or seen without proof."""

import random
from typing import Any

import pytest

from ecorelay import wire
from tests.core.helpers import Client, World

BESIDE: dict[str, Any] = {"client_pid": 70, "client_start": 7, "client": "claude-code"}
SEEDS = range(150)


class Life:
    """bob's session and hooks; ann and cat write to him. What was shown and what proves it is kept beside."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World(ping_s=1e6, sends_per_minute=0)
        self.writers = [self.world.open(name, pinned=True) for name in ("ann", "cat")]
        self.bob: Client | None = None
        self.sit_down()
        self.acknowledged: dict[str, str] = {}
        self.shown: set[str] = set()
        """Handed to a reader at least once."""
        self.printed: set[str] = set()
        """Written out wholly by a hook of this session, not proved, not taken back."""
        self.after_tool: set[str] = set()
        """Those of them that the hook of a tool wrote."""
        self.proved: set[str] = set()
        self.numbers = 0

    def sit_down(self) -> None:
        self.bob = self.world.open("bob", pinned=True, bell=True, **BESIDE)

    def live(self, steps: int) -> None:
        for _ in range(steps):
            doings = (self.write, self.run_hook, self.read, self.leave, self.restart)
            self.random.choices(doings, (8, 12, 2, 0.4, 0.2))[0]()
            self.world.tick(self.random.choice((0.0, 0.1, 2.0, 11.0)))
            self.check()

    def write(self) -> None:
        self.numbers += 1
        text = f"{self.numbers} " + "x" * self.random.choice((1, 300, 900))
        answer = self.random.choice(self.writers).send("bob", text)
        self.acknowledged[answer.msg_id] = text

    def look_at(self, page: wire.HookPage | wire.InboxPage) -> list[str]:
        """The ids of what a page shows with its text."""
        ids = []
        for mail in page.messages:
            if mail.text is None or mail.kind == "system":
                continue
            assert mail.text == self.acknowledged[mail.msg_id]
            assert mail.redelivered == (mail.msg_id in self.shown), mail
            assert mail.msg_id not in self.proved, "shown again though it was seen"
            ids.append(mail.msg_id)
        self.shown.update(ids)
        return ids

    def run_hook(self) -> None:
        line = self.world.open(role="attach", client_pid=70, client_start=7)
        event = self.random.choice(("bell", "start", "prompt", "tool", "tool", "stop"))
        if line.welcome is None:
            assert self.bob is None
            return
        if event in ("tool", "stop"):
            proved = self.printed - (self.after_tool if event == "tool" else set())
            self.proved |= proved
            self.printed -= proved
        elif event in ("prompt", "start"):
            self.printed.clear()
        self.after_tool &= self.printed
        page = line.call(wire.Hook, event=event, budget=self.random.choice((1_000, 2_500, 8_000)))
        ids = self.look_at(page)
        assert self.printed.isdisjoint(ids), "printed twice in one turn"
        if page.lease and self.random.random() < 0.8:
            cut = tuple(ids[:1]) if self.random.random() < 0.2 else ()
            whole = tuple(i for i in ids if i not in cut)
            line.call(wire.Printed, lease=page.lease, msg_ids=whole, cut=cut)
            self.printed.update(whole)
            if event == "tool":
                self.after_tool.update(whole)
        line.close()

    def read(self) -> None:
        if self.bob is None:
            return
        page = self.bob.inbox()
        ids = self.look_at(page)
        if self.random.random() < 0.5:
            self.bob.call(wire.Release, lease=page.lease)
        else:
            self.bob.call(wire.Confirm, lease=page.lease, msg_ids=tuple(ids))
            self.proved.update(ids)
            self.printed.difference_update(ids)

    def leave(self) -> None:
        if self.bob is None:
            self.sit_down()
        else:
            self.bob.close()
            self.bob = None
        self.printed.clear()

    def restart(self) -> None:
        self.world.restart()
        self.printed.clear()
        self.writers = [self.world.open(name, pinned=True) for name in ("ann", "cat")]
        self.sit_down()

    def check(self) -> None:
        """Unread is exactly what is not proved; who is to be told of it can be."""
        states = {self.world.store.message(mid).msg_id: row.state for (_, mid), row in self.rows().items()}
        unread = {msg_id for msg_id, state in states.items() if state == "unread"}
        assert unread == self.acknowledged.keys() - self.proved
        peer = self.world.peer("bob")
        if peer.session is not None:
            assert peer.unread == len(unread)
            assert set(peer.printed) - peer.cut.keys() == self.printed
            assert peer.cut.keys() <= unread

    def rows(self):
        no = self.world.peer("bob").no
        return {key: row for key, row in self.world.store.rows.items() if key[0] == no}

    def end(self) -> None:
        """Whatever was acknowledged and not seen is read now."""
        if self.bob is None:
            self.sit_down()
        self.world.tick(60.0)
        line = self.world.open(role="attach", client_pid=70, client_start=7)
        line.call(wire.Hook, event="start")
        line.close()
        left = self.acknowledged.keys() - self.proved
        got: set[str] = set()
        assert self.bob is not None
        for _ in range(len(left) + 1):
            page = self.bob.inbox(limit=100)
            got.update(self.look_at(page))
            self.bob.confirm(page)
        assert got == left
        for client in list(self.world.clients.values()):
            client.close()
        self.world.tick(60.0)
        self.world.idle()


@pytest.mark.guarantee("hook-evidence")
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_hooks_do_mail_is_seen_only_when_proved_and_otherwise_there(seed):
    life = Life(seed)
    life.live(80)
    life.end()
