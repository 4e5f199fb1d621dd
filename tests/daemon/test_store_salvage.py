"""A damaged hub.db: the new one has what can be read of it, once; whose mail is lost is told."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ecorelay.core import link_ops, ops
from ecorelay.core.link_ops import FarPeer
from ecorelay.daemon import store_file
from ecorelay.daemon.store import InlineStore
from ecorelay.errors import RelayError
from ecorelay.limits import Limits
from tests.daemon.store_kit import T0, Kit

PAGE = store_file.PAGE_BYTES
ANN, BOB, CAL = 1, 2, 3
COUNT = 120


@pytest.fixture
def written(tmp_path: Path) -> Kit:
    """A hub that ended in good order, with mail, a group, and mail for another hub."""
    kit = Kit(tmp_path / "data")
    kit.add("ann", "bob", "cal")
    for number in range(COUNT):
        kit.send(ANN, BOB + number % 2, text=text_of(number))
    kit.send(ANN, BOB, CAL, text="to both")
    group = kit.group(ANN, BOB)
    for number in range(10):
        kit.say(group, ANN, text=f"line {number}")
    kit.do(link_ops.KnowHub(hub_id="desk", at=T0))
    kit.store.close()
    return kit


def text_of(number: int) -> str:
    return f"message {number} " + "x" * (number * 37 % 500)


def damaged(kit: Kit, damage: Callable[[bytearray], object]) -> None:
    path = kit.data_dir / "hub.db"
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)


def leaf_pages(kit: Kit, table: str) -> list[int]:
    """Offsets of the pages with rows of a table: their first bytes say what they are."""
    with closing(sqlite3.connect(kit.data_dir / "hub.db")) as db:
        [root] = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    content = (kit.data_dir / "hub.db").read_bytes()
    page = content[(root - 1) * PAGE : root * PAGE]
    cells = int.from_bytes(page[3:5], "big")
    if page[0] in (10, 13):
        return [(root - 1) * PAGE]
    assert page[0] in (2, 5), "one level of inner pages"
    places = [int.from_bytes(page[12 + 2 * cell : 14 + 2 * cell], "big") for cell in range(cells)]
    children = [int.from_bytes(page[place : place + 4], "big") for place in places]
    return [(child - 1) * PAGE for child in (*children, int.from_bytes(page[8:12], "big"))]


def spoil(*offsets: int) -> Callable[[bytearray], object]:
    def damage(content: bytearray) -> None:
        for offset in offsets:
            content[offset : offset + PAGE] = random.Random(offset).randbytes(PAGE)

    return damage


def all_read(kit: Kit) -> tuple[list[str], int, int]:
    """Texts in the order read, by mailbox; how many were found damaged; how many ann was told of.

    A hub that meets damage says so, and is started again.
    """
    found: dict[int, list[str]] = {BOB: [], CAL: []}
    rotten = 0
    starts = 0
    for no, texts in found.items():
        for turn in range(30):
            assert turn < 29, "the same mail comes again and again"
            try:
                page = kit.read(no, limit=50, budget=1_000_000)
                if not page.mails and not page.damaged:
                    break
                rotten += page.damaged
                texts += [mail.text or "" for mail in page.mails]
                kit.confirm(no, page)
            except RelayError as error:
                if starts == 4 or "is damaged: restart the hub" not in error.message:
                    raise
                starts += 1
                kit.reopen()
    told = sum(notice.count for notice in kit.read(ANN).notices)
    return [*found[BOB], *found[CAL]], rotten, told


WANTED = [
    *[text_of(number) for number in range(0, COUNT, 2)],
    "to both",
    *[text_of(number) for number in range(1, COUNT, 2)],
    "to both",
]


def mend(kit: Kit) -> None:
    """Start; the next start looks at every page."""
    kit.store = kit._open()
    if not kit.store.problems:
        kit.store._committer._damaged = True
        kit.reopen()


@pytest.mark.guarantee("damaged-db-salvaged")
def test_a_bad_page_of_texts_costs_its_messages_and_their_senders_are_told(written: Kit) -> None:
    pages = leaf_pages(written, "bodies")
    assert len(pages) > 6
    damaged(written, spoil(pages[1], pages[4]))
    mend(written)
    [problem] = written.store.problems
    assert "could be read and are in a new one" in problem
    found, rotten, told = all_read(written)
    assert found == [text for text in WANTED if text in set(found)], "in order, nothing twice or made up"
    assert 0 < rotten == told == len(WANTED) - len(found) < 30
    # What lies between the two bad places is there.
    assert rotten < len(WANTED) * 4 / len(pages)


@pytest.mark.guarantee("damaged-db-salvaged")
@pytest.mark.parametrize("table", ["ring", "messages", "peers", "names", "mailboxes", "identities", "meta"])
def test_whatever_page_is_bad_the_hub_starts_and_the_rest_is_there(written: Kit, table: str) -> None:
    damaged(written, spoil(leaf_pages(written, table)[-1]))
    mend(written)
    snapshot = written.store.snapshot()
    assert {peer.name for peer in snapshot.peers} == {"ann", "bob", "cal"}
    found, rotten, told = all_read(written)
    assert len(found) == len(WANTED) - rotten
    assert rotten == told
    if table != "messages":
        assert sorted(found) == sorted(WANTED)


def test_entries_whose_state_is_lost_come_again_and_are_marked(written: Kit) -> None:
    mend(written)
    written.confirm(BOB, written.read(BOB, limit=10))
    written.store.close()
    damaged(written, spoil(*leaf_pages(written, "ring")))
    mend(written)
    page = written.read(BOB, limit=100, budget=1_000_000)
    assert [mail.text for mail in page.mails if mail.handed][:2] == [text_of(0), text_of(2)]


@pytest.mark.guarantee("damaged-db-salvaged")
def test_a_description_of_a_table_that_rotted_is_known_all_the_same(written: Kit) -> None:
    def damage(content: bytearray) -> None:
        place = content.index(b"CREATE TABLE bodies") + 8
        content[place] ^= 0x80

    damaged(written, damage)
    mend(written)
    assert "set aside" in written.store.problems[0]
    assert sorted(all_read(written)[0]) == sorted(WANTED)


def test_groups_outbox_and_names_come_along_and_no_number_is_given_twice(tmp_path: Path) -> None:
    kit = Kit(tmp_path / "data")
    kit.add("ann", "bob")
    hub = kit.do(link_ops.KnowHub(hub_id="desk", at=T0)).hub_no
    group = kit.group(ANN, BOB)
    for number in range(5):
        kit.say(group, ANN, text=f"line {number}")
    lines = [line.text for line in kit.history(group, BOB).lines]
    for number in range(3):
        kit.do(
            link_ops.AppendOut(
                to=FarPeer(name="cat", peer_id="id cat"),
                text=f"far {number}",
                hub_no=hub,
                msg_id=kit.new_id(),
                kind="message",
                sender_no=ANN,
                sender="ann",
                body=f"far {number}".encode(),
                at=T0,
            )
        )
    mid = kit.send(ANN, BOB, text="x" * 5000).mid
    before = kit.store.snapshot()
    kit.store.close()
    damaged(kit, spoil(leaf_pages(kit, "receipts")[0]))
    mend(kit)
    assert "set aside" in kit.store.problems[0]
    after = kit.store.snapshot()
    assert (after.peers, after.groups, after.identities) == (before.peers, before.groups, before.identities)
    assert [(each.hub_id, each.waiting, each.bytes) for each in after.hubs] == [("desk", 3, 15)]
    sent = kit.db.execute("SELECT seq, body FROM outbox ORDER BY seq").fetchall()
    assert [body for _, body in sent] == [b"far 0", b"far 1", b"far 2"]
    assert [seq for seq, _ in sent] == list(range(sent[0][0], sent[0][0] + 3))
    assert sent[0][0] > 3
    assert kit.do(link_ops.KnowHub(hub_id="desk", at=T0)).hub_no == hub
    assert [line.text for line in kit.history(group, BOB).lines] == lines
    assert kit.send(ANN, BOB).mid > mid
    assert kit.do(ops.AddPeer(peer_id="new", name="new", auto=True, at=T0)).no > 2


def test_a_start_that_is_killed_while_it_saves_leaves_the_next_one_as_much(
    written: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged(written, spoil(leaf_pages(written, "bodies")[0], leaf_pages(written, "peers")[0]))
    before = (written.data_dir / "hub.db").read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store_file, "_try_out", killed)
        with pytest.raises(KeyboardInterrupt):
            written._open()
    assert (written.data_dir / "hub.db").read_bytes() == before
    mend(written)
    found, _, _ = all_read(written)
    assert len(found) > len(WANTED) / 2
    assert not [path for path in written.data_dir.iterdir() if ".new" in path.name or "salvage" in path.name]


def test_where_there_is_no_room_for_saving_the_damaged_file_is_kept_all_the_same(
    written: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged(written, spoil(leaf_pages(written, "peers")[0]))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    written.store = written._open()
    assert "nothing in it could be read" in written.store.problems[0]
    assert written.add("ann") == [1]
    assert list(written.data_dir.glob("hub.db.damaged-*"))


@pytest.mark.guarantee("damaged-db-salvaged")
@pytest.mark.parametrize("seed", range(12))
def test_bits_that_flip_anywhere_cost_few_messages_and_none_in_silence(written: Kit, seed: int) -> None:
    rng = random.Random(seed)

    def damage(content: bytearray) -> None:
        # Without the first pages, the table of tables: where it cannot be read at all, nothing can.
        for _ in range(1 + seed % 3):
            content[rng.randrange(100 if seed == 0 else 45 * PAGE, len(content))] ^= 1 << rng.randrange(8)

    damaged(written, damage)
    written.store = written._open()
    found, rotten, told = all_read(written)
    assert found == [text for text in WANTED if text in set(found)]
    assert len(WANTED) - len(found) <= rotten <= told <= 12


def test_mail_whose_place_in_the_index_rotted_does_not_come_again_for_ever(written: Kit) -> None:
    mend(written)
    first = written.read(BOB, limit=1)
    written.store.close()
    wanted = first.mails[0].msg_id.encode()

    def damage(content: bytearray) -> None:
        places = [place for place in range(len(content)) if content.startswith(wanted, place)]
        for place in places:
            if content[place // PAGE * PAGE] == 10:  # a page of an index
                content[place] ^= 1

    damaged(written, damage)
    written.store = written._open()
    page = written.read(BOB, limit=1)
    assert page.mails[0].text == text_of(0)
    written.confirm(BOB, page)
    written.reopen()
    assert written.read(BOB, limit=1).mails[0].text == text_of(2)


def test_rows_whose_types_rotted_are_found_damaged_and_no_bug(written: Kit) -> None:
    mend(written)
    db: Any = written.db
    db.execute("PRAGMA writable_schema = ON")
    db.execute(
        "UPDATE sqlite_master SET sql = replace(replace(sql, 'STRICT', ''), 'NOT NULL', '')"
        " WHERE name IN ('messages', 'bodies')"
    )
    written.reopen()
    for change in ("messages SET kind = NULL", "messages SET at = 'x'", "bodies SET text = 7"):
        mid = written.db.execute("SELECT min(mid) FROM ring WHERE box = 2 AND state = 1").fetchone()[0]
        written.db.execute(f"UPDATE {change} WHERE mid = ?", (mid,))
        page = written.read(BOB)
        assert page.damaged == 1
        written.confirm(BOB, page)


def test_a_database_that_cannot_be_begun_with_is_not_tried_for_ever(written: Kit) -> None:
    # What every start reads is damaged, and the hub before ended in good order: no check was due.
    damaged(written, spoil(leaf_pages(written, "peers")[0]))
    store = InlineStore.open(written.data_dir, Limits(), "power", T0)
    assert "set aside" in store.problems[0]
    assert len(store.snapshot().peers) == 3
    store.close()
