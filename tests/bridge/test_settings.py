"""bridge.json: each mistake has its own sentence, and no sentence shows a secret."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ecorelay.config import ConfigError
from ecorelay.errors import RelayError
from ecorelay.settings_file import parse_json
from ecorelay_bridge.settings import Peer, Secret, Settings, parse_settings, read_settings
from ecorelay_bridge.settings_reader import is_own_address

EXAMPLE = Path(__file__).parents[2] / "bridge.example.json"
SECRET = "wjelQpMz83hfFe93kfhQv"
PIN = "SHA256:" + "A" * 43
WHERE = Path("/data/bridge.json")


def whole(**fields):
    """A bridge.json without mistakes, with other fields."""
    return {
        "hub_id": "machine-a",
        "listen": 9700,
        "secret": SECRET,
        "peers": [{"hub_id": "machine-b", "host": "192.168.1.20", "port": 9700}],
    } | fields


def parse(table) -> Settings:
    return parse_settings(table, WHERE, is_ours=lambda address: address == "192.168.1.10")


def mistakes(table) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse(table)
    assert refused.value.code == "bad_args"
    assert all(each.startswith(f"{WHERE}: ") for each in refused.value.mistakes)
    assert SECRET not in str(refused.value)
    return [each.removeprefix(f"{WHERE}: ") for each in refused.value.mistakes]


def mistake(table) -> str:
    found = mistakes(table)
    assert len(found) == 1, found
    return found[0]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o600)
    return path


# --- what is right -------------------------------------------------------------------------------


def test_the_example_parses_and_says_that_its_secret_is_no_secret(tmp_path) -> None:
    settings = read_settings(write(tmp_path / "bridge.json", EXAMPLE.read_bytes()))
    assert settings is not None
    assert settings.hub_id == "machine-a"
    assert (settings.listen, settings.bind) == (9700, "0.0.0.0")
    assert settings.peers == (Peer(hub_id="machine-b", host="192.168.1.20", port=9700),)
    assert [relay.url for relay in settings.relays] == ["wss://relay.example.org"]
    assert any("secret is the one of the example" in each for each in settings.warnings)


def test_everything_there_is() -> None:
    settings = parse(
        whole(
            bind="192.168.1.10",
            previous_secret="kWz83pfQ20vnM17cbqpA",
            peers=[{"hub_id": "machine-b", "host": "desk.local", "port": 9701, "identity": PIN}],
            relay=[{"url": "wss://a.example", "token": "t1"}, {"url": "ws://127.0.0.1:9800", "token": "t2"}],
            allow={"machine-b": ["mail", "broadcast"], "*": ["mail"]},
        )
    )
    assert settings.secrets == (Secret(SECRET), Secret("kWz83pfQ20vnM17cbqpA"))
    assert settings.peers[0].identity == settings.pinned("machine-b") == PIN
    assert settings.pinned("machine-c") == ""
    assert [relay.token for relay in settings.relays] == [Secret("t1"), Secret("t2")]
    assert settings.allows("MACHINE-B", "broadcast")
    assert settings.broadcast_wakes("machine-b")
    assert not settings.allows("machine-b", "rooms")
    assert not settings.allows("machine-c", "groups")
    assert settings.warnings == ()


def test_what_nobody_restricts_is_allowed_but_for_waking_by_broadcast() -> None:
    settings = parse(whole())
    assert all(settings.allows("anybody", what) for what in ("mail", "groups", "rooms", "broadcast"))
    assert not settings.broadcast_wakes("anybody")


def test_allow_as_a_list_is_for_every_hub() -> None:
    settings = parse(whole(allow=["mail"]))
    assert settings.allows("machine-b", "mail")
    assert not settings.allows("machine-b", "groups")


@pytest.mark.parametrize("absent", [{}, {"listen": 0}, {"listen": None, "peers": None, "relay": None}])
def test_a_hub_that_does_nothing_needs_no_secret(absent) -> None:
    settings = parse({"hub_id": "a", **absent})
    assert settings.secrets == ()
    assert not settings.federates


def test_dialing_only_is_fine() -> None:
    table = whole()
    del table["listen"]
    assert parse(table).listen == 0
    assert parse(table).federates


def test_no_file_is_no_federation(tmp_path) -> None:
    assert read_settings(tmp_path / "bridge.json") is None
    assert read_settings(tmp_path / "nowhere" / "bridge.json") is None


def test_a_byte_order_mark_is_accepted(tmp_path) -> None:
    path = write(tmp_path / "bridge.json", b"\xef\xbb\xbf" + json.dumps(whole()).encode())
    settings = read_settings(path)
    assert settings is not None
    assert settings.hub_id == "machine-a"


def test_a_peer_on_this_machine_with_another_port_is_fine() -> None:
    assert parse(whole(peers=[{"hub_id": "b", "host": "127.0.0.1", "port": 9701}])).peers[0].port == 9701


@pytest.mark.parametrize("host", ["desk", "desk.local", "::1", "[fe80::1]", "fe80::1%eth0", "10.0.0.7"])
def test_hosts_of_every_kind(host) -> None:
    peers = parse(whole(peers=[{"hub_id": "b", "host": host, "port": 1}])).peers
    assert peers[0].host == host.strip("[]")


# --- what is wrong, one by one -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hub_id": ""}, "hub_id is '': it must be a name"),
        ({"hub_id": "two words"}, "hub_id is 'two words': it must be a name"),
        ({"hub_id": "a\n"}, r"hub_id is 'a\n': it must be a name"),
        ({"hub_id": 7}, "hub_id is a number: it must be a name"),
        ({"hub_id": None}, "hub_id is null: it must be a name"),
        ({"listen": -1}, "listen is -1: there is no such port, it must be a whole number from 0 to 65,535"),
        ({"listen": 70000}, "listen is 70,000: there is no such port"),
        ({"listen": 10**40}, "listen is a huge number: there is no such port"),
        ({"listen": "9700"}, "listen is a text: it must be a whole number"),
        ({"listen": 97.5}, "listen is a number: it must be a whole number"),
        ({"listen": True}, "listen is true or false: it must be a whole number"),
        ({"bind": "eth0"}, "bind is 'eth0': it must be an IP address of this machine"),
        ({"bind": 0}, "bind is a number: it must be an address"),
        ({"secret": ""}, "secret is empty: `ecorelay bridge-init`"),
        ({"secret": "short"}, "secret is shorter than 8 characters"),
        ({"secret": " " * 9}, "secret is nothing but spaces"),
        ({"secret": "x" * 2000}, "secret is longer than 1,024 characters"),
        ({"secret": "a\tb\tc\td\te"}, "secret holds a character that is none"),
        ({"secret": "\ud800" * 9}, "secret holds a character that is none"),
        ({"secret": 12345678}, "secret is a number: it must be a text in quotes"),
        ({"secret": None}, "secret is null: it must be a text in quotes"),
        ({"previous_secret": ""}, "previous_secret is empty"),
        ({"peers": {}}, "peers is an object: it must be a list"),
        ({"peers": ["machine-b"]}, "entry 1 of peers is a text: it must be an object"),
        ({"relay": "wss://x"}, "relay is a text: it must be an object"),
        ({"allow": "mail"}, "allow is a text: it must be an object such as"),
        ({"allow": {"two words": []}}, "'two words' in allow is no hub_id"),
        ({"allow": {"b": "mail"}}, "b in allow must be a list of mail, groups"),
        ({"allow": {"b": ["mails"]}}, "'mails' in allow for b is not known: do you mean 'mail'?"),
        ({"allow": {"b": ["xyz"]}}, "'xyz' in allow for b is not known: known are mail, groups"),
        ({"allow": {"b": [], "B": []}}, "'B' stands twice in allow"),
        ({"secrets": "abcdefghij"}, "'secrets' is no field: do you mean 'secret'?"),
        ({"hubid": "x"}, "'hubid' is no field: do you mean 'hub_id'?"),
        ({"host": "x"}, "'host' is no field: it belongs into an entry of peers"),
        ({"token": "x"}, "'token' is no field: it belongs into relay"),
        ({"xyzzy": 1}, "'xyzzy' is no field: known are hub_id, listen"),
        ({"\x1b[31m": 1}, r"'\x1b[31m' is no field"),
        ({"bind": "fe80::1%\x1b[2J"}, r"bind is 'fe80::1%\x1b[2J': it must be an IP address of this machine"),
        ({"bind": "fe80::1%\ud800"}, r"bind is 'fe80::1%\ud800': it must be an IP address of this machine"),
    ],
)
def test_each_mistake_has_its_own_sentence(fields, said) -> None:
    assert mistake(whole(**fields)).startswith(said)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"port": 0}, "port in peers, entry 1 is 0: it must be the port where that hub listens"),
        ({"port": 70000}, "port in peers, entry 1 is 70,000: there is no such port"),
        ({"port": "9700"}, "port in peers, entry 1 is a text"),
        ({"host": ""}, "host in peers, entry 1 is '': it must be a machine's name"),
        ({"host": 1}, "host in peers, entry 1 is a number"),
        ({"host": "desk:9700"}, "host in peers, entry 1 is 'desk:9700': the port goes into the field port"),
        ({"host": "http://desk"}, "host in peers, entry 1 is 'http://desk': only the machine's name"),
        ({"host": "0.0.0.0"}, "host in peers, entry 1 is 0.0.0.0: that is no machine's address"),
        ({"host": "a b"}, "host in peers, entry 1 is 'a b': it must be a machine's name"),
        ({"host": "foo..bar"}, "host in peers, entry 1 is 'foo..bar': no machine can have that name"),
        ({"host": ".local"}, "host in peers, entry 1 is '.local': no machine can have that name"),
        ({"host": "a" * 64}, f"host in peers, entry 1 is '{'a' * 37}...': no machine can have that name"),
        ({"host": "ä" * 60}, "host in peers, entry 1 is '" + r"\xe4" * 37),
        ({"hub_id": "MACHINE-A"}, "hub_id in peers, entry 1 is MACHINE-A, this hub's own"),
        ({"hub_id": "x y"}, "hub_id in peers, entry 1 is 'x y': it must be a name"),
        ({"identity": "SHA256:abc"}, "identity in peers, entry 1 is no fingerprint"),
        ({"identity": 5}, "identity in peers, entry 1 is no fingerprint"),
        ({"prot": 1}, "'prot' is no field in peers, entry 1: do you mean 'port'?"),
        ({"secret": SECRET}, "'secret' is no field in peers, entry 1: it belongs at the top"),
    ],
)
def test_each_mistake_in_an_entry_of_peers_names_the_entry(entry, said) -> None:
    table = whole(peers=[{"hub_id": "machine-b", "host": "192.168.1.20", "port": 9700} | entry])
    assert mistake(table).startswith(said)


@pytest.mark.parametrize("field", ["hub_id", "host", "port"])
def test_what_is_missing_in_an_entry_is_named(field) -> None:
    entry = {"hub_id": "machine-b", "host": "192.168.1.20", "port": 9700}
    del entry[field]
    assert mistake(whole(peers=[entry])).startswith(f"{field} is missing in peers, entry 1")


def test_a_hub_id_that_stands_twice_is_named_with_both_entries() -> None:
    entry = {"host": "192.168.1.20", "port": 9700}
    table = whole(peers=[entry | {"hub_id": "b"}, entry | {"hub_id": "c"}, entry | {"hub_id": "B"}])
    assert mistake(table) == "hub_id B stands twice in peers, entries 1 and 3: take one out"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"url": "https://x", "token": "t"}, "url in relay is 'https://x': it must begin with wss://"),
        ({"url": "wss://", "token": "t"}, "url in relay is 'wss://': it must begin"),
        ({"url": "wss://x:99999", "token": "t"}, "url in relay is 'wss://x:99999'"),
        ({"url": "wss://me:hunter22@x", "token": "t"}, "url in relay is 'wss://x' with a name or password"),
        ({"url": "https://me:hunter22@x/y", "token": "t"}, "url in relay is 'https://x': it must begin"),
        ({"url": "wss://me:hunter22", "token": "t"}, "url in relay is 'wss://me': it must begin"),
        ({"url": "wss://[hunter22", "token": "t"}, "url in relay is no URL: it must begin"),
        ({"token": "t"}, "url in relay is missing"),
        ({"url": "wss://x"}, "token in relay is missing"),
        ({"url": "wss://x", "token": ""}, "token in relay is empty"),
        (
            {"url": "wss://x", "token": SECRET},
            "token in relay is the same as secret: the relay server must not",
        ),
        ({"url": "wss://x", "token": "t", "urls": 1}, "'urls' is no field in relay: do you mean 'url'?"),
        # What could not be said to a resolver, a server, or the system.
        ({"url": "wss://\ud800", "token": "t"}, "url in relay is 'wss://\\ud800': it must begin"),
        ({"url": "wss://x/\ud800", "token": "t"}, "url in relay is 'wss://x': it must begin"),
        ({"url": "wss://a..b", "token": "t"}, "url in relay is 'wss://a..b': it must begin"),
        ({"url": "wss://a\0b", "token": "t"}, "url in relay is 'wss://a\\x00b': it must begin"),
        ({"url": f"wss://{'x' * 64}", "token": "t"}, "url in relay is 'wss://xxx"),
        ({"url": f"wss://x/{'x' * 2_048}", "token": "t"}, "url in relay is 'wss://x': it must begin"),
        ({"url": "wss://x", "token": "\ud800"}, "token in relay holds half a character"),
        ({"url": "wss://x", "token": "t", "ca": "\0"}, "ca in relay is '\\x00': no file can have that name"),
    ],
)
def test_each_mistake_in_a_relay_has_its_own_sentence(entry, said) -> None:
    found = mistake(whole(relay=entry))
    assert found.startswith(said)
    assert "hunter22" not in found


def test_one_relay_twice_is_a_mistake() -> None:
    entry = {"url": "wss://x", "token": "t"}
    assert "stands twice" in mistake(whole(relay=[entry, entry]))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"peers": [{"hub_id": "b", "host": "x", "port": 1}]}, "secret is missing, and there are peers"),
        ({"listen": 9700}, "secret is missing, and listen is set"),
        (
            {"relay": {"url": "wss://x", "token": "t"}},
            "secret is missing, and there is a relay. The relay's token",
        ),
    ],
)
def test_a_secret_that_is_needed_and_missing_comes_with_the_line_to_add(table, said) -> None:
    found = mistake({"hub_id": "a"} | table)
    assert found.startswith(said)
    assert '"secret": "..."' in found


def test_a_previous_secret_alone_is_a_mistake() -> None:
    assert "previous_secret stands without secret" in mistake({"hub_id": "a", "previous_secret": SECRET})


def test_a_missing_hub_id_is_named() -> None:
    table = whole()
    del table["hub_id"]
    assert mistake(table).startswith("hub_id is missing")


def test_all_mistakes_are_said_at_once() -> None:
    assert (
        len(mistakes(whole(hub_id=1, listen=70000, bind="x", secret="", peers=5, relay=5, allow=5, x=1))) == 8
    )


def test_a_weak_secret_and_hubs_without_a_pin_are_warned_about() -> None:
    warnings = parse(whole(secret="password1")).warnings
    assert any("secret is weak" in each for each in warnings)
    assert any("no identity is pinned for machine-b" in each for each in warnings)
    assert not any("weak" in each for each in parse(whole()).warnings)


def test_a_previous_secret_that_is_the_same_is_left_out_with_a_warning() -> None:
    settings = parse(whole(previous_secret=SECRET))
    assert settings.secrets == (Secret(SECRET),)
    assert any("previous_secret is the same" in each for each in settings.warnings)


# --- JSON that is none ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n  "hub_id": "a",\n}', "line 2, column 16 is a comma before }: take it out"),
        ('{"peers": [1, 2 ,\n ]}', "line 1, column 17 is a comma before ]: take it out"),
        ('{"a": 1,\n "b" 2}', "line 2, column 6: a colon is missing"),
        ('{"a": 1\n "b": 2}', "line 2, column 2: a comma is missing before it"),
        ("{'a': 1}", "line 1, column 2: texts stand between double quotes"),
        ("{\"a\": 'x'}", "line 1, column 7: texts stand between double quotes"),
        ("{\u201ca\u201d: 1}", "line 1, column 2: these are typographic quotes"),
        ('{"a": 1} {', "line 1, column 10: the object has ended, but something follows"),
        ('{"a": 1, // x\n "b": 2}', "line 1, column 10: JSON knows no comments"),
        ('{"a": abc}', "line 1, column 7: a value is missing or is none"),
        ('{"a": "b\n"}', "line 1, column 9: a text goes over the end of its line"),
        ('{"a": "C:\\dir"}', "line 1, column 10: a backslash in a text must be written twice"),
        ('{"a": "b', "line 1, column 7: a text that begins there has no closing quote"),
        ('{"a": 1', "line 1, column 8: the file ends in the middle"),
        ("{a: 1}", "line 1, column 2: a field's name in double quotes"),
        ("[1]", "must be one JSON object"),
        ("7", "must be one JSON object"),
        ("", "is empty"),
        ("  \n ", "is empty"),
        ('{"a": 1, "a": 2}', "'a' stands there twice in one object"),
        ('{"a": NaN}', "a number that is none"),
        ('{"a": ' + "9" * 6000 + "}", "a number that is none"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_json_is_said_with_its_place(text, said) -> None:
    with pytest.raises(RelayError) as refused:
        parse_json(text.encode(), WHERE)
    assert refused.value.code == "bad_args"
    assert said in refused.value.message
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        (b'{\n"a": "\xff"}', "not UTF-8 (line 2)"),
    ],
)
def test_other_encodings_are_named(data, said) -> None:
    with pytest.raises(RelayError) as refused:
        parse_json(data, WHERE)
    assert said in refused.value.message


def test_a_broken_file_never_shows_the_secret(tmp_path) -> None:
    for broken in (
        f'{{"secret": "{SECRET}" "x"}}',
        f'{{"secret": "{SECRET}}}',
        f'{{"secret": {SECRET}}}',
        f'{{"secret": "{SECRET}", "secret": "{SECRET}"}}',
        f'{{"hub_id": "{SECRET} ", "secret": ["{SECRET}"], "listen": "{SECRET}"}}',
    ):
        with pytest.raises(RelayError) as refused:
            read_settings(write(tmp_path / "bridge.json", broken))
        if "hub_id" not in broken:
            assert SECRET not in str(refused.value)


@given(st.binary(max_size=200))
def test_any_bytes_give_settings_or_one_kind_of_error(data) -> None:
    try:
        parse(parse_json(data, WHERE))
    except RelayError as error:
        code = error.code
    else:
        return
    assert code == "bad_args"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["hub_id", "listen", "bind", "secret", "previous_secret", "peers", "relay", "allow", "x"]
)


@given(st.dictionaries(FIELDS, JSON))
def test_any_values_give_settings_or_one_kind_of_error(fields) -> None:
    try:
        parse(whole(**fields))
    except RelayError as error:
        code = error.code
    else:
        return
    assert code == "bad_args"


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["hub_id", "host", "port", "identity", "url", "token"]), JSON),
        max_size=3,
    )
)
def test_any_entries_give_settings_or_one_kind_of_error(entries) -> None:
    try:
        parse(whole(peers=entries, relay=entries))
    except RelayError as error:
        code = error.code
    else:
        return
    assert code == "bad_args"


# --- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "word"), [(0o644, "read"), (0o640, "read"), (0o666, "change")])
def test_a_file_others_could_open_is_made_private_and_said_so(tmp_path, mode, word) -> None:
    path = write(tmp_path / "bridge.json", json.dumps(whole()))
    path.chmod(mode)
    settings = read_settings(path)
    assert settings is not None
    assert path.stat().st_mode & 0o777 == 0o600
    assert any(f"others could {word}" in each for each in settings.warnings)
    again = read_settings(path)
    assert again is not None
    assert not any("others" in each for each in again.warnings)


def test_a_file_that_cannot_be_made_private_is_refused(tmp_path, monkeypatch) -> None:
    path = write(tmp_path / "bridge.json", json.dumps(whole()))
    path.chmod(0o644)

    def read_only(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "fchmod", read_only)
    with pytest.raises(RelayError, match="cannot be made private"):
        read_settings(path)


def test_a_file_of_somebody_else_is_refused(tmp_path, monkeypatch) -> None:
    path = write(tmp_path / "bridge.json", json.dumps(whole()))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(RelayError, match="belongs to user id"):
        read_settings(path)


def test_what_is_no_file_is_refused_without_waiting(tmp_path) -> None:
    path = tmp_path / "bridge.json"
    path.mkdir()
    with pytest.raises(RelayError, match="no file"):
        read_settings(path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(RelayError, match="no file"):
        read_settings(path)


def test_a_huge_file_is_refused(tmp_path) -> None:
    with pytest.raises(RelayError, match="longer than"):
        read_settings(write(tmp_path / "bridge.json", b" " * (1024 * 1024 + 1)))


def test_settings_show_no_secret() -> None:
    settings = parse(
        whole(previous_secret="kWz83pfQ20vnM17cbqpA", relay={"url": "wss://x", "token": "tokentoken"})
    )
    for private in (SECRET, "kWz83pfQ20vnM17cbqpA", "tokentoken"):
        assert private not in repr(settings)


def test_the_system_knows_which_addresses_are_this_machines() -> None:
    assert is_own_address("127.0.0.1")
    assert not is_own_address("192.0.2.1")
    assert not is_own_address("fe80::1%nowhere")
    settings = parse_settings(whole(bind="127.0.0.1"), WHERE)
    assert settings.bind == "127.0.0.1"
    assert not any("bind" in each for each in settings.warnings)
    assert any(
        "does not have that address" in each
        for each in parse_settings(whole(bind="192.0.2.1"), WHERE).warnings
    )


def test_an_address_the_machine_does_not_have_yet_is_no_mistake_of_the_file() -> None:
    settings = parse(whole(bind="192.168.1.99"))
    assert settings.bind == "192.168.1.99"
    assert any("does not have that address just now" in each for each in settings.warnings)


@pytest.mark.parametrize(
    ("bind", "host", "own"),
    [
        ("0.0.0.0", "127.0.0.1", True),
        ("0.0.0.0", "localhost", True),
        ("0.0.0.0", "192.168.1.10", True),
        ("0.0.0.0", "192.168.1.20", False),
        ("::", "::1", True),
        ("127.0.0.7", "127.0.0.7", True),
        ("127.0.0.7", "127.0.0.8", False),
        ("192.168.1.10", "127.0.0.1", False),
    ],
)
def test_a_peer_at_our_own_address_is_warned_about(bind, host, own) -> None:
    peers = [{"hub_id": "machine-b", "host": host, "port": 9700}]
    warnings = parse(whole(bind=bind, peers=peers)).warnings
    assert any("this hub's own address" in each for each in warnings) is own


@pytest.mark.parametrize("target", ["nowhere.json", "bridge.json"])
def test_a_link_that_leads_nowhere_is_a_mistake_and_no_missing_file(tmp_path, target) -> None:
    path = tmp_path / "bridge.json"
    path.symlink_to(tmp_path / target)
    with pytest.raises(RelayError):
        read_settings(path)


def test_a_pin_holds_however_the_name_is_spelt() -> None:
    peers = [{"hub_id": "Desk", "host": "192.168.1.20", "port": 9700, "identity": PIN}]
    assert parse(whole(peers=peers)).pinned("dESK") == PIN
