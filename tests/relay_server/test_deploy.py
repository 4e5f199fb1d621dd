"""What ships beside the server: a unit, a Dockerfile, and proxies before it, real ones if they are here."""

import json
import os
import re
import shutil
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from ecorelay.relay_wire import DATA, OPEN, SUBPROTOCOL
from tests.relay_server import clients
from tests.relay_server.clients import Identity, hub, over_tls, running, stream_number

DEPLOY = Path(__file__).parents[2] / "relay_server" / "deploy"
PATIENCE_S = 30


def needed(program):
    """Where it is, or the test is skipped."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not here")
    return found


def test_the_unit_gives_the_server_as_little_as_it_needs():
    unit = (DEPLOY / "ecorelay-relay.service").read_text()
    for line in (
        "DynamicUser=yes",
        "ProtectSystem=strict",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "LimitCORE=0",
        "LoadCredential=relay-config.json:/etc/ecorelay/relay-config.json",
    ):
        assert f"\n{line}\n" in unit


@pytest.mark.system
def test_systemd_itself_finds_nothing_wrong_with_the_unit(tmp_path):
    unit = (DEPLOY / "ecorelay-relay.service").read_text()
    path = tmp_path / "ecorelay-relay.service"
    path.write_text(unit.replace("/opt/ecorelay/bin/ecorelay-relay-server", "/bin/sh"))
    command = [needed("systemd-analyze"), "verify", "--man=no", str(path)]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    ran = subprocess.run(command, capture_output=True, check=False, timeout=60, env=environ)
    if b"Failed to initialize manager" in ran.stderr or b"Failed to connect" in ran.stderr:
        pytest.skip(f"systemd-analyze cannot work here: {ran.stderr.decode().strip()}")
    assert (ran.returncode, b"ecorelay-relay.service" in ran.stderr) == (0, False), ran


def test_the_image_is_nobody_in_particular_has_a_health_check_and_copies_what_there_is():
    lines = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^USER \d+$", lines, re.MULTILINE)
    assert "HEALTHCHECK" in lines
    top = DEPLOY.parents[1]
    for words in re.findall(r"^COPY (?!--)(.*)$", lines, re.MULTILINE):
        for name in words.split()[:-1]:
            assert (top / name).exists(), name
    secret = {"port": 9800}
    assert json.dumps(secret) in lines


@asynccontextmanager
async def proxied(command, port):
    """A proxy's process, once it listens."""
    async with trio.open_nursery() as nursery:
        process = await nursery.start(trio.run_process, command)
        with trio.fail_after(PATIENCE_S):
            while True:
                try:
                    stream = await trio.open_tcp_stream("127.0.0.1", port)
                except OSError:
                    assert process.poll() is None
                    await trio.sleep(0.05)
                else:
                    await stream.aclose()
                    break
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()


async def talk(server, port):
    """Two hubs through the proxy, and another that tries tokens: sources are told apart from the proxy."""
    through = clients.Here(server.server, port, server.lines)
    async with hub(through, hub_id="a") as one, hub(through, Identity(), hub_id="b") as other:
        assert one.socket.subprotocol == SUBPROTOCOL
        stream = stream_number()
        await one.send(OPEN, other.address, stream)
        await trio.sleep(2.5)  # longer than the proxy lets anything be silent
        for size in (1, 65_536, 65_536, 65_536):
            await one.send(DATA, other.address, stream, bytes(size))
        assert (await other.data()).kind == OPEN
        assert [len((await other.data()).payload) for _ in range(4)] == [1, 65_536, 65_536, 65_536]
        await other.send(DATA, one.address, stream, b"back")
        assert bytes((await one.data()).payload) == b"back"


@pytest.mark.system
async def test_through_a_real_nginx_longer_than_it_lets_anything_be_silent(
    tmp_path, monkeypatch, certificate, free_port
):
    program = needed("nginx")
    monkeypatch.setattr("ecorelay_relay_server.connection.PING_S", 0.2)
    monkeypatch.setattr("ecorelay_relay_server.server.TICK_S", 0.1)
    async with running() as server:
        cert, key = certificate
        ours = (DEPLOY / "nginx.conf").read_text()
        ours = re.sub(r"listen \[::\]:443 ssl;", "", ours).replace("443 ssl", f"127.0.0.1:{free_port} ssl")
        ours = ours.replace("127.0.0.1:9800", f"127.0.0.1:{server.port}").replace("120s", "1s")
        ours = re.sub(r"/etc/\S+/fullchain.pem", str(cert), ours)
        ours = re.sub(r"/etc/\S+/privkey.pem", str(key), ours)
        temporary = "".join(
            f"{name}_temp_path {tmp_path};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = tmp_path / "nginx.conf"
        user = "user root;" if os.getuid() == 0 else ""
        config.write_text(
            f"{user} daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
            f"events {{}}\nhttp {{ access_log off; {temporary}\n{ours}\n}}\n"
        )
        over_tls(monkeypatch, cert)
        command = [program, "-p", str(tmp_path), "-e", f"{tmp_path}/first.log", "-c", str(config)]
        async with proxied(command, free_port):
            await talk(server, free_port)
        assert json.loads(server.lines[0])["source"] == "127.0.0.1"


@pytest.mark.system
async def test_through_a_real_caddy(tmp_path, monkeypatch, certificate, free_port):
    program = needed("caddy")
    monkeypatch.setattr("ecorelay_relay_server.connection.PING_S", 0.2)
    monkeypatch.setattr("ecorelay_relay_server.server.TICK_S", 0.1)
    async with running() as server:
        cert, key = certificate
        ours = (DEPLOY / "Caddyfile").read_text()
        site = f"https://localhost:{free_port} {{\n\tbind 127.0.0.1\n\ttls {cert} {key}"
        ours = ours.replace("relay.example.org {", site).replace("127.0.0.1:9800", f"127.0.0.1:{server.port}")
        config = tmp_path / "Caddyfile"
        config.write_text("{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + ours)
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        over_tls(monkeypatch, cert)
        async with proxied([program, "run", "--config", str(config), "--adapter", "caddyfile"], free_port):
            await talk(server, free_port)
