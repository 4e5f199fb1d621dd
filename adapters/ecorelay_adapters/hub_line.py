"""A hook's few words with the hub: blocking, on the standard library alone, over before anybody notices.

A hook holds up a person's turn. So there is no trying again and no starting of a hub here: who does not
answer at once is not asked, and what waits is shown by the next hook.
"""

from __future__ import annotations

import json
import os
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # as a type checker sees it, without the imports
    from typing import Any

ENDPOINT_MAX = 64 * 1024
LINE_MAX = 8 * 1024 * 1024
"""Bytes of one line; the longest a hub writes has half of it."""
FIRST_WORD_S = 0.025
"""For a hub's first words: it needs neither its disk nor anybody else for them."""
ANSWER_S = 0.25
"""For an answer that has to be read from its disk."""
READ_SIZE = 256 * 1024


class NoAnswer(Exception):
    """The hub is not there, does not answer in time, or refuses."""


class HubLine:
    """A connection that has said hello. Use it as a context manager.

    Args:
        home: the data directory.
        patience: seconds for the hub's first words; None: `FIRST_WORD_S`.
        hello: fields of the frame besides type, versions and pid.

    Raises:
        NoAnswer: there is none to be had.
    """

    def __init__(self, home: str, patience: float | None = None, **hello: Any) -> None:
        patience = FIRST_WORD_S if patience is None else patience
        self._deadline = time.monotonic() + patience
        endpoint = _endpoint(home)
        try:
            self._socket = _connect(endpoint, home, patience)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise NoAnswer("no hub runs") from error
        self._lines = self._socket.makefile("rb", READ_SIZE)
        try:
            if endpoint.get("transport") == "tcp":
                self._prove(str(endpoint.get("token", "")), patience)
                self._deadline = time.monotonic() + patience
            self._send(type="hello", versions=[1, 1], pid=os.getpid(), **hello)
            self._receive("welcome")
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> HubLine:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, answer: str, patience: float = ANSWER_S, **request: Any) -> dict[str, Any]:
        """Send a request and give its answer.

        Args:
            answer: type of the frame that answers it.
            patience: seconds to wait for it.
            request: fields of the frame.

        Raises:
            NoAnswer: it did not come, or is another.
        """
        self._deadline = time.monotonic() + patience
        self._send(req_id=1, **request)
        return self._receive(answer)

    def _send(self, **frame: Any) -> None:
        self._wait_at_most()
        try:
            self._socket.sendall(json.dumps(frame).encode() + b"\n")
        except OSError as error:
            raise NoAnswer("the hub went away") from error

    def _receive(self, wanted: str) -> dict[str, Any]:
        while True:
            self._wait_at_most()
            try:
                frame: dict[str, Any] = json.loads(self._lines.readline(LINE_MAX))
                kind = frame["type"]
            except (OSError, ValueError, RecursionError, TypeError, KeyError) as error:
                raise NoAnswer("the hub did not answer in time") from error
            if kind == wanted:
                return frame
            if kind != "ping":
                raise NoAnswer("the hub refused")

    def _wait_at_most(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise NoAnswer("the hub did not answer in time")
        self._socket.settimeout(left)

    def _prove(self, token: str, patience: float) -> None:
        """Over TCP both sides prove that they know the token of hub.json: see docs/protocol.md."""
        import hmac

        self._deadline = time.monotonic() + patience  # the import is our own slowness
        nonce = _nonce()
        self._send(type="auth_start", nonce=nonce)
        challenge = self._receive("auth_challenge")
        theirs = str(challenge.get("nonce", ""))

        def proof(label: bytes) -> str:
            parts = (label, nonce.encode(), theirs.encode())
            message = b"".join([len(part).to_bytes(4, "big") + part for part in parts])
            return hmac.digest(token.encode(), message, "sha256").hex()

        said = str(challenge.get("proof", "")).encode()
        if len(token) < 32 or not hmac.compare_digest(said, proof(b"ecorelay hub").encode()):
            raise NoAnswer("the listener is not our hub")
        self._send(type="auth_proof", proof=proof(b"ecorelay client"))


def _nonce() -> str:
    """A fresh id, see `ecorelay.names`: a small digit, then 25 characters of its alphabet."""
    return "0" + "".join(["0123456789abcdefghjkmnpqrstvwxyz"[byte & 31] for byte in os.urandom(25)])


def _endpoint(home: str) -> dict[str, Any]:
    """What hub.json says; see `ecorelay.endpoint`, which has the same rules."""
    try:
        handle = os.open(os.path.join(home, "hub.json"), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            ours = not hasattr(os, "geteuid") or os.fstat(handle).st_uid == os.geteuid()
            data = os.read(handle, ENDPOINT_MAX) if ours else b""
        finally:
            os.close(handle)
        found = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise NoAnswer("no hub runs") from error
    if not isinstance(found, dict):
        raise NoAnswer("no hub runs")
    return found


def _connect(endpoint: dict[str, Any], home: str, patience: float) -> socket.socket:
    tcp = endpoint.get("transport") == "tcp"
    made = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(patience)
        if tcp:  # or hello would be held back until the proof before it is acknowledged: 40 ms
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.connect((endpoint["host"], endpoint["port"]) if tcp else endpoint["path"])
        if not tcp and os.path.dirname(endpoint["path"]) != home:
            _refuse_other_user(made)
    except BaseException:
        made.close()
        raise
    return made


def _refuse_other_user(connected: socket.socket) -> None:
    """In the data directory nobody else can listen; in the temporary directory another user may.

    That is after a restart of the machine, and what it says would be shown to our model.
    """
    from ecorelay.peercred import peer_cred

    cred = peer_cred(connected) if hasattr(os, "geteuid") else None
    if cred is not None and cred.uid != os.geteuid():
        raise ValueError("another user listens there")
