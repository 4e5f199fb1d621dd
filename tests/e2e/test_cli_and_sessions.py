"""The command line beside live sessions: what it sees of them, and of what was pushed to them."""

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
    command_line = CommandLine(
        tmp_path / "home", ECORELAY_KEEP_ALIVE="yes", ECORELAY_LIMITS_DELIVERED_WITHIN_S="30"
    )
    yield command_line
    command_line.end_hub()


async def typed(ecorelay, *words, **more):
    """Run a command while this process goes on as a session."""
    return await trio.to_thread.run_sync(partial(ecorelay, *words, **more))


def session(ecorelay, name, on_push=None, **more):
    """A live session of this process."""
    hello = wire.Hello(versions=(1, 1), name=name, pinned=True, **more)
    connect = hub_connector(ecorelay.paths, ecorelay.environ)
    return open_hub_client(hello, connect=connect, on_push=on_push)


async def test_a_session_is_listed_with_where_it_works_and_nothing_of_it_reaches_the_terminal_raw(ecorelay):
    more = {"client": "claude-code", "cwd": "/srv/shop\x1b[2J", "git_branch": "orders\u202e"}
    with trio.fail_after(PATIENCE_S):
        async with session(ecorelay, "api", **more):
            shown = (await typed(ecorelay, "peers")).out
            assert shown.split() == [
                "api",
                "online",
                "pull",
                "claude-code",
                "orders\\u202e",
                "/srv/shop\\x1b[2J",
            ]
            said = await typed(ecorelay, "peers", "--match", "SHOP", "--json")
            assert said.out.rstrip().isprintable()
            (peer,) = said.json["peers"]
            assert (peer["online"], peer["cwd"]) == (True, more["cwd"])


async def test_mail_put_into_a_live_session_is_delivered_and_stands_in_its_inbox_without_text(ecorelay):
    with trio.fail_after(PATIENCE_S):

        def take(push):
            api.send_nowait(wire.Pushed(msg_ids=(push.msg_id,), carrier="test"))

        async with session(ecorelay, "api", push=True, on_push=take) as api:
            sent = (await typed(ecorelay, "send", "api", "look", "--json")).json
            assert sent["status"] == "delivered"
            stub = await typed(ecorelay, "inbox", "--as", "api")
            assert f"its text: --since {sent['msg_id']}" in stub.out
            assert "look" not in stub.out
            whole = await typed(ecorelay, "inbox", "--as", "api", "--since", sent["msg_id"])
            assert "\n    look\n" in whole.out


async def test_groups_with_something_unread_are_named_and_every_command_says_what_waits(ecorelay):
    with trio.fail_after(PATIENCE_S):
        await typed(ecorelay, "peers", "add", "ada")
        async with session(ecorelay, "api") as api:
            await api.request(wire.GroupCreate(req_id=0, op_id="", name="release", members=("ada",)))
            await api.request(wire.GroupSend(req_id=0, op_id="", group="release", text="noon"))
            assert "ada has 2 unread" in (await typed(ecorelay, "send", "api", "ok")).err
            assert (await typed(ecorelay, "inbox")).out == "group release: 2 unread\n"
            groups = (await typed(ecorelay, "inbox", "--json")).json["groups"]
            assert groups == [{"name": "release", "unread_count": 2}]


async def test_notices_about_lost_mail_are_shown_once(ecorelay):
    ecorelay.environ["ECORELAY_LIMITS_MAILBOX_MESSAGES"] = "1"
    with trio.fail_after(PATIENCE_S):
        await typed(ecorelay, "peers", "add", "bob")
        for text in ("first", "second"):
            await typed(ecorelay, "send", "bob", text)
        notice = await typed(ecorelay, "inbox")
        assert "1 message from you left the full mailbox of bob unread" in notice.out
        assert (await typed(ecorelay, "inbox")).out == ""


async def test_who_stops_a_hub_that_sessions_need_is_told_that_they_start_another(ecorelay):
    with trio.fail_after(PATIENCE_S):
        async with session(ecorelay, "api") as api:
            said = await typed(ecorelay, "hub", "stop")
            assert "1 live session will start one when it is needed" in said.err
            # Which it does: only then there is a hub for the fixture to end.
            assert (await api.request(wire.Peers(req_id=0, limit=1))).me == "api"
