"""The command line against a real hub: a person is a peer like any other."""

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.helpers.command_line import CommandLine

ID = r"[0-7][0-9a-hjkmnp-tv-z]{25}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture
def ecorelay(tmp_path):
    command_line = CommandLine(tmp_path / "home", ECORELAY_KEEP_ALIVE="yes")
    yield command_line
    command_line.end_hub()


# --- peers -----------------------------------------------------------------------------------------------


def test_peers_are_listed_and_looking_makes_nobody_a_peer(ecorelay):
    empty = ecorelay("peers")
    assert empty.out == ""
    assert "nobody yet" in empty.err
    assert ecorelay("peers", "add", "reviewer").out == "reviewer\n"
    ecorelay("peers", "add", "api")
    found = ecorelay("peers", "--json").json
    assert found.keys() == {"v", "hub_id", "peers", "more"}
    assert sorted(peer["name"] for peer in found["peers"]) == ["api", "reviewer"]
    peer = found["peers"][0]
    assert {"name", "online", "cwd", "git_branch", "client", "last_seen", "push"} <= peer.keys()
    assert re.fullmatch(TIME, peer["last_seen"])
    matching = ecorelay("peers", "--match", "VIEW", "--json").json
    assert [peer["name"] for peer in matching["peers"]] == ["reviewer"]
    assert ecorelay("peers", "-m", "view").out.split()[0] == "reviewer"
    assert "no peer matches" in ecorelay("peers", "--match", "\x1b[2J").err


def test_an_address_is_added_once(ecorelay):
    assert ecorelay("peers", "add", "Bob", "--json").json == {"v": 1, "name": "Bob"}
    assert "bob" in ecorelay("peers", "add", "bob", code=1).err


# --- mail ------------------------------------------------------------------------------------------------


def test_a_message_is_sent_read_once_and_can_be_shown_again(ecorelay):
    ecorelay("peers", "add", "bob")
    sent = ecorelay("send", "bob", "Hello\nworld", "--urgent")
    match = re.fullmatch(rf"({ID}) queued\n", sent.out)
    assert match
    read = ecorelay("inbox", "--as", "bob")
    head, *text = read.out.splitlines()
    assert head.split()[0] == "ada"
    assert "urgent" in head
    assert match[1] in head
    assert text == ["    Hello", "    world"]
    again = ecorelay("inbox", "--as", "bob")
    assert again.out == ""
    assert "nothing unread for bob" in again.err
    shown = ecorelay("inbox", "--as", "bob", "--since", match[1], "--json").json["messages"]
    assert [(mail["text"], mail["seen"]) for mail in shown] == [("Hello\nworld", True)]


def test_mail_as_json_has_the_names_of_the_tool(ecorelay):
    ecorelay("peers", "add", "bob")
    sent = ecorelay("send", "bob", "question", "--json").json
    assert sent == {"v": 1, "msg_id": sent["msg_id"], "status": "queued", "from": "ada", "to": "bob"}
    answer = ecorelay("send", "ada", "answer", "--as", "bob", "--reply-to", sent["msg_id"], "--json").json
    page = ecorelay("inbox", "--json").json
    assert page.keys() == {"v", "me", "messages", "remaining", "groups", "missed"}
    assert (page["me"], page["remaining"], page["groups"]) == ("ada", 0, [])
    (mail,) = page["messages"]
    assert re.fullmatch(TIME, mail.pop("ts"))
    assert mail == {
        "msg_id": answer["msg_id"],
        "kind": "message",
        "from": "bob",
        "reply_to": sent["msg_id"],
        "text": "answer",
    }


def test_a_text_from_stdin_arrives_byte_for_byte(ecorelay):
    text = "zwei\n Zeilen, 鍵\t\n"
    ecorelay("peers", "add", "bob")
    ecorelay("send", "bob", "-", stdin=text.encode())
    assert ecorelay("inbox", "--as", "bob", "--json").json["messages"][0]["text"] == text


@pytest.mark.skipif(sys.platform == "win32", reason="locales work differently")
def test_a_text_arrives_whole_from_a_terminal_without_unicode_and_is_shown_there_escaped(ecorelay):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    sent = ecorelay("send", "ada", "Ключ", **ascii_only)
    assert "queued" in sent.out
    assert "\\u041a" in ecorelay("inbox", **ascii_only).out
    msg_id = sent.out.split()[0]
    assert ecorelay("inbox", "--since", msg_id, "--json").json["messages"][0]["text"] == "Ключ"


def test_a_text_of_exactly_the_limit_goes_through(ecorelay):
    ecorelay("peers", "add", "bob")
    ecorelay("send", "bob", "-", stdin=b'"' * 524_288)
    assert ecorelay("inbox", "--as", "bob", "--json").json["messages"][0]["text"] == '"' * 524_288


def test_no_peer_can_write_on_the_terminal(ecorelay):
    ecorelay("peers", "add", "bob")
    ecorelay("send", "bob", "\x1b]0;title\x07 \u202egnp.exe \x9b31m\rover")
    shown = ecorelay("inbox", "--as", "bob").out
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert "\\x1b]0;title\\x07 \\u202egnp.exe \\x9b31m\\rover" in shown


