"""Commands that stay: watching, and waiting for answers; with live sessions beside them."""

import json
import signal
import sys
from contextlib import contextmanager, suppress
from functools import partial

import pytest
import trio

from ecorelay import wire
from ecorelay.client import open_hub_client
from ecorelay.spawn import hub_connector
from tests.helpers.command_line import CommandLine

PATIENCE_S = 60


@pytest.fixture
def ecorelay(tmp_path):
    command_line = CommandLine(tmp_path / "home", ECORELAY_KEEP_ALIVE="yes")
    yield command_line
    command_line.end_hub()


async def typed(ecorelay, *words, **more):
    """Run a command while this process goes on as a session."""
    return await trio.to_thread.run_sync(partial(ecorelay, *words, **more))


class Running:
    """A command that goes on; its lines as they come."""

    def __init__(self, process):
        self.process = process
        self.out = process.stdout
        self.err = process.stderr

    async def line(self, stream, holding=b""):
        """The next line that holds this."""
        while holding not in (line := await trio.to_thread.run_sync(stream.readline, abandon_on_cancel=True)):
            assert line, f"the command ended: {holding!r} never came"
        return line.decode()

    async def interrupt(self):
        self.process.send_signal(signal.SIGINT)
        out, err = await trio.to_thread.run_sync(partial(self.process.communicate, timeout=30))
        return self.process.returncode, out, err


@contextmanager
def running(ecorelay, *words):
    """Start a command; whatever happens, it has ended with the block."""
    with ecorelay.start(*words) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


def session(ecorelay, name, on_push=None, **more):
    """A live session of this process."""
    hello = wire.Hello(versions=(1, 1), name=name, pinned=True, push=on_push is not None, **more)
    return open_hub_client(hello, connect=hub_connector(ecorelay.paths, ecorelay.environ), on_push=on_push)


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process")
async def test_watching_waits_for_a_hub_survives_its_restart_and_ends_quietly(ecorelay):
    with trio.fail_after(PATIENCE_S):
        with running(ecorelay, "watch", "--json") as watching:
            assert "waiting for one" in await watching.line(watching.err)
            assert not ecorelay.paths.endpoint.exists()  # it started none
            await typed(ecorelay, "hub", "start")
            await watching.line(watching.err, b"watching ")
            await typed(ecorelay, "send", "ada", "first \x1b[2J")
            line = await watching.line(watching.out, b"stored")
            assert line.rstrip("\n").isprintable()
            stored = json.loads(line)
            assert (stored["peer"], stored["to"], stored["text"]) == ("ada", "ada", "first \x1b[2J")
            await typed(ecorelay, "hub", "restart")
            assert "ecorelay hub restart" in await watching.line(watching.err)
            await watching.line(watching.err, b"watching ")
            await typed(ecorelay, "inbox")
            seen = json.loads(await watching.line(watching.out, b'"seen"'))
            assert seen["msg_id"] == stored["msg_id"]
            code, _, err = await watching.interrupt()
            assert (code, err) == (130, b"")


async def test_watching_shows_who_comes_and_goes_and_changes_nothing(ecorelay):
    with trio.fail_after(PATIENCE_S):
        await typed(ecorelay, "hub", "start")
        with running(ecorelay, "watch", "--no-texts") as watching:
            await watching.line(watching.err, b"watching ")
            async with session(ecorelay, "api"):
                assert "api  online" in await watching.line(watching.out)
                await typed(ecorelay, "send", "api", "precious")
                assert "ada → api  stored  message  8 B" in await watching.line(watching.out)
            assert "api  offline" in await watching.line(watching.out)
        (mail,) = (await typed(ecorelay, "inbox", "--as", "api", "--json")).json["messages"]
        assert mail["text"] == "precious"
        assert "redelivered" not in mail


async def test_answers_to_a_broadcast_are_printed_as_they_come_and_nothing_else_is_touched(ecorelay):
    with trio.fail_after(PATIENCE_S):
        await typed(ecorelay, "peers", "add", "ada")
        await typed(ecorelay, "send", "ada", "not an answer", "--as", "bob")
        asked: list[wire.Push] = []
        async with session(ecorelay, "api", on_push=asked.append) as api, session(ecorelay, "web"):
            broadcast = ["broadcast", "which port?", "--wait", "30"]
            with running(ecorelay, *broadcast) as answering:
                assert "2 asked" in await answering.line(answering.out)
                while not asked:  # noqa: ASYNC110 - a callback of the client fills it
                    await trio.sleep(0.01)
                reply = wire.Reply(req_id=0, op_id="", ask_id=asked[0].msg_id, text="8080")
                await api.request(reply)
                assert "api  reply" in await answering.line(answering.out)
                assert await answering.line(answering.out) == "    8080\n"
                assert answering.process.poll() is None  # one more was asked
                await typed(ecorelay, "reply", asked[0].msg_id, "none here", "--as", "web")
                await answering.line(answering.out, b"none here")
                _, err = await trio.to_thread.run_sync(partial(answering.process.communicate, timeout=30))
                assert answering.process.returncode == 0
            assert b"2 of 2 answered" in err
        left = (await typed(ecorelay, "inbox", "--json")).json["messages"]
        assert [mail["text"] for mail in left] == ["not an answer"]
        assert "redelivered" not in left[0]


async def test_who_does_not_answer_in_time_is_counted_and_exits_with_5(ecorelay):
    with trio.fail_after(PATIENCE_S):
        async with session(ecorelay, "api"):
            said = await typed(ecorelay, "broadcast", "anybody?", "--wait", "0.2", code=5)
            assert "0 of 1 answered within 0.2 s" in said.err
            found = (await typed(ecorelay, "broadcast", "anybody?", "--wait", "0.2", "--json", code=5)).json
            assert (found["peer_count"], found["answered"], found["replies"]) == (1, 0, [])


async def test_a_person_answers_an_ask_and_follows_what_became_of_it(ecorelay):
    with trio.fail_after(PATIENCE_S):
        await typed(ecorelay, "peers", "add", "ada")
        async with session(ecorelay, "api") as api:
            async with session(ecorelay, "ada"):
                asked = await api.request(wire.Broadcast(req_id=0, op_id="", question="final?"))
                assert asked.peer_count == 1
            ask_id = (await typed(ecorelay, "inbox", "--json")).json["messages"][0]["ask_id"]
            answer = (await typed(ecorelay, "reply", ask_id, "yes", "--json")).json
            ladder = (await typed(ecorelay, "trace", ask_id)).out
            assert "to ada: replied" in ladder
            page = await api.request(wire.Inbox(req_id=0))
            assert [(mail.text, mail.reply_to) for mail in page.messages] == [("yes", ask_id)]
            assert "to api: unread" in (await typed(ecorelay, "trace", answer["msg_id"])).out
        assert (await typed(ecorelay, "reply", answer["msg_id"], "x", code=4)).out == ""
        with suppress(FileNotFoundError):
            assert "yes" not in ecorelay.paths.log.read_text()
