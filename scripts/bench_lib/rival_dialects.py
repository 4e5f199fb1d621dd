"""The words of other programs that carry messages, as far as the loads say them.

Written from what these programs document and do on the wire; nothing of their code is here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from scripts.bench_lib.dialects import Incoming, Yardstick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class RivalRelay(Yardstick):
    """EcoRelay's socket: JSON, one object a line; a push is not acknowledged."""

    name = "EcoRelay"
    accepted = frozenset({"send_ack", "broadcast_ack"})
    refused = frozenset({"err"})
    pushes = frozenset({"incoming_message", "incoming_ask"})
    welcome = "ack"

    def hello(self, name: str, *, push: bool) -> bytes:
        hello = {"type": "register", "name": name, "cwd": "/", "git_branch": "", "protocol_version": "5"}
        return json.dumps(hello).encode() + b"\n"

    def sender(self, to: str, size: int, me: str = "") -> Callable[[int], bytes]:
        head = json.dumps({"type": "send", "to": to, "text": "x" * size})[:-1]
        return lambda number: f'{head},"req_id":"{number}"}}\n'.encode()

    def broadcaster(self, size: int, me: str = "") -> Callable[[int], bytes]:
        head = json.dumps({"type": "broadcast", "question": "x" * size})[:-1]
        return lambda number: f'{head},"broadcast_id":"b{number}"}}\n'.encode()

    def took(self, msg_ids: Iterable[str]) -> bytes:
        return b""

    def pong(self, ping: Incoming) -> bytes:
        return json.dumps({"type": "pong", "req_id": ping.req_id}).encode() + b"\n"


# --- NATS ----------------------------------------------------------------------------------------------

STREAM = "mail"
"""One stream keeps the mail of all, a subject for each peer, as many messages of each as a mailbox holds."""
_PUSHES, _SETUP = (b"2", b"4"), b"3"
"""Numbers of subscriptions."""
_SENT = Incoming("sent")
_WELCOME = Incoming("welcome")
_PING = Incoming("ping")


class NatsReader:
    """NATS' text protocol: MSG with its payload, PING, PONG, and what is passed over."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def __call__(self, data: bytes) -> list[Incoming]:
        """The frames that are complete; a push's `msg_id` is the subject that takes its acknowledgement."""
        data = self._rest + data
        frames: list[Incoming] = []
        at = 0
        while (end := data.find(b"\r\n", at)) >= 0:
            words = data[at:end].split(b" ")
            after = end + 2
            match words[0]:
                case b"MSG":
                    payload, after = after, after + int(words[-1]) + 2
                    if after > len(data):
                        break
                    if words[2] in _PUSHES:
                        frames.append(Incoming("push", msg_id=words[3].decode() if len(words) == 5 else ""))
                    else:
                        frames.append(_answer(words[2], data[payload : after - 2]))
                case b"PING":
                    frames.append(_PING)
                case b"PONG":
                    frames.append(_SENT)
                case b"-ERR":
                    frames.append(Incoming("failed", message=data[at:end].decode()))
                case _:  # INFO, +OK
                    pass
            at = after
        self._rest = data[at:]
        return frames


def _answer(subscription: bytes, payload: bytes) -> Incoming:
    if b'"error"' in payload:
        return Incoming("failed", message=payload.decode())
    return _WELCOME if subscription == _SETUP else _SENT


def _pub(subject: str, payload: bytes, reply: str = "") -> bytes:
    return f"PUB {subject} {reply} {len(payload)}\r\n".replace("  ", " ").encode() + payload + b"\r\n"


class JetStream(Yardstick):
    """NATS with a stream on disk: who publishes is answered when the message is in it, and each peer has a
    durable consumer, pushed to, that has each message acknowledged. To connect as `STREAM` makes the stream.
    """

    name = "NATS JetStream"
    accepted = frozenset({"sent"})
    refused = frozenset({"failed"})
    pushes_backlog = True

    def reader(self) -> Callable[[bytes], list[Incoming]]:
        return NatsReader()

    def hello(self, name: str, *, push: bool) -> bytes:
        if name == STREAM:
            return _CONNECT + b"SUB setup.stream 3\r\n" + _MAKE_STREAM
        consumer = {
            "name": name,
            "durable_name": name,
            "deliver_subject": f"to.{name}",
            "ack_policy": "explicit",
            "max_ack_pending": 20_000,
            "filter_subjects": [f"{STREAM}.{name}", f"{STREAM}.all"],
        }
        request = json.dumps({"stream_name": STREAM, "config": consumer}).encode()
        return (
            _CONNECT
            + f"SUB answers.{name} 1\r\nSUB to.{name} 2\r\nSUB setup.{name} 3\r\n".encode()
            + _pub(f"$JS.API.CONSUMER.CREATE.{STREAM}.{name}", request, f"setup.{name}")
        )

    def sender(self, to: str, size: int, me: str = "") -> Callable[[int], bytes]:
        line = _pub(f"{STREAM}.{to}", b"x" * size, f"answers.{me}")
        return lambda number: line

    def broadcaster(self, size: int, me: str = "") -> Callable[[int], bytes]:
        return self.sender("all", size, me)

    def took(self, msg_ids: Iterable[str]) -> bytes:
        return b"".join([b"PUB %b 0\r\n\r\n" % msg_id.encode() for msg_id in msg_ids if msg_id])

    def pong(self, ping: Incoming) -> bytes:
        return b"PONG\r\n"


_MAKE_STREAM = _pub(
    f"$JS.API.STREAM.CREATE.{STREAM}",
    json.dumps(
        {
            "name": STREAM,
            "subjects": [f"{STREAM}.>"],
            "storage": "file",
            "max_msgs_per_subject": 500,
            "discard": "old",
        }
    ).encode(),
    "setup.stream",
)
_CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"headers":false,"protocol":1}\r\n'


class CoreNats(JetStream):
    """NATS without a stream: what is published is kept nowhere, and who is not there misses it."""

    name = "NATS, nothing kept"

    def hello(self, name: str, *, push: bool) -> bytes:
        subjects = f"SUB live.{name} 2\r\nSUB live.all 4\r\nSUB setup.{name} 3\r\n"
        return _CONNECT + subjects.encode() + _pub(f"setup.{name}", b"")

    def sender(self, to: str, size: int, me: str = "") -> Callable[[int], bytes]:
        # Answered by PONG: the server has taken what came before.
        line = _pub(f"live.{to}", b"x" * size) + b"PING\r\n"
        return lambda number: line
