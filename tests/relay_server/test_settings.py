"""relay-config.json: every mistake has its sentence, and none of them shows a secret."""

import json
from pathlib import Path

import pytest

from ecorelay.config import ConfigError
from ecorelay.errors import RelayError
from ecorelay.secret import Secret
from ecorelay_relay_server.settings import VARIABLE, parse_settings, read_settings

SECRET = "wjelQpMz83hfFe93kfhQvXc7TbLs"
OTHER = "Qm0sPzX4kd93hfKwq2LmN"
PATH = Path("/etc/relay-config.json")


def parsed(environ=None, **fields):
    return parse_settings({"port": 9800, "secret": SECRET} | fields, PATH, environ or {})


def mistakes(table, environ=None):
    with pytest.raises(ConfigError) as caught:
        parse_settings(table, PATH, environ or {})
    found = [each.removeprefix(f"{PATH}: ") for each in caught.value.mistakes]
    assert not any(SECRET in each or OTHER in each for each in found)
    return found


def realm(name, secret=SECRET, **fields):
    return {"name": name, "secret": secret, **fields}


def test_two_fields_are_enough():
    settings = parsed()
    assert (settings.port, settings.bind, settings.max_hubs, settings.metrics_port) == (
        9800,
        "0.0.0.0",
        1000,
        0,
    )
    assert [(each.name, each.tokens, each.max_hubs) for each in settings.realms] == [
        ("default", (Secret(SECRET),), 1000)
    ]
    assert [str(each) for each in settings.proxies] == ["127.0.0.0/8", "::1/128"]
    assert settings.warnings == ()
    assert SECRET not in repr(settings)


