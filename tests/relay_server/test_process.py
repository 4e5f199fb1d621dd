"""The relay server as a person or a service manager runs it: a process, its command line, its signals."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from ecorelay.relay_wire import CLOSE_GOING, CLOSE_TOKEN, DATA, OPEN
from ecorelay_relay_server.settings import VARIABLE
from tests.relay_server.clients import TOKEN, Identity, hub, join, stream_number

PATIENCE_S = 60
CANARY = "a text that only the two hubs may see"


class Running:
    """A relay server's process."""

    def __init__(self, process, port, log, config):
        self.config = config
        self.process = process
        self.port = port
        self.log = log

    def lines(self):
        """Its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def events(self):
        return [line["event"] for line in self.lines()]

    async def logs(self, event):
        """Wait until it has logged that."""
        with trio.fail_after(PATIENCE_S):
            while event not in self.events():  # noqa: ASYNC110
                await trio.sleep(0.02)

    async def ended(self):
        """Its exit code."""
        with trio.fail_after(PATIENCE_S):
            while self.process.poll() is None:  # noqa: ASYNC110
                await trio.sleep(0.02)
        return self.process.returncode


def command(*words, **environ):
    """A command, to its end."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "ecorelay", "relay-server", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=without_settings() | environ,
        check=False,
    )


def limited(files):
    """Words before a command that let it open only so many files."""
    return [] if files is None else ["/bin/sh", "-c", f'ulimit -n {files} && exec "$@"', "sh"]


def without_settings():
    return {name: value for name, value in os.environ.items() if not name.startswith("ECORELAY_")}


@contextmanager
def serving(tmp_path, port, *, environ=None, stderr=None, files=None, **fields):
    """A process that listens, with that configuration."""
    config = tmp_path / "relay-config.json"
    config.write_text(json.dumps({"port": port, "secret": TOKEN, "bind": "127.0.0.1"} | fields))
    config.chmod(0o600)
    log = tmp_path / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [*limited(files), sys.executable, "-P", "-m", "ecorelay", "relay-server", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=file if stderr is None else stderr,
            env=without_settings() | (environ or {}),
        )
    running = Running(process, port, log, config)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


async def asks(port, request):
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        said = b""
        while data := await stream.receive_some():
            said += data
        return said


