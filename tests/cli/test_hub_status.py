"""What `ecorelay hub status` says of a hub, and of what it counted."""

import sys
import time

import pytest

from ecorelay import __version__, wire
from ecorelay.cli.counters import in_words
from ecorelay.daemon.reasons import Reason
from tests.helpers.command_line import run_here
from tests.helpers.scripted_hub import ScriptedHub

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in listens on a Unix socket")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_every_reason_for_which_a_connection_ends_has_words():
    named = {f"closed {reason}": 1 for reason in Reason}
    assert not {what for what, _ in in_words(named)} & {name.replace("_", " ") for name in named}
    assert len({what for what, _ in in_words(named)}) == len(named)


def test_a_counter_of_a_newer_hub_is_shown_under_its_own_name_and_what_is_0_is_not():
    assert in_words({"new_thing": 2, "crash": 0, "closed some_day": 1}) == [
        ("connections ended: some day", 1),
        ("new thing", 2),
    ]


def test_the_status_names_the_largest_mailboxes_and_what_was_dropped(home, monkeypatch, capsys):
    details = wire.HubDetails(
        req_id=0,
        pid=7,
        hub_id="here",
        version=__version__,
        sessions=2,
        mailboxes=2,
        mail_messages=12,
        mail_unread=5,
        mail_bytes=3 * 1024 * 1024,
        largest=(
            wire.MailboxSize(name="api", messages=11, unread=4, bytes=3 * 1024 * 1024),
            wire.MailboxSize(name="web", messages=1, unread=1, bytes=10),
        ),
        problems=("hub.db is nearly full: raise limits.data_bytes",),
        counters={"evicted_unread": 3, "closed bye": 4},
    )
    with ScriptedHub(home, {"hub_status": details}):
        said = run_here(home, monkeypatch, capsys, "hub", "status")
    assert "12 messages, 5 unread, in 2 mailboxes (3.0 MiB)" in said.out
    assert "largest      api: 11 messages, 4 unread (3.0 MiB)\n             web: 1 message, " in said.out
    assert "problem      hub.db is nearly full: raise limits.data_bytes" in said.out
    assert "messages left a full mailbox unread (their senders were told): 3" in said.out
    assert said.out.index("unread (their") < said.out.index("in good order")


def test_the_status_says_how_each_link_is_and_where_others_reach_this_hub(home, monkeypatch, capsys):
    details = wire.HubDetails(
        req_id=0,
        hub_id="here",
        version=__version__,
        sessions=0,
        links=(
            wire.LinkDetails(
                hub_id="desk",
                up=True,
                since=1,
                address="192.168.1.20:9700",
                version="0.2.0",
                round_trip_ms=0.8,
                peers=3,
                online=1,
            ),
            wire.LinkDetails(hub_id="new", up=True),
            wire.LinkDetails(
                hub_id="lap", waiting=2, waiting_bytes=2048, trouble="\x1b[31mthe secrets differ"
            ),
        ),
        listening=("0.0.0.0:9700",),
        counters={"outbox expired": 2, "link rejected blocked": 1},
    )
    with ScriptedHub(home, {"hub_status": details}):
        said = run_here(home, monkeypatch, capsys, "hub", "status")
        found = run_here(home, monkeypatch, capsys, "hub", "status", "--json").json
    assert (
        "link         desk: up, 192.168.1.20:9700, 0.8 ms, ecorelay 0.2.0, 1 of 3 peers online\n" in said.out
    )
    assert "             new: up, 0 of 0 peers online\n" in said.out
    waits = "lap: down, never seen yet; 2 messages (2.0 KiB) wait for it; \\x1b[31mthe secrets differ"
    assert waits in said.out
    assert "listens      for other hubs at 0.0.0.0:9700" in said.out
    assert "messages waited too long for another hub (their senders were told): 2" in said.out
    assert "messages of other hubs were rejected (blocked): 1" in said.out
    assert [link["hub_id"] for link in found["links"]] == ["desk", "new", "lap"]
    assert found["listening"] == ["0.0.0.0:9700"]


def test_the_status_names_the_road_of_each_link_and_how_it_stands_with_relays(home, monkeypatch, capsys):
    now = int(time.time() * 1000)
    details = wire.HubDetails(
        req_id=0,
        hub_id="here",
        version=__version__,
        sessions=0,
        links=(
            wire.LinkDetails(hub_id="desk", up=True, since=1, road="tcp", address="192.168.1.20:9700"),
            wire.LinkDetails(hub_id="ben", up=True, since=1, road="relay", address="relay relay.example.org"),
        ),
        relays=(
            wire.RelayDetails(name="relay.example.org", up=True, since=now, hubs=1),
            wire.RelayDetails(name="new.example.org"),
            wire.RelayDetails(
                name="old.example.org:9800", since=now - 120_000, trouble="refuses our token;\x1b[31m mend it"
            ),
        ),
    )
    with ScriptedHub(home, {"hub_status": details}):
        said = run_here(home, monkeypatch, capsys, "hub", "status")
        found = run_here(home, monkeypatch, capsys, "hub", "status", "--json").json
    assert " desk: up, tcp 192.168.1.20:9700, 0 of 0 peers online\n" in said.out
    assert " ben: up, relay relay.example.org, 0 of 0 peers online\n" in said.out
    assert " relay.example.org: connected, 1 other hub there\n" in said.out
    assert " new.example.org: connecting\n" in said.out
    assert "old.example.org:9800: down for 2 min; refuses our token;\\x1b[31m mend it" in said.out
    assert [link["road"] for link in found["links"]] == ["tcp", "relay"]
    assert [(relay["name"], relay["up"], relay["hubs"]) for relay in found["relays"]] == [
        ("relay.example.org", True, 1),
        ("new.example.org", False, 0),
        ("old.example.org:9800", False, 0),
    ]
