"""The commands that need no hub: the log, the settings; and what is asked at a terminal before a purge."""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from functools import partial

import pytest

from ecorelay import wire
from ecorelay.config import Config
from tests.helpers.command_line import CommandLine, run_here
from tests.helpers.scripted_hub import ScriptedHub

HOSTILE = "\x1b]0;owned\x07 \u202egnp\n\x9b31m"


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir(mode=0o700)
    return tmp_path / "home"


@pytest.fixture
def here(home, monkeypatch, capsys):
    return partial(run_here, home, monkeypatch, capsys)


def entry(event, level="info", **fields):
    return json.dumps({"ts": "2026-01-02T03:04:05.678Z", "level": level, "event": event, **fields}) + "\n"


# --- logs ------------------------------------------------------------------------------------------------


def test_where_no_hub_has_run_there_is_no_log(here):
    said = here("logs")
    assert (said.code, said.out) == (0, "")
    assert "no hub has run here" in said.err


def test_the_log_is_shown_for_people_with_its_fields_and_traces(here, home):
    lines = entry("started", pid=7, hub="a b", problems=[]) + entry("crash", "error", stack=["x.py:1 f", "E"])
    (home / "hub.log").write_text(lines)
    assert here("logs").out.splitlines() == [
        '2026-01-02T03:04:05.678Z  info     started  pid=7  hub="a b"',
        "2026-01-02T03:04:05.678Z  error    crash",
        "      x.py:1 f",
        "      E",
    ]


def test_rotated_files_are_read_as_far_as_they_are_needed_oldest_line_first(here, home):
    for name, numbers in (("hub.log.2", (1, 2)), ("hub.log.1", (3, 4)), ("hub.log", (5,))):
        (home / name).write_text("".join(entry(f"e{number}") for number in numbers))
    assert [line.split()[2] for line in here("logs").out.splitlines()] == ["e1", "e2", "e3", "e4", "e5"]
    assert [line.split()[2] for line in here("logs", "-n", "2").out.splitlines()] == ["e4", "e5"]
    assert here("logs", "-n", "0").out == ""
    (home / "hub.log").unlink()
    assert here("logs", "-n", "1").out.split()[2] == "e4"


def test_no_value_of_the_log_reaches_the_terminal_raw(here, home):
    hostile = entry(HOSTILE, HOSTILE, **{HOSTILE: HOSTILE}, stack=[HOSTILE], more={"a": [HOSTILE]})
    (home / "hub.log").write_bytes(hostile.encode() + HOSTILE.encode() + b"\xff\n[1]\n" + b"[" * 5000)
    said = here("logs")
    assert all(character.isprintable() or character == "\n" for character in said.out)
    as_json = here("logs", "--json").out
    assert as_json.replace("\n", "").isprintable()
    found = [json.loads(line) for line in as_json.splitlines()]
    assert found[0]["event"] == HOSTILE
    assert all(each.keys() == {"v", "ts", "level", "event", "fields"} for each in found)


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process")
def test_following_goes_on_over_a_rotation_until_it_is_interrupted(home):
    log = home / "hub.log"
    log.write_text(entry("first"))
    with CommandLine(home).start("logs", "--follow", "-n", "1") as following:
        assert following.stdout is not None
        assert b"first" in following.stdout.readline()
        with open(log, "a") as file:
            file.write(entry("second")[:20])
            file.flush()
            time.sleep(0.3)
            file.write(entry("second")[20:])
        assert b"second" in following.stdout.readline()
        log.rename(home / "hub.log.1")
        log.write_text(entry("third"))
        assert b"third" in following.stdout.readline()
        following.send_signal(signal.SIGINT)
        out, err = following.communicate(timeout=30)
    assert (following.returncode, out, err) == (130, b"", b"")


# --- settings --------------------------------------------------------------------------------------------


def test_the_path_of_the_settings_file_is_printed_whether_it_is_there_or_not(here, home):
    assert here("config", "path").out == f"{home / 'config.toml'}\n"
    found = here("config", "path", "--json").json
    assert found == {"v": 1, "path": str(home / "config.toml"), "exists": False, "data_dir": str(home)}


def test_every_setting_is_shown_with_its_value_and_its_origin(here, home):
    (home / "config.toml").write_text('me = "linus"\nspawn = false\n[limits]\nsessions = 7\n')
    said = here("config", "show", "--json", ECORELAY_ME="tim")
    assert said.code == 0
    settings = said.json["settings"]
    assert settings["me"] == {"value": "tim", "origin": "ECORELAY_ME"}
    assert settings["spawn"] == {"value": False, "origin": str(home / "config.toml")}
    assert settings["limits.sessions"] == {"value": 7, "origin": str(home / "config.toml")}
    assert settings["durability"] == {"value": "power", "origin": "default"}
    assert {*Config.__struct_fields__} - {"limits", "origins"} <= settings.keys()
    rows = [line.split() for line in here("config", "show", ECORELAY_ME="tim").out.splitlines()]
    assert ["me", '"tim"', "ECORELAY_ME"] in rows
    assert ["spawn", "false", str(home / "config.toml")] in rows
    assert len(rows) == len(settings)


