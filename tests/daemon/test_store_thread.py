"""The store in its own thread: delivery, the end, death by a bug; and killed processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

from ecorelay.core import ops
from ecorelay.core.events import Stored, StoreFailed
from ecorelay.daemon import store as store_module
from ecorelay.daemon.store import Store
from ecorelay.limits import Limits
from tests.daemon.store_kit import T0, Kit, make_id

ROOT = Path(__file__).parents[2]


def add(name: str) -> ops.AddPeer:
    return ops.AddPeer(peer_id=name, name=name, auto=False, at=T0)


def mail(number: int, text: str = "hi") -> ops.AppendMail:
    return ops.AppendMail(
        msg_id=make_id(number),
        kind="message",
        sender_no=1,
        sender="ann",
        recipients=(2,),
        text=text,
        at=T0,
    )


async def test_results_come_to_the_loop_in_order_a_list_for_each_commit(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data", Limits(), "power", T0)
    events: list[Stored | StoreFailed] = []
    commits: list[int] = []
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def take(batch: list[Stored | StoreFailed]) -> None:
        commits.append(len(batch))
        events.extend(batch)
        if len(events) == 502:
            done.set()

    store.start(lambda batch: token.run_sync_soon(take, batch))
    store.submit((add("ann"),), -2)
    store.submit((add("bob"),), -1)
    for number in range(500):
        store.submit((mail(number),), number)
        if number % 100 == 0:
            await trio.lowlevel.checkpoint()
    with trio.fail_after(20):
        await done.wait()
    assert [event.then for event in events] == list(range(-2, 500))
    assert all(isinstance(event, Stored) for event in events)
    assert len(commits) < 400, "what waits together is committed together"
    assert store.backlog_bytes == 0
    store.close()


def test_close_finishes_what_was_submitted_and_refuses_the_rest(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data", Limits(), "process", T0)
    events: list[Stored | StoreFailed] = []
    store.start(events.extend)
    store.submit((add("ann"),), 0)
    store.submit((add("bob"),), 1)
    for number in range(200):
        store.submit((mail(number),), 2 + number)
    store.close()
    store.close()
    store.submit((mail(999),), "late")
    assert [event.then for event in events] == [*range(202), "late"]
    late = events.pop()
    assert isinstance(late, StoreFailed)
    assert late.code == "mailbox_error"
    assert all(isinstance(event, Stored) for event in events)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["hub.db"]
    assert Kit(tmp_path / "data").mailbox(2).unread == 200


def test_a_store_that_was_never_started_does_its_work_when_it_is_closed(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data", Limits(), "process", T0)
    store.submit((add("ann"),), None)
    store.close()
    assert [peer.name for peer in Kit(tmp_path / "data").store.snapshot().peers] == ["ann"]


def test_closing_from_another_thread_while_units_come_loses_none_in_silence(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data", Limits(), "process", T0)
    events: list[Stored | StoreFailed] = []
    store.start(events.extend)
    closer = threading.Timer(0.02, store.close)
    closer.start()
    count = 0
    while closer.is_alive() and count < 100_000:
        store.submit((add(f"p{count}"),), count)
        count += 1
    closer.join()
    assert sorted(event.then for event in events) == list(range(count))
    stored = sum(isinstance(event, Stored) for event in events)
    assert len(Kit(tmp_path / "data").store.snapshot().peers) == stored


def test_a_thread_that_dies_of_a_bug_says_so_to_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "data", Limits(), "process", T0)
    events: list[Stored | StoreFailed] = []

    def broken(batch: Any) -> Any:
        raise SystemExit("no exception that anybody expects")

    monkeypatch.setattr(store._committer, "commit", broken)
    store.submit((add("ann"),), 0)
    store.submit((add("bob"),), 1)
    store.start(events.extend)
    assert store._thread is not None
    store._thread.join(10)
    store.submit((add("cat"),), 2)
    assert [(event.then, getattr(event, "code", "")) for event in events] == [
        (0, "unexpected"),
        (1, "unexpected"),
        (2, "unexpected"),
    ]
    assert "restart the hub" in store.problems[0]
    assert store.backlog_bytes == 0
    store.close()


def test_a_transaction_takes_no_more_than_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "UNITS_MAX", 10)
    monkeypatch.setattr(store_module, "BYTES_MAX", 5_000)
    store = Store.open(tmp_path / "data", Limits(), "process", T0)
    commits: list[int] = []
    store.submit((add("ann"),), None)
    store.submit((add("bob"),), None)
    for number in range(30):
        store.submit((mail(number),), None)
    for number in range(30, 34):
        store.submit((mail(number, "x" * 2_000),), None)
    store.start(lambda events: commits.append(len(events)))
    store.close()
    assert commits == [10, 10, 10, 5, 1]


def test_in_a_pause_the_log_is_moved_into_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "IDLE_S", 0.01)
    store = Store.open(tmp_path / "data", Limits(), "process", T0)
    moved = threading.Event()
    monkeypatch.setattr(store._committer, "checkpoint", moved.set)
    store.start(lambda events: None)
    store.submit((add("ann"),), None)
    assert moved.wait(20)
    store.close()


# --- processes that are killed ---------------------------------------------------------------------------

WRITER = """
import itertools, resource, sys
from pathlib import Path
from ecorelay.core import ops
from ecorelay.core.events import Stored
from ecorelay.daemon.store import Store
from ecorelay.limits import Limits

