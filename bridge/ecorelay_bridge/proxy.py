"""HTTP proxies on the way out: which one the environment names for a host, and the way through it."""

from __future__ import annotations

import base64
import re
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from ecorelay_bridge.refusals import Reason, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    import trio

ANSWER_MAX: Final = 16 * 1024
"""Bytes of a proxy's answer."""
_STATUS: Final = re.compile(rb"\AHTTP/1\.[01] ([0-9]{3})[ \r]")
_BRACKETED: Final = re.compile(r"\A\[([0-9a-f:.]+)\](?::([0-9]+))?\Z")
_USUAL: Final = {"http": 80, "https": 443}


class Proxy:
    """A proxy. Its repr shows no password.

    Attributes:
        scheme: ``http``, or ``https`` for TLS to the proxy itself.
        host: of the proxy.
        port: there.
    """

    def __init__(self, scheme: str, host: str, port: int, login: str = "") -> None:
        self.scheme = scheme
        self.host = host
        self.port = port
        self._login = login

    def __repr__(self) -> str:
        return f"Proxy({self})"

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def request(self, host: str, port: int) -> bytes:
        """What is said to it to be connected to `host`, in ASCII, and `port`."""
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
        if self._login:
            # The environment's own bytes, where they are no UTF-8.
            login = base64.b64encode(self._login.encode("utf-8", "surrogateescape")).decode()
            lines.append(f"Proxy-Authorization: Basic {login}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine by its name or address alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def proxy_for(host: str, port: int, *, encrypted: bool, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy that `HTTPS_PROXY` (for wss) or `HTTP_PROXY` (for ws) names, unless `NO_PROXY` says not to.

    This machine itself is never reached through one.

    Raises:
        Refused: ``proxy``, the variable cannot be used. Quotes nothing of it: it may hold a password.
    """
    name = "https_proxy" if encrypted else "http_proxy"
    found = next((name for name in (name, name.upper()) if environ.get(name, "").strip()), "")
    if not found or is_loopback(host) or _excepted(host, port, environ):
        return None
    text = environ[found].strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = _USUAL[parts.scheme]
        port = parts.port or port
    except (ValueError, KeyError):
        parts = None
    if parts is None or not parts.hostname:
        raise Refused(
            Reason.PROXY,
            f"{found} in the environment is no HTTP proxy's address",
            f"set {found} to http://HOST:PORT, or put the relay server's host into no_proxy",
        )
    login = ""
    if parts.username:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(parts.scheme, parts.hostname, port, login)


def _excepted(host: str, port: int, environ: Mapping[str, str]) -> bool:
    """Whether `NO_PROXY` has this host: a name with its subdomains, an address, a network, or ``*``.

    Entries are separated by commas or spaces, and may end in a port.
    """
    host = host.lower().rstrip(".")
    text = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return any(_is_meant(host, port, entry) for entry in text.lower().replace(",", " ").split())


def _is_meant(host: str, port: int, entry: str) -> bool:
    if entry == "*" or _is_in_network(host, entry):
        return True
    if (bracketed := _BRACKETED.match(entry)) is not None:
        entry, of_port = bracketed[1], bracketed[2]
    else:
        name, _, of_port = entry.rpartition(":")
        # Without a port, or an IPv6 address, whose last part is none.
        entry, of_port = (name, of_port) if name and ":" not in name else (entry, "")
    if of_port and not (of_port.isascii() and of_port.isdigit() and int(of_port) == port):
        return False
    name = entry.removeprefix("*").strip(".")
    return _is_in_network(host, entry) or bool(name and (host == name or host.endswith(f".{name}")))


def _is_in_network(host: str, entry: str) -> bool:
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        return False


async def connect_through(stream: trio.abc.Stream, proxy: Proxy, host: str, port: int) -> None:
    """Ask a proxy for a connection; afterwards `stream` is it.

    Args:
        stream: to the proxy.
        proxy: which one.
        host: to be connected to.
        port: there.

    Raises:
        Refused: it does not, and why.
    """
    await stream.send_all(proxy.request(host, port))
    answer = bytearray()
    while b"\r\n\r\n" not in answer:
        # Whoever is behind it speaks only when spoken to, so nothing of theirs is read here.
        more = await stream.receive_some(4096)
        if not more or len(answer) > ANSWER_MAX:
            raise Refused(
                Reason.PROXY,
                f"what answers at {proxy} is no HTTP proxy, or it hung up",
                "correct https_proxy or http_proxy in the environment of the hub",
            )
        answer += more
    status = int(match[1]) if (match := _STATUS.match(answer)) else 0
    if 200 <= status < 300 and answer.endswith(b"\r\n\r\n"):
        return
    if status in (401, 407):  # the former is said by tinyproxy
        raise Refused(
            Reason.PROXY,
            f"the proxy {proxy} asks for a login, or refuses the one it was given",
            "put user and password into the proxy's URL: http://USER:PASSWORD@HOST:PORT",
        )
    if status in (502, 503, 504):
        raise Refused(
            Reason.RELAY_AWAY,
            f"the proxy {proxy} cannot reach {host}, port {port} (HTTP {status})",
            "is the relay server running, and is its name right?",
        )
    raise Refused(
        Reason.PROXY,
        f"the proxy {proxy} does not connect to {host}, port {port} (HTTP {status or 'nonsense'})",
        f"let it allow CONNECT to port {port}, or use port 443, or put the host into no_proxy",
    )