def test_what_is_wrong_in_the_settings_is_explained_and_the_rest_still_shown(here, home):
    (home / "config.toml").write_text('durability = "maybe"\nkeep_alive = true\n')
    said = here("config", "show", ECORELAY_LIMITS_SESSIONS="many")
    assert said.code == 2
    assert "durability" in said.err
    assert "ECORELAY_LIMITS_SESSIONS" in said.err
    rows = [line.split() for line in said.out.splitlines()]
    assert ["durability", '"power"', "default"] in rows
    assert ["keep_alive", "true", str(home / "config.toml")] in rows
    assert len(here("config", "show", "--json").json["mistakes"]) == 1


@pytest.mark.parametrize("content", [b"me = \xff", b"me = ", b"[" * 5000, b"\x1b[2J = 1"])
def test_a_broken_settings_file_is_explained_not_hidden(here, home, content):
    (home / "config.toml").write_bytes(content)
    said = here("config", "show")
    assert said.code == 2
    assert "config.toml" in said.err
    assert all(character.isprintable() or character == "\n" for character in said.err + said.out)


# --- before a purge --------------------------------------------------------------------------------------

DETAILS = wire.HubDetails(
    req_id=0, hub_id="h", version="0.1.0", sessions=0, mailboxes=3, mail_messages=12, mail_unread=5
)


def purged_at_a_terminal(home, answer):
    """What is shown, and the exit code, of a person who types `answer`."""
    import pty

    ours, theirs = pty.openpty()
    words = ["purge", "--older", "30d", "--unread"]
    with CommandLine(home).start(*words, stdin=theirs, stdout=theirs, stderr=theirs) as purging:
        os.close(theirs)
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, answer)
        # At its end the terminal's other side is closed.
        with suppress(OSError):
            while data := os.read(ours, 4096):
                shown += data
        code = purging.wait(timeout=30)
    os.close(ours)
    return shown.decode(), code


@pytest.mark.skipif(sys.platform == "win32", reason="pty")
def test_a_purge_says_what_goes_and_asks_at_a_terminal(home):
    answers = {"hub_status": DETAILS, "purge": wire.Purged(req_id=0, messages=4, lines=1)}
    with ScriptedHub(home, answers) as hub:
        shown, code = purged_at_a_terminal(home, b"n\n")
        assert (code, hub.requests("purge")) == (1, [])
        assert "12 messages, 5 of them unread, in 3 mailboxes" in shown
        assert "mail, read or not," in shown
        assert "older than 30d" in shown
        assert "nothing was removed" in shown
        shown, code = purged_at_a_terminal(home, b"y\n")
        assert code == 0
        assert "removed: 4 messages, 1 line of groups" in shown
        (asked,) = hub.requests("purge")
        assert asked["unread"]
        assert abs(time.time() * 1000 - 30 * 86_400_000 - asked["before"]) < 60_000


@pytest.mark.parametrize(
    ("older", "seconds"), [("45s", 45), ("30m", 1_800), ("12h", 43_200), ("1d", 86_400), ("2w", 1_209_600)]
)
def test_a_period_is_a_number_and_a_unit(here, home, older, seconds):
    with ScriptedHub(home, {"purge": wire.Purged(req_id=0)}) as hub:
        assert here("purge", "--older", older, "--yes").code == 0
        (asked,) = hub.requests("purge")
    assert abs(time.time() * 1000 - seconds * 1000 - asked["before"]) < 60_000


# --- what is given back when it could not be shown ---------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_history_that_could_not_be_written_is_unread_again(home):
    line = wire.GroupEntry(seq=3, msg_id="01j5zk3m8v9w2x4y6z7abcdefg", sender="api", text="noon", ts=1)
    answers = {
        "group_history": wire.GroupPage(req_id=0, group="team", messages=(line,), upto=3),
        "group_release": wire.Done(req_id=0),
    }
    with ScriptedHub(home, answers) as hub, open("/dev/full", "wb") as full:
        torn = CommandLine(home).start("groups", "history", "team", stdout=full)
        _, err = torn.communicate(timeout=30)
        assert (torn.returncode, err) == (6, b"error: stdout: No space left on device\n")
        assert [frame["type"] for frame in hub.asked] == ["group_history", "group_release"]


def test_history_that_was_printed_is_confirmed_up_to_its_last_line(here, home):
    line = wire.GroupEntry(seq=3, msg_id="01j5zk3m8v9w2x4y6z7abcdefg", sender="api", text="noon", ts=1)
    answers = {
        "group_history": wire.GroupPage(req_id=0, group="team", messages=(line,), upto=3),
        "group_confirm": wire.Done(req_id=0),
    }
    with ScriptedHub(home, answers) as hub:
        assert "\n    noon\n" in here("groups", "history", "team").out
        (asked,) = hub.requests("group_confirm")
        assert asked["upto"] == 3


def test_a_backup_goes_to_where_the_person_is(here, home, monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with ScriptedHub(home, {"backup": wire.BackedUp(req_id=0, path="/x", size=5_000)}) as hub:
        said = here("backup", "../copy.db")
        (asked,) = hub.requests("backup")
    assert asked["path"] == str(tmp_path / "copy.db")
    assert "4.9 KiB" in said.err
