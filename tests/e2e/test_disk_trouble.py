"""A disk that is full, read-only or damaged, as an assistant and a person see it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from ecorelay import wire
from ecorelay.errors import RelayError
from tests.e2e.stage import Machine, Refusal, mode_of, texts, until

BIG = "b" * wire.TEXT_MAX


@contextmanager
def no_growth(pid: int) -> Iterator[None]:
    """No file may grow under this process any more: what a full disk looks like."""
    import resource

    if not hasattr(resource, "prlimit"):
        pytest.skip("no limit can be set on another process here")
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Nothing can be made or removed in this directory, not even by root."""
    if os.geteuid() != 0:
        directory.chmod(0o500)
        try:
            yield
        finally:
            directory.chmod(0o700)
        return
    subprocess.run(["chattr", "+i", directory], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", directory], check=True)


@pytest.fixture
def _read_only_possible(tmp_path: Path) -> None:
    try:
        with read_only(tmp_path):
            pass
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no directory can be made read-only for root here: {error}")


# --- full ------------------------------------------------------------------------------------------------


@pytest.mark.guarantee("full-disk")
async def test_on_a_full_disk_sends_fail_reads_work_and_later_all_is_well(machine: Machine):
    async with machine.assistants("ann", "ben") as (ann, ben):
        await ann.call("group_create", name="team", members=[ben.name])
        for number in range(3):
            await ann.call("send", to=ben.name, text=f"note {number}")
        pid = machine.hub_pid
        with no_growth(pid):
            calls: list[tuple[str, dict[str, Any]]] = [
                ("send", {"to": ben.name, "text": "x" * 100_000}),
                ("broadcast", {"question": "x" * 100_000}),
                ("group_send", {"group": "team", "text": "x" * 100_000}),
                ("group_create", {"name": "second", "members": []}),
                ("rename", {"new_name": "other"}),
            ]
            for tool, arguments in calls * 2:
                said = await ann.refused(tool, **arguments)
                assert said["code"] == "mailbox_error", (tool, said)
                assert "disk" in said["message"] or "space" in said["message"]
            # What was stored stays readable; that it was read cannot be noted now.
            page = await ben.call("inbox", limit=2)
            assert texts(page["messages"]) == ["note 0", "note 1"]
            assert await ben.me() == ben.name
            await until(lambda: "stays unconfirmed" in ben.stderr, "the confirmation failed")
            assert (await ann.call("peers"))["me"] == ann.name
            assert (await ann.call("group_info", group="team"))["admin"] == ann.name
        sent = await ann.call("send", to=ben.name, text="there is room again")
        assert sent["status"] == "queued"
        found = texts(await ben.read_all())
        assert found == ["note 0", "note 1", "note 2", "there is room again"]
        assert machine.hub_pid == pid
        assert (await machine.status())["problems"] == []


@pytest.mark.guarantee("full-disk")
async def test_at_the_limit_of_the_data_directory_sends_fail_until_there_is_room_again(tmp_path: Path):
    machine = Machine(
        tmp_path,
        ECORELAY_LIMITS_DATA_BYTES=str(16 * 1024 * 1024),
        ECORELAY_LIMITS_MAILBOX_BYTES=str(64 * 1024 * 1024),
    )
    try:
        async with machine.assistants("ann", "ben") as (ann, ben):
            await ann.call("send", to=ben.name, text="first")
            stored: list[dict[str, Any]] = []
            with pytest.raises(Refusal) as refusal:
                while len(stored) < 64:
                    stored.append(await ann.call("send", to=ben.name, text=BIG))
            assert refusal.value.fields["code"] == "mailbox_error"
            assert "data_bytes" in refusal.value.fields["message"]
            assert 16 <= len(stored) < 40
            assert texts((await ben.call("inbox"))["messages"]) == ["first"]
            status = await machine.status()
            assert status["db_bytes"] < 2 * 16 * 1024 * 1024
    finally:
        machine.close()


# --- read-only -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_read_only_possible")
async def test_a_read_only_data_directory_is_a_clear_refusal_and_nothing_breaks(machine: Machine):
    async with machine.assistants("ann") as (ann,):
        await ann.call("send", to=ann.name, text="note to self")
    await machine.end_hub()
    with read_only(machine.home):
        async with machine.assistant(ann.name) as ann:
            assert "the hub cannot be reached" in ann.instructions
            said = await ann.refused("inbox")
            assert said["code"] == "mailbox_error"
            assert str(machine.home) in said["message"]
            ended = await machine.cli("inbox", "--as", ann.name, code=6)
            assert str(machine.home).encode() in ended.stderr
            assert b"Traceback" not in ended.stderr
    async with machine.assistant(ann.name) as ann:
        assert texts(await ann.read_all()) == ["note to self"]


@pytest.mark.usefixtures("_read_only_possible")
async def test_a_data_directory_that_cannot_be_made_is_a_clear_refusal(tmp_path: Path):
    machine = Machine(tmp_path)
    (tmp_path / "projects" / "ann").mkdir(parents=True)
    with read_only(tmp_path):
        ended = await machine.cli("peers", "add", "ann", code=6)
    assert b"cannot make the directory" in ended.stderr


async def test_a_long_message_that_cannot_be_put_into_a_file_stays_unread(machine: Machine):
    async with machine.assistants("ann") as (ann,):
        await ann.call("send", to=ann.name, text=BIG)
        machine.paths.texts.write_text("in the way")
        said = await ann.refused("inbox")
        assert said["code"] == "mailbox_error"
        assert str(machine.paths.texts) in said["message"]
        machine.paths.texts.unlink()
        [mail] = (await ann.call("inbox"))["messages"]
        assert Path(mail["file"]).read_text() == BIG


# --- newer, damaged --------------------------------------------------------------------------------------


@pytest.mark.guarantee("newer-db-refused")
async def test_a_database_of_a_newer_ecorelay_is_refused_with_a_remedy_and_left_alone(machine: Machine):
    async with machine.assistants("ann") as (ann,):
        await ann.call("send", to=ann.name, text="note to self")
    await machine.end_hub()
    async with machine.database() as db:
        (ours,) = db.execute("PRAGMA user_version").fetchone()
        db.execute("PRAGMA user_version = 999")
    before = machine.paths.database.read_bytes()
    async with machine.assistant(ann.name) as again:
        assert "newer ecorelay" in again.instructions
        for _ in range(2):
            said = await again.refused("inbox")
            assert said["code"] == "mailbox_error"
            assert "newer ecorelay" in said["message"]
            assert "upgrade" in said["message"]
        ended = await machine.cli("inbox", "--as", ann.name, code=6)
        assert b"newer ecorelay" in ended.stderr
        assert machine.paths.database.read_bytes() == before
        assert not list(machine.home.glob("hub.db.*"))
        async with machine.database() as db:
            db.execute(f"PRAGMA user_version = {ours}")
        # Nothing needs to be started again: the session finds the hub once it can run.
        assert texts(await again.read_all()) == ["note to self"]


@pytest.mark.guarantee("damaged-db-set-aside")
@pytest.mark.parametrize("damage", ["garbage", "zeros", "empty", "cut", "holes"])
async def test_a_damaged_database_is_set_aside_and_the_session_goes_on(machine: Machine, damage: str):
    async with machine.assistants("ann") as (ann,):
        for number in range(50):
            await ann.call("send", to=ann.name, text=f"{number} " + "x" * 2_000)
    await machine.end_hub()
    ruin(machine.paths.database, damage)
    ruined = machine.paths.database.read_bytes()
    # The session comes back under its name.
    async with machine.assistant(ann.name) as again:
        assert await again.me() == ann.name
        sent = await again.call("send", to=ann.name, text="a new beginning")
        assert sent["status"] == "queued"
        found = [mail for mail in await again.read_all() if mail["kind"] != "system"]
        assert texts(found)[-1] == "a new beginning"
        # What could be read of the old ones, in their order.
        saved = [int(text.split()[0]) for text in texts(found)[:-1]]
        assert saved == sorted(set(saved))
        assert len(saved) < 50
        [aside] = machine.home.glob("hub.db.damaged-*[0-9]")
        assert aside.read_bytes() == ruined
        assert mode_of(aside) == 0o600
        [problem] = (await machine.status())["problems"]
        assert "damaged" in problem
        assert aside.name in problem


def ruin(path: Path, damage: str) -> None:
    """Spoil a database in one of the ways of disks and programs."""
    size = path.stat().st_size
    match damage:
        case "garbage":
            path.write_bytes(os.urandom(size))
        case "zeros":
            path.write_bytes(bytes(size))
        case "empty":
            os.truncate(path, 0)
        case "cut":
            os.truncate(path, size // 2)
        case "holes":
            with path.open("r+b") as file:
                for start in range(4096, size, 8192):
                    file.seek(start)
                    file.write(os.urandom(4096))


async def test_a_disk_that_fails_in_the_middle_of_a_load_loses_nothing_acknowledged(machine: Machine):
    acknowledged: list[str] = []
    async with machine.assistants("ann", "ben") as (_, ben):
        async with machine.client(machine.name("sender")) as client:
            stop = trio.Event()

            async def send() -> None:
                count = 0
                while not stop.is_set():
                    count += 1
                    text = f"{count} " + "x" * 500
                    frame = wire.Send(req_id=0, op_id=client.new_id(), to=ben.name, text=text)
                    try:
                        await client.request(frame)
                    except RelayError as error:
                        if error.code != "mailbox_error":
                            raise
                    else:
                        acknowledged.append(text)

            def enough(count: int) -> bool:
                return len(acknowledged) >= count

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                for number in range(5):
                    await until(partial(enough, 20 * (number + 1)))
                    with no_growth(machine.hub_pid):
                        await trio.sleep(0.05)
                stop.set()
        await machine.end_hub()
        found = texts(await ben.read_all())
        assert set(acknowledged) <= set(found)
        assert len(found) == len(set(found))
