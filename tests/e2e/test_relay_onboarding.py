"""The first section of docs/relay.md, its commands as they stand there, with a real relay server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.sites import free_port
from tests.helpers.command_line import PATIENCE_S, CommandLine, Said

GUIDE = Path(__file__).parents[2] / "docs" / "relay.md"
URL = "wss://relay.example.org"


def commands() -> list[tuple[str, str]]:
    """Who calls what, in the order of the guide."""
    section = (
        GUIDE.read_text(encoding="utf-8").split("## From zero to two laptops talking\n")[1].split("\n### ")[0]
    )
    return re.findall(r"^(server|anna|ben)\$ +ecorelay (.*?)(?: +#.*)?$", section, re.MULTILINE)


class Laptop(CommandLine):
    """One of the two."""

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(root / name, ECORELAY_HUB_ID=name, USER=name)

    def wait_for(self, what: str, holds: Callable[[Said], bool], *words: str) -> None:
        """Call a command until what it says is as it should be."""
        until = time.monotonic() + PATIENCE_S
        while not holds(said := self(*words)):
            assert time.monotonic() < until, f"{what}: {said}"
            time.sleep(0.1)


class World:
    """A server and two laptops, all on loopback."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.laptops = {name: Laptop(root, name) for name in ("anna", "ben")}
        self.config = root / "relay-config.json"
        self.url = f"ws://127.0.0.1:{free_port()}"
        self.said: list[Said] = []
        self._running: list[subprocess.Popen[bytes]] = []

    def server(self, *words: str) -> None:
        """As somebody at the server; what there is at a port of this machine stands in for it."""
        command = [sys.executable, "-m", "ecorelay", *words]
        environ = self.laptops["anna"].environ
        if "--init" in words:
            subprocess.run(
                command, cwd=self.root, env=environ, check=True, capture_output=True, timeout=PATIENCE_S
            )
            port = int(self.url.rpartition(":")[2])
            made = json.loads(self.config.read_bytes())
            self.config.write_text(json.dumps({**made, "bind": "127.0.0.1", "port": port}))
            return
        with open(self.root / "relay.log", "ab") as log:
            process = subprocess.Popen(command, cwd=self.root, env=environ, stderr=log)
        self._running.append(process)
        until = time.monotonic() + PATIENCE_S
        while '"listening"' not in self.log():
            assert process.poll() is None, self.log()
            assert time.monotonic() < until
            time.sleep(0.05)

    def log(self) -> str:
        return (self.root / "relay.log").read_text(encoding="utf-8")

    def invites(self, laptop: Laptop) -> tuple[subprocess.Popen[bytes], bytes]:
        """A `bridge-invite` that waits, and its line."""
        process = laptop.start("bridge-invite")
        self._running.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert process.stdout.read() == b""  # who reads it in a pipe reads to its end
        return process, line

    def close(self) -> None:
        for process in self._running:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for laptop in self.laptops.values():
            laptop.end_hub()

    def secrets(self) -> list[str]:
        """All that nobody may see."""
        bridge = json.loads((self.laptops["anna"].paths.home / "bridge.json").read_bytes())
        return [bridge["secret"], json.loads(self.config.read_bytes())["secret"]]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    try:
        yield made
    finally:
        made.close()


def is_linked(said: Said) -> bool:
    """By what `hub status --json` says; no link is listed before the first."""
    return any(link["up"] for link in said.json["links"])


@pytest.mark.guarantee("relay-invitation")
def test_the_guide_from_zero_to_two_laptops_talking(world: World) -> None:
    done = []
    waiting: list[subprocess.Popen[bytes]] = []
    line = b""
    for who, text in commands():
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', text.replace(URL, world.url))]
        done.append(f"{who} {words[0]}")
        if who == "server":
            world.server(*words)
            continue
        laptop = world.laptops[who]
        if words == ["bridge-invite"]:
            process, line = world.invites(laptop)
            waiting.append(process)
            continue
        if words[0] == "bridge-check":
            laptop.wait_for("a link", is_linked, "hub", "status", "--json")
        if words[0] == "send":
            laptop.wait_for("the peer", lambda said: "api@ben" in said.out, "peers")
        token = json.loads(world.config.read_bytes())["secret"].encode() + b"\n"
        said = laptop(*words, stdin=line if "--join" in words else token if "--relay" in words else b"")
        world.said.append(said)
        if "--join" in words:
            _, talk = waiting[0].communicate(timeout=PATIENCE_S)
            assert waiting[0].returncode == 0, talk
            assert b"ben has joined; its identity is SHA256:" in talk
            world.said.append(Said(0, line.decode(), talk.decode()))
    assert done == [
        "server relay-server",
        "server relay-server",
        "anna bridge-init",
        "anna hub",
        "anna bridge-invite",
        "ben bridge-init",
        "ben hub",
        "anna bridge-check",
        "anna hub",
        "ben peers",
        "anna send",
        "ben inbox",
    ]
    assert "Hello across the internet" in world.said[-1].out
    homes = [laptop.paths.home for laptop in world.laptops.values()]
    first, second = [json.loads((home / "bridge.json").read_bytes()) for home in homes]
    assert (first["secret"], first["relay"]) == (second["secret"], second["relay"])
    assert (first["hub_id"], second["hub_id"], second["listen"]) == ("anna", "ben", 0)
    for secret in world.secrets():
        assert secret not in world.log()
        for said in world.said:
            assert secret not in said.out + said.err
        for log in (home / "hub.log" for home in homes):
            assert secret not in log.read_text(encoding="utf-8")


def test_a_wrong_token_is_told_at_once_and_a_relay_is_added_and_given_another_token(world: World) -> None:
    world.server("relay-server", "--init", "relay-config.json")
    world.server("relay-server", "relay-config.json")
    anna = world.laptops["anna"]
    words = ("bridge-init", "--relay", world.url)
    path = anna.paths.home / "bridge.json"
    refused = anna(*words, stdin=b"a token of 128 bits that is wrong 0123", code=2)
    assert "refuses this token" in refused.err
    assert not path.exists()
    anna("bridge-init", "--listen", "0")
    before = json.loads(path.read_bytes())
    assert anna(*words, stdin=b"a token of 128 bits that is wrong 0123", code=2).out == ""
    assert json.loads(path.read_bytes()) == before
    # The server's own file will do.
    added = anna(*words, "--json", stdin=world.config.read_bytes()).json
    assert added["relays"] == [world.url.removeprefix("ws://")]
    token = json.loads(world.config.read_bytes())["secret"]
    assert json.loads(path.read_bytes()) == {**before, "relay": {"url": world.url, "token": token}}
