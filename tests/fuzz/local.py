"""Doors of the local hop: frames, lines, the loopback proof, hub.json."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ecorelay import loopback, wire
from ecorelay.endpoint import read_endpoint
from ecorelay.errors import WireError
from ecorelay.framing import LineSplitter
from ecorelay.names import is_id
from tests.fuzz.target import Target, chunks, finish, scratch
from tests.wire.examples import EXAMPLES, ID

DECODERS = (wire.decode_from_session, wire.decode_to_session, wire.decode_auth, wire.decode_challenge)
FRAMES = tuple(dict.fromkeys([wire.encode(frame).rstrip() for frame in EXAMPLES]))


def local_frame(data: bytes) -> None:
    """A line is a frame, which survives the way there and back, or a WireError that quotes none of it."""
    for decode in DECODERS:
        try:
            frame = decode(data)
        except WireError as error:
            assert len(error.message) < 300
            assert error.req_id is None or 0 <= error.req_id <= wire.REQ_ID_MAX
            continue
        line = wire.encode(frame)
        assert line.count(b"\n") == 1
        assert decode(line.rstrip(b"\n")) == frame
        if isinstance(frame, wire.Request):
            assert wire.find_req_id(line) == frame.req_id


def lines(data: bytes) -> None:
    """However a stream is cut, its lines are the same, and one too long ends it in the same place."""
    limit, data = (data[0] if data else 0) + 1, data[1:]

    def split(pieces: list[bytes]) -> list[bytes | None]:
        splitter, found = LineSplitter(limit), list[bytes | None]()
        try:
            for piece in pieces:
                found.extend(splitter.feed(piece))
        except WireError:
            found.append(None)
        assert splitter.pending <= limit + 256 or found[-1:] == [None]
        return found

    cut = split(chunks(data))
    assert cut == split([data[1:]])
    assert all(line is None or 0 < len(line) <= limit for line in cut)


_TOKEN = "f" * 64
_NONCE = "01j5zk3m8v9w2x4y6z7abcdefg"


def loopback_proof(data: bytes) -> None:
    """Nobody passes who does not know the token, and what is said to it is a proof that it cannot use."""
    for prove in (loopback.prove_to_client, loopback.prove_to_hub):
        told = iter(data.split(b"\n"))
        said: list[bytes] = []

        async def receive() -> bytes:
            line = next(told, None)  # noqa: B023 - called before the next round
            if line is None:
                raise WireError("the end")
            return line

        async def send(line: bytes) -> None:
            said.append(line)  # noqa: B023

        with suppress(WireError):
            finish(prove(receive, send, token=_TOKEN, nonce=_NONCE))
            raise AssertionError("it was let in")
        assert len(said) <= 1
        assert not any(_TOKEN.encode() in line for line in said)


_FOLDER = scratch()


def hub_json(data: bytes) -> None:
    """A hub.json leads somewhere that can be tried, or nowhere."""
    path = Path(_FOLDER.name, "hub.json")
    path.write_bytes(data)
    endpoint = read_endpoint(path)
    if endpoint is None:
        return
    if endpoint.transport == "unix":
        assert endpoint.path
        assert "\0" not in endpoint.path
    else:
        assert 0 < endpoint.port < 65_536
        endpoint.token.encode()
    assert 0 < endpoint.pid < 2**63


_UNIX = (
    b'{"pid":4242,"pid_start":99,"version":"0.1.0","protocol":[1,1],"hub_id":"desk","transport":"unix",'
    b'"path":"/run/hub.sock","kept":true,"started_at":1700000000000}\n'
)
_TCP = (
    b'{"pid":4242,"version":"0.1.0","protocol":[1,2],"hub_id":"desk","transport":"tcp","host":"127.0.0.1",'
    b'"port":4711,"token":"' + b"a" * 64 + b'","started_at":1}'
)

assert is_id(_NONCE)
_START = wire.encode(wire.AuthStart(nonce=ID))
_WORDS = (b'"type":"', b'"req_id":', ID.encode(), b'"text":"', b'{"', b'":', b"},", b"null", b"[1,1]")

TARGETS = (
    Target("local-frame", local_frame, FRAMES, _WORDS),
    Target(
        "lines",
        lines,
        (b"\x10\x03one\ntwo\r\n\n\r\nthree\n", b"\x05\x00" + b"too long by far\n", b"\xff\x07" + FRAMES[0]),
        (b"\r\n", b"\n", b'{"req_id":5,'),
    ),
    Target(
        "loopback-proof",
        loopback_proof,
        (
            _START + wire.encode(wire.AuthProof(proof="ab" * 32)),
            wire.encode(wire.AuthChallenge(nonce=ID, proof="cd" * 32)),
        ),
        _WORDS,
    ),
    Target("hub-json", hub_json, (_UNIX, _TCP), (b'"path":"', b'"port":', b"unix", b"tcp", b"\\u0000")),
)
