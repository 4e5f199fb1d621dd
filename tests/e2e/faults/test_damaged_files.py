"""Pages rot, a log is cut: what is left is there, what is not is told, and every start comes to an end."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from tests.e2e.stage import Assistant, Machine, Refusal, texts

PAGE = 2048
SEED = int(os.environ.get("ECORELAY_FAULTS_SEED", "7"))
COUNT = 40


def spoil(path: Path, pages: int, rng: random.Random) -> None:
    """Some pages become noise; not the first quarter, where the table of all tables is."""
    with path.open("r+b") as file:
        count = path.stat().st_size // PAGE
        for page in rng.sample(range(count // 2, count), pages):
            file.seek(page * PAGE)
            file.write(rng.randbytes(PAGE))


async def read_doing_as_told(machine: Machine, peer: Assistant) -> list[str]:
    """All unread texts; an error that names a command is done away with by it."""
    found: list[str] = []
    restarts = 0
    while True:
        try:
            page = await peer.call("inbox", limit=10)
        except Refusal as refusal:
            if restarts or "hub.db is damaged: restart the hub (`ecorelay hub restart`" not in str(refusal):
                raise
            restarts += 1
            await machine.cli("hub", "restart")
            continue
        found += texts(page["messages"])
        if not page["remaining"]:
            return found


@pytest.mark.guarantee("damaged-db-salvaged")
async def test_of_a_database_with_bad_pages_the_rest_is_read_and_everybody_is_told(machine: Machine):
    print("seed", SEED)
    async with machine.assistants("ann", "ben") as (ann, ben):
        sent = [f"{number} " + "x" * 1_500 for number in range(COUNT)]
        for text in sent:
            await ann.call("send", to=ben.name, text=text)
        await machine.end_hub()
        spoil(machine.paths.database, 4, random.Random(SEED))
        found = await read_doing_as_told(machine, ben)
        assert found == [text for text in sent if text in found], "in order, nothing twice"
        assert COUNT / 2 < len(found) < COUNT
        # The sender is told of each that was lost; a person, where the damaged file is.
        notices = [mail["text"] for mail in await ann.read_all() if mail["kind"] == "system"]
        assert len(notices) == 1
        assert str(COUNT - len(found)) in notices[0]
        [problem] = (await machine.status())["problems"]
        [aside] = machine.home.glob("hub.db.damaged-*[0-9]")
        assert aside.name in problem
        assert "could be read and are in a new one" in problem
        said = await machine.cli("doctor")
        assert aside.name.encode() in said.stdout
        assert (await ann.call("send", to=ben.name, text="goes on"))["status"] == "queued"
        assert texts(await ben.read_all()) == ["goes on"]


async def test_a_log_cut_anywhere_leaves_what_it_still_holds_once_and_in_order(machine: Machine):
    rng = random.Random(SEED)
    async with machine.assistants("ann", "ben") as (ann, ben):
        await ann.call("send", to=ben.name, text="0")
        sent = ["0"]
        for start in range(2):
            for number in range(5):
                text = f"{start} {number}"
                await ann.call("send", to=ben.name, text=text)
                sent.append(text)
            await machine.end_hub(signal.SIGKILL)
            log = machine.home / "hub.db-wal"
            os.truncate(log, rng.randrange(log.stat().st_size))
            assert await ben.me() == ben.name
        found = texts(await ben.read_all())
        assert found == [text for text in sent if text in found]
        assert len(found) == len(set(found))
