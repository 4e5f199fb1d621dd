"""The HTTP request with which a connection begins: a hub's WebSocket, a health check, a browser, anything.

Reads just enough to tell them apart; the WebSocket handshake itself is wsproto's.
"""

from __future__ import annotations

from typing import Final, NamedTuple

END: Final = b"\r\n\r\n"
"""Of a request's head."""

_PLAIN: Final = "text/plain; charset=utf-8"


class Head(NamedTuple):
    """The parts that matter here."""

    method: str
    path: str
    """Without the query."""
    upgrade: bool
    """Whether it asks for a WebSocket."""
    forwarded: str
    """X-Forwarded-For, all lines of it."""


def read_head(data: bytes) -> Head | None:
    """The head in `data`, up to `END`; None: it is no HTTP/1.1 request."""
    first, *lines = data.partition(END)[0].decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return None
    fields = [line.partition(":") for line in lines]
    found = [(name.strip().lower(), value.strip()) for name, _, value in fields]
    return Head(
        method=words[0],
        path=words[1].partition("?")[0],
        upgrade=any(name == "upgrade" and value.lower() == "websocket" for name, value in found),
        forwarded=",".join([value for name, value in found if name == "x-forwarded-for"]),
    )


def answer(
    status: str, body: str, *, fields: str = "", content_type: str = _PLAIN, head_only: bool = False
) -> bytes:
    """A whole response after which the connection ends.

    Args:
        status: such as ``200 OK``.
        body: one or more lines.
        fields: more header lines, each with its end.
        content_type: of the body.
        head_only: whether it answers a HEAD.
    """
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body.encode())}\r\n"
        f"X-Content-Type-Options: nosniff\r\n{fields}Connection: close\r\n\r\n"
    )
    return (head + ("" if head_only else body)).encode()


def plain_answer(head: Head | None) -> bytes:
    """What somebody gets who asked for anything but a WebSocket."""
    if head is None:
        return answer("400 Bad Request", "this is no HTTP request\n")
    if head.method not in ("GET", "HEAD"):
        return answer("405 Method Not Allowed", "only GET is known here\n", fields="Allow: GET, HEAD\r\n")
    head_only = head.method == "HEAD"
    if head.path == "/healthz":
        return answer("200 OK", "ok\n", fields="Cache-Control: no-store\r\n", head_only=head_only)
    return answer(
        "426 Upgrade Required",
        "an ecorelay relay server: hubs connect here by WebSocket, and there is nothing else to see\n",
        fields="Upgrade: websocket\r\n",
        head_only=head_only,
    )
