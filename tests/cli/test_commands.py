"""What every command says before any hub is asked: help, wrong arguments, no hub."""

import sys

import pytest

from tests.helpers.command_line import CommandLine

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
    "peers",
    "peers add",
    "send",
    "inbox",
]


@pytest.fixture
def ecorelay(tmp_path):
    return CommandLine(tmp_path / "home")


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_has_help_with_an_example_that_begins_with_it(ecorelay, words):
    said = ecorelay(*words.split(), "--help")
    assert said.err == ""
    assert "xample:" in said.out
    example = said.out[said.out.rindex("xample:") :]
    assert f"ecorelay {words}".strip() in example
    assert all(len(line) <= 110 for line in said.out.splitlines())
    assert not ecorelay.paths.home.exists()


def test_without_a_command_there_is_help(ecorelay):
    said = ecorelay(code=None)
    assert "Commands:" in said.out + said.err


def test_the_help_names_every_command(ecorelay):
    said = ecorelay("--help")
    for words in COMMANDS:
        if words and " " not in words:
            assert f"\n  {words} " in said.out


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
    ],
)
def test_a_wrong_argument_is_named_and_exits_with_2(ecorelay, words, named):
    said = ecorelay(*words, code=2)
    assert named in said.err
    assert said.out == ""
    assert not ecorelay.paths.home.exists()


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


@pytest.mark.parametrize(
    "words",
    [["peers"], ["peers", "add", "bob"], ["send", "bob", "hello"], ["inbox"]],
    ids=" ".join,
)
def test_where_no_hub_may_be_started_a_command_says_that_there_is_none(ecorelay, words):
    said = ecorelay(*words, code=3, ECORELAY_SPAWN="no")
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