data_dir, start, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = Store.open(data_dir, Limits(mailbox_messages=100_000), "process", 1)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

def deliver(events):
    # What is acknowledged is written out at once, as an answer would be.
    lines = [f"{e.then} {'ok' if isinstance(e, Stored) else e.code}\\n" for e in events]
    sys.stdout.write("".join(lines))
    sys.stdout.flush()

store.start(deliver)
if not store.snapshot().peers:
    for name in ("ann", "bob"):
        store.submit((ops.AddPeer(peer_id=name, name=name, auto=False, at=1),), -1)
for number in itertools.count(start):
    mail = ops.AppendMail(
        msg_id=f"01k{number:023d}", kind="message", sender_no=1, sender="ann", recipients=(2,),
        text="x" * (number % 700), at=1)
    store.submit((mail,), number)
    while store.backlog_bytes > 200_000:
        pass
    if limit and number - start > 3000:
        store.close()
        break
"""


def start_writer(data_dir: Path, start: int, limit: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(data_dir), str(start), str(limit)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
@pytest.mark.guarantee("hub-kill-9")
@pytest.mark.guarantee("durable-before-ack")
def test_every_acknowledged_message_is_there_after_kill_9(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    rng = random.Random(seed)
    acknowledged: set[int] = set()
    start = 0
    for _ in range(4):
        process = start_writer(tmp_path / "data", start)
        assert process.stdout is not None
        for _ in range(rng.randrange(1, 300)):
            process.stdout.readline()
        time.sleep(rng.random() * 0.05)
        os.kill(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
        for line in out.splitlines():
            number, _, status = line.partition(" ")
            if status == "ok" and int(number) >= 0:
                acknowledged.add(int(number))
        kit = Kit(tmp_path / "data", mailbox_messages=100_000)
        assert kit.store.problems == ()
        rows = kit.db.execute(
            "SELECT m.msg_id, m.size, length(b.text) FROM ring AS r CROSS JOIN messages AS m ON m.mid = r.mid"
            " CROSS JOIN bodies AS b ON b.mid = r.mid WHERE r.box = 2"
        ).fetchall()
        found = {int(msg_id[3:]): (size, length) for msg_id, size, length in rows}
        assert len(rows) == len(found), "nothing is there twice"
        assert acknowledged <= set(found)
        assert all(size == length == number % 700 for number, (size, length) in found.items())
        assert kit.mailbox(2).unread == len(found)
        kit.store.close()
        start = max(found, default=0) + 1
    assert len(acknowledged) > 100


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits on Windows")
@pytest.mark.guarantee("full-disk")
def test_where_files_cannot_grow_sends_fail_and_the_store_lives_on(tmp_path: Path) -> None:
    process = start_writer(tmp_path / "data", 0, limit=300_000)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    said = dict(line.split(" ", 1) for line in out.splitlines())
    assert {"ok", "mailbox_error"} == set(said.values())
    kept = {int(number) for number, status in said.items() if status == "ok" and number != "-1"}
    kit = Kit(tmp_path / "data", mailbox_messages=100_000)
    assert kit.store.problems == ()
    assert kept <= {int(row[0][3:]) for row in kit.db.execute("SELECT msg_id FROM messages")}
    assert kit.send(1, 2, msg_id="z" * 26).unread[0] > len(kept)
