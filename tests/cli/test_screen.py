"""What reaches a terminal."""

import io
import json
import sys

import pytest

from ecorelay.cli import screen
from ecorelay.cli.tool_words import for_person

HOSTILE = "\x1b]0;owned\x07red\x1b[31m \u202etxt.exe\u2066 \x9b2J\r\u200b\ufeff\U000e0041"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_no_control_character_or_reordering_mark_of_a_text_reaches_the_terminal():
    shown = screen.lines(HOSTILE)
    assert all(character.isprintable() for character in shown)
    assert "\\x1b]0;owned\\x07" in shown
    assert "\\u202e" in shown
    assert "\\U000e0041" in shown


def test_a_text_keeps_its_lines_and_tabs_and_every_line_is_indented():
    assert screen.lines("a\n\tb\r\nc\n\nd") == "    a\n    \tb\n    c\n\n    d"


def test_a_name_of_a_directory_stays_on_one_line():
    assert screen.line("a\nb\tc") == "a\\nb\\tc"


def test_letters_of_every_script_and_joined_emoji_stay_as_they_are():
    text = "Ключ 鍵 مفتاح 👩‍💻 é"
    assert screen.line(text) == text


def test_json_keeps_every_character_and_shows_none_to_the_terminal(capsys):
    screen.out_json(text=HOSTILE)
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"v": 1, "text": HOSTILE}
    assert printed.rstrip("\n").isprintable()


def test_a_terminal_gets_colour_unless_the_person_does_not_want_it(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert screen.styled("x", "bold", stream=Terminal()) == "\x1b[1mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert screen.styled("x", "bold", stream=Terminal()) == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert screen.styled("x", "bold", stream=Terminal()) == "x"


def test_a_pipe_gets_no_colour(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert screen.styled("x", "bold", stream=io.StringIO()) == "x"


def test_what_the_terminal_cannot_encode_is_escaped_instead_of_failing(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    screen.out("鍵\n")
    assert written.getvalue() == b"\\u9375\n"
    assert screen.symbol("→", "->") == "->"


def test_without_stderr_nobody_is_talked_to_and_without_stdout_data_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    screen.say("y")
    assert not screen.is_terminal(None)
    with pytest.raises(OSError, match="closed"):
        screen.out("x")


@pytest.mark.parametrize(
    ("count", "noun", "shown"),
    [(0, "message", "0 messages"), (1, "message", "1 message"), (2, "mailbox", "2 mailboxes")],
)
def test_one_is_singular(count, noun, shown):
    assert screen.many(count, noun) == shown


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("relay_group_list has yours", "`ecorelay groups` has yours"),
        ("(relay_inbox, relay_peers)", "(`ecorelay inbox`, `ecorelay peers`)"),
        ("you are not in the room: relay_join it first", "you are not in the room: relay_join it first"),
        ("no peer is called 'relay_peers'", "no peer is called 'relay_peers'"),
        ("read without since_id", "read without --since"),
        ("no peer is called relay_peers.old", "no peer is called relay_peers.old"),
    ],
)
def test_tools_of_assistants_are_commands_for_a_person(message, shown):
    assert for_person(message) == shown


def test_an_error_message_is_made_harmless_line_by_line(capsys):
    screen.fail("no peer is called '\x1b[2J'\nand more")
    assert capsys.readouterr().err == "error: no peer is called '\\x1b[2J'\n       and more\n"


def test_columns_line_up():
    assert screen.table([("a", "bb", "c"), ("dddd", "e", "-")]) == "a     bb  c\ndddd  e   -\n"
    assert screen.table([]) == ""


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (-60_000, "just now"),
        (4_999, "just now"),
        (59_000, "59 s ago"),
        (180_000, "3 min ago"),
        (7_200_000, "2 h ago"),
        (172_800_000, "2 d ago"),
    ],
)
def test_age_is_in_the_largest_unit_that_fits(ms, shown):
    assert screen.age(1_000_000_000, 1_000_000_000 + ms) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(45.9, "45 s"), (720, "12 min"), (11_100, "3 h 5 min"), (187_200, "2 d 4 h")]
)
def test_duration_has_at_most_two_units(seconds, shown):
    assert screen.duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (512, "512 B"),
        (4096, "4.0 KiB"),
        (1_300_000, "1.2 MiB"),
        (2 * 1024**3, "2.0 GiB"),
        (5 * 1024**4, "5120.0 GiB"),
    ],
)
def test_sizes_are_for_people(count, shown):
    assert screen.size(count) == shown


def test_times_are_rfc_3339_and_impossible_ones_are_empty():
    assert screen.timestamp(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    assert screen.timestamp(0) == screen.timestamp(2**62) == ""


def test_the_home_directory_is_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert screen.home_relative("/home/ada/shop") == "~/shop"
    assert screen.home_relative("/home/ada") == "~"
    assert screen.home_relative("/home/adam") == "/home/adam"
