"""What `ecorelay watch` shows of each thing that happens."""

import json
import re
import sys

import pytest

from ecorelay import wire
from tests.helpers.command_line import ID, run_here
from tests.helpers.hostile_words import HOSTILE, harmless
from tests.helpers.scripted_hub import ScriptedHub

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in listens on a Unix socket")

TS = 1_700_000_000_123


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def happening(**more):
    return wire.Activity(ts=TS, **more)


HAPPENED = (
    happening(what="online", peer="api"),
    happening(what="stored", peer="ada", to="api", msg_id=ID, kind="ask", text="which port?", size=11),
    happening(what="pushed", peer="api", msg_id=ID, carrier="channel"),
    happening(what="seen", peer="api", msg_id=ID),
    happening(what="evicted", peer="web", to="api", count=2),
    happening(what="missed", count=9),
    happening(
        what="room", peer=HOSTILE, to=HOSTILE, msg_id=HOSTILE, kind=HOSTILE, text=HOSTILE, carrier=HOSTILE
    ),
)


def watched(home, monkeypatch, capsys, *words, happened=HAPPENED, settings=None):
    """What is printed of what happened, until the hub ends it for good."""
    over = wire.Bye(reason="that is enough", code="bad_args")
    with ScriptedHub(home, {"watch": [wire.Done(req_id=0), *happened, over]}) as hub:
        said = run_here(home, monkeypatch, capsys, "watch", *words, **(settings or {}))
        assert said.code == 2
        assert "that is enough" in said.err
        return said, hub.requests("watch")


def test_watching_shows_each_message_with_what_becomes_of_it(home, monkeypatch, capsys):
    said, asked = watched(home, monkeypatch, capsys)
    assert asked[0]["texts"]
    lines = said.out.splitlines()
    assert lines[0].endswith("  api  online")
    assert f"ada → api  stored  ask  11 B  {ID}" in lines[1]
    assert lines[2] == "    which port?"
    assert f"ada → api  pushed  by channel  {ID}" in lines[3]
    assert f"ada → api  seen  {ID}" in lines[4]
    assert "web → api  evicted  2 unread messages" in lines[5]
    assert "9 things happened that are not shown" in lines[6]
    assert harmless(said.out)
    assert "watching scripted" in said.err


def test_watching_on_a_terminal_has_colours_and_own_mail_stands_out_unless_nobody_wants_that(
    home, monkeypatch, capsys
):
    monkeypatch.setattr("ecorelay.cli.screen.is_terminal", lambda stream: stream is sys.stdout)
    monkeypatch.setenv("TERM", "xterm")
    said, _ = watched(home, monkeypatch, capsys, "--as", "ADA")
    online, stored = said.out.splitlines()[:2]
    assert "\x1b[32monline\x1b[0m" in online
    assert "\x1b[1mapi" not in online
    assert "\x1b[1mada → api\x1b[0m" in stored
    assert "\x1b[33mstored\x1b[0m" in stored
    assert all(part.isprintable() for part in re.split(r"\x1b\[[0-9;]+m|\n", said.out))
    said, _ = watched(home, monkeypatch, capsys, "--as", "ADA", settings={"NO_COLOR": "1"})
    assert "\x1b" not in said.out


def test_watching_without_texts_asks_for_none(home, monkeypatch, capsys):
    _, asked = watched(home, monkeypatch, capsys, "--no-texts")
    assert "texts" not in asked[0]


def test_watching_for_scripts_is_one_object_a_line(home, monkeypatch, capsys):
    said, _ = watched(home, monkeypatch, capsys, "--json")
    found = [json.loads(line) for line in said.out.splitlines()]
    assert [each["what"] for each in found] == [each.what for each in HAPPENED]
    assert harmless(said.out)
    assert found[1] == {
        "v": 1,
        "what": "stored",
        "ts": "2023-11-14T22:13:20.123Z",
        "peer": "ada",
        "to": "api",
        "msg_id": ID,
        "kind": "ask",
        "size": 11,
        "carrier": "",
        "count": 0,
        "text": "which port?",
    }
