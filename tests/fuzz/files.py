"""Files that people write, and other people's settings files that we change."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import Request

from ecorelay import config, relay_wire
from ecorelay.errors import RelayError
from ecorelay.paths import Paths
from ecorelay.settings_file import parse_json
from ecorelay_adapters.clients import entry_file, json_entry, toml_entry
from ecorelay_adapters.clients.entry_file import Table, backup_path
from ecorelay_adapters.clients.json_text import beyond_json
from ecorelay_bridge.proxy import Proxy
from ecorelay_bridge.relay_road import Where
from ecorelay_bridge.settings import Settings, parse_settings
from ecorelay_relay_server import settings as relay_settings
from ecorelay_relay_server.judge import normal
from tests.fuzz.target import Target, scratch

_FOLDER = scratch()
_HOME = Path(_FOLDER.name)
SECRET = "kept-from-everybody-1234"
"""Stands in the seeds wherever a secret does: no error may quote it from there."""


_AS_SECRET = re.compile(rb'"(?:secret|previous_secret|token)"\s*:\s*"%s"' % SECRET.encode())


def _told(error: RelayError, data: bytes) -> None:
    """What a person is told of a file: it has words, and of the secrets none that stands in its place."""
    assert error.message
    if len(_AS_SECRET.findall(data)) == data.count(SECRET.encode()):
        assert SECRET not in error.message


# --- our own ---------------------------------------------------------------------------------------------


def config_toml(data: bytes) -> None:
    """Settings, or sentences about what is wrong; and what is right holds in any case."""
    paths = Paths(_HOME)
    paths.config.write_bytes(data)
    found, mistakes = config.survey(paths, {})
    assert found.limits.peers >= 1
    assert all(mistakes)
    try:
        assert config.load(paths, {}) == found
    except config.ConfigError as error:
        assert list(error.mistakes) == mistakes


def config_environment(data: bytes) -> None:
    """The same from variables, one a line as NAME=value."""
    lines = [line.partition("=") for line in data.decode("utf-8", "surrogateescape").split("\n")]
    environ = {name: value for name, _, value in lines}
    _, mistakes = config.survey(Paths(_HOME / "none"), environ)
    assert all(mistakes)


def bridge_json(data: bytes) -> None:
    """Settings that can be used for all they are for, or sentences that quote no secret."""
    path = Path("/home/ann/bridge.json")
    try:
        found = parse_settings(parse_json(data, path), path)
    except RelayError as error:
        _told(error, data)
        return
    if len(_AS_SECRET.findall(data)) == data.count(SECRET.encode()):
        assert SECRET not in repr(found)
    _used(found)


def _used(found: Settings) -> None:
    """Do with it what the bridge does before it says a word to anybody."""
    for secret in found.secrets:
        secret.reveal().encode()
    for peer in found.peers:
        assert 0 < peer.port < 65_536
        peer.host.encode("idna")
        found.pinned(peer.hub_id)
    for relay in found.relays:
        where = Where(relay.url)
        assert 0 < where.port < 65_536
        relay.token.reveal().encode()
        client = WSConnection(ConnectionType.CLIENT)
        head = client.send(Request(host=where.header, target=where.path, subprotocols=["x"]))
        assert head.split(b"\r\n")[1].lower().startswith(b"host: ")
        asked = Proxy("http", "proxy", 3128).request(where.host, where.port)
        assert asked.startswith(b"CONNECT ")
        assert asked.isascii()
        assert asked.count(b"\r\n") == 3
        where.host.encode("idna")
        assert len(relay.url) <= 2_048
        relay.url.encode()
        relay_wire.encode(relay_wire.Left(address="", reason=relay.url))
        assert "\0" not in relay.ca
        os.fsencode(relay.ca)
        normal(relay.url)


def relay_config_json(data: bytes) -> None:
    """The same of a relay server's settings."""
    path = _HOME / "relay-config.json"
    try:
        found = relay_settings.parse_settings(parse_json(data, path), path, {})
    except RelayError as error:
        _told(error, data)
        return
    if len(_AS_SECRET.findall(data)) == data.count(SECRET.encode()):
        assert SECRET not in repr(found)
    for realm in found.realms:
        assert realm.tokens
        for token in realm.tokens:
            token.reveal().encode()
    for url in found.urls:
        normal(url)


# --- other people's --------------------------------------------------------------------------------------

