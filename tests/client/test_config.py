"""Settings: where they come from, and what is said about each mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ecorelay.config import ConfigError, load, variable
from ecorelay.errors import RelayError
from ecorelay.limits import Limits
from ecorelay.paths import Paths

ENVIRON = {"USER": "Alice Doe"}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path)


def write(paths: Paths, text: str | bytes) -> None:
    paths.config.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_without_file_and_environment_all_is_default(paths: Paths):
    found = load(paths, ENVIRON)
    assert found.limits == Limits()
    assert (found.transport, found.durability, found.keep_alive, found.spawn) == (
        "auto",
        "power",
        False,
        True,
    )
    assert found.idle_exit_s == 10
    assert found.me == "Alice-Doe"
    assert set(found.origins.values()) == {"default"}
    assert {"hub_id", "me", "limits.ping_s"} < found.origins.keys()


def test_the_hub_is_named_after_the_host_up_to_its_first_dot(paths: Paths, monkeypatch: pytest.MonkeyPatch):
    for host, hub_id in {"box.lan": "box", "Émile's Mac": "mile-s-Mac", "...": "hub", "": "hub"}.items():
        monkeypatch.setattr(os, "uname", lambda host=host: type("Uname", (), {"nodename": host}))
        assert load(paths, ENVIRON).hub_id == hub_id


@pytest.mark.parametrize(
    ("environ", "me"),
    [
        ({"USER": "bob"}, "bob"),
        ({"LOGNAME": "bob"}, "bob"),
        ({"USERNAME": "bob"}, "bob"),
        ({"USER": "///"}, "me"),
    ],
)
def test_a_person_is_called_by_the_login_name(paths: Paths, environ: dict[str, str], me: str):
    assert load(paths, environ).me == me


@pytest.mark.skipif(sys.platform == "win32", reason="the user database of POSIX")
def test_without_a_login_name_in_the_environment_the_system_is_asked(paths: Paths):
    import pwd

    assert load(paths, {}).me == pwd.getpwuid(os.getuid()).pw_name


@pytest.mark.skipif(sys.platform == "win32", reason="the user database of POSIX")
def test_a_user_id_without_a_name_is_called_me(paths: Paths, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "getuid", lambda: 54_321)
    assert load(paths, {}).me == "me"


def test_the_environment_wins_over_the_file_and_origins_are_kept(paths: Paths):
    write(paths, 'hub_id = "filed"\nkeep_alive = true\n[limits]\npeers = 5\nping_s = 3\n')
    found = load(paths, ENVIRON | {"ECORELAY_HUB_ID": "set", "ECORELAY_LIMITS_PEERS": "7"})
    assert (found.hub_id, found.keep_alive, found.limits.peers, found.limits.ping_s) == ("set", True, 7, 3.0)
    assert found.origins["hub_id"] == "ECORELAY_HUB_ID"
    assert found.origins["limits.peers"] == "ECORELAY_LIMITS_PEERS"
    assert found.origins["keep_alive"] == found.origins["limits.ping_s"] == str(paths.config)
    assert found.origins["spawn"] == "default"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", True),
        ("true", True),
        ("TRUE", True),
        (" yes ", True),
        ("on", True),
        ("0", False),
        ("No", False),
        ("off", False),
    ],
)
def test_truth_values_may_be_spelt_in_many_ways_in_the_environment(paths: Paths, text: str, value: bool):
    assert load(paths, ENVIRON | {"ECORELAY_KEEP_ALIVE": text}).keep_alive is value


def test_an_empty_variable_is_none(paths: Paths):
    assert load(paths, ENVIRON | {"ECORELAY_TRANSPORT": "", "ECORELAY_LIMITS_PEERS": " "}) == load(
        paths, ENVIRON
    )


@pytest.mark.parametrize("key", sorted(load(Paths(Path("/nowhere")), ENVIRON).origins))
def test_every_setting_can_be_set_from_the_environment(paths: Paths, key: str):
    values = {"transport": "tcp", "durability": "process", "limits.data_bytes": "20000000"}
    value = "1" if key in ("keep_alive", "spawn") else values.get(key, "2")
    assert load(paths, ENVIRON | {variable(key): value}).origins[key] == variable(key)


def test_a_file_with_a_byte_order_mark_is_read(paths: Paths):
    write(paths, b"\xef\xbb\xbfspawn = false\r\n")
    assert load(paths, ENVIRON).spawn is False


NAME = r"a name: 1-64 characters of A-Z a-z 0-9 . _ -, beginning with a letter or digit"

MISTAKES = {
    "no TOML": ("spawn = \n", "FILE is no valid TOML: Invalid value (at line 1, column 9)"),
    "no TOML, further down": (
        'hub_id = "a"\n\n[limits\n',
        "FILE is no valid TOML: Expected ']' at the end of a table declaration (at line 3, column 8)",
    ),
    "a key twice": (
        "spawn = true\nspawn = true\n",
        "FILE is no valid TOML: Cannot overwrite a value (at line 2, column 13)",
    ),
    "nested too deeply": ("x = " + "[" * 5_000, "FILE is no valid TOML: nested too deeply"),
    "Latin-1": (b'hub_id = "a"\nme = "J\xf6rg"\n', "FILE is not UTF-8 (line 2): save it again as UTF-8"),
    "UTF-16": ("spawn = true".encode("utf-16"), "FILE is not UTF-8 (line 1): save it again as UTF-8"),
    "too long": (b"#" * 1_048_577, "FILE is longer than 1,048,576 bytes: is it really a settings file?"),
    "an unknown key": ('hubid = "x"', "hubid in FILE is no setting: do you mean hub_id?"),
    "an unknown key like none": (
        "xyzzy = 1",
        "xyzzy in FILE is no setting: take it out (the README lists all)",
    ),
    "an unknown table": (
        "[relay]\nhost = 1",
        "relay in FILE is no setting: take it out (the README lists all)",
    ),
    "an unknown limit": (
        "[limits]\nmailbox_mesages = 5",
        "limits.mailbox_mesages in FILE is no setting: do you mean limits.mailbox_messages?",
    ),
    "a limit outside its table": (
        "ping_s = 5",
        "ping_s in FILE is no setting: do you mean limits.ping_s (it stands under [limits])?",
    ),
    "a setting among the limits": (
        '[limits]\nhub_id = "x"',
        "limits.hub_id in FILE is no setting: do you mean hub_id (it stands above all tables)?",
    ),
    "limits that are no table": (
        "limits = 5",
        "limits in FILE is a whole number (5): it must be a table, [limits]",
    ),
    "a number for a name": ("hub_id = 5", f"hub_id is a whole number (5) in FILE: it must be {NAME}"),
    "a name with a space": ("me = 'a b'", f"me is a text ('a b') in FILE: it must be {NAME}"),
    "a name with a newline": ('me = "a\\n"', f"me is a text ('a\\n') in FILE: it must be {NAME}"),
    "a name too long": (f"me = '{'a' * 65}'", f"me is a text in FILE: it must be {NAME}"),
    "none of the choices": (
        "transport = 'udp'",
        "transport is a text ('udp') in FILE: it must be one of 'auto', 'tcp', 'unix'",
    ),
    "a number for a choice": (
        "durability = 1",
        "durability is a whole number (1) in FILE: it must be one of 'power', 'process'",
    ),
    "a number for a truth value": (
        "spawn = 1",
        "spawn is a whole number (1) in FILE: it must be true or false",
    ),
    "a text for a truth value": (
        "spawn = 'yes'",
        "spawn is a text ('yes') in FILE: it must be true or false",
    ),
    "a date": ("keep_alive = 1979-05-27", "keep_alive is a date or time in FILE: it must be true or false"),
    "a list": ("idle_exit_s = [1]", "idle_exit_s is a list in FILE: it must be a number, at least 0"),
    "a negative time": (
        "idle_exit_s = -1",
        "idle_exit_s is a whole number (-1) in FILE: it must be a number, at least 0",
    ),
    "infinite": (
        "idle_exit_s = inf",
        "idle_exit_s is a number (inf) in FILE: it must be a number, at least 0",
    ),
    "not a number": (
        "[limits]\nping_s = nan",
        "limits.ping_s is a number (nan) in FILE: it must be a number above 0",
    ),
    "zero seconds": (
        "[limits]\nlease_s = 0",
        "limits.lease_s is a whole number (0) in FILE: it must be a number above 0",
    ),
    "true for a number": (
        "[limits]\npeers = true",
        "limits.peers is a truth value (true) in FILE: it must be a whole number, at least 1",
    ),
    "a fraction for a whole number": (
        "[limits]\npeers = 1.5",
        "limits.peers is a number (1.5) in FILE: it must be a whole number, at least 1",
    ),
    "too small": (
        "[limits]\ndata_bytes = 1",
        "limits.data_bytes is a whole number (1) in FILE: it must be a whole number, at least 16,777,216",
    ),
    "too large": (
        "[limits]\ntext_bytes = 1_000_000",
        "limits.text_bytes is a whole number (1000000) in FILE: it must be a whole number from 1 to 524,288",
    ),
    "far too large": (
        "[limits]\npeers = 9999999999999999",
        "limits.peers is a whole number (9999999999999999) in FILE: it must be at most 9,007,199,254,740,991",
    ),
    "a number of more digits than Python reads": (
        "[limits]\npeers = " + "9" * 5_000,
        "FILE is no valid TOML: it holds a number that is far too long",
    ),
    "a number that no decimal spells": (
        "hub_id = 0x" + "f" * 5_000,
        "hub_id is a whole number in FILE: it must be a name: 1-64 characters of A-Z a-z 0-9 . _ -, "
        "beginning with a letter or digit",
    ),
    "a number too large for a fraction": (
        "idle_exit_s = 0x" + "f" * 5_000,
        "idle_exit_s is a whole number in FILE: it must be a number, at least 0",
    ),
    "a table for a limit": (
        "[limits.peers]\na = 1",
        "limits.peers is a table in FILE: it must be a whole number, at least 1",
    ),
}


@pytest.mark.parametrize(("text", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_in_the_file_is_named(paths: Paths, text: str | bytes, words: str):
    write(paths, text)
    with pytest.raises(ConfigError) as caught:
        load(paths, ENVIRON)
    assert caught.value.mistakes == (words.replace("FILE", str(paths.config)),)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "ECORELAY_LIMITS_PEERS",
            "many",
            "limits.peers is a text ('many') in ECORELAY_LIMITS_PEERS: it must be a whole number, at least 1",
        ),
        (
            "ECORELAY_IDLE_EXIT_S",
            "inf",
            "idle_exit_s is a text ('inf') in ECORELAY_IDLE_EXIT_S: it must be a number, at least 0",
        ),
        (
            "ECORELAY_KEEP_ALIVE",
            "maybe",
            "keep_alive is a text ('maybe') in ECORELAY_KEEP_ALIVE: it must be true or false",
        ),
        (
            "ECORELAY_TRANSPORT",
            "UNIX",
            "transport is a text ('UNIX') in ECORELAY_TRANSPORT: it must be one of 'auto', 'tcp', 'unix'",
        ),
        ("ECORELAY_HUBID", "x", "the variable ECORELAY_HUBID is no setting: do you mean ECORELAY_HUB_ID?"),
        (
            "ECORELAY_LIMITS_PEER",
            "5",
            "the variable ECORELAY_LIMITS_PEER is no setting: do you mean ECORELAY_LIMITS_PEERS?",
        ),
        (
            "ECORELAY_LIMITS_QQ",
            "5",
            "the variable ECORELAY_LIMITS_QQ is no setting: unset it (the README lists all)",
        ),
    ],
)
def test_a_mistake_in_the_environment_is_named(paths: Paths, name: str, value: str, words: str):
    with pytest.raises(ConfigError) as caught:
        load(paths, ENVIRON | {name: value})
    assert caught.value.mistakes == (words,)


def test_variables_of_other_parts_are_let_alone(paths: Paths):
    load(
        paths, ENVIRON | {"ECORELAY_HOME": "/x", "ECORELAY_LOG": "x", "RELAY_PEER_ID": "x", "ECORELAY_": "x"}
    )


def test_all_mistakes_are_named_at_once(paths: Paths):
    write(paths, "spawn = 1\nkeep_alive = 1\n")
    with pytest.raises(RelayError) as caught:
        load(paths, ENVIRON | {"ECORELAY_TRANSPORT": "x"})
    assert caught.value.code == "bad_args"
    assert [line.split()[0] for line in caught.value.message.split("\n")] == [
        "spawn",
        "keep_alive",
        "transport",
    ]


def test_a_file_that_cannot_be_read_is_named(paths: Paths):
    paths.config.mkdir()
    with pytest.raises(ConfigError, match=r"config\.toml cannot be read: Is a directory"):
        load(paths, ENVIRON)


@pytest.mark.guarantee("light-start")
def test_settings_are_read_without_loading_what_is_not_needed():
    code = """if True:
        import sys
        before = set(sys.modules)
        from ecorelay import config, paths
        config.load(paths.find_paths({"ECORELAY_HOME": "/nowhere"}), {})
        unwanted = {"typer", "platformdirs", "tomllib", "difflib", "trio", "socket", "config_words"}
        print(sorted(unwanted & (set(sys.modules) - before)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
