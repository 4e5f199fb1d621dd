"""Bugs planted one at a time: does the random load notice each of them within the seeds that CI runs?

    python -m tests.links.mutations [word]

Copies the package, changes one place in the copy, runs the seeds on it, and if all pass the tests written by
hand. Ends with 1 if one was not noticed by any.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEEDS = 240
LENGTH = 160

CORE = "ecorelay/core/"
STORE = "ecorelay/daemon/store_links.py"
MUTATIONS: tuple[tuple[str, str, str, str], ...] = (
    (
        "results are told before the commit",
        CORE + "links.py",
        "    s.out.append(Store((op,), FrameTaken(*at, mail, far, quiet)))\n",
        "    s.out.append(Store((op,), FrameTaken(*at, mail, far, quiet)))\n"
        "    s.out.append(ToLink(hub.link, link_wire.Results(received=frame.seq)))\n",
    ),
    (
        "what comes again is pushed again",
        CORE + "links.py",
        "result.appended is not None and not result.appended.duplicate:",
        "result.appended is not None:",
    ),
    (
        "what was taken is refused when it comes again",
        STORE,
        '    if known:\n        return Appended(known, (), duplicate=True), "", ""\n    if mail is None:',
        "    if known and mail is not None:\n"
        '        return Appended(known, (), duplicate=True), "", ""\n    if mail is None:',
    ),
    (
        "resume ignores what was rejected",
        CORE + "outbox.py",
        "rejected=tuple(rejected.items())",
        "rejected=()",
    ),
    (
        "hello is answered without what was rejected",
        CORE + "links.py",
        "received=have.received, rejected=rejected)",
        "received=have.received)",
    ),
    (
        "the base of a stream is one too low",
        STORE,
        "_put_stream(db, no, OURS, op.stream, before, op.at)",
        "_put_stream(db, no, OURS, op.stream, before - 1, op.at)",
    ),
    (
        "one more is settled than the other hub has",
        CORE + "outbox.py",
        "upto=hub.settled, rejected=tuple(hub.refused)",
        "upto=hub.settled + 1, rejected=tuple(hub.refused)",
    ),
    (
        "one less is settled than the other hub has",
        CORE + "outbox.py",
        "upto=hub.settled, rejected=tuple(hub.refused)",
        "upto=hub.settled - 1, rejected=tuple(hub.refused)",
    ),
    (
        "a new name is not told",
        CORE + "peers.py",
        "    peer.auto = False\n    directory.changed(s, peer)\n",
        "    peer.auto = False\n",
    ),
    (
        "the end of a session is not told",
        CORE + "sessions.py",
        "        peer.last_seen = now.wall\n        directory.changed(s, peer)\n",
        "        peer.last_seen = now.wall\n",
    ),
    (
        "a forgotten peer is not told",
        CORE + "peers.py",
        "    directory.gone(s, [s.peers[no] for no in gone])\n",
        "",
    ),
    (
        "a peer that stays after all is not told again",
        CORE + "peers.py",
        "    directory.changed(s, peer)  # who",
        "    # who",
    ),
    (
        "`delivered` is told of a push that failed",
        CORE + "delivery.py",
        '        untrack(session, flight)\n        settle(s, flight, "queued")\n',
        '        untrack(session, flight)\n        settle(s, flight, "delivered")\n'
        "        if flight.link:\n"
        "            s.out.append(ToLink(flight.link, link_wire.Delivered(msg_ids=(flight.msg_id,))))\n",
    ),
    (
        "the directory is not written",
        STORE,
        "    if op.peers:\n        insert_rows(",
        "    if not op.peers:\n        insert_rows(",
    ),
    (
        "the directory is not written again after the disk refused it",
        CORE + "directory.py",
        "    s.at(now.mono + SAVE_AGAIN_S, DirectoryDue(note.hub))\n",
        "",
    ),
    (
        "the outbox is not loaded again once the window has room",
        CORE + "outbox.py",
        "    _settle(s, hub, now)\n    load(s, hub)\n",
        "    _settle(s, hub, now)\n",
    ),
    (
        "what is new overtakes what waits",
        CORE + "outbox.py",
        "if not hub.up or not hub.caught_up or hub.loading or hub.paused or not _has_room(hub):",
        "if not hub.up or not _has_room(hub):",
    ),
    (
        "the window has no end",
        CORE + "outbox.py",
        "    return len(hub.inflight) < WINDOW_FRAMES and hub.inflight_bytes < WINDOW_BYTES\n",
        "    return True\n",
    ),
    (
        "an unanswered sender is kept for ever",
        CORE + "delivery.py",
        "        flight.asked.pop(flight.msg_id, None)\n",
        "",
    ),
    (
        "a lost link leaves its window full",
        CORE + "outbox.py",
        '"queued")\n    hub.inflight.clear()\n    hub.inflight_bytes = 0\n',
        '"queued")\n',
    ),
    (
        "what a lost link settled is not counted",
        CORE + "outbox.py",
        "    hub = s.hubs.get(note.hub)\n    if hub is None:\n        return\n    gone(",
        "    hub = s.links.get(note.link)\n    if hub is None:\n        return\n    gone(",
    ),
    (
        "rejections go with a commit that failed",
        CORE + "outbox.py",
        "rejected=tuple(hub.refused), at=now.wall)\n",
        "rejected=tuple(hub.refused), at=now.wall)\n    hub.refused = []\n",
    ),
    (
        "what was not settled for the disk's sake is not tried again",
        CORE + "outbox.py",
        "    s.at(now.mono + LOAD_AGAIN_S, GoneDue(note.hub))\n",
        "",
    ),
    (
        "an older stream covers mail of this run",
        STORE,
        "last if ended is None else ended",
        "last",
    ),
    (
        "the latest stream is found by its time",
        STORE,
        '        " ORDER BY place DESC LIMIT 1",',
        '        " ORDER BY at DESC LIMIT 1",',
    ),
    (
        "mail that is sent again after a new name is another message",
        STORE,
        "checksum(op.msg_id, kind, sender, op.reply_to",
        "checksum(op.msg_id, kind, op.sender, op.reply_to",
    ),
    (
        "bytes that left the outbox stay counted",
        STORE,
        '    db.execute("UPDATE hubs SET outbox_bytes = outbox_bytes - ? WHERE no = ?", (size, hub_no))\n'
        "    return OutSettled(count, size, bad)\n",
        "    return OutSettled(count, size, bad)\n",
    ),
    (
        "a link that is replaced may still bring mail",
        CORE + "links.py",
        "        give_up(s, hub, why, now)\n    s.opening",
        "        pass\n    s.opening",
    ),
    (
        "a hello that comes early is lost",
        CORE + "links.py",
        "    s.opening[event.link].early = event\n",
        "",
    ),
    (
        "those not told of again are kept",
        CORE + "directory.py",
        "        gone += hub.stale\n",
        "",
    ),
    (
        "a frame that could not be stored is passed over",
        CORE + "links.py",
        "    hub.receiving = hub.received\n",
        "    hub.received = hub.receiving\n",
    ),
    (
        "results wait for more than there is",
        CORE + "links.py",
        "if hub.received == hub.receiving or hub.received",
        "if hub.received",
    ),
    (
        "what was settled meanwhile is not settled",
        CORE + "outbox.py",
        "        if hub.up and hub.settled > note.upto:\n            _settle(s, hub, now)\n",
        "",
    ),
    (
        "what was in the store when the disk refused counts as refused anew",
        CORE + "links.py",
        "if hub is None or hub.refusals != note.refusals:",
        "if hub is None:",
    ),
    (
        "what was read before the other disk gave out is sent after it",
        CORE + "outbox.py",
        "or not hub.loading or note.after != hub.sent:",
        "or False:",
    ),
    (
        "a rejected message is told as forwarded",
        STORE,
        "    bad = _rejected(ledger, hub_no, upto, rejected, at)\n",
        "    bad = ()\n",
    ),
)

RUN = f"""
import sys
from tests.links import workload
for seed in range({SEEDS}):
    error, _ = workload.outcome(seed, workload.make_history(seed, {LENGTH}))
    if error is not None:
        print(f"seed {{seed}}: {{type(error).__name__}} {{str(error)[:90]}}".splitlines()[0])
        sys.exit(1)
