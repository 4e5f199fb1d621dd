"""Another user of the machine: the file system keeps it out, and over TCP the token does."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stage import Machine
from tests.hostile.siege import attacker, ended, siege

NOBODY = 65534
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become another user"
)
# Prints what it could do; it should be nothing.
INTRUDE = """
assert os.geteuid() == 65534 and os.getegid() == 65534 and not os.getgroups()
def attempt(what, act, *args):
    try:
        act(*args)
    except PermissionError:
        return
    print(what)
attempt("connect", lambda: socket.socket(socket.AF_UNIX).connect(sys.argv[1]))
attempt("list", os.listdir, sys.argv[2])
for name in sys.argv[3:]:
    path = os.path.join(sys.argv[2], name)
    attempt("read " + name, open, path, "rb")
    attempt("write " + name, open, path, "ab")
    attempt("remove " + name, os.unlink, path)
attempt("make", open, os.path.join(sys.argv[2], "new"), "wb")
"""
# Without a token: straight to business, with a made-up proof, and with half of one.
KNOCK = """
for data in sys.argv[2:]:
    sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20)
    sock.sendall(data.encode())
    sock.shutdown(socket.SHUT_WR)
    heard = b""
    try:
        while more := sock.recv(65536): heard += more
    except ConnectionResetError: pass
    lines = heard.splitlines()
    assert all(line.startswith(b'{"type":"auth_challenge"') for line in lines) and len(lines) < 2, heard
"""
NONCE = "0" * 26
START = f'{{"type":"auth_start","nonce":"{NONCE}"}}\n'
HELLO = '{"type":"hello","versions":[1,1],"role":"observer"}\n{"type":"hub_status","req_id":1}\n'


@pytest.fixture
def in_the_open() -> Iterator[Machine]:
    """A machine whose data directory lies where everybody may go: nothing but its own modes protect it."""
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        machine = Machine(Path(root))
        yield machine
        machine.close()


@needs_root
@pytest.mark.guarantee("secrets-and-modes-0600")
async def test_another_user_can_neither_connect_nor_read_nor_write_anything(in_the_open: Machine):
    machine = in_the_open
    async with siege(machine):
        (machine.home / "config.toml").write_text("# mine\n")
        endpoint = machine.endpoint
        assert endpoint is not None
        names = sorted(path.name for path in machine.home.iterdir())
        assert {"hub.json", "hub.db", "hub.log", "hub.lock", "config.toml"} <= set(names)
        with attacker(machine, INTRUDE, endpoint.path, str(machine.home), *names, user=NOBODY) as child:
            assert await ended(child) == ""
        assert sorted(path.name for path in machine.home.iterdir()) == names


@needs_root
async def test_a_directory_opened_by_mistake_still_gives_nothing_of_the_hub_away(in_the_open: Machine):
    """As after a careless chmod: the modes of the files hold by themselves."""
    machine = in_the_open
    async with siege(machine):
        machine.home.chmod(0o755)
        endpoint = machine.endpoint
        assert endpoint is not None
        names = ("hub.json", "hub.db", "hub.db-wal", "hub.log", "hub.lock")
        script = INTRUDE.replace('attempt("list"', '0 and attempt("list"')
        with attacker(machine, script, endpoint.path, str(machine.home), *names, user=NOBODY) as child:
            assert await ended(child) == ""


@needs_root
async def test_over_tcp_another_user_gets_nothing_without_the_token(over_tcp: Machine):
    async with siege(over_tcp) as attack:
        endpoint = over_tcp.endpoint
        assert endpoint is not None
        proof = '{"type":"auth_proof","proof":"' + "0" * 64 + '"}\n'
        said = (HELLO, START + proof + HELLO, START + HELLO, "GET / HTTP/1.1\r\n\r\n")
        with attacker(over_tcp, KNOCK, str(endpoint.port), *said, user=NOBODY) as child:
            assert await ended(child) == ""
        await attack.counted("closed auth_failed", len(said))