def test_everything_there_is(tmp_path):
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("")
    table = {
        "port": 443,
        "secret": SECRET,
        "previous_secret": OTHER,
        "bind": "127.0.0.1",
        "tls_cert": "cert.pem",
        "tls_key": str(tmp_path / "key.pem"),
        "max_hubs": 50,
        "realms": [realm("lab", "a third secret 123", previous_secret="a fourth secret", max_hubs=7)],
        "metrics_port": 9801,
        "metrics_bind": "localhost",
        "urls": ["wss://relay.example.org"],
        "proxies": ["10.0.0.7"],
    }
    settings = parse_settings(table, tmp_path / "relay-config.json", {})
    assert settings.tls_cert == str(tmp_path / "cert.pem")
    assert [(each.name, len(each.tokens), each.max_hubs) for each in settings.realms] == [
        ("default", 2, 50),
        ("lab", 2, 7),
    ]
    assert settings.metrics_bind == "127.0.0.1"
    assert [str(each) for each in settings.proxies] == ["10.0.0.7/32"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"port": 0}, "port is 0: hubs must know where to connect, so choose one, such as 9800"),
        (
            {"port": 70000},
            "port is 70,000: there is no such port, it must be a whole number from 1 to 65,535",
        ),
        (
            {"port": -1},
            "port is -1: there is no such port, it must be a whole number from 1 to 65,535",
        ),
        ({"port": "9800"}, "port is a text: it must be a whole number from 1 to 65,535"),
        ({"port": True}, "port is true or false: it must be a whole number from 1 to 65,535"),
        ({"port": False}, "port is true or false: it must be a whole number from 1 to 65,535"),
        ({"port": 10**400}, "port is a huge number: there is no such port, it must be a whole"),
        ({"secret": ""}, "secret is empty: `ecorelay relay-server --init` makes a good one"),
        ({"secret": "short"}, "secret is shorter than 8 characters: `ecorelay relay-server --init`"),
        ({"secret": "x" * 1025}, "secret is longer than 1,024 characters"),
        ({"secret": " " * 9}, "secret is nothing but spaces: `ecorelay"),
        ({"secret": "12345678\n"}, "secret holds a character that is none"),
        ({"secret": "12345678\ud800"}, "secret holds a character that is none"),
        ({"secret": 12345678}, "secret is a number: it must be a text in quotes"),
        ({"secret": None}, "secret is null: it must be a text in quotes"),
        ({"previous_secret": SECRET}, "previous_secret is the same as secret: a token stands for one"),
        ({"previous_secret": "short"}, "previous_secret is shorter than 8 characters"),
        ({"bind": "relay.example.org"}, "bind is 'relay.example.org': it must be an IP address"),
        ({"bind": "192.0.2.1"}, "bind is 192.0.2.1: this machine does not have that address"),
        ({"bind": 5}, "bind is a number: it must be an address of this machine as a text"),
        ({"tls_cert": "x.pem"}, "tls_cert: there is no file /etc/x.pem"),
        ({"tls_cert": "~nobody-at-all/x.pem"}, "tls_cert: there is no file /etc/~nobody-at-all/x.pem"),
        ({"tls_cert": "x" * 300}, "tls_cert: /etc/xxx"),
        ({"tls_cert": "\ud800"}, "tls_cert: there is no file '\\ud800'"),
        ({"tls_key": "-----BEGIN PRIVATE KEY-----\nMC4"}, "tls_key is the text of a PEM file: it must be"),
        ({"tls_cert": "passwd"}, "tls_key is missing, and tls_cert is there: TLS needs both"),
        ({"tls_key": "passwd"}, "tls_cert is missing, and tls_key is there: TLS needs both"),
        ({"tls_cert": 1}, "tls_cert is a number: it must be the path of a PEM file"),
        ({"max_hubs": 0}, "max_hubs is 0: it must be a whole number from 1 to 100,000"),
        ({"max_hubs": 2.5}, "max_hubs is a number: it must be a whole number from 1 to 100,000"),
        ({"max_hubs": True}, "max_hubs is true or false: it must be a whole number"),
        ({"metrics_port": 70000}, "metrics_port is 70,000: there is no such port"),
        ({"metrics_port": 9800}, "metrics_port is 9800, the same as port: metrics need a port of their"),
        ({"metrics_bind": "x"}, "metrics_bind is 'x': it must be an IP address"),
        ({"realms": {}}, "realms is an object: it must be a list"),
        ({"realms": [{}] * 101}, "realms has 101 entries: at most 100"),
        ({"realms": ["x"]}, "entry 1 of realms is a text: it must be an object"),
        ({"realms": [realm("a b", OTHER)]}, "name in realms, entry 1 is 'a b': it must be a name"),
        ({"realms": [{"secret": OTHER}]}, "name in realms, entry 1 is missing: it must be a name"),
        ({"realms": [realm(5, OTHER)]}, "name in realms, entry 1 is a number: it must be a name"),
        ({"realms": [{"name": "a"}]}, "secret is missing in realms, entry 1: `ecorelay"),
        (
            {"realms": [{"name": "a", "previous_secret": OTHER}]},
            "previous_secret in realms, entry 1 stands without secret",
        ),
        ({"realms": [realm("a")]}, "secret in realms, entry 1 is the same as secret: a token stands for"),
        (
            {"realms": [realm("Default", OTHER)]},
            "realm Default is there twice, secret at the top and entry 1: rename one",
        ),
        ({"realms": [realm("a", OTHER, max_hubs=-1)]}, "max_hubs in realms, entry 1 is -1: it must be"),
        ({"realms": [realm("a", OTHER, port=1)]}, "'port' is no field in realms, entry 1: known are name"),
        ({"urls": ["https://x"]}, "'https://x' in urls is no relay URL: as in hubs' bridge.json"),
        ({"urls": [5]}, "urls is a list: it must be a list of texts"),
        ({"urls": ["wss://x"] * 101}, "urls has 101 entries: at most 100"),
        ({"proxies": ["10.0.0.1/8"]}, "'10.0.0.1/8' in proxies is no address or network: write"),
        ({"proxies": 5}, "proxies is a number: it must be a list of texts"),
        ({"prot": 9800}, "'prot' is no field: do you mean 'port'?"),
        ({"max_hub": 5}, "'max_hub' is no field: do you mean 'max_hubs'?"),
        ({"hub_id": "x"}, "'hub_id' is no field: it belongs into a hub's bridge.json"),
        ({"token": "x"}, "'token' is no field: here it is called secret"),
        ({"x\x1b[1m": 1}, "'x\\x1b[1m' is no field: known are port, secret"),
        # What the system does not even take for a question.
        ({"bind": "fe80::1%\0"}, "bind is 'fe80::1%\\x00': it must be an IP address"),
        ({"bind": "fe80::1%\ud800"}, "bind is 'fe80::1%\\ud800': it must be an IP address"),
        ({"tls_cert": "~nobody-of-this-name/x", "tls_key": "k"}, "tls_cert: there is no file /etc/~nobody"),
        ({"tls_cert": "~a\0b/x", "tls_key": "k"}, "tls_cert: there is no file /etc/~a"),
    ],
)
def test_each_mistake_has_its_sentence(fields, sentence):
    found = mistakes({"port": 9800, "secret": SECRET} | fields)
    assert any(each.startswith(sentence) for each in found), found