"""


def run(mutation: tuple[str, str, str, str]) -> str:
    """What the load says of the change; empty: nothing."""
    what, file, old, new = mutation
    with tempfile.TemporaryDirectory() as place:
        for package in ("ecorelay", "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / package, Path(place, package), ignore=ignored)
        path = Path(place, file)
        text = path.read_text()
        assert text.count(old) == 1, f"{what}: {text.count(old)} such places in {file}"
        path.write_text(text.replace(old, new))
        env = {**os.environ, "PYTHONPATH": place}
        done = subprocess.run(
            [sys.executable, "-c", RUN], cwd=place, env=env, capture_output=True, text=True, check=False
        )
        if done.returncode and not done.stdout:
            return done.stderr[-300:]
        if done.stdout:
            return done.stdout.strip()
        tests = [
            str(Path(place, "tests", "links", name))
            for name in ("test_mail.py", "test_frames.py", "test_bounds.py")
        ]
        options = ("-q", "-x", "--no-header", "-p", "no:cacheprovider")
        direct = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=place,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        failed = [line for line in direct.stdout.splitlines() if line.startswith("FAILED")]
        return f"only by {failed[0].rpartition('::')[2].partition(' ')[0]}" if failed else ""


def main() -> int:
    """Try all, or those with the word in what they are."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    missed = 0
    for mutation in MUTATIONS:
        if word in mutation[0]:
            start = time.monotonic()
            said = run(mutation)
            missed += not said
            print(f"{time.monotonic() - start:5.1f} s  {mutation[0]}: {said or 'NOT NOTICED'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
