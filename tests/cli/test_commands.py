"""What every command says before any hub is asked: help, wrong arguments, no hub."""

import sys
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.command_line import AT_A_HUB, ID, CommandLine, run_here

COMMANDS = [
    "",
    "demo",
    "mcp",
    "hub",
    "hub run",
    "hub start",
    "hub stop",
    "hub restart",
    "hub status",
    "hub service",
    "hub service install",
    "hub service uninstall",
    "hub service status",
    "install",
    "uninstall",
    "doctor",
    "peers",
    "peers add",
    "peers forget",
    "send",
    "inbox",
    "reply",
    "broadcast",
    "rooms",
    "groups",
    "groups create",
    "groups info",
    "groups history",
    "groups send",
    "groups invite",
    "groups remove",
    "groups leave",
    "groups delete",
    "watch",
    "trace",
    "logs",
    "config",
    "config path",
    "config show",
    "block",
    "purge",
    "backup",
    "hub reload",
    "hub forget",
    "groups forget",
    "bridge-init",
    "bridge-invite",
    "bridge-check",
    "identity",
    "identity show",
    "identity export",
    "identity import",
    "trust",
    "distrust",
]


@pytest.fixture
def ecorelay(tmp_path):
    return CommandLine(tmp_path / "home")


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """The command line in this process."""
    monkeypatch.chdir(tmp_path)
    return partial(run_here, tmp_path / "home", monkeypatch, capsys)


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_has_help_with_an_example_that_begins_with_it(here, words):
    said = here(*words.split(), "--help")
    assert said.code == 0
    assert said.err == ""
    assert "xample:" in said.out
    example = said.out[said.out.rindex("xample:") :]
    assert f"ecorelay {words}".strip() in example
    assert all(len(line) <= 110 for line in said.out.splitlines())
    assert not [line for line in said.out.splitlines()[1:] if line.endswith("...")], "a summary was cut"
    assert not Path("home").exists()


def test_without_a_command_there_is_help(ecorelay):
    said = ecorelay(code=None)
    assert "Commands:" in said.out + said.err


def test_the_help_names_every_command(ecorelay):
    said = ecorelay("--help")
    for words in COMMANDS:
        if words and " " not in words:
            assert f"\n  {words} " in said.out


@pytest.mark.parametrize(
    ("words", "meant"),
    [("sned api x", "send"), ("inbx", "inbox"), ("hub statsu", "status"), ("doctro", "doctor")],
)
def test_a_slip_of_the_pen_is_told_the_command_that_was_meant(here, words, meant):
    said = here(*words.split())
    assert (said.code, f"Did you mean '{meant}'" in said.err) == (2, True), said


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_one_line(ecorelay, option):
    import ecorelay as package

    assert ecorelay(option).out == f"ecorelay {package.__version__}\n"