def test_a_missing_port_and_a_missing_secret():
    assert mistakes({"secret": SECRET}) == ["port is missing: the port where hubs connect, such as 9800"]
    assert mistakes({"port": 9800})[0].startswith('secret is missing: add  "secret": "..."')
    assert mistakes({"port": 9800, "previous_secret": SECRET}) == [
        "previous_secret stands without secret: the one in use goes into secret"
    ]


def test_all_mistakes_are_said_at_once():
    assert len(mistakes({"port": 0, "secret": "", "bind": 1, "prot": 2})) == 4


def test_realms_need_no_secret_at_the_top():
    settings = parse_settings({"port": 1, "realms": [realm("a"), realm("b", OTHER)]}, PATH, {})
    assert [each.name for each in settings.realms] == ["a", "b"]


def test_two_realms_may_not_have_one_name_or_one_secret():
    found = mistakes({"port": 1, "realms": [realm("a"), realm("A", SECRET)]})
    assert found[0].startswith("realm A is there twice, entry 1 and entry 2")
    assert found[1].startswith("secret in realms, entry 2 is the same as secret in realms, entry 1")


def test_the_environment_gives_the_secret_before_the_file():
    settings = parse_settings({"port": 1}, PATH, {VARIABLE: OTHER})
    assert settings.realms[0].tokens == (Secret(OTHER),)
    settings = parse_settings({"port": 1, "secret": SECRET}, PATH, {VARIABLE: OTHER})
    assert settings.realms[0].tokens == (Secret(OTHER),)
    assert parsed({VARIABLE: ""}).realms[0].tokens == (Secret(SECRET),)
    assert mistakes({"port": 1}, {VARIABLE: "short"})[0].startswith(f"{VARIABLE} is shorter than 8")


def test_weak_secrets_are_warned_about():
    assert "weak" in parsed(secret="password").warnings[0]
    assert "wss:// only" in parsed(secret="correcthorsebattery").warnings[0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty: `ecorelay relay-server --init` writes one"),
        (b"{", "line 1, column 2"),
        (b'{"port": 9800,\n "secret": \'x\'}', "line 2, column 12"),
        (b'{"port": 9800, "secret": "' + SECRET.encode() + b'",}', "is a comma before }"),
        (b"[]", "must be one JSON object"),
        (b'{"port": 1, "port": 2}', "'port' stands there twice"),
        (b'{"secret": "\xff"}', "is not UTF-8 (line 1)"),
        (b"\xff\xfe{\x00}\x00", "is UTF-16"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_json_says_where(tmp_path, data, words):
    path = tmp_path / "relay-config.json"
    path.write_bytes(data)
    with pytest.raises(RelayError) as caught:
        read_settings(path, {})
    assert words in caught.value.message
    assert SECRET not in caught.value.message


def test_a_byte_order_mark_is_fine_and_the_file_is_made_private(tmp_path):
    path = tmp_path / "relay-config.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"port": 9800, "secret": SECRET}).encode())
    path.chmod(0o644)
    settings = read_settings(path, {})
    assert path.stat().st_mode & 0o777 == 0o600
    assert "0600 now" in settings.warnings[0]
    assert read_settings(path, {}).warnings == ()


def test_no_file_says_how_to_make_one(tmp_path):
    with pytest.raises(RelayError, match="--init"):
        read_settings(tmp_path / "relay-config.json", {})


def test_a_file_of_somebody_else_is_taken_as_it_is_and_looked_at(tmp_path, monkeypatch):
    path = tmp_path / "relay-config.json"
    path.write_text(json.dumps({"port": 9800, "secret": SECRET}))
    path.chmod(0o440)
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    assert read_settings(path, {}).warnings == ()
    path.chmod(0o444)
    assert "every user of this machine" in read_settings(path, {}).warnings[0]
    assert path.stat().st_mode & 0o777 == 0o444
