"""A hook's words with a hub that is not there, is stuck, lies, or speaks over TCP."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ecorelay import peercred
from ecorelay.names import is_id
from ecorelay_adapters import hub_line
from ecorelay_adapters.hub_line import HubLine, NoAnswer

WELCOME = {"type": "welcome", "version": 1, "hub_id": "hub", "app_version": "0", "name": "bob"}
PATIENCE_S = 5.0


class StandIn:
    """A hub as a test wants it, on a thread: `serve` has one connection's lines, written and read."""

    def __init__(self, home: Path, serve: Callable[[Any], None]) -> None:
        self.home = home
        self._serve = serve
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(home / "hub.sock"))
        self._listening.listen()
        self.say_where(transport="unix", path=str(home / "hub.sock"))
        self.others: list[threading.Thread] = []
        self.ended = threading.Event()
        """The test is over."""
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.ended.set()
        with suppress(OSError):  # wakes an accept that nobody came for
            self._listening.shutdown(socket.SHUT_RDWR)
        for thread in (self.thread, *self.others):
            thread.join(PATIENCE_S)
        self._listening.close()

    def say_where(self, **endpoint: Any) -> None:
        (self.home / "hub.json").write_text(json.dumps(endpoint))

    def _run(self) -> None:
        try:
            connection, _ = self._listening.accept()
            with connection, connection.makefile("rwb") as lines:
                self._serve(lines)
                lines.read()  # until the other side is gone
        except (OSError, ValueError):
            return


class Deaf(StandIn):
    """Takes no connection, and reads nothing."""

    def _run(self) -> None:
        self.ended.wait(PATIENCE_S)