@pytest.mark.guarantee("relay-silent")
async def test_from_the_first_hub_to_sigterm_and_no_secret_anywhere(tmp_path, free_port):
    with serving(tmp_path, free_port, previous_secret="the token before this one") as server:
        await server.logs("listening")
        assert (await asks(server.port, b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\nok\n")
        async with hub(server, hub_id="a") as one, hub(server, hub_id="b") as other:
            stream = stream_number()
            await one.send(OPEN, other.address, stream)
            await one.send(DATA, other.address, stream, CANARY.encode())
            await other.data()
            assert bytes((await other.data()).payload) == CANARY.encode()
            server.process.send_signal(signal.SIGTERM)
            assert (await one.closed())[0] == (await other.closed())[0] == CLOSE_GOING
            assert await server.ended() == 0
        events = [event for event in server.events() if event != "settings"]
        assert events == ["listening", *["joined"] * 2, "signal", "ending", *["left"] * 2, "ended"]
        assert {line["code"] for line in server.lines() if line["event"] == "left"} == {CLOSE_GOING}
        log = server.log.read_text()
        assert not any(secret in log for secret in (TOKEN, "the token before", CANARY))


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads /proc")
async def test_a_secret_of_the_environment_is_in_no_argument(tmp_path, free_port):
    with serving(tmp_path, free_port, environ={VARIABLE: "the secret of the environment"}) as server:
        await server.logs("listening")
        async with hub(server, token="the secret of the environment"):
            words = Path(f"/proc/{server.process.pid}/cmdline").read_text()
            assert "relay-config.json" in words
            assert "secret of" not in words
        server.process.send_signal(signal.SIGINT)
        assert await server.ended() == 0


async def test_sighup_changes_the_token_and_a_mistake_changes_nothing(tmp_path, free_port):
    with serving(tmp_path, free_port) as server:
        await server.logs("listening")
        async with hub(server) as old:
            server.config.write_text('{"port": ')
            server.process.send_signal(signal.SIGHUP)
            await server.logs("not reloaded")
            said = next(line for line in server.lines() if line["event"] == "not reloaded")
            assert "line 1, column 10" in said["mistakes"][0]
            async with hub(server):
                pass
            fields = {"port": free_port, "bind": "127.0.0.1", "secret": "the new token, 123"}
            server.config.write_text(json.dumps(fields | {"previous_secret": TOKEN}))
            server.process.send_signal(signal.SIGHUP)
            await server.logs("reloaded")
            async with hub(server, token="the new token, 123") as new, hub(server):
                server.config.write_text(json.dumps(fields))
                server.process.send_signal(signal.SIGHUP)
                assert (await old.closed())[0] == CLOSE_TOKEN
                await new.send(OPEN, bytes(32), stream_number())
        server.process.terminate()
        assert await server.ended() == 0


async def test_whatever_a_changed_file_says_the_server_goes_on(tmp_path, free_port):
    with serving(tmp_path, free_port) as server:
        await server.logs("listening")
        async with hub(server) as one:
            fields = {"port": free_port, "bind": "127.0.0.1", "secret": TOKEN}
            for path in ("~nobody-at-all/x.pem", "x" * 300, "\ud800", "\0"):
                said = len(server.events())
                server.config.write_text(json.dumps(fields | {"tls_cert": path, "tls_key": path}))
                server.process.send_signal(signal.SIGHUP)
                with trio.fail_after(PATIENCE_S):
                    while "not reloaded" not in server.events()[said:]:  # noqa: ASYNC110
                        await trio.sleep(0.02)
            async with hub(server) as other:
                await one.send(OPEN, other.address, stream_number())
                assert (await other.data()).kind == OPEN
        server.process.terminate()
        assert await server.ended() == 0


async def test_silent_connections_never_use_up_the_files_that_may_be_open(tmp_path, free_port):
    few = 300
    with serving(tmp_path, free_port, files=few, max_hubs=40) as server:
        await server.logs("listening")
        silent = [await trio.open_tcp_stream("127.0.0.1", free_port) for _ in range(few)]
        async with hub(server, Identity()):
            assert "library" not in server.events(), "Trio says there that no more can be opened"
            assert "crowded" in {line.get("why") for line in server.lines()}
        for stream in silent:
            await trio.aclose_forcefully(stream)
        server.process.terminate()
        assert await server.ended() == 0


async def test_a_log_that_nobody_reads_keeps_no_hub_waiting(tmp_path, free_port):
    read, write = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    with serving(tmp_path, free_port, stderr=write) as server:
        os.close(write)
        with trio.fail_after(PATIENCE_S):
            while not await answers(free_port):  # noqa: ASYNC110
                await trio.sleep(0.02)
        with trio.fail_after(PATIENCE_S):
            for _ in range(60):
                async with hub(server):
                    pass
        # Who reads again is told how much was lost.
        lines: list[dict[str, object]] = []
        rest = b""
        with open(read, "rb", buffering=0) as log, trio.fail_after(PATIENCE_S):
            while not any(line["event"] == "log" for line in lines):
                async with hub(server):
                    pass
                *whole, rest = (rest + log.read(64 * 1024)).split(b"\n")
                lines += [json.loads(line) for line in whole]
        assert lines[0]["event"] == "listening"
        [lost] = [line["lost"] for line in lines if line["event"] == "log"]
        assert isinstance(lost, int)
        assert lost > 0
        server.process.terminate()
        assert await server.ended() == 0


async def answers(port):
    try:
        return b"ok" in await asks(port, b"GET /healthz HTTP/1.1\r\n\r\n")
    except OSError:
        return False


async def test_after_a_restart_hubs_come_back(tmp_path, free_port):
    identity = Identity()
    with serving(tmp_path, free_port) as server:
        await server.logs("listening")
        async with trio.open_nursery() as nursery:
            client = await join(nursery, server, identity)
            server.process.kill()
            assert (await client.closed())[0] == 1006
            nursery.cancel_scope.cancel()
    with serving(tmp_path, free_port) as server:
        await server.logs("listening")
        async with hub(server, identity), hub(server) as other:
            assert [each.address for each in other.here] == [identity.address.hex()]


def test_a_port_that_is_taken_is_an_error_that_says_so(tmp_path):
    config = tmp_path / "relay-config.json"
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        config.write_text(json.dumps({"port": port, "secret": TOKEN, "bind": "127.0.0.1"}))
        said = command(config)
    assert said.returncode == 2
    assert f"cannot listen at 127.0.0.1, port {port}" in said.stderr
    assert "Traceback" not in said.stderr


def test_init_writes_a_private_file_with_a_token_and_the_line_for_hubs(tmp_path):
    config = tmp_path / "relay-config.json"
    said = command("--init", config, "--port", 4711)
    assert said.returncode == 0, said
    assert config.stat().st_mode & 0o777 == 0o600
    written = json.loads(config.read_text())
    assert written["port"] == 4711
    line = json.loads("{" + said.stdout + "}")
    assert line == {"relay": {"url": "wss://HOST", "token": written["secret"]}}
    assert written["secret"] not in said.stderr
    again = command("--init", config)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert json.loads(config.read_text()) == written
    checked = command(config, "--check")
    assert checked.returncode == 0
    assert "port 4711 of every IPv4 address, plain ws://" in checked.stdout
    assert "note:" not in checked.stderr
    assert written["secret"] not in checked.stdout + checked.stderr


def test_check_says_all_that_is_wrong_and_starts_nothing(tmp_path):
    config = tmp_path / "relay-config.json"
    config.write_text(json.dumps({"port": 0, "secret": "short", "reallms": []}))
    said = command(config, "--check")
    assert said.returncode == 2
    assert "port is 0" in said.stderr
    assert "secret is shorter" in said.stderr
    assert "do you mean 'realms'" in said.stderr
    found = json.loads(command(config, "--check", "--json").stdout)
    assert found["ok"] is False
    assert len(found["mistakes"]) == 3


def test_a_certificate_that_is_none_is_an_error_before_anything_listens(tmp_path, certificate):
    cert, key = certificate
    config = tmp_path / "relay-config.json"
    fields = {"port": 4711, "secret": TOKEN, "tls_cert": str(key), "tls_key": str(cert)}
    config.write_text(json.dumps(fields))
    for words in ([config], [config, "--check"]):
        said = command(*words)
        assert said.returncode == 2
        assert "must be a certificate chain and its key without a password" in said.stderr
        assert "Traceback" not in said.stderr
    config.write_text(json.dumps(fields | {"tls_cert": str(cert), "tls_key": str(key)}))
    said = command(config, "--check")
    assert said.returncode == 0
    assert "wss:// with its own certificate" in said.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "CONFIG is missing"),
        (["--check"], "CONFIG is missing"),
        (["--init", "--check", "x"], "do not go together"),
        (["/nowhere/relay-config.json"], "there is no /nowhere/relay-config.json: `ecorelay relay-server"),
    ],
)
def test_wrong_words_are_explained(words, sentence):
    said = command(*words)
    assert said.returncode == 2
    assert sentence in said.stderr
    assert "Traceback" not in said.stderr


def test_it_starts_without_what_only_the_command_line_needs():
    code = (
        "import sys; import ecorelay_relay_server.main;"
        "print([name for name in ('typer', 'trio_websocket') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"


def test_the_console_script_is_the_same_command(tmp_path, monkeypatch, capsys):
    from ecorelay.cli import main

    config = tmp_path / "relay-config.json"
    config.write_text(json.dumps({"port": 4711, "secret": TOKEN}))
    monkeypatch.setattr(sys, "argv", ["ecorelay-relay-server", str(config), "--check"])
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main.relay_server())
    assert not ended.value.code
    assert "port 4711" in capsys.readouterr().out


def test_a_missing_package_is_an_error_that_says_what_to_install(tmp_path, monkeypatch):
    from ecorelay.cli import relay_start
    from ecorelay.errors import RelayError

    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(RelayError, match=r"needs cryptography: .*install"):
        relay_start.serve(str(tmp_path / "relay-config.json"))
