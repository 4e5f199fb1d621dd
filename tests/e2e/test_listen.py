"""`ecorelay listen` beside a session: a line for each message, nothing read, an end when nobody listens."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from ecorelay.cli import listen_command
from tests.e2e.stage import Assistant, Machine, until
from tests.helpers.command_line import run_here
from tests.helpers.standin_agy import Agy

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are found by procfs or libproc")

PATIENCE_S = 40
MARK = "ECORELAY_MSG "


class Listening:
    """A command that listens; its lines as they come."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._rest = b""

    async def line(self) -> dict[str, Any]:
        """The next line."""
        assert self.process.stdout is not None
        with trio.fail_after(PATIENCE_S):
            while b"\n" not in self._rest:
                data = await self.process.stdout.receive_some()
                assert data, "it has ended"
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        text = line.decode("ascii")
        assert text.startswith(MARK)
        found: dict[str, Any] = json.loads(text[len(MARK) :])
        return found

    async def silent(self, seconds: float = 1.0) -> bool:
        """Whether it says nothing for so long."""
        with trio.move_on_after(seconds):
            assert not await self.line(), "nothing was to be said"
        return True

    async def ended(self) -> int:
        with trio.fail_after(PATIENCE_S):
            return await self.process.wait()

    async def ready(self) -> None:
        """Wait until it listens."""
        assert self.process.stderr is not None
        said = b""
        with trio.fail_after(PATIENCE_S):
            while b"listening for" not in said:
                data = await self.process.stderr.receive_some()
                assert data, said
                said += data


@asynccontextmanager
async def listening(
    machine: Machine, *words: str, ready: bool = True, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Listening]:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "ecorelay", "listen", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=machine.environ | dict(environ or {}),
    )
    try:
        made = Listening(process)
        if ready:
            await made.ready()
        yield made
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@pytest.fixture
def bob(machine: Machine) -> Any:
    """A session of Cursor beside this process."""
    return partial(machine.assistant, "bob", arguments=("--carrier", "cursor"), client="cursor")


async def nothing_unread(assistant: Assistant) -> None:
    """Wait until all pages it read are confirmed."""
    with trio.fail_after(PATIENCE_S):
        while (await assistant.call("rooms")).get("unread"):  # noqa: ASYNC110 - the hub tells nobody
            await trio.sleep(0.1)


async def test_each_message_is_a_line_without_its_text_and_nothing_is_read(machine, bob):
    async with bob() as cursor, machine.assistant("ann") as ann, listening(machine) as listener:
        sent = await ann.call("send", to="bob", text="the secret")
        assert await listener.line() == {"from": "ann", "kind": "message", "msg_id": sent["msg_id"]}
        asked = await ann.call("broadcast", question="who is there?")
        assert await listener.line() == {"from": "ann", "kind": "ask", "msg_id": asked["broadcast_id"]}
        await ann.call("send", to="ann", text="for somebody else")
        assert await listener.silent()
        page = await cursor.call("inbox")
        assert [mail["text"] for mail in page["messages"]] == ["the secret", "who is there?"]
        assert not any(mail.get("redelivered") for mail in page["messages"])
        assert await listener.silent(0.3)


async def test_what_waits_already_is_one_line_and_each_that_comes_then_its_own(machine, bob):
    async with bob(), machine.assistant("ann") as ann:
        for n in range(3):
            await ann.call("send", to="bob", text=f"{n}")
        async with listening(machine) as listener:
            assert await listener.line() == {"kind": "waiting", "unread": 3}
            sent = await ann.call("send", to="bob", text="new")
            assert (await listener.line())["msg_id"] == sent["msg_id"]
            async with listening(machine) as other:
                assert await other.line() == {"kind": "waiting", "unread": 4}
                await ann.call("send", to="bob", text="newer")
                assert (await other.line())["msg_id"] == (await listener.line())["msg_id"]


