"""The way to a relay server: its URL, the proxy before it, TCP and TLS, up to an open WebSocket."""

from __future__ import annotations

import os
import ssl
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

import trio

from ecorelay_bridge.dialer import CONNECT_S, connect
from ecorelay_bridge.proxy import Proxy, connect_through, is_loopback, proxy_for
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.tls import is_cut, notice_cuts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ecorelay_bridge.settings import RelayServer

TOKEN_BITS: Final = 128
"""Who listens on an unencrypted way can try tokens against a proof for as long as it likes."""
_OWN_CERTIFICATE: Final = (
    "give it a certificate of a known authority, or name yours as ca of this relay in bridge.json"
)
_PROXYS_CERTIFICATE: Final = "name a file with its authority as SSL_CERT_FILE in the environment of the hub"
AUTHORITIES_S: Final = 3_600.0
"""The system's authorities are read so often, and again when a file that is named changed: it takes 20 ms,
in which nobody else gets a turn."""
_IN_PATHS: Final = "%/?&=:;,@!$'()*+~"


class Where:
    """A relay's URL, taken apart.

    Attributes:
        encrypted: ``wss``.
        host: without brackets; in ASCII, as names on the internet are.
        port: the usual one where there is none.
        header: for ``Host:``.
        path: with the query.
        name: for a person: the host, and the port unless it is the usual one.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.encrypted = parts.scheme == "wss"
        usual = 443 if self.encrypted else 80
        written = parts.hostname or ""
        self.host = _in_ascii(written)
        self.port = parts.port or usual
        self.header, self.name = [_with_port(host, self.port, usual) for host in (self.host, written)]
        # Percent signs stay: what is written with them is so already.
        self.path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), _IN_PATHS)


def _with_port(host: str, port: int, usual: int) -> str:
    bracketed = f"[{host}]" if ":" in host else host
    return bracketed if port == usual else f"{bracketed}:{port}"


def _in_ascii(host: str) -> str:
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return host.encode("ascii", "replace").decode()  # no name of a machine: looking it up says so


def shown_name(relay: RelayServer, relays: Sequence[RelayServer]) -> str:
    """What one relay of these is called for a person: its host, and its path where another one is there."""
    where = Where(relay.url)
    twins = [each for each in relays if Where(each.url).name == where.name]
    return where.name if len(twins) <= 1 else where.name + where.path


def refuse_weak(relay: RelayServer) -> None:
    """Refuse to prove a token where it could be found out.

    Raises:
        Refused: ``weak_token``.
    """
    where = Where(relay.url)
    if not where.encrypted and not is_loopback(where.host) and relay.token.bits() < TOKEN_BITS:
        raise Refused(
            Reason.WEAK_TOKEN,
            f"the way to {where.name} is not encrypted (ws://), and the relay's token is so weak (under "
            f"{TOKEN_BITS} bits) that whoever listens could find it out",
            "use wss://, or give the relay server a token of `openssl rand -base64 24`",
        )


async def connect_relay(
    relay: RelayServer,
    *,
    environ: Mapping[str, str] | None = None,
    dial: Callable[[str, int], Awaitable[trio.abc.Stream]] = connect,
    connect_s: float = CONNECT_S,
    on_step: Callable[[str, str], None] = lambda step, detail: None,
) -> trio.abc.Stream:
    """A stream to the relay server, on which HTTP is to be spoken.

    Args:
        relay: which.
        environ: has the proxy's variables; default: that of this process.
        dial: makes the stream to a host and port.
        connect_s: seconds for each of its parts.
        on_step: told what was reached: ``proxy``, ``connect``, ``tls``, and a word on it.

    Raises:
        Refused: it is not reached, and why.
    """
    refuse_weak(relay)
    where = Where(relay.url)
    environ = os.environ if environ is None else environ
    proxy = proxy_for(where.host, where.port, encrypted=where.encrypted, environ=environ)
    stream = await _first(where, proxy, dial)
    try:
        if proxy is not None:
            stream = await _through(stream, proxy, where, connect_s)
            on_step("proxy", f"{proxy} connects to {where.host}, port {where.port}")
        else:
            on_step("connect", f"{where.host}, port {where.port}")
        if where.encrypted:
            stream = await _encrypted(
                stream, where.host, _context(relay.ca), connect_s, "the relay server", _OWN_CERTIFICATE
            )
            on_step("tls", "its certificate is trusted")
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def _first(
    where: Where, proxy: Proxy | None, dial: Callable[[str, int], Awaitable[trio.abc.Stream]]
) -> trio.abc.Stream:
    if proxy is None:
        try:
            return await dial(where.host, where.port)
        except Refused as refused:
            raise _reworded(refused, where) from None
    try:
        return await dial(proxy.host, proxy.port)
    except Refused as refused:
        raise Refused(
            refused.reason,
            f"the proxy {proxy} is not reached: {refused.sentence}",
            "correct https_proxy or http_proxy in the environment of the hub",
        ) from None


def _reworded(refused: Refused, where: Where) -> Refused:
    remedies = {
        Reason.CONNECTION_REFUSED: "start the relay server there; is the port in url right?",
        Reason.FILTERED: f"is that machine on, and TCP port {where.port} open in its firewall? Behind a "
        "proxy, set https_proxy",
        Reason.NOT_RESOLVED: "correct the host in url",
        Reason.UNREACHABLE: "is this machine online?",
    }
    return Refused(refused.reason, refused.sentence, remedies.get(refused.reason, ""))


async def _through(stream: trio.abc.Stream, proxy: Proxy, where: Where, within_s: float) -> trio.abc.Stream:
    try:
        if proxy.scheme == "https":
            stream = await _encrypted(
                stream, proxy.host, _context(""), within_s, f"the proxy {proxy}", _PROXYS_CERTIFICATE
            )
        with trio.fail_after(within_s):
            await connect_through(stream, proxy, where.host, where.port)
    except trio.TooSlowError:
        raise Refused(
            Reason.PROXY,
            f"the proxy {proxy} takes the request and then says nothing",
            "does it reach the relay server? Else put the host into no_proxy",
        ) from None
    except trio.BrokenResourceError:
        raise Refused(Reason.PROXY, f"the proxy {proxy} broke the connection off") from None
    return stream


def _context(ca: str) -> ssl.SSLContext:
    """TLS with the system's authorities (those of SSL_CERT_FILE, where it is set), and one more.

    Raises:
        Refused: ``certificate``, the file is none.
    """
    named = ca, os.environ.get("SSL_CERT_FILE", ""), os.environ.get("SSL_CERT_DIR", "")
    return _made(ca, named, tuple(map(_changed_at, named)), int(trio.current_time() // AUTHORITIES_S))


def _changed_at(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns if path else 0
    except OSError:
        return 0


@lru_cache(maxsize=8)
def _made(ca: str, _named: tuple[str, ...], _changed: tuple[int, ...], _hour: int) -> ssl.SSLContext:
    context = ssl.create_default_context()
    notice_cuts(context)
    context.set_alpn_protocols(["http/1.1"])
    if ca:
        try:
            context.load_verify_locations(ca)
        except (OSError, ssl.SSLError):
            raise Refused(
                Reason.CERTIFICATE,
                f"{ca} holds no certificate (ca of this relay in bridge.json)",
                "let ca name a PEM file, or take it out",
            ) from None
    return context


async def _encrypted(
    stream: trio.abc.Stream, host: str, context: ssl.SSLContext, within_s: float, who: str, remedy: str
) -> trio.abc.Stream:
    # Not required to say goodbye: proxies seldom do, and the WebSocket has its own.
    tls = trio.SSLStream(stream, context, server_hostname=host.rstrip("."), https_compatible=True)
    try:
        with trio.fail_after(within_s):
            await tls.do_handshake()
    except trio.TooSlowError:
        raise Refused(Reason.TLS, f"{who} takes the connection and then says nothing") from None
    except trio.BrokenResourceError as error:
        raise _tls_failed(error.__cause__, who, remedy) from None
    return tls


def _tls_failed(cause: BaseException | None, who: str, remedy: str) -> Refused:
    if not isinstance(cause, ssl.SSLError) or is_cut(cause):
        # Tunnels and forwarders take connections for a server that is not running.
        return Refused(
            Reason.RELAY_AWAY,
            f"{who} ended the connection when TLS began: what is behind that port is not running, or is none",
            "start the relay server; is the port in url right?",
        )
    if isinstance(cause, ssl.SSLCertVerificationError):
        # OpenSSL's own words, from a fixed list, with the host we asked for.
        return Refused(
            Reason.CERTIFICATE,
            f"the certificate of {who} is not trusted: {cause.verify_message}",
            remedy,
        )
    if cause.reason in (
        "WRONG_VERSION_NUMBER",
        "RECORD_LAYER_FAILURE",
        "HTTP_REQUEST",
        "PACKET_LENGTH_TOO_LONG",
    ):
        return Refused(
            Reason.TLS, f"{who} does not speak TLS at this port", "is it ws:// rather than wss://?"
        )
    word = cause.reason or "unknown error"
    return Refused(Reason.TLS, f"TLS with {who} failed ({word.lower().replace('_', ' ')})")
