"""What a relay server holds while two hubs talk over it: its memory is read, all of it, and searched."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from ecorelay import wire
from tests.e2e.relays import TOKEN, Relay
from tests.e2e.sites import SECRET, Site, eventually, linked, start
from tests.e2e.stage import until

CHUNK = 4 * 1024 * 1024
TEXT = "Lerchen-singen-hoch-ueber-dem-Feld"
NAMES = ("amsel-die-absenderin", "zaunkoenig-der-empfaenger", "gruppe-der-meisen", "raum-der-spechte")
HUBS = ("hub-am-weiher", "hub-im-walde")


def memory(pid: int) -> Iterator[bytes]:
    """All memory of a process that can be read, in pieces that overlap a little."""
    overlap = b""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if bounds is None or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            at, end = (int(each, 16) for each in bounds.groups())
            overlap = b""
            while at < end:
                mem.seek(at)
                found = mem.read(min(CHUNK, end - at))
                if not found:
                    break
                yield overlap + found
                overlap = found[-200:]
                at += len(found)


def found_in(pid: int, words: Collection[str]) -> set[str]:
    """Those of the words, ASCII, that stand somewhere in a process's memory."""
    forms = [(word, word.encode()) for word in words]
    return {word for piece in memory(pid) for word, form in forms if form in piece}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Relay, Site, Site]]:
    """A relay server and two machines, not started; ended with the test."""
    with ExitStack() as stack:
        relay = Relay(tmp_path / "relay")
        stack.callback(relay.close)
        sites = [Site(tmp_path / hub_id, hub_id, port=0) for hub_id in HUBS]
        for each in sites:
            stack.callback(each.close)
            each.configure(listen=None, bind=None, peers=None, relay=relay.entry())
        yield relay, sites[0], sites[1]


@pytest.mark.guarantee("relay-memory")
async def test_in_the_memory_of_a_relay_is_no_text_no_name_and_no_secret_of_the_federation(
    pair: tuple[Relay, Site, Site],
) -> None:
    if not Path("/proc/self/maps").exists():
        pytest.skip("this system shows no memory in /proc")
    relay, here, there = pair
    await relay.start()
    await start(here, there)
    await linked(here, there)
    sender, recipient, group, room = NAMES
    heard: list[wire.Push] = []
    async with here.session(sender) as alice, there.taker(recipient, heard):
        to = f"{recipient}@{there.hub_id}"
        await eventually(lambda: here.knows(to, online=True))
        for text in (TEXT, f"{TEXT} " * 2_000):  # a short one, and one of many pieces
            await alice.request(wire.Send(req_id=0, op_id="", to=to, text=text))
        await alice.request(wire.GroupCreate(req_id=0, op_id="", name=group, members=(to,)))
        await alice.request(wire.Join(req_id=0, room=room))
        await until(lambda: len([each for each in heard if TEXT in (each.text or "")]) == 2)
        assert (await here.link(there)).road == "relay"
        assert relay.process is not None
        assert here.process is not None
        relay_pid, hub_pid = relay.process.pid, here.process.pid
        try:
            in_the_relay = await trio.to_thread.run_sync(
                found_in, relay_pid, (TEXT, *NAMES, SECRET, TOKEN, *HUBS)
            )
            in_a_hub = await trio.to_thread.run_sync(found_in, hub_pid, (TEXT, *NAMES, SECRET))
        except PermissionError:
            pytest.skip("this system lets nobody read the memory of his own processes")
    # What must be there is found, by the same search: it can find things.
    assert in_a_hub == {TEXT, *NAMES, SECRET}
    assert in_the_relay == {TOKEN, *HUBS}