VALUES = {"command": "/opt/é", "args": ["mcp"], "env": {"A": "1"}}
_HOOK = {"command": "ours"}
_STOP = ("hooks", "stop")


def _is_hook(item: object) -> bool:
    return isinstance(item, dict) and item.get("command") == "ours"


def json_settings(data: bytes) -> None:
    """Any text has our entry then, and all else as before; or it is refused. Taken out, it is as it was."""
    with suppress(UnicodeDecodeError, RelayError):
        text = data.decode()
        before = json_entry.parse(text, "x")
        beyond_json(text, "x")
        for put, take in _EDITS:
            with suppress(RelayError):
                changed = put(text)
                assert put(changed) == changed
                left = take(changed)
                after = json_entry.parse(left, "x")
                if take(text) == text and before:  # nothing of ours was in it
                    assert _without_empty(after) == _without_empty(before)


_EDITS: tuple[tuple[Callable[[str], str], Callable[[str], str]], ...] = (
    (
        lambda text: json_entry.put(text, ("mcpServers", "ecorelay"), VALUES, "x"),
        lambda text: json_entry.take_out(text, ("mcpServers", "ecorelay"), "x"),
    ),
    (
        lambda text: json_entry.put_item(text, _STOP, _HOOK, _is_hook, "x"),
        lambda text: json_entry.take_item(text, _STOP, _is_hook, "x"),
    ),
)


def _without_empty(data: Mapping[str, Any]) -> str:
    """All of it but what of empty objects may have been ours, with NaN equal to itself."""
    return repr(_pruned(data, 2))


def _pruned(data: Any, depth: int) -> Any:
    if not isinstance(data, dict) or not depth:
        return data
    inner = {key: _pruned(value, depth - 1) for key, value in data.items()}
    return {key: value for key, value in inner.items() if value not in ({}, [])}


def toml_settings(data: bytes) -> None:
    """The same of TOML."""
    with suppress(UnicodeDecodeError, RelayError):
        text = data.decode()
        path = ("mcp_servers", "ecorelay")
        before = toml_entry.parse(text, "x")
        changed = toml_entry.put(text, path, VALUES, "x")
        assert toml_entry.find(toml_entry.parse(changed, "x"), path) is not None
        assert toml_entry.put(changed, path, VALUES, "x") == changed
        left = toml_entry.take_out(changed, path, "x")
        if toml_entry.find(before, path) is None:
            assert _without_empty(toml_entry.parse(left, "x")) == _without_empty(before)


def _on_disk(data: bytes, name: str, ours: Table) -> None:
    """Put ours into a file and out again: every byte is as it was; or it is refused, and was not touched."""
    with tempfile.TemporaryDirectory(dir=_HOME) as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        had_ours = True
        try:
            had_ours = entry_file.find(path, ours) is not None
            for step in entry_file.installing(path, ours, "x"):
                step.do()
        except RelayError:
            assert path.read_bytes() == data
            assert os.listdir(folder) == [name]
            return
        assert entry_file.is_current(path, ours)
        assert not had_ours or path.read_bytes() == data or not backup_path(path).exists()
        changed = path.read_bytes()
        try:
            for step in entry_file.removing(path, ours, "x"):
                step.do()
        except RelayError:
            assert path.read_bytes() == changed
            return
        if not had_ours:
            assert path.read_bytes() == data
            assert os.listdir(folder) == [name]


def json_file(data: bytes) -> None:
    """A settings file in JSON."""
    _on_disk(
        data,
        "settings.json",
        Table(format=json_entry, path=("mcpServers", "ecorelay"), values=lambda _: VALUES),
    )


def toml_file(data: bytes) -> None:
    """A settings file in TOML."""
    _on_disk(
        data,
        "config.toml",
        Table(format=toml_entry, path=("mcp_servers", "ecorelay"), values=lambda _: VALUES),
    )