async def test_groups_and_rooms_of_the_session_are_told_and_others_are_not(machine, bob):
    async with bob() as cursor, machine.assistant("ann") as ann, machine.assistant("eve") as eve:
        await ann.call("group_create", name="team", members=["bob"])
        await ann.call("group_create", name="else", members=["eve"])
        await cursor.call("join", room="hall")
        await ann.call("join", room="hall")
        await ann.call("join", room="attic")
        await eve.call("join", room="attic")
        await cursor.read_all()
        await cursor.call("group_history", group="team")
        await nothing_unread(cursor)
        async with listening(machine) as listener:
            await ann.call("group_send", group="else", text="not for bob")
            await ann.call("room", room="attic", text="not for bob")
            await cursor.call("group_send", group="team", text="bob's own")
            await ann.call("group_send", group="team", text="noon")
            line = await listener.line()
            assert (line["from"], line["kind"], line["group"]) == ("ann", "group", "team")
            await ann.call("room", room="hall", text="hello")
            line = await listener.line()
            assert (line["from"], line["kind"], line["room"]) == ("ann", "room", "hall")


async def test_a_session_that_is_renamed_is_still_listened_for(machine, bob):
    async with bob() as cursor, machine.assistant("ann") as ann, listening(machine) as listener:
        await cursor.call("rename", new_name="robert")
        sent = await ann.call("send", to="robert", text="hello")
        assert (await listener.line())["msg_id"] == sent["msg_id"]


async def test_after_the_hub_was_killed_what_came_meanwhile_is_told_and_nothing_twice(machine, bob):
    async with bob(), machine.assistant("ann") as ann, listening(machine) as listener:
        await ann.call("send", to="bob", text="before")
        await listener.line()
        for n in range(2):
            await machine.end_hub(signal.SIGKILL)
            sent = await ann.call("send", to="bob", text=f"after {n}")
            line = await listener.line()
            assert line.get("msg_id") == sent["msg_id"] or line == {"kind": "waiting", "unread": 2 + n}
        assert await listener.silent()
        sent = await ann.call("send", to="bob", text="last")
        assert (await listener.line())["msg_id"] == sent["msg_id"]


async def test_it_waits_for_a_hub_and_starts_none(machine):
    async with listening(machine, "--name", "bob", ready=False) as listener:
        assert await listener.silent()
        assert not machine.paths.endpoint.exists()
        async with machine.assistant("bob"):
            await listener.ready()


async def test_once_starts_a_hub(machine):
    async with listening(machine, "--once", "--name", "nobody", ready=False) as listener:
        assert await listener.ended() == 1
        assert listener.process.stderr is not None
        assert b"no peer is called nobody" in await listener.process.stderr.receive_some()
    assert machine.paths.endpoint.exists()


async def test_once_ends_where_no_hub_may_be_started(machine):
    no = {"ECORELAY_SPAWN": "no"}
    async with listening(machine, "--once", "--name", "bob", ready=False, environ=no) as listener:
        assert await listener.ended() == 3
        assert listener.process.stderr is not None
        assert b"no hub runs" in await listener.process.stderr.receive_some()


async def test_a_wrong_name_is_told_once_there_is_a_hub(machine):
    async with listening(machine, "--name", "nobody", ready=False) as listener:
        assert await listener.silent()
        async with machine.assistant("bob"):
            assert await listener.ended() == 1
    assert listen_command.NAMED_S < listen_command.BESIDE_S


async def test_once_is_one_line_and_a_clean_end(machine, bob):
    async with bob(), machine.assistant("ann") as ann:
        async with listening(machine, "--once") as listener:
            await ann.call("send", to="bob", text="first")
            await ann.call("send", to="bob", text="second")
            assert (await listener.line())["kind"] == "message"
            assert await listener.ended() == 0
            assert listener._rest == b""
        async with listening(machine, "--once", ready=False) as listener:
            assert await listener.line() == {"kind": "waiting", "unread": 2}
            assert await listener.ended() == 0


async def test_it_ends_when_nobody_reads_its_lines_any_more(machine, bob):
    async with bob(), listening(machine) as listener:
        assert listener.process.stdout is not None
        await listener.process.stdout.aclose()
        assert await listener.ended() == 0