def test_mail_to_a_name_nobody_has_is_refused_with_the_nearest(ecorelay):
    ecorelay("peers", "add", "frontend")
    said = ecorelay("send", "fronted", "hello", code=4)
    assert "frontend" in said.err
    assert said.out == ""
    assert "elsewhere" in ecorelay("send", "bob@elsewhere", "hello", code=4).err


def test_a_page_says_how_much_is_left(ecorelay):
    for number in range(3):
        ecorelay("send", "ada", f"note {number}")
    said = ecorelay("inbox", "--limit", "2")
    assert said.out.count("note") == 2
    assert "1 more unread" in said.err
    assert ecorelay("inbox", "--json").json["messages"][0]["text"] == "note 2"


def test_a_persons_name_is_as_then_the_setting_then_the_login(ecorelay):
    assert ecorelay("inbox", "--json").json["me"] == "ada"
    assert ecorelay("inbox", "--json", USER="Grace Hopper").json["me"] == "Grace-Hopper"
    ecorelay.paths.config.write_text('me = "linus"\n')
    assert ecorelay("inbox", "--json").json["me"] == "linus"
    assert ecorelay("inbox", "--json", ECORELAY_ME="tim").json["me"] == "tim"
    assert ecorelay("inbox", "--json", "--as", "ken").json["me"] == "ken"


# --- waiting, and being interrupted ----------------------------------------------------------------------


def wait_until_waiting(ecorelay, name):
    """Until a process waits as this peer: then, and only then, the hub has one connection more."""
    while ecorelay("hub", "status", "--json").json["connections"] < 2:
        pass
    assert name


def test_waiting_ends_when_something_comes(ecorelay):
    ecorelay("hub", "start")
    with ecorelay.start("inbox", "--wait", "60", "--json") as waiting:
        wait_until_waiting(ecorelay, "ada")
        ecorelay("send", "ada", "wake up", "--as", "bob")
        out, _ = waiting.communicate(timeout=30)
    assert waiting.returncode == 0
    assert b"wake up" in out
    assert ecorelay("inbox").out == ""


def test_waiting_for_nothing_exits_with_5(ecorelay):
    said = ecorelay("inbox", "--wait", "0.1", code=5)
    assert said.out == ""
    assert "nothing unread for ada within 0.1 s" in said.err
    assert ecorelay("inbox", "--wait", "0.1", "--json", code=5).json["messages"] == []


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process")
def test_an_interrupted_command_ends_quietly_with_130(ecorelay):
    ecorelay("hub", "start")
    with ecorelay.start("inbox", "--wait", "60") as waiting:
        wait_until_waiting(ecorelay, "ada")
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=30)
    assert (waiting.returncode, out, err) == (130, b"", b"")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes work differently")
def test_mail_whose_reader_went_away_is_unread_again(ecorelay):
    ecorelay("send", "ada", "precious")
    reading, writing = os.pipe()
    os.close(reading)
    with ecorelay.start("inbox", stdout=writing) as torn:
        os.close(writing)
        _, err = torn.communicate(timeout=30)
    assert (torn.returncode, err) == (141, b"")
    (mail,) = ecorelay("inbox", "--json").json["messages"]
    assert mail["text"] == "precious"
    assert mail["redelivered"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_mail_that_could_not_be_written_is_unread_again(ecorelay):
    ecorelay("send", "ada", "precious")
    with open("/dev/full", "wb") as full, ecorelay.start("inbox", stdout=full) as torn:
        _, err = torn.communicate(timeout=30)
    assert torn.returncode == 6
    assert err.decode() == "error: stdout: No space left on device\n"
    assert ecorelay("inbox", "--json").json["messages"][0]["text"] == "precious"


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors")
def test_mail_is_not_seen_where_stdout_is_closed(ecorelay):
    ecorelay("send", "ada", "precious")
    with ecorelay.start("inbox", preexec_fn=lambda: os.close(1)) as torn:
        _, err = torn.communicate(timeout=30)
    assert (torn.returncode, err) == (6, b"error: stdout: it is closed\n")
    assert ecorelay("inbox", "--json").json["messages"][0]["text"] == "precious"


@pytest.mark.skipif(sys.platform == "win32", reason="pty")
def test_on_a_terminal_there_are_colours_and_a_header(ecorelay):
    import pty

    ecorelay("peers", "add", "bob")
    ours, theirs = pty.openpty()
    environ = ecorelay.environ | {"TERM": "xterm"}
    for words, expected in (
        (["peers"], b"NAME"),
        (["send", "ada", "x"], b"queued"),
        (["inbox"], b"\x1b[1;36m"),
    ):
        subprocess.run(
            [sys.executable, "-m", "ecorelay", *words],
            env=environ,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            timeout=30,
            check=True,
        )
        assert expected in os.read(ours, 65536)
    os.close(ours)
    os.close(theirs)