def put(lines: Any, *frames: dict[str, Any] | bytes) -> None:
    for frame in frames:
        lines.write(frame if isinstance(frame, bytes) else json.dumps(frame).encode() + b"\n")
    lines.flush()


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[Callable[..., StandIn]]:
    """Makes the stand-in hub of a data directory; it ends with the test."""
    made: list[StandIn] = []

    def make(serve: Callable[[Any], None] = lambda lines: None, kind: type[StandIn] = StandIn) -> StandIn:
        made.append(kind(tmp_path, serve))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A data directory, and time enough for a busy machine."""
    monkeypatch.setattr(hub_line, "FIRST_WORD_S", PATIENCE_S)
    return tmp_path


def test_it_says_hello_asks_and_hangs_up(short, stand_in):
    heard: list[dict[str, Any]] = []

    def serve(lines: Any) -> None:
        heard.append(json.loads(lines.readline()))
        put(lines, {"type": "ping"}, WELCOME)
        heard.append(json.loads(lines.readline()))
        put(lines, {"type": "ping"}, {"type": "hook_page", "req_id": 1, "name": "bob"})

    hub = stand_in(serve)
    with HubLine(str(short), role="attach", client_pid=7) as line:
        page = line.ask("hook_page", PATIENCE_S, type="hook", event="prompt")
    assert page["name"] == "bob"
    hub.thread.join(PATIENCE_S)
    assert not hub.thread.is_alive()
    hello = {"type": "hello", "versions": [1, 1], "role": "attach", "client_pid": 7, "pid": os.getpid()}
    assert heard == [hello, {"type": "hook", "event": "prompt", "req_id": 1}]


@pytest.mark.parametrize("ours", [True, False])
def test_where_others_may_listen_it_speaks_to_our_own_user_alone(short, stand_in, monkeypatch, ours):
    heard: list[bytes] = []

    def serve(lines: Any) -> None:
        heard.append(lines.readline())
        put(lines, WELCOME)

    hub = stand_in(serve)
    home = short / "home"
    home.mkdir()
    (home / "hub.json").write_bytes((short / "hub.json").read_bytes())
    if not ours:
        stranger = peercred.PeerCred(os.geteuid() + 1, 0)
        monkeypatch.setattr(peercred, "peer_cred", lambda sock: stranger)
        with pytest.raises(NoAnswer):
            HubLine(str(home))
    else:
        with HubLine(str(home)):
            pass
    hub.thread.join(PATIENCE_S)
    assert bool(heard[0]) == ours


def test_a_long_answer_arrives_whole(short, stand_in):
    text = "日本\n" * 300_000

    def serve(lines: Any) -> None:
        lines.readline()
        put(lines, WELCOME)
        lines.readline()
        put(lines, {"type": "hook_page", "text": text})

    stand_in(serve)
    with HubLine(str(short)) as line:
        assert line.ask("hook_page", PATIENCE_S, type="hook")["text"] == text


@pytest.mark.parametrize(
    "answer",
    [
        {"type": "refused", "code": "not_registered", "message": "no"},
        b"\xff\xfe\n",
        b"{}\n",
        b"[]\n",
        b"[" * 100_000 + b"\n",
        b"",
    ],
)
def test_any_other_first_word_is_no_answer(short, answer, stand_in):
    def serve(lines: Any) -> None:
        lines.readline()
        put(lines, answer)
        raise ValueError("hangs up")

    stand_in(serve)
    with pytest.raises(NoAnswer):
        HubLine(str(short))


def test_a_failed_request_is_no_answer(short, stand_in):
    def serve(lines: Any) -> None:
        lines.readline()
        put(lines, WELCOME)
        lines.readline()
        put(lines, {"type": "failed", "req_id": 1, "code": "unexpected", "message": ""})

    stand_in(serve)
    with HubLine(str(short)) as line, pytest.raises(NoAnswer):
        line.ask("hook_page", PATIENCE_S, type="hook")


@pytest.mark.guarantee("hook-never-in-the-way")
def test_a_hub_that_says_nothing_is_not_waited_for(tmp_path, stand_in):
    stand_in()
    with pytest.raises(NoAnswer):
        HubLine(str(tmp_path))


def test_a_hub_that_never_reads_is_not_waited_for(tmp_path, monkeypatch, stand_in):
    stand_in(kind=Deaf)
    with pytest.raises(NoAnswer):
        HubLine(str(tmp_path), filler="x" * 10_000_000)


def test_after_its_time_nothing_is_asked(short, stand_in):
    def serve(lines: Any) -> None:
        lines.readline()
        put(lines, WELCOME)

    stand_in(serve)
    with HubLine(str(short)) as line, pytest.raises(NoAnswer):
        line.ask("hook_page", 0.0, type="hook")


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"{}", b'{"transport":"unix","path":3}'])
def test_without_a_hub_to_be_found_there_is_no_answer(tmp_path, content):
    if content is not None:
        (tmp_path / "hub.json").write_bytes(content)
    with pytest.raises(NoAnswer):
        HubLine(str(tmp_path))


def test_a_hub_that_died_is_no_answer(tmp_path, stand_in):
    stand_in().say_where(transport="unix", path=str(tmp_path / "gone"))
    with pytest.raises(NoAnswer):
        HubLine(str(tmp_path))


def test_a_file_of_somebody_else_is_not_followed(tmp_path, monkeypatch, stand_in):
    stand_in()
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(NoAnswer):
        HubLine(str(tmp_path))


# --- over TCP --------------------------------------------------------------------------------------------

TOKEN = "ab" * 32


def test_over_tcp_nothing_is_said_to_a_listener_that_does_not_know_the_token(short, stand_in):
    heard: list[bytes] = []

    def serve(lines: Any) -> None:
        heard.append(lines.readline())
        put(lines, {"type": "auth_challenge", "nonce": "0" * 26, "proof": "00" * 32})
        heard.append(lines.readline())

    hub = stand_in(serve)
    _over_tcp(hub, TOKEN)
    with pytest.raises(NoAnswer):
        HubLine(str(short), secret="text")
    hub.thread.join(PATIENCE_S)
    assert len(heard[0]) < 100
    assert heard[1] == b""


def test_over_tcp_a_token_that_was_cut_short_proves_nothing(short, stand_in):
    from ecorelay.loopback import _HUB, _proof

    def serve(lines: Any) -> None:
        nonce = json.loads(lines.readline())["nonce"]
        assert is_id(nonce)
        proof = _proof("ab" * 16, _HUB, nonce, "0" * 26)
        put(lines, {"type": "auth_challenge", "nonce": "0" * 26, "proof": proof})

    _over_tcp(stand_in(serve), "ab")
    with pytest.raises(NoAnswer):
        HubLine(str(short))


def _over_tcp(hub: StandIn, token: str) -> None:
    """The same stand-in, reached through a port."""
    port = socket.create_server(("127.0.0.1", 0))
    hub.say_where(transport="tcp", host="127.0.0.1", port=port.getsockname()[1], token=token)

    def forward() -> None:
        with port, port.accept()[0] as near, socket.socket(socket.AF_UNIX) as far:
            far.connect(str(hub.home / "hub.sock"))
            back = threading.Thread(target=_pump, args=(far, near), daemon=True)
            back.start()
            _pump(near, far)
            back.join(PATIENCE_S)

    hub.others.append(threading.Thread(target=forward, daemon=True))
    hub.others[-1].start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return
