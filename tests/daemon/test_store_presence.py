"""hub.db and its log are removed, replaced or cut off from their names while the store has them open."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ecorelay.core import link_ops, ops
from ecorelay.core.events import StoreFailed
from ecorelay.daemon import store_file
from ecorelay.errors import RelayError
from tests.daemon.store_kit import DAY, HOUR, T0, Kit, texts


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    made = Kit(tmp_path / "data")
    made.add("ann", "bob")
    made.send(1, 2, text="before")
    return made


def database(kit: Kit) -> Path:
    return kit.data_dir / "hub.db"


def log(kit: Kit) -> Path:
    return kit.data_dir / "hub.db-wal"


@pytest.mark.guarantee("removed-db-put-back")
@pytest.mark.parametrize("end", ["close", "kill"])
@pytest.mark.parametrize("what", [["hub.db"], ["hub.db-wal"], ["hub.db", "hub.db-wal"]])
def test_what_was_removed_is_put_back_with_all_that_was_acknowledged(
    kit: Kit, tmp_path: Path, what: list[str], end: str
) -> None:
    held = kit.read(2, limit=1, lease=7)
    for name in what:
        (kit.data_dir / name).unlink()
    kit.send(1, 2, text="after")
    [problem] = kit.store.problems
    assert problem.startswith(f"{what[0]} was removed while the hub ran, and was put back")
    assert texts(kit.read(2, lease=8)) == ["after"], "what was leased stays so"
    kit.confirm(2, held, lease=7)
    assert kit.send(1, 2, text="later").unread == (2,)
    assert len(kit.store.problems) == 1
    if end == "kill":  # only what lies under the names is left
        copy = tmp_path / "copy"
        shutil.copytree(kit.data_dir, copy)
        kit.data_dir = copy
    else:
        kit.store.close()
    kit.store = kit._open()
    assert kit.store.problems == ()
    assert texts(kit.read(2)) == ["after", "later"]


@pytest.mark.guarantee("removed-db-put-back")
def test_a_hub_that_ends_puts_back_what_was_removed_before(kit: Kit) -> None:
    database(kit).unlink()
    kit.reopen()
    assert texts(kit.read(2)) == ["before"]


@pytest.mark.guarantee("removed-db-put-back")
def test_where_it_cannot_be_put_back_nothing_is_acknowledged(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    database(kit).unlink()

    def refused(_: Path) -> Path:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(store_file, "begin_file", refused)
        for _ in range(2):
            with pytest.raises(
                RelayError, match=r"cannot be put back \(Read-only file system\): make its"
            ) as said:
                kit.send(1, 2)
            assert said.value.code == "mailbox_error"
    kit.send(1, 2, text="after")
    kit.reopen()
    assert texts(kit.read(2)) == ["before", "after"]


@pytest.mark.guarantee("removed-db-put-back")
def test_another_file_under_its_name_is_left_alone_and_nothing_is_acknowledged(
    kit: Kit, tmp_path: Path
) -> None:
    other = Kit(tmp_path / "other")
    other.add("zoe")
    other.store.close()
    shutil.move(tmp_path / "other" / "hub.db", database(kit))
    found = database(kit).read_bytes()
    events = kit.run((kit.mail(1, 2),), (ops.OpenMailbox(no=2),))
    assert all(isinstance(event, StoreFailed) for event in events)
    [problem] = kit.store.problems
    assert "was replaced by another file while the hub ran: `ecorelay hub restart`" in problem
    assert database(kit).read_bytes() == found


@pytest.mark.guarantee("removed-db-put-back")
def test_with_its_directory_nothing_is_put_back_and_nothing_is_acknowledged(kit: Kit) -> None:
    shutil.rmtree(kit.data_dir)
    with pytest.raises(RelayError, match="was removed while the hub ran: try again, another hub begins"):
        kit.send(1, 2)
    kit.data_dir.mkdir()  # another hub is just beginning
    with pytest.raises(RelayError, match="was removed while the hub ran"):
        kit.send(1, 2)
    kit.store.close()
    assert not list(kit.data_dir.iterdir())


def test_a_copy_under_way_is_given_up_when_the_log_is_removed(kit: Kit, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    kit.store.submit((ops.WriteBackup(path=str(target)),), "copy")
    kit.store._commit(kit.store._pending[:1])
    del kit.store._pending[:1]
    log(kit).unlink()
    kit.events.clear()
    kit.store.submit((kit.mail(1, 2, text="after"),), "mail")
    kit.store.run_pending()
    failed = {event.then for event in kit.events if isinstance(event, StoreFailed)}
    assert failed == {"copy"}
    assert texts(kit.read(2)) == ["before", "after"]


# --- a log that is gone at the start ----------------------------------------------------------------------


def test_a_log_that_was_removed_after_the_hub_was_killed_is_told(kit: Kit) -> None:
    kit.store._committer.checkpoint()
    kit.send(1, 2, text="only in the log")
    content = database(kit).read_bytes()
    kit.store.crash()
    database(kit).write_bytes(content)  # as it was before the connection's own end
    log(kit).unlink(missing_ok=True)
    kit.store = kit._open()
    [problem] = kit.store.problems
    assert "hub.db-wal was removed after the last hub was killed" in problem
    assert texts(kit.read(2)) == ["before"]
    kit.reopen()
    assert kit.store.problems == ()


@pytest.mark.parametrize("end", ["close", "kill", "backup"])
def test_nothing_is_told_where_nothing_was_removed(kit: Kit, tmp_path: Path, end: str) -> None:
    copy = tmp_path / "copy"
    if end == "close":
        kit.store.close()
    if end == "backup":
        copy.mkdir()
        kit.do(ops.WriteBackup(path=str(copy / "hub.db")))
        assert [path.name for path in copy.iterdir()] == ["hub.db"]
    else:
        shutil.copytree(kit.data_dir, copy)
    kit.data_dir = copy
    kit.store = kit._open()
    assert kit.store.problems == ()
    assert texts(kit.read(2)) == ["before"]


# --- the clock --------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(kit: Kit) -> Kit:
    """A message for another hub."""
    hub = kit.do(link_ops.KnowHub(hub_id="desk", at=T0)).hub_no
    kit.do(
        link_ops.AppendOut(
            to=link_ops.FarPeer(name="cat", peer_id="id cat"),
            text="far",
            hub_no=hub,
            msg_id=kit.new_id(),
            kind="message",
            sender_no=1,
            sender="ann",
            body=b"far",
            at=T0,
        )
    )
    return kit


def waits(kit: Kit) -> bool:
    return [each.waiting for each in kit.store.snapshot().hubs] == [1]


def upkeep(kit: Kit, *times: int) -> None:
    for now in times:
        kit.do(ops.Housekeep(now=now, away=(1,)))


YEAR = 365 * DAY


@pytest.mark.guarantee("clock-jump-keeps-mail")
@pytest.mark.parametrize("reopened", [False, True])
def test_a_clock_set_forward_by_a_year_and_right_again_expires_nothing(waiting: Kit, reopened: bool) -> None:
    upkeep(waiting, T0, T0 + HOUR, T0 + 2 * HOUR)
    if reopened:
        waiting.reopen()
    upkeep(waiting, *[T0 + YEAR + minute * 60_000 for minute in (0, 10, 20, 50)])
    assert waits(waiting)
    upkeep(waiting, T0 + 4 * HOUR, T0 + 5 * HOUR, T0 + 6 * HOUR)
    assert waits(waiting)
    assert texts(waiting.read(2)) == ["before"]


@pytest.mark.guarantee("clock-jump-keeps-mail")
@pytest.mark.parametrize("back", [DAY, 10 * YEAR])
def test_a_clock_set_back_expires_nothing_nor_does_its_return(waiting: Kit, back: int) -> None:
    upkeep(waiting, T0, T0 + HOUR, T0 - back, T0 - back + HOUR, T0 + 2 * HOUR, T0 + 3 * HOUR)
    assert waits(waiting)


def test_what_is_too_old_by_a_clock_that_goes_on_expires(waiting: Kit) -> None:
    upkeep(waiting, *[T0 + 31 * DAY + minute * 60_000 for minute in (0, 10, 59)])
    assert waits(waiting)
    upkeep(waiting, T0 + 31 * DAY + HOUR)
    assert not waits(waiting)
    [notice] = waiting.read(1).notices
    assert notice.reason == "expired"
