"""An upgrade while assistants are at work: the newer program's hub takes over, and nobody notices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from ecorelay import __version__
from tests.e2e.stage import Assistant, Machine, texts, until

OLDER = "0.0.9"
NEWER = "99.0"


def of_version(root: Path, version: str) -> dict[str, str]:
    """Variables with which our program believes that it is of another version."""
    folder = root / f"version-{version}"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(f"import ecorelay\necorelay.__version__ = {version!r}\n")
    return {"PYTHONPATH": str(folder)}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path, ECORELAY_KEEP_ALIVE="no", ECORELAY_IDLE_EXIT_S="60")
    yield machine
    machine.close()


def version_of(machine: Machine) -> str:
    endpoint = machine.endpoint
    return endpoint.version if endpoint is not None else ""


@pytest.mark.guarantee("upgrade-loses-nothing")
async def test_a_newer_adapter_brings_its_hub_and_nothing_acknowledged_is_lost(machine: Machine):
    old = of_version(machine.root, OLDER)
    async with (
        machine.assistant("ann", environ=old) as ann,
        machine.assistant("ben", environ=old) as ben,
    ):
        assert version_of(machine) == OLDER
        await ben.call("join", room="den")
        before = machine.hub_pid
        sent: list[str] = []
        enough, writing = trio.Event(), trio.Lock()

        async def work(first: int) -> None:
            for number in range(first, 240, 4):
                async with writing:
                    call = await ann.begin("relay_send", to="ben", text=f"note {number}")
                await ann.finish(call)
                sent.append(f"note {number}")
                if len(sent) == 20:
                    enough.set()

        async with trio.open_nursery() as nursery:
            for first in range(4):
                nursery.start_soon(work, first)
            await enough.wait()
            async with machine.assistant("eve") as eve:
                await eve.call("send", to="ben", text="from the newer one")
                assert version_of(machine) == __version__
        assert machine.hub_pid != before
        found = texts(await ben.read_all())
        assert sorted(found) == sorted([*sent, "from the newer one"])
        assert len(sent) == 240
        assert (await ben.call("rooms"))["rooms"] == [{"name": "den", "members": ["ben"]}]
    assert machine.hubs_started() == 2


async def test_two_newer_adapters_at_once_bring_one_hub(machine: Machine):
    async with machine.assistant("ann", environ=of_version(machine.root, OLDER)) as ann:
        async with machine.assistants("new", "new", "new") as newer:
            assert version_of(machine) == __version__
            for peer in newer:
                await peer.call("send", to="ann", text="hello")
        assert len(await ann.read_all()) == 3
    assert machine.hubs_started() == 2


async def test_an_older_adapter_works_with_a_newer_hub_and_leaves_it_alone(machine: Machine):
    async with machine.assistant("ann", environ=of_version(machine.root, NEWER)) as ann:
        before = machine.hub_pid
        async with machine.assistant("ben") as ben:
            await talk(ben, ann)
        assert (machine.hub_pid, version_of(machine)) == (before, NEWER)


async def test_a_kept_older_hub_is_left_alone_and_said_to_be_older(machine: Machine):
    machine.environ["ECORELAY_KEEP_ALIVE"] = "yes"
    async with machine.assistant("ann", environ=of_version(machine.root, OLDER)) as ann:
        before = machine.hub_pid
        async with machine.assistant("ben") as ben:
            await talk(ben, ann)
        assert machine.hub_pid == before
        shown = " ".join((await machine.cli("hub", "status")).stdout.decode().split())
        assert f"older than this ecorelay ({__version__}): ecorelay hub restart" in shown


async def test_who_lets_an_older_hub_drain_is_in_its_log(machine: Machine):
    async with machine.assistant("ann", environ=of_version(machine.root, OLDER)):
        async with machine.assistant("ben"):
            await until(lambda: version_of(machine) == __version__)
    assert f"upgrade to {__version__}" in machine.paths.log.read_text()


async def talk(one: Assistant, other: Assistant) -> None:
    await one.call("send", to=other.name, text="hello")
    assert texts(await other.read_all()) == ["hello"]
