"""Bugs planted one at a time: does the simulator notice each of them within the seeds that CI runs?

    python -m tests.sim.mutations [word]

Copies the packages, changes one place in the copy and runs the seeds on it. Ends with 1 if one was not
noticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.links import mutations as links

ROOT = Path(__file__).parents[2]
SEEDS = 300
HANGS_S = 600.0
"""Seconds after which it has noticed something too: the seeds of CI take a tenth of that."""
PACKAGES = (
    "ecorelay",
    "bridge/ecorelay_bridge",
    "relay_server/ecorelay_relay_server",
    "tests/sim",
    "tests/links",
)


class Mutation(NamedTuple):
    """One planted bug."""

    what: str
    file: str
    old: str
    """Occurs once in the file."""
    new: str


CORE, DAEMON, CLIENT = "ecorelay/core/", "ecorelay/daemon/", "ecorelay/"

FROM_LINKS = (
    "results are told before the commit",
    "the end of a session is not told",
    "`delivered` is told of a push that failed",
    "the window has no end",
    "the outbox is not loaded again once the window has room",
    "a lost link leaves its window full",
    "one more is settled than the other hub has",
)
"""Those of `tests.links.mutations` that whole hubs are asked about too; for others frames must be held one by
one, or databases put back at the right moment.
"""

MUTATIONS: tuple[Mutation, ...] = (
    # --- what an acknowledgement means ---
    Mutation(
        "mail is acknowledged before it is committed",
        CORE + "messages.py",
        "    s.out.append(Store((op,), MailStored(session.sid, frame.req_id, op, frame.resend)))\n",
        "    s.out.append(Store((op,), MailStored(session.sid, frame.req_id, op, frame.resend)))\n"
        '    _answer(s, session.sid, frame.req_id, op.msg_id, "queued")\n',
    ),
    Mutation(
        "mail that comes again is pushed again",
        CORE + "messages.py",
        "    if result.duplicate:\n        _answer(s, note.sid, note.req_id, note.op.msg_id,",
        "    if False:\n        _answer(s, note.sid, note.req_id, note.op.msg_id,",
    ),
    Mutation(
        "a page that was read behind one that came back is shown",
        CORE + "group_history.py",
        "        if note.op.after and lease.overtaken:\n",
        "        if note.op.after and not lease.reading:\n",
    ),
    Mutation(
        "`delivered` is told when nobody took it in time",
        CORE + "delivery.py",
        '        settle(s, waits.popleft()[1], "queued")',
        '        settle(s, waits.popleft()[1], "delivered")',
    ),
    # --- reading ---
    Mutation(
        "a confirmation marks nothing as seen",
        DAEMON + "store_pages.py",
        "    if op.msg_ids:\n        mids = _mids_of(ledger, op)",
        "    if op.msg_ids and op.at < 0:\n        mids = _mids_of(ledger, op)",
    ),
    Mutation(
        "the cursor of a group does not move",
        DAEMON + "store_groups.py",
        "    if upto > cursor:\n",
        "    if upto > cursor and op.no < 0:\n",
    ),
    Mutation(
        "a ring keeps one more than it may",
        DAEMON + "store_ring.py",
        "(self.entries > self._entries_max or",
        "(self.entries > self._entries_max + 1 or",
    ),
    # --- sessions ---
    Mutation(
        "a newcomer takes the name of a session that lives",
        CORE + "sessions.py",
        "        elif not event.alive and peer is not None:",
        "        elif peer is not None:",
    ),
    Mutation(
        "the core is not told that a session ended",
        DAEMON + "connection.py",
        "            self._shell.feed((SessionClosed(self.sid, self._reason),))",
        "            self._shell.feed(())",
    ),
    Mutation(
        "what a socket does not take at once is lost",
        DAEMON + "outqueue.py",
        "            parts.append(memoryview(data)[sent:])\n",
        "",
    ),
    Mutation(
        "no timer of the core ever fires",
        DAEMON + "ticker.py",
        "            shell.feed((Tick(),) if self._due() <= now else ())",
        "            shell.feed(())",
    ),
    # --- the client ---
    Mutation(
        "requests are sent again in the opposite order",
        CLIENT + "open_requests.py",
        "        for entry in self._open.values():\n            if entry.answer is not None:",
        "        for entry in reversed(self._open.values()):\n            if entry.answer is not None:",
    ),
    Mutation(
        "requests are sent again under another id",
        CLIENT + "requests.py",
        "            return msgspec.structs.replace(frame, resend=True)",
        "            op_id = frame.op_id[:-1] + frame.op_id[-2]\n"
        "            return msgspec.structs.replace(frame, resend=True, op_id=op_id)",
    ),
    Mutation(
        "requests are not sent again",
        CLIENT + "open_requests.py",
        "            if entry.answer is not None:\n                continue",
        "            if entry.answer is not None or entry.sent:\n                continue",
    ),
    Mutation(
        "pages given up on a lost connection are waited for",
        CLIENT + "open_requests.py",
        "        self._unwanted.clear()\n",
        "",
    ),
    Mutation(
        "what one peer asked is asked again by another",
        CLIENT + "client.py",
        "                self._requests.another_asks(before.name, welcome.name)",
        "                pass",
    ),
    # --- links ---
    Mutation(
        "a stream that says nothing is kept for ever",
        DAEMON + "links.py",
        "            if waited >= HUNG_S or now - road.heard >= IDLE_DEAD_S:",
        "            if waited >= HUNG_S * 1_000_000:",
    ),
    Mutation(
        "the hub that does not choose never obeys",
        DAEMON + "links.py",
        "        elif not road.link:\n            self._become_link(road)\n\n    def _become_link",
        "        elif road.link:\n            self._become_link(road)\n\n    def _become_link",
    ),
    Mutation(
        "no other stream is looked for when the link is lost",
        DAEMON + "links.py",
        "                else:\n                    self._seek(road.hub_id)",
        "                else:\n                    pass",
    ),
    Mutation(
        "links that the core closes stay open",
        DAEMON + "perform.py",
        "                    self.links.close(action.link, action.reason)",
        "                    pass",
    ),
    # --- presence, rooms, groups ---
    Mutation(
        "a new name is not told to other hubs",
        CORE + "peers.py",
        "    peer.auto = False\n    directory.changed(s, peer)\n",
        "    peer.auto = False\n",
    ),
    *[Mutation(*each) for each in links.MUTATIONS if each[0] in FROM_LINKS],
)
QUICK = (
    "a newcomer takes the name of a session that lives",
    "what a socket does not take at once is lost",
    "requests are sent again under another id",
)
"""Those that CI tries, one each in core, daemon and client: found by one of the first `QUICK_SEEDS`."""
QUICK_SEEDS = 20


def called(what: str) -> Mutation:
    """The mutation of that name."""
    [found] = [each for each in MUTATIONS if each.what == what]
    return found


def run(mutation: Mutation, seeds: int = SEEDS) -> str:
    """What the simulator says of it; empty: nothing."""
    with tempfile.TemporaryDirectory() as place:
        for package in PACKAGES:
            # With what is compiled: it is as good there, but for the file that is changed.
            shutil.copytree(ROOT / package, Path(place, package))
        path = Path(place, mutation.file)
        text = path.read_text()
        count = text.count(mutation.old)
        assert count == 1, f"{mutation.what}: {count} such places in {mutation.file}"
        path.write_text(text.replace(mutation.old, mutation.new))
        paths = os.pathsep.join([place, f"{place}/bridge", f"{place}/relay_server"])
        try:
            done = subprocess.run(
                [sys.executable, "-m", "tests.sim", "--seeds", str(seeds), "--whole"],
                cwd=place,
                env={**os.environ, "PYTHONPATH": paths},
                capture_output=True,
                text=True,
                check=False,
                timeout=HANGS_S,
            )
        except subprocess.TimeoutExpired:
            return f"it hangs: {HANGS_S:.0f} s"
        first = next(iter(done.stdout.splitlines()), "")
        if first.startswith("seed "):
            return first
        return "" if done.returncode == 0 else (done.stdout + done.stderr)[-300:]


def main() -> int:
    """Try all, or those with the word in what they are."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    tried = missed = 0
    for mutation in MUTATIONS:
        if word in mutation.what:
            start = time.monotonic()
            said = run(mutation)
            tried += 1
            missed += not said
            seconds = time.monotonic() - start
            print(f"{seconds:5.1f} s  {mutation.what}: {said[:120] or 'NOT NOTICED'}", flush=True)
    print(f"{tried - missed} of {tried} noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