async def test_it_ends_with_the_assistant_that_started_it(machine, bob):
    code = (
        "import subprocess, sys, time\n"
        "words = [sys.executable, '-m', 'ecorelay', 'listen', '--name', 'bob']\n"
        "print(subprocess.Popen(['sh', '-c', '\"$@\"; true', 'sh', *words]).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    async with bob():
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=machine.environ,
        )
        try:
            listener = Listening(process)
            await listener.ready()
        finally:
            process.kill()
            await process.wait()
        assert process.stderr is not None
        with trio.fail_after(PATIENCE_S):
            while await process.stderr.receive_some():  # held open by it as long as it lives
                pass


async def test_an_interrupt_ends_it_quietly(machine, bob):
    async with bob(), listening(machine) as listener:
        listener.process.send_signal(signal.SIGINT)
        assert await listener.ended() == 130
        assert listener.process.stderr is not None
        assert await listener.process.stderr.receive_some() == b""


async def test_antigravity_is_told_by_agy_and_what_comes_together_is_one_line(machine, bob, tmp_path):
    agy = Agy(tmp_path / "bin")
    async with bob(), machine.assistant("ann") as ann:
        async with listening(machine, "--antigravity", environ=agy.environ) as listener:
            first = await ann.call("send", to="bob", text="the secret")
            await listener.line()
            await until(lambda: agy.calls, "agy was called")
            assert agy.texts == [
                f"[ecorelay] message from ann, id {first['msg_id']}, just now. Read it with relay_inbox."
            ]
        async with listening(
            machine, "--antigravity", "--once", ready=False, environ=agy.environ
        ) as listener:
            assert await listener.ended() == 0
        assert agy.texts[1:] == ["[ecorelay] 1 unread. Read it with relay_inbox."]


# --- refused ---------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Iterator[Any]:
    """Runs a command in this process; a hub runs meanwhile."""
    machine = Machine(tmp_path)
    for name in ("ANTIGRAVITY_LS_ADDRESS", "ANTIGRAVITY_CSRF_TOKEN", "ANTIGRAVITY_CONVERSATION_ID"):
        monkeypatch.delenv(name, raising=False)
    call = partial(run_here, machine.home, monkeypatch, capsys, ECORELAY_KEEP_ALIVE="yes")
    call("hub", "start")
    yield call
    machine.close()


def test_without_a_session_beside_it_says_so_after_a_while(here, monkeypatch):
    monkeypatch.setattr(listen_command, "BESIDE_S", 0.3)
    said = here("listen")
    assert said.code != 0
    assert "--name" in said.err
    assert said.out == ""


@pytest.mark.parametrize("once", [[], ["--once"]])
def test_a_name_that_nobody_has_is_refused_at_once(here, monkeypatch, once):
    for patience in ("BESIDE_S", "NAMED_S"):
        monkeypatch.setattr(listen_command, patience, 600.0)
    said = here("listen", "--name", "nobody", *once)
    assert said.code != 0
    assert "no peer is called nobody" in said.err


def test_a_name_that_is_none_is_refused_at_once(here):
    assert "--name is 'no name'" in here("listen", "--name", "no name").err


def test_without_its_variables_antigravity_cannot_be_told(here):
    said = here("listen", "--name", "bob", "--antigravity")
    assert "ANTIGRAVITY_LS_ADDRESS and ANTIGRAVITY_CSRF_TOKEN" in said.err
    assert said.code != 0


def test_the_end_of_a_reader_is_not_seen_where_the_system_cannot_tell(monkeypatch):
    monkeypatch.delattr("select.poll")
    assert not listen_command._reader_left()


def test_a_message_is_printed_once_whatever_the_hub_says(capsys):
    from ecorelay import wire

    listener = listen_command.Listener("bob", once=False, antigravity=False)
    told = wire.Activity(what="stored", ts=1, peer="ann", to="bob", msg_id="m1", kind="ask")
    listener._arrived(told)
    listener._arrived(told)
    assert capsys.readouterr().out == 'ECORELAY_MSG {"from": "ann", "kind": "ask", "msg_id": "m1"}\n'
