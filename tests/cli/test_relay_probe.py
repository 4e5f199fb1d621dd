"""`ecorelay relay-probe`: where its URL and token come from, and what it says when nobody is there."""

from __future__ import annotations

import json
import sys

import pytest

from ecorelay.cli import relay_probe_command, screen
from tests.bridge.hubs import free_port
from tests.helpers.command_line import run_here

TOKEN = "canary-of-the-token-of-128-bits-0123456789"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def configure(home, **relay) -> None:
    home.mkdir(mode=0o700)
    path = home / "bridge.json"
    path.write_text(json.dumps({"hub_id": "here", "secret": "a secret of some length", "relay": relay}))
    path.chmod(0o600)


def test_without_a_relay_and_without_a_url_there_is_nothing_to_probe(home, monkeypatch, capsys):
    said = run_here(home, monkeypatch, capsys, "relay-probe")
    assert said.code == 2
    assert "name its URL" in said.err


@pytest.mark.parametrize("url", ["http://relay.example.org", "relay.example.org", "wss://"])
def test_what_is_no_url_of_a_relay_is_refused(home, monkeypatch, capsys, url):
    said = run_here(home, monkeypatch, capsys, "relay-probe", url, ECORELAY_RELAY_TOKEN=TOKEN)
    assert said.code == 2
    assert "wss://" in said.err


def test_a_token_is_needed_and_never_an_argument(home, monkeypatch, capsys):
    monkeypatch.setattr(screen, "is_terminal", lambda stream: False)
    said = run_here(home, monkeypatch, capsys, "relay-probe", "ws://127.0.0.1:1")
    assert said.code == 2
    assert "ECORELAY_RELAY_TOKEN" in said.err


@pytest.mark.parametrize("source", ["environment", "bridge.json", "terminal"])
def test_a_server_that_is_not_there_is_named_and_the_token_is_not_shown(home, monkeypatch, capsys, source):
    url, settings = f"ws://127.0.0.1:{free_port()}", {}
    if source == "environment":
        settings["ECORELAY_RELAY_TOKEN"] = TOKEN
    elif source == "bridge.json":
        configure(home, url=url, token=TOKEN)
    else:
        monkeypatch.setattr(screen, "is_terminal", lambda stream: stream is sys.stdin)
        monkeypatch.setattr("getpass.getpass", lambda prompt, stream: TOKEN)
    words = ["relay-probe"] if source == "bridge.json" else ["relay-probe", f"{url}"]
    said = run_here(home, monkeypatch, capsys, *words, **settings)
    assert said.code == 1
    assert "nothing listens at port" in said.err
    assert "start the relay server" in said.err
    found = run_here(home, monkeypatch, capsys, *words, "--json", **settings)
    [relay] = found.json["relays"]
    assert (found.code, found.json["ok"], relay["ok"], relay["reason"]) == (
        1,
        False,
        False,
        "connection_refused",
    )
    assert TOKEN not in said.out + said.err + found.out + found.err


def test_nothing_typed_is_no_token(home, monkeypatch, capsys):
    monkeypatch.setattr(screen, "is_terminal", lambda stream: stream is sys.stdin)
    monkeypatch.setattr("getpass.getpass", lambda prompt, stream: "")
    said = run_here(home, monkeypatch, capsys, "relay-probe", "ws://127.0.0.1:1")
    assert (said.code, "nothing was typed" in said.err) == (2, True)
    assert relay_probe_command.TOKEN == "ECORELAY_RELAY_TOKEN"