_CONFIG = (
    b'hub_id = "desk"\nme = "ann"\nkeep_alive = true\nidle_exit_s = 1.5\n[limits]\npeers = 10\nlease_s = 5\n',
    "\ufefftransport = 'tcp'\r\n# é\r\nlimits.rooms = 3\r\n".encode(),
)
_ENVIRONMENT = (
    b"ECORELAY_HUB_ID=desk\nECORELAY_KEEP_ALIVE=yes\nECORELAY_LIMITS_PEERS=5\nUSER=ann\nECORELAY_X=1",
)
_BRIDGE = tuple(
    [
        json.dumps(each).encode()
        for each in (
            {
                "hub_id": "desk",
                "listen": 9788,
                "bind": "127.0.0.1",
                "secret": SECRET,
                "peers": [
                    {"hub_id": "far", "host": "far.example", "port": 9788, "identity": "SHA256:" + "A" * 43}
                ],
                "relay": {
                    "url": "wss://relay.example:444/x?y",
                    "token": "another-of-them-5678",
                    "ca": "ca.pem",
                },
                "allow": {"far": ["mail"], "*": ["mail", "groups"]},
            },
            {
                "hub_id": "desk",
                "secret": SECRET,
                "previous_secret": "abcdefghijk",
                "peers": [{"hub_id": "b", "host": "fe80::1%eth0", "port": 1}],
                "relay": [{"url": "ws://[::1]:81", "token": "t"}],
            },
        )
    ]
)
_RELAY = tuple(
    [
        json.dumps(each).encode()
        for each in (
            {
                "port": 9800,
                "secret": SECRET,
                "bind": "0.0.0.0",
                "max_hubs": 10,
                "realms": [{"name": "a", "secret": "another-of-them-5678", "max_hubs": 3}],
                "metrics_port": 9801,
                "metrics_bind": "127.0.0.1",
                "urls": ["wss://relay.example/x"],
                "proxies": ["10.0.0.0/8"],
            },
            {"port": 9800, "secret": SECRET, "tls_cert": "~/cert.pem", "tls_key": "key.pem"},
        )
    ]
)
_JSON = (
    b'{\n  // mine\n  "a": [1, 2.5e3, null],\n  "mcpServers": {\n    "other": {}, /* x */\n  },\n}\n',
    b'{"mcpServers":{"ecorelay":{"command":"x","env":{"A":"2"}},"b":1},"hooks":{"stop":[{"command":"ours"},3]}}',
    '\ufeff{"hooks": {"stop": [ {"command": "é"} ]},\r\n "x": "\\ud83d\\ude00"}\r\n'.encode(),
    b"// nothing yet\n",
    b"",
)
_TOML = (
    b'# mine\nmodel = "x"\n\n[mcp_servers.other]\ncommand = "y" # why\nargs = [\n  "a", # b\n]\n'
    b"\n[[p]]\na = 1.0\n",
    b'mcp_servers = { ecorelay = { command = "x" }, b = 1 }\n',
    b'[mcp_servers]\necorelay.command = "x"\necorelay.env = {A = "2"}\n[a.b]\nc = 2020-01-01T00:00:00Z\n',
    b'\xef\xbb\xbfx = """\r\na\\\r\n"""\r\n[mcp_servers.ecorelay.env]\r\nA = "1"\r\n',
    b"",
)
_JSON_WORDS = (
    b'"mcpServers"', b'"ecorelay"', b'"hooks"', b'"stop"', b'"command":"ours"', b"//", b"/*", b"*/", b",",
    b"{}", b"[]", b":", b"\r\n", b"\n  ", b"\xef\xbb\xbf", b"1e400",
)  # fmt: skip
_TOML_WORDS = (
    b"[mcp_servers.ecorelay]\n", b"mcp_servers.ecorelay.", b"[[mcp_servers]]\n", b'"""', b"'''", b"#",
    b"\r\n", b"=", b"nan", b"inf", b"0xff", b"1979-05-27", b"{", b"}", b"\\U00110000", b"[limits]\n",
)  # fmt: skip

TARGETS = (
    Target(
        "config-toml", config_toml, _CONFIG, (*_TOML_WORDS, b"peers = ", b"0x" + b"f" * 5_000, b"9" * 5_000)
    ),
    Target(
        "config-environment",
        config_environment,
        _ENVIRONMENT,
        (b"ECORELAY_", b"LIMITS_", b"=", b"\n", b"1e400"),
    ),
    Target(
        "bridge-json", bridge_json, _BRIDGE, (b'"relay":', b'"url":"', b"ws://", b"%", b"[", b"]", b"@", b".")
    ),
    Target(
        "relay-config-json",
        relay_config_json,
        _RELAY,
        (b'"realms":[', b'"secret":"', b"/33", b"~", b"\\u0000"),
    ),
    Target("json-settings", json_settings, _JSON, _JSON_WORDS),
    Target("json-file", json_file, _JSON, _JSON_WORDS),
    Target("toml-settings", toml_settings, _TOML, _TOML_WORDS),
    Target("toml-file", toml_file, _TOML, _TOML_WORDS),
)
