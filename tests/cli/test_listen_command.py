"""What `ecorelay listen` prints of what a hub tells, also of what it tells only in part."""

import json
import sys
from typing import Any

import pytest
import trio

from ecorelay import wire
from ecorelay.cli.listen_command import Listener
from tests.helpers.command_line import ID, run_here
from tests.helpers.hostile_words import HOSTILE
from tests.helpers.scripted_hub import Answer, ScriptedHub

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in listens on a Unix socket")

OTHER = ID[:-1] + "h"
MARK = "ECORELAY_MSG "


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def happening(**more):
    return wire.Activity(ts=1_700_000_000_123, **more)


def told(**more):
    return happening(what="stored", peer="eve", to="ADA", kind="message", **more)


def heard(home, monkeypatch, capsys, *happened, unread=0, **answers):
    """The lines about what happened, until the hub ends it for good."""
    over = wire.Bye(reason="that is enough", code="bad_args")
    script: dict[str, Answer] = {
        "watch": [wire.Done(req_id=0), *happened, over],
        "groups": wire.GroupList(req_id=0, unread=unread, groups=(wire.GroupUnread(name="Team"),)),
        "rooms": wire.RoomList(
            req_id=0,
            rooms=(wire.Room(name="hall", members=("eve", "ada")), wire.Room(name="den", members=())),
        ),
        "trace": wire.Failed(req_id=0, code="unknown_ask", message="nothing is known"),
    }
    with ScriptedHub(home, {**script, **answers}) as hub:
        said = run_here(home, monkeypatch, capsys, "listen", "--name", "ada")
        assert said.code == 2
        assert "that is enough" in said.err
        assert not hub.requests("inbox")
    lines = said.out.splitlines()
    assert all(line.startswith(MARK) and line.isascii() for line in lines)
    return [json.loads(line[len(MARK) :]) for line in lines]


def test_a_message_is_told_once_and_without_its_text(home, monkeypatch, capsys):
    lines = heard(home, monkeypatch, capsys, told(msg_id=ID, text="secret"), told(msg_id=ID), unread=1)
    assert lines == [{"from": "eve", "kind": "message", "msg_id": ID}]


ROOM = happening(what="room", peer="eve", to="hall", msg_id=ID, kind="room")
GROUP = happening(what="group", peer="eve", to="team", msg_id=OTHER, kind="group")


class Me:
    """A connection for ada, in the group Team and the room hall; each answer says one more is unread."""

    welcome = wire.Welcome(version=1, hub_id="scripted", app_version="1", name="ada")

    def __init__(self) -> None:
        self.unread = 0

    async def request(self, frame):
        await trio.lowlevel.checkpoint()
        self.unread += 1
        if isinstance(frame, wire.Rooms):
            rooms = (wire.Room(name="hall", members=("eve", "ada")), wire.Room(name="den", members=("eve",)))
            return wire.RoomList(req_id=0, rooms=rooms)
        return wire.GroupList(req_id=0, unread=self.unread, groups=(wire.GroupUnread(name="Team"),))


async def found_out(capsys, *happened):
    """The first line about what happened, or what it may mean."""
    me: Any = Me()
    listener = Listener("ada", once=True, antigravity=False)
    listener._me = me
    for each in happened:
        listener._noted(each)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener._work, me)
            await listener._over.wait()
            nursery.cancel_scope.cancel()
    [line] = capsys.readouterr().out.splitlines()
    return json.loads(line[len(MARK) :])


async def test_of_others_nothing_is_told_and_of_the_peers_groups_and_rooms_it_is(capsys):
    others = (
        happening(what="stored", peer="ada", to="eve", msg_id=ID, kind="ask"),
        happening(what="online", peer="ada"),
        happening(what="room", peer="ada", to="hall", msg_id=ID),
        happening(what="room", peer="eve", to="den", msg_id=ID),
        happening(what="room", peer="eve", to="nowhere", msg_id=ID),
        happening(what="group", peer="ada", to="team", msg_id=ID),
        happening(what="group", peer="eve", to="theirs", msg_id=ID),
    )
    line = {"from": "eve", "kind": "group", "msg_id": OTHER, "group": "team"}
    assert await found_out(capsys, *others, GROUP, ROOM) == line
    line = {"from": "eve", "kind": "room", "msg_id": ID, "room": "hall"}
    assert await found_out(capsys, *others, ROOM, GROUP) == line


@pytest.mark.parametrize("doubt", [{"what": "missed", "count": 9}, {"what": "stored", "count": 80}])
async def test_what_was_told_in_part_is_counted(capsys, doubt):
    assert await found_out(capsys, happening(**doubt)) == {"kind": "waiting", "unread": 1}


def test_what_is_pushed_or_seen_is_not_waited_for(home, monkeypatch, capsys):
    seen = happening(what="seen", peer="ada", msg_id=ID)
    lines = heard(home, monkeypatch, capsys, told(msg_id=ID), seen, unread=1)
    assert lines == [{"from": "eve", "kind": "message", "msg_id": ID}, {"kind": "waiting", "unread": 1}]


def test_hostile_words_are_one_harmless_line(home, monkeypatch, capsys):
    [line] = heard(
        home,
        monkeypatch,
        capsys,
        happening(what="stored", peer=HOSTILE, to="ada", msg_id=HOSTILE, kind=HOSTILE),
        unread=1,
    )
    assert line == {"from": HOSTILE, "kind": HOSTILE, "msg_id": HOSTILE}
