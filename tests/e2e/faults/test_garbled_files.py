"""What stands beside the database is garbled: mail goes on, and each file's trouble is told."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest
import trio

from tests.e2e.stage import POLL_S, Machine, texts

pytest.importorskip("cryptography")


def garble(path: Path, rng: random.Random) -> None:
    """Cut somewhere, or with bytes in it that nobody wrote."""
    content = bytearray(path.read_bytes() if path.exists() else b"")
    if rng.random() < 0.5 and content:
        del content[rng.randrange(len(content)) :]
    else:
        content[: rng.randrange(len(content) + 1)] = rng.randbytes(40) + b'\xff{"'
    path.write_bytes(content)
    path.chmod(0o600)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


async def problem_of(machine: Machine) -> str:
    """What the hub says of its files, which it reads a moment after it listens."""
    with trio.fail_after(30):
        while not (problems := (await machine.status())["problems"]):  # noqa: ASYNC110 - another process's
            await trio.sleep(POLL_S)
    [problem] = problems
    return str(problem)


async def test_with_every_file_of_the_bridge_garbled_mail_goes_on_and_each_is_named(machine: Machine):
    seed = 11
    print("seed", seed)
    rng = random.Random(seed)
    await machine.cli("bridge-init", "--bind", "127.0.0.1", "--listen", str(free_port()))
    async with machine.assistants("ann") as (ann,):
        for name in ("bridge.json", "identity.pem", "known-hubs.json"):
            path = machine.home / name
            before = path.read_bytes() if path.exists() else None
            garble(path, rng)
            await machine.end_hub()
            sent = await ann.call("send", to=ann.name, text=name)
            assert sent["status"] == "queued"
            problem = await problem_of(machine)
            assert "no links to other hubs" in problem
            assert str(path) in problem
            if before is None:
                path.unlink()
            else:
                path.write_bytes(before)
        await machine.end_hub()
        assert texts(await ann.read_all()) == ["bridge.json", "identity.pem", "known-hubs.json"]
        assert (await machine.status())["problems"] == []


async def test_settings_that_are_garbled_do_not_cost_the_hub_that_runs(machine: Machine):
    async with machine.assistants("ann") as (ann,):
        pid = machine.hub_pid
        machine.paths.config.write_bytes(b"garbled\xff = {")
        said = await machine.cli("hub", "restart", code=2)
        assert str(machine.paths.config).encode() in said.stderr
        assert (await ann.call("send", to=ann.name, text="goes on"))["status"] == "queued"
        assert machine.hub_pid == pid
