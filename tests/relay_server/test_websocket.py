"""Frames, requests and answers, without a socket."""

import json
import os
import tracemalloc

import pytest
import wsproto
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage

from ecorelay.errors import WireError
from ecorelay.relay_wire import SUBPROTOCOL
from ecorelay_relay_server import websocket
from ecorelay_relay_server.head import Head, plain_answer, read_head
from ecorelay_relay_server.journal import Journal
from ecorelay_relay_server.outbox import Data
from ecorelay_relay_server.websocket import Closed, Pinged, Refusal


def handshake(subprotocols=(SUBPROTOCOL,), limit=1000):
    """A client and a server that know each other."""
    client = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    request = client.send(Request(host="relay", target="/", subprotocols=list(subprotocols)))
    response, server = websocket.accept(request)
    client.receive_data(response)
    accepted = next(iter(client.events()))
    assert isinstance(accepted, AcceptConnection)
    server.limit = limit
    return client, server, accepted


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 70_000])
def test_frames_of_any_size_are_what_a_websocket_client_reads(size):
    client, _, _ = handshake()
    sent = [Data(b"h" * 41, memoryview(b"x" * size)), "ä" * size]
    client.receive_data(b"".join(websocket.framed(sent)))
    events = [each for each in client.events() if each.data]
    assert b"".join(each.data for each in events if isinstance(each, BytesMessage)) == b"h" * 41 + b"x" * size
    assert "".join(each.data for each in events if isinstance(each, TextMessage)) == "ä" * size


def test_what_comes_in_pieces_is_given_in_whole():
    client, server, _ = handshake()
    wire = client.send(BytesMessage(data=b"ab", message_finished=False))
    wire += client.send(Ping(payload=b"in between"))
    wire += client.send(BytesMessage(data=b"cd"))
    wire += client.send(TextMessage(data="ünd"))
    wire += client.send(CloseConnection(code=1000, reason="bye"))
    found = []
    for at in range(len(wire)):
        found += [each for each in server.feed(wire[at : at + 1]) if each is not None]
    assert found == [Pinged(b"in between"), b"abcd", "ünd", Closed(1000, "bye")]


def test_every_frame_is_seen_so_that_none_is_free():
    client, server, _ = handshake()
    assert list(server.feed(client.send(Pong(payload=b"unasked")) * 3)) == [None, None, None]


@pytest.mark.parametrize("text", [True, False])
def test_a_message_over_the_limit_is_refused_before_it_is_whole(text):
    client, server, _ = handshake(limit=100)
    message = TextMessage(data="x" * 101) if text else BytesMessage(data=b"x" * 101)
    with pytest.raises(WireError, match="more than 100 bytes"):
        list(server.feed(client.send(message)))


def test_a_message_that_never_ends_is_refused_and_empty_parts_cost_nothing():
    client, server, _ = handshake(limit=100)
    for _ in range(1000):
        assert list(server.feed(client.send(BytesMessage(data=b"", message_finished=False)))) == [None]
    with pytest.raises(WireError):
        for _ in range(101):
            list(server.feed(client.send(BytesMessage(data=b"x", message_finished=False))))