def test_the_version_comes_before_whatever_else_was_typed(ecorelay):
    assert ecorelay("--version", "hub", "status").out.startswith("ecorelay ")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nonsense"], "nonsense"),
        (["--nonsense"], "--nonsense"),
        (["hub", "nonsense"], "nonsense"),
        (["hub", "run", "nonsense"], "hub run"),
        (["mcp", "--carrier", "pigeon"], "pigeon"),
        (["peers", "add"], "NAME"),
        (["peers", "add", "a/b"], "NAME"),
        (["peers", "add", "name\n"], "NAME"),
        (["send", "api"], "TEXT"),
        (["send", "two words", "hello"], "TO"),
        (["send", "api@", "hello"], "TO"),
        (["send", "api", ""], "TEXT"),
        (["send", "api", "hello", "--reply-to", "7"], "--reply-to"),
        (["send", "api", "hello", "--as", "a@b"], "--as"),
        (["inbox", "--as", "\u0430pi"], "--as"),
        (["inbox", "--limit", "0"], "--limit"),
        (["inbox", "--limit", "101"], "--limit"),
        (["inbox", "--wait", "601"], "--wait"),
        (["inbox", "--wait", "soon"], "--wait"),
        (["inbox", "--since", "7"], "--since"),
        (["inbox", "--since", "0" * 26, "--wait", "1"], "--wait"),
        (["peers", "forget", "a@b"], "NAME"),
        (["peers", "--json", "add", "bob"], "--json"),
        (["peers", "--match", "x", "forget", "bob"], "--match"),
        (["reply", "7", "hello"], "ID"),
        (["reply", ID], "TEXT"),
        (["reply", ID, ""], "TEXT"),
        (["broadcast"], "QUESTION"),
        (["broadcast", ""], "QUESTION"),
        (["broadcast", "who?", "--wait", "601"], "--wait"),
        (["broadcast", "who?", "--as", "a b"], "--as"),
        (["rooms", "kitchen"], "kitchen"),
        (["groups", "--as", "bob", "info", "team"], "--as"),
        (["groups", "nonsense"], "nonsense"),
        (["groups", "create", "team"], "MEMBER"),
        (["groups", "create", "a@b", "bob"], "NAME"),
        (["groups", "create", "team", "b/b"], "MEMBER"),
        (["groups", "info", "a b"], "GROUP"),
        (["groups", "history", "a b"], "GROUP"),
        (["groups", "history", "team", "-n", "501"], "-n"),
        (["groups", "send", "a b", "hello"], "GROUP"),
        (["groups", "send", "team", ""], "TEXT"),
        (["groups", "invite", "team", "a b"], "PEER"),
        (["groups", "remove", "team", "a b"], "PEER"),
        (["groups", "remove", "team", "bob", "--reason", "x" * 257], "--reason"),
        (["groups", "leave", "a b"], "GROUP"),
        (["groups", "delete", "a b"], "GROUP"),
        (["watch", "--as", "a b"], "--as"),
        (["watch", "api"], "api"),
        (["trace"], "MSG_ID"),
        (["trace", "7"], "MSG_ID"),
        (["logs", "-n", "-1"], "-n"),
        (["config", "nonsense"], "nonsense"),
        (["config", "path", "x"], "x"),
        (["config", "show", "x"], "x"),
        (["block", "a b"], "NAME"),
        (["block", "--off"], "--off"),
        (["purge"], "--older"),
        (["purge", "--older", "30"], "--older"),
        (["purge", "--older", "1y", "--yes"], "--older"),
        (["purge", "--older", "-1d", "--yes"], "--older"),
        (["purge", "--older", "30d"], "--yes"),
        (["backup"], "FILE"),
        (["backup", ""], "FILE"),
        (["backup", "."], "FILE"),
        (["backup", "there.db"], "there.db"),
    ],
)
def test_a_wrong_argument_is_named_and_exits_with_2(here, words, named):
    Path("there.db").write_text("")
    said = here(*words)
    assert said.code == 2
    assert named in said.err
    assert said.out == ""
    assert not Path("home").exists()


def test_a_text_from_stdin_must_be_utf_8(ecorelay):
    assert "byte 2" in ecorelay("send", "api", "-", stdin=b"ab\xff", code=2).err


def test_a_text_given_as_argument_must_be_utf_8(ecorelay):
    assert "UTF-8" in ecorelay("send", "api", b"\xff", code=2).err


def test_a_text_over_the_limit_is_refused_before_it_is_sent(ecorelay):
    assert "524,288" in ecorelay("send", "api", "-", stdin=b"x" * 524_289, code=5).err


@pytest.mark.parametrize(
    "words",
    [["hub", "status"], ["hub", "status", "--json"], ["hub", "stop"]],
    ids=" ".join,
)
def test_looking_at_or_stopping_a_hub_never_starts_one(ecorelay, words):
    said = ecorelay(*words, code=3)
    assert "no hub is running" in said.err
    assert said.out == ""
    assert not ecorelay.paths.home.exists()


@pytest.mark.parametrize("words", AT_A_HUB)
def test_where_no_hub_may_be_started_a_command_says_that_there_is_none(here, words):
    said = here(*words.split(), ECORELAY_SPAWN="no")
    assert said.code == 3
    assert said.err.startswith("error: ")
    assert "hub" in said.err
    assert said.out == ""


def test_a_setting_that_makes_no_sense_is_named_with_where_it_was_set(ecorelay):
    assert "ECORELAY_DURABILITY" in ecorelay("inbox", code=2, ECORELAY_DURABILITY="maybe").err
    assert "ECORELAY_HOME" in ecorelay("inbox", code=2, ECORELAY_HOME="relative").err


@pytest.mark.skipif(sys.platform == "win32", reason="modes")
def test_a_data_directory_others_can_write_to_is_refused_with_what_to_do(ecorelay):
    ecorelay.paths.home.mkdir()
    ecorelay.paths.home.chmod(0o777)
    assert "chmod 700" in ecorelay("inbox", code=2).err


def test_a_data_directory_that_cannot_be_made_is_an_error_in_one_line(ecorelay, tmp_path):
    (tmp_path / "file").write_text("")
    said = ecorelay("inbox", code=None, ECORELAY_HOME=str(tmp_path / "file" / "home"))
    assert said.code in (2, 6)
    assert said.err.count("\n") == 1
