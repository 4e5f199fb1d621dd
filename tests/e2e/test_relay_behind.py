"""A relay server behind real web servers with TLS, hubs behind a real HTTP proxy, and their time-outs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.e2e.relays import Relay
from tests.e2e.sites import Load, Site, eventually, free_port, linked, start
from tests.e2e.stage import PATIENCE_S, POLL_S
from tests.helpers.certificates import certificate

pytestmark = pytest.mark.system
Make = Callable[..., Site]
IDLE_S = 25
"""After so long without a byte the programs in between hang up here; their defaults are a minute and more."""
PASSWORD = "password-of-the-proxy"

NGINX = """
daemon off; master_process off; worker_processes 1; error_log stderr; pid {folder}/nginx.pid;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl; server_name localhost;
    ssl_certificate {pem}; ssl_certificate_key {pem};
    location / {{
      proxy_pass http://127.0.0.1:{relay};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
      proxy_set_header Host $host;
      proxy_read_timeout {idle}s; proxy_send_timeout {idle}s;
    }}
  }}
}}
"""
CADDY = """
{{
  admin off
  auto_https off
}}
https://localhost:{port} {{
  tls {pem} {pem}
  reverse_proxy 127.0.0.1:{relay} {{
    transport http {{
      read_timeout {idle}s
    }}
  }}
}}
"""
TINYPROXY = """
Port {port}
Listen 127.0.0.1
Timeout {idle}
Allow 127.0.0.1
BasicAuth me {password}
LogLevel Warning
"""
COMMANDS = {
    "nginx": (NGINX, ["nginx", "-c", "{config}", "-p", "{folder}"]),
    "caddy": (CADDY, ["caddy", "run", "--adapter", "caddyfile", "--config", "{config}"]),
    "tinyproxy": (TINYPROXY, ["tinyproxy", "-d", "-c", "{config}"]),
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Make]:
    """Makes machines that listen nowhere; their hubs are ended with the test."""
    with ExitStack() as stack:

        def make(hub_id: str, **more: object) -> Site:
            made = Site(tmp_path / hub_id, hub_id, **{"port": 0, **more})  # type: ignore[arg-type]
            stack.callback(made.close)
            return made

        yield make


@asynccontextmanager
async def program(name: str, folder: Path, **facts: object) -> AsyncIterator[int]:
    """Run one of the programs in between; the port it listens at."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    port = free_port()
    folder.mkdir()
    text, words = COMMANDS[name]
    config = folder / f"{name}.conf"
    config.write_text(text.format(folder=folder, port=port, idle=IDLE_S, password=PASSWORD, **facts))
    process = _launch([word.format(config=config, folder=folder) for word in words], folder)
    try:
        with trio.fail_after(PATIENCE_S):
            while not await _answers(port):
                assert process.poll() is None, (folder / "out").read_text()
                await trio.sleep(POLL_S)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _launch(words: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with open(folder / "out", "wb") as out:
        environ = {**os.environ, "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environ)


async def _answers(port: int) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True


@asynccontextmanager
async def relaying(folder: Path, **settings: object) -> AsyncIterator[Relay]:
    relay = Relay(folder, **settings)
    try:
        await relay.start()
        yield relay
    finally:
        relay.close()


async def stays(site: Site, seconds: float) -> None:
    """It keeps its one connection while nobody says anything."""

    async def up() -> bool:
        relays = (await site.details()).relays
        return bool(relays) and relays[0].up

    await eventually(up)
    since = (await site.details()).relays[0].since
    await trio.sleep(seconds)
    [after] = (await site.details()).relays
    assert after.up
    assert abs(after.since - since) < 1_000


@pytest.mark.parametrize("name", ["nginx", "caddy"])
async def test_hubs_meet_behind_a_web_server_with_tls(tmp_path: Path, site: Make, name: str) -> None:
    pem = certificate(tmp_path, "localhost")
    async with (
        relaying(tmp_path / "relay") as relay,
        program(name, tmp_path / name, pem=pem, relay=relay.port) as port,
    ):
        here, there = site("here"), site("there")
        entry = relay.entry(url=f"wss://localhost:{port}/", ca=str(pem))
        for each in (here, there):
            each.configure(listen=None, bind=None, peers=None, relay=entry)
        await start(here, there)
        await linked(here, there)
        load = Load(here, there, pause_s=0.002)
        async with load.running():
            await trio.sleep(1)
            await relay.kill(signal.SIGTERM)
            await trio.sleep(0.5)
            await relay.start()
            took = await linked(here, there)
            print(f"behind {name}: linked again {took:.2f} s after a restart")
        assert await load.all_there() > 50
        away = await here.link(there)
        assert away.address == f"relay localhost:{port}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nginx", "caddy"])
async def test_a_hub_with_nothing_to_say_is_not_hung_up_on(tmp_path: Path, site: Make, name: str) -> None:
    pem = certificate(tmp_path, "localhost")
    async with (
        relaying(tmp_path / "relay") as relay,
        program(name, tmp_path / name, pem=pem, relay=relay.port) as port,
    ):
        here = site("here")
        entry = relay.entry(url=f"wss://localhost:{port}/", ca=str(pem))
        here.configure(listen=None, bind=None, peers=None, relay=entry)
        await here.start()
        await stays(here, IDLE_S + 10)


def own_address() -> str:
    """An address of this machine that is not loopback; empty: there is none. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        address: str = sock.getsockname()[0]
    return "" if address.startswith("127.") else address


@pytest.mark.slow
async def test_hubs_behind_a_proxy_reach_their_relay(tmp_path: Path, site: Make) -> None:
    address = own_address()
    if not address:
        pytest.skip("this machine has no address but loopback, which is never reached through a proxy")
    async with (
        relaying(tmp_path / "relay", bind="0.0.0.0") as relay,
        program("tinyproxy", tmp_path / "tinyproxy") as port,
    ):
        environ = {"http_proxy": f"http://me:{PASSWORD}@127.0.0.1:{port}"}
        here, there, alone = site("here", **environ), site("there", **environ), site("alone")
        entry = relay.entry(url=f"ws://{address}:{relay.port}")
        for each in (here, there):
            each.configure(listen=None, bind=None, peers=None, relay=entry)
        # A wrong password is told, and not shown.
        alone.environ["http_proxy"] = f"http://me:not-{PASSWORD}@127.0.0.1:{port}"
        alone.configure(listen=None, bind=None, peers=None, relay=entry)
        await alone.start()

        async def told() -> bool:
            return any("asks for a login" in each.trouble for each in (await alone.details()).relays)

        await eventually(told)
        assert PASSWORD not in repr(await alone.details())
        await start(here, there)
        await linked(here, there)
        load = Load(here, there, pause_s=0.002)
        async with load.running():
            await trio.sleep(1)
        assert await load.all_there() > 50
        logs = "".join(path.read_text() for each in (here, there) for path in each.home.glob("hub.log*"))
        assert logs
        assert PASSWORD not in logs
        await there.kill(signal.SIGTERM)
        await stays(here, IDLE_S + 10)