@pytest.mark.parametrize(
    "part",
    [TextMessage(data="€", message_finished=False), BytesMessage(data=b"ab", message_finished=False)],
    ids=["text", "data"],
)
def test_a_message_in_very_many_parts_takes_no_more_memory_than_its_bytes(part):
    client, server, _ = handshake(limit=64 * 1024)
    wire = client.send(part)
    more = b"\x00" + wire[1:]
    count = 3_000
    list(server.feed(wire))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(100):
            list(server.feed(more * (count // 100)))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken < 3 * count * 3
    whole = next(iter(server.feed(b"\x80\x80\0\0\0\0")))
    size = len(part.data) * (count + 1)
    assert (type(whole), len(whole)) == (type(part.data), size)


def test_the_bound_of_a_text_is_in_bytes():
    client, server, _ = handshake(limit=100)
    assert list(server.feed(client.send(TextMessage(data="€" * 33)))) == ["€" * 33]
    with pytest.raises(WireError):
        list(server.feed(client.send(TextMessage(data="€" * 34))))


@pytest.mark.parametrize(
    "wire", [b"\x82\x01x", b"\xff\xff\xff\xff", b"\x81\x81\0\0\0\0\xff", b"\x89\xfe\0\x80"]
)
def test_what_is_no_frame_is_refused(wire):
    _, server, _ = handshake()
    with pytest.raises(WireError, match="no WebSocket frame"):
        list(server.feed(wire))


def test_pings_pongs_and_closes():
    client, _, _ = handshake()
    client.receive_data(websocket.ping(b"p") + websocket.pong(b"q") + websocket.close(4003, "ü" * 200))
    ping, pong, close = client.events()
    assert (ping.payload, pong.payload) == (b"p", b"q")
    assert close.code == 4003
    assert close.reason == "ü" * 61  # 123 bytes, cut between characters


def test_only_our_subprotocol_is_spoken_and_none_is_fine():
    assert handshake()[2].subprotocol == SUBPROTOCOL
    assert handshake(subprotocols=())[2].subprotocol is None
    assert handshake(subprotocols=("other", SUBPROTOCOL))[2].subprotocol == SUBPROTOCOL
    with pytest.raises(Refusal, match=SUBPROTOCOL):
        handshake(subprotocols=("other",))


def test_compression_is_not_agreed_to():
    request = wsproto.WSConnection(wsproto.ConnectionType.CLIENT).send(
        Request(host="x", target="/", extra_headers=[(b"Sec-WebSocket-Extensions", b"permessage-deflate")])
    )
    response, _ = websocket.accept(request)
    assert b"deflate" not in response


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        b"GET / HTTP/1.1\r\nx y\r\n\r\n",
        b"\r\n\r\n",
        # wsproto takes these for ASCII.
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: \xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Version: \xff\r\n\r\n",
    ],
)
def test_what_is_no_handshake_is_refused(request_):
    with pytest.raises(Refusal):
        websocket.accept(request_)


def test_a_request_is_read_as_far_as_it_matters():
    data = (
        b"GET /a?b HTTP/1.1\r\nHost: x\r\nUPGRADE: WebSocket\r\nX-Forwarded-For: 1.1.1.1\r\n"
        b"x-forwarded-for:2.2.2.2\r\n\r\nrest"
    )
    assert read_head(data) == Head("GET", "/a", upgrade=True, forwarded="1.1.1.1,2.2.2.2")
    assert read_head(b"SSH-2.0-OpenSSH\r\n\r\n") is None
    assert read_head(b"\xff\xfe\r\n\r\n") is None


@pytest.mark.parametrize(
    ("head", "status", "body"),
    [
        (Head("GET", "/healthz", False, ""), b"200 OK", b"ok\n"),
        (Head("HEAD", "/healthz", False, ""), b"200 OK", b""),
        (Head("GET", "/", False, ""), b"426 Upgrade Required", b"an ecorelay relay server"),
        (Head("POST", "/healthz", False, ""), b"405 Method Not Allowed", b"only GET"),
        (None, b"400 Bad Request", b"this is no HTTP request"),
    ],
)
def test_other_requests_get_a_short_clear_answer(head, status, body):
    said, _, rest = plain_answer(head).partition(b"\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert b"Connection: close" in said
    assert rest.startswith(body)
    assert bool(rest) == bool(body)


def test_a_flood_of_strangers_is_a_few_lines_and_a_number():
    lines: list[bytes] = []
    now = [0.0]
    journal = Journal(lines.append, monotonic=lambda: now[0], wall=lambda: 1.5)
    for _ in range(1000):
        journal.stranger("refused", "garbage", source="192.0.2.1")
    journal.stranger("refused", "token", source="192.0.2.1")
    now[0] = 2.0
    journal.stranger("refused", "garbage", source="192.0.2.1")
    found = [json.loads(line) for line in lines]
    assert len(found) < 30
    assert found[0] == {
        "ts": "1970-01-01T00:00:01.500Z",
        "level": "warning",
        "event": "refused",
        "why": "garbage",
        "source": "192.0.2.1",
    }
    assert found[-1]["left_out"] > 900


def test_hubs_are_all_told_of_but_for_a_flood_of_them():
    lines: list[bytes] = []
    journal = Journal(lines.append, monotonic=lambda: 0.0)
    for number in range(3_000):
        journal.hub("joined", hub_id=f"h{number}")
    journal.hub("left", hub_id="h0")
    found = [json.loads(line) for line in lines]
    assert [line["hub_id"] for line in found[:1_000]] == [f"h{number}" for number in range(1_000)]
    assert len(found) < 2_100
    assert found[-1]["event"] == "left"


def test_lines_that_cannot_be_written_are_counted(monkeypatch, capfd):
    full = [True]
    write = os.write

    def on_a_full_disk(number, data):
        if full[0]:
            raise OSError(28, "No space left on device")
        return write(number, data)

    monkeypatch.setattr("ecorelay_relay_server.journal.os.write", on_a_full_disk)
    journal = Journal()
    for _ in range(3):
        journal.say("x")
    full[0] = False
    journal.say("y")
    found = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["event"] for line in found] == ["log", "y"]
    assert found[0]["lost"] == 3


def test_a_line_has_nothing_that_could_disturb_a_terminal():
    lines: list[bytes] = []
    Journal(lines.append).say("x", said="\x1b[31m\u202e\x9b\ud800")
    assert lines[0].isascii()
    assert b"\x1b" not in lines[0]
    assert json.loads(lines[0])["said"] == "\x1b[31m\u202e\x9b\ud800"


def test_a_crash_is_logged_without_the_values_its_message_quotes():
    lines: list[bytes] = []
    try:
        raise ExceptionGroup("x", [ValueError("a secret value")])
    except ExceptionGroup as error:
        Journal(lines.append).crash("here", error)
    found = json.loads(lines[0])
    assert found["error"] == "ValueError"
    assert "secret" not in lines[0].decode()


def test_a_crash_that_somebody_causes_again_and_again_does_not_fill_the_disk():
    lines: list[bytes] = []
    journal = Journal(lines.append, monotonic=lambda: 0.0)
    for _ in range(1000):
        journal.crash("connection", ValueError())
    assert len(lines) < 30
