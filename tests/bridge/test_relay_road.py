"""The way to a relay server: proxies, TLS, and what else may be found at its port."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from ecorelay_bridge import relay_dialer, relay_road
from ecorelay_bridge.backoff import Backoff
from ecorelay_bridge.proxy import proxy_for
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.relay_connection import attend
from ecorelay_bridge.relay_road import Where, connect_relay, refuse_weak
from ecorelay_bridge.settings import RelayServer, Secret
from tests.bridge.hubs import free_port, identity, running
from tests.bridge.tiny_relay import TOKEN, tiny_relay
from tests.helpers.certificates import certificate

PASSWORD = "canary-of-the-proxy"
SWITCHES = b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


class Nobody:
    """A guest that only notes whether it arrived."""

    def __init__(self) -> None:
        self.came = trio.Event()

    def arrived(self, connection) -> None:
        self.came.set()

    def seen(self, connection, address, hub) -> None: ...

    def called(self, connection, stream, address) -> None: ...

    def flooded(self, connection) -> None: ...

    def left(self, connection) -> None: ...


def relay_at(url: str, ca: str = "") -> RelayServer:
    return RelayServer(url=url, token=Secret(TOKEN), ca=ca)


async def ends(relay: RelayServer, **more) -> Refused:
    """How an attempt to be at a relay ends."""
    with trio.fail_after(10):
        try:
            stream = await connect_relay(relay, environ=more.pop("environ", {}), **more)
        except Refused as refused:
            return refused
        return await attend(relay, stream, "alpha", identity("alpha"), Nobody(), app="1")


@asynccontextmanager
async def answering(serve: Callable) -> AsyncIterator[int]:
    """A TCP server that does this with each connection."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def http(answer: bytes) -> Callable:
    async def serve(stream: trio.SocketStream) -> None:
        while b"\r\n\r\n" not in (await stream.receive_some() or b"\r\n\r\n"):
            pass
        await stream.send_all(answer)

    return serve


async def http_never(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


class ConnectProxy:
    """An HTTP proxy that connects everybody to one port, whatever they ask for."""

    def __init__(self, to: int, login: str = "", answer: bytes = b"") -> None:
        self.to = to
        self.login = login
        self.answer = answer
        self.heads: list[bytes] = []
        self.hangs = False

    async def serve(self, near: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await near.receive_some() or b"\r\n\r\n"
        self.heads.append(head)
        if self.hangs:
            await trio.sleep_forever()
        if self.answer:
            await near.send_all(self.answer)
            return
        if self.login and base64.b64encode(self.login.encode()) not in head:
            await near.send_all(
                b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n"
            )
            return
        async with await trio.open_tcp_stream("127.0.0.1", self.to) as far, trio.open_nursery() as nursery:
            await near.send_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
            for one, other in ((near, far), (far, near)):
                nursery.start_soon(self._pump, one, other, nursery.cancel_scope)

    async def _pump(self, one, other, both: trio.CancelScope) -> None:
        try:
            async for data in one:
                await other.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        both.cancel()


# --- proxies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("login", ["", f"user:{PASSWORD}"])
async def test_a_hub_reaches_its_relay_through_a_proxy(tmp_path, login) -> None:
    async with tiny_relay() as relay:
        proxy = ConnectProxy(relay.port, login)
        async with answering(proxy.serve) as port:
            environ = {"HTTP_PROXY": f"http://{login}{'@' * bool(login)}127.0.0.1:{port}"}
            relays = (relay_at("ws://relay.test/some/path?x=1"),)
            async with (
                running(tmp_path, "beta", listen=False, relays=relays, environ=environ) as beta,
                running(tmp_path, "alpha", listen=False, relays=relays, environ=environ) as alpha,
            ):
                here = await alpha.linked()
                await beta.linked()
                assert here.address == "relay relay.test"
            assert proxy.heads[0].startswith(b"CONNECT relay.test:80 HTTP/1.1\r\nHost: relay.test:80\r\n")
            assert relay.hellos[0].url == "ws://relay.test/some/path?x=1"
            assert PASSWORD not in repr((alpha.reports, beta.reports))


async def test_a_proxy_that_refuses_is_not_asked_every_second_though_the_relay_was_there(
    tmp_path, monkeypatch
) -> None:
    """It may count wrong passwords, and lock somebody out."""
    monkeypatch.setattr("ecorelay_bridge.backoff.FIRST_S", 100.0)
    async with tiny_relay() as relay:
        proxy = ConnectProxy(relay.port)
        async with answering(proxy.serve) as port:
            environ = {"HTTP_PROXY": f"http://user:{PASSWORD}@127.0.0.1:{port}"}
            relays = (relay_at("ws://relay.test/"),)
            async with running(tmp_path, "alpha", listen=False, relays=relays, environ=environ) as alpha:
                with trio.fail_after(10):
                    while not relay.hubs:  # noqa: ASYNC110
                        await trio.sleep(0.01)
                proxy.answer = b"HTTP/1.1 407 No\r\n\r\n"
                await relay.close_all(1012)
                alpha.roads.seek("beta")
                report = await alpha.refused(Reason.PROXY)
    assert report.retry_in_s is not None
    assert report.retry_in_s > relay_dialer.MET_PAUSE_S


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        (b"HTTP/1.1 407 No\r\n\r\n", Reason.PROXY, "asks for a login"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", Reason.PROXY, "(HTTP 403)"),
        (b"HTTP/1.0 503 Away\r\n\r\n", Reason.RELAY_AWAY, "cannot reach relay.test, port 80"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Reason.PROXY, "(HTTP nonsense)"),
        (b"x" * 40_000, Reason.PROXY, "no HTTP proxy"),
        (b"HTTP/1.1 200 OK\r\n", Reason.PROXY, "hung up"),
        (
            b"HTTP/1.1 407 No\r\nContent-Length: 22\r\n\r\n<html>log in</html>\r\n\r\n",
            Reason.PROXY,
            "asks for a login",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>hello</html>", Reason.PROXY, "(HTTP 200)"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-More: of it\r\n" * 3_000, Reason.PROXY, "no HTTP proxy"),
    ],
)
async def test_a_proxy_that_does_not_connect_is_named_with_its_reason(answer, reason, words) -> None:
    async with answering(ConnectProxy(1, answer=answer).serve) as port:
        environ = {"http_proxy": f"user:{PASSWORD}@127.0.0.1:{port}"}
        refused = await ends(relay_at("ws://relay.test"), environ=environ)
    assert refused.reason is reason
    assert words in refused.sentence
    assert f"127.0.0.1:{port}" in refused.sentence
    assert PASSWORD not in refused.sentence + refused.remedy + repr(refused)


async def test_a_proxy_that_hangs_and_one_that_is_not_there() -> None:
    proxy = ConnectProxy(1)
    proxy.hangs = True
    async with answering(proxy.serve) as port:
        refused = await ends(
            relay_at("ws://relay.test"), environ={"http_proxy": f"http://127.0.0.1:{port}"}, connect_s=0.2
        )
        assert (refused.reason, "says nothing" in refused.sentence) == (Reason.PROXY, True)
    refused = await ends(
        relay_at("ws://relay.test"), environ={"http_proxy": f"http://127.0.0.1:{free_port()}"}
    )
    assert refused.reason is Reason.CONNECTION_REFUSED
    assert refused.sentence.startswith("the proxy 127.0.0.1:")


@pytest.mark.parametrize(
    ("host", "encrypted", "environ", "found"),
    [
        ("relay.test", True, {}, None),
        ("relay.test", True, {"HTTPS_PROXY": "http://p:3128"}, "p:3128"),
        ("relay.test", True, {"https_proxy": "p", "HTTPS_PROXY": "q"}, "p:80"),
        ("relay.test", True, {"HTTPS_PROXY": "https://p"}, "p:443"),
        ("relay.test", True, {"HTTPS_PROXY": "http://[2001:db8::1]:3128"}, "[2001:db8::1]:3128"),
        ("relay.test", True, {"HTTP_PROXY": "http://p:3128"}, None),
        ("relay.test", False, {"HTTP_PROXY": "http://p:3128"}, "p:3128"),
        ("relay.test", True, {"HTTPS_PROXY": " ", "https_proxy": ""}, None),
        *[
            (host, True, {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": no}, found)
            for host, no, found in [
                ("relay.test", "*", None),
                ("relay.test", "other, Relay.Test", None),
                ("relay.test", "test", None),
                ("relay.test", ".test", None),
                ("relay.test", "*.test", None),
                ("relay.test", "lay.test", "p:3128"),
                ("relay.test", "relay.test:443", None),
                ("relay.test", "relay.test:80", "p:3128"),
                ("10.1.2.3", "10.0.0.0/8", None),
                ("10.1.2.3", "10.1.2.3", None),
                ("11.1.2.3", "10.0.0.0/8,,", "p:3128"),
                ("2001:db8::5", "2001:db8::/32", None),
                ("2001:db8::5", "[2001:db8::5]", None),
                ("2001:db8::5", "[2001:db8:0::5]:443", None),
                ("2001:db8::5", "[2001:db8::5]:80", "p:3128"),
                ("2001:db8::5", "2001:db8::6", "p:3128"),
                ("10.1.2.3", "10.1.2.3:443", None),
                ("10.1.2.3", "10.1.2.3:80", "p:3128"),
                ("relay.test", "other  relay.test", None),
                ("relay.test", "relay.test:", None),
                ("relay.test", "relay.test:https", "p:3128"),
                ("relay.test.", "relay.test", None),
                ("relay.test", "relay.test:²", "p:3128"),
            ]
        ],
        ("localhost", True, {"HTTPS_PROXY": "http://p:3128"}, None),
        ("127.0.0.2", True, {"HTTPS_PROXY": "http://p:3128"}, None),
        ("::1", True, {"HTTPS_PROXY": "http://p:3128"}, None),
    ],
)
def test_which_proxy_is_used(host, encrypted, environ, found) -> None:
    proxy = proxy_for(host, 443, encrypted=encrypted, environ=environ)
    assert (None if proxy is None else str(proxy)) == found


@pytest.mark.parametrize("value", ["socks5://p:1080", "http://p:port", "http://", "http://user:pw@:80"])
def test_a_variable_that_names_no_proxy_is_refused_without_quoting_it(value) -> None:
    with pytest.raises(Refused) as refused:
        proxy_for("relay.test", 443, encrypted=True, environ={"HTTPS_PROXY": value})
    assert refused.value.reason is Reason.PROXY
    assert "HTTPS_PROXY" in refused.value.sentence
    assert value not in repr(refused.value)


def test_a_proxy_shows_no_password() -> None:
    proxy = proxy_for("r", 443, encrypted=True, environ={"HTTPS_PROXY": f"http://me:{PASSWORD}%21@p:3128"})
    assert PASSWORD not in f"{proxy} {proxy!r}"
    assert proxy is not None
    assert base64.b64encode(f"me:{PASSWORD}!".encode()) in proxy.request("r", 443)
    assert proxy.request("2001:db8::1", 443).startswith(b"CONNECT [2001:db8::1]:443 ")


def test_a_proxy_is_told_the_login_byte_by_byte() -> None:
    # As a variable is read that is no UTF-8.
    proxy = proxy_for("r", 443, encrypted=True, environ={"HTTPS_PROXY": "http://m\udcfc:x@p:3128"})
    assert proxy is not None
    assert proxy.request("r", 443) == (
        b"CONNECT r:443 HTTP/1.1\r\nHost: r:443\r\n"
        b"Proxy-Authorization: Basic " + base64.b64encode(b"m\xfc:x") + b"\r\n\r\n"
    )


# --- the token, and what is at the port --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "token", "good"),
    [
        ("ws://relay.example.org", "short token", False),
        ("ws://relay.example.org", "q" * 60, False),
        ("ws://relay.example.org", TOKEN, True),
        ("wss://relay.example.org", "short token", True),
        ("ws://localhost:9800", "short token", True),
        ("ws://127.0.0.1:9800", "short token", True),
        ("ws://[::1]:9800", "short token", True),
        ("ws://192.168.1.5:9800", "short token", False),
    ],
)
def test_a_weak_token_is_not_proved_on_an_open_wire(url, token, good) -> None:
    relay = RelayServer(url=url, token=Secret(token))
    if good:
        refuse_weak(relay)
        return
    with pytest.raises(Refused) as refused:
        refuse_weak(relay)
    assert refused.value.reason is Reason.WEAK_TOKEN
    assert token not in repr(refused.value) + refused.value.sentence + refused.value.remedy


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", Reason.NO_RELAY, "a web server answers there"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", Reason.NO_RELAY, "(HTTP 404)"),
        (
            b"HTTP/1.1 301 Moved\r\nLocation: https://x\r\nContent-Length: 0\r\n\r\n",
            Reason.NO_RELAY,
            "redirects",
        ),
        (b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", Reason.NO_RELAY, "login"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", Reason.RELAY_AWAY, "a proxy answers"),
        (b"HTTP/1.1 530 \r\nContent-Length: 3\r\n\r\nno\n", Reason.RELAY_AWAY, "(HTTP 530)"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-More: of it\r\n" * 9_000, Reason.NO_RELAY, "no WebSocket"),
        (b"HTTP/1.1 100 Go on\r\n\r\n" * 300, Reason.NO_RELAY, "(HTTP 100)"),
        (SWITCHES + b"Sec-WebSocket-Protocol: \xff\xfe\r\n\r\n", Reason.NO_RELAY, "no WebSocket"),
        (SWITCHES + b"Sec-WebSocket-Extensions: \xff\r\n\r\n", Reason.NO_RELAY, "no WebSocket"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Reason.NO_RELAY, "no WebSocket"),
        (b"\x15\x03\x03\x00\x02\x02\x50", Reason.NO_RELAY, "no WebSocket"),
        (b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", Reason.NO_RELAY, ""),
        (b"", Reason.RELAY_AWAY, "without a word"),
        (b"HTTP/1.1 101 Yes\r\nConnection: \xff\r\n\r\n", Reason.NO_RELAY, "no WebSocket"),
    ],
)
async def test_something_else_at_the_port_is_said_to_be_what_it_is(answer, reason, words) -> None:
    async with answering(http(answer)) as port:
        refused = await ends(relay_at(f"ws://127.0.0.1:{port}"))
    assert (refused.reason, words in refused.sentence) == (reason, True), refused


async def test_nobody_at_the_port_no_such_name_and_somebody_who_says_nothing(monkeypatch) -> None:
    refused = await ends(relay_at(f"ws://127.0.0.1:{free_port()}"))
    assert (refused.reason, "start the relay server" in refused.remedy) == (Reason.CONNECTION_REFUSED, True)
    refused = await ends(relay_at("ws://no-such-host.invalid"))
    assert refused.reason is Reason.NOT_RESOLVED
    monkeypatch.setattr("ecorelay_bridge.relay_connection.OPENING_S", 0.2)
    async with answering(http_never) as port:
        refused = await ends(relay_at(f"ws://127.0.0.1:{port}"))
    assert (refused.reason, "says nothing" in refused.sentence) == (Reason.RELAY_AWAY, True)


@pytest.mark.parametrize(
    ("url", "host", "port", "name", "path"),
    [
        ("wss://relay.example.org", "relay.example.org", 443, "relay.example.org", "/"),
        ("wss://relay.example.org:443/x", "relay.example.org", 443, "relay.example.org", "/x"),
        ("ws://h:9800/a?b=c", "h", 9800, "h:9800", "/a?b=c"),
        ("ws://[::1]", "::1", 80, "[::1]", "/"),
        ("wss://[::1]:9800", "::1", 9800, "[::1]:9800", "/"),
        ("wss://user:pw@h", "h", 443, "h", "/"),
        (
            "wss://müller.de:9800/ä?b=%20c",
            "xn--mller-kva.de",
            9800,
            "müller.de:9800",
            "/%C3%A4?b=%20c",
        ),
        ("wss://" + "ü" * 80 + ".de", "?" * 80 + ".de", 443, "ü" * 80 + ".de", "/"),
    ],
)
def test_a_url_is_taken_apart(url, host, port, name, path) -> None:
    where = Where(url)
    assert (where.host, where.port, where.name, where.path) == (host, port, name, path)
    assert (where.header + where.path).isascii()


async def test_a_relay_whose_name_is_not_of_ascii_letters_is_asked_for_by_its_other_name() -> None:
    async with tiny_relay() as relay:
        proxy = ConnectProxy(relay.port)
        async with answering(proxy.serve) as port:
            environ = {"http_proxy": f"http://127.0.0.1:{port}"}
            there = relay_at("ws://müller.de/ä")
            with trio.fail_after(10):
                stream = await connect_relay(there, environ=environ)
                guest = Nobody()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(
                        lambda: attend(there, stream, "alpha", identity("alpha"), guest, app="1")
                    )
                    await guest.came.wait()
                    nursery.cancel_scope.cancel()
    assert proxy.heads[0].startswith(b"CONNECT xn--mller-kva.de:80 HTTP/1.1\r\n")
    assert relay.hellos[0].url == there.url


async def test_a_tunnel_without_the_server_behind_it_is_asked_again_soon(tmp_path) -> None:
    """It takes every connection and ends it, before or after TLS began."""
    pem = certificate(tmp_path, "localhost")

    async def ends_at_once(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async def ends_at_tls(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    for serve in (ends_at_once, ends_at_tls):
        async with answering(serve) as port:
            backoff = Backoff(lambda: 1.0)
            for url in (f"ws://127.0.0.1:{port}", f"wss://localhost:{port}"):
                refused = await ends(relay_at(url, ca=str(pem) if url.startswith("wss") else ""))
                assert refused.reason is Reason.RELAY_AWAY, (serve, url, refused)
                assert max(backoff.after_failure(refused) for _ in range(20)) <= 1.5


# --- TLS ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def encrypting(pem: Path, to: int) -> AsyncIterator[int]:
    """Something that ends TLS in front of a port, as reverse proxies do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    async def serve(stream: trio.SocketStream) -> None:
        near = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        async with await trio.open_tcp_stream("127.0.0.1", to) as far, trio.open_nursery() as nursery:
            for one, other in ((near, far), (far, near)):
                nursery.start_soon(ConnectProxy(0)._pump, one, other, nursery.cancel_scope)

    async with answering(serve) as port:
        yield port


async def test_wss_with_an_authority_of_ones_own(tmp_path, monkeypatch) -> None:
    pem = certificate(tmp_path, "localhost")
    other = certificate(tmp_path, "other.test")
    async with tiny_relay() as relay, encrypting(pem, relay.port) as port:
        refused = await ends(relay_at(f"wss://localhost:{port}"))
        assert refused.reason is Reason.CERTIFICATE
        assert "ca of this relay" in refused.remedy
        refused = await ends(relay_at(f"wss://127.0.0.1:{port}", ca=str(pem)))
        assert (refused.reason, "127.0.0.1" in refused.sentence) == (Reason.CERTIFICATE, True)
        refused = await ends(relay_at(f"wss://localhost:{port}", ca=str(tmp_path / "none.pem")))
        assert "holds no certificate" in refused.sentence
        refused = await ends(relay_at(f"wss://localhost:{relay.port}", ca=str(pem)))
        assert (refused.reason, "ws://" in refused.remedy) == (Reason.TLS, True)
        with_ca = (relay_at(f"wss://localhost:{port}", ca=str(pem)),)
        async with running(tmp_path, "beta", listen=False, relays=with_ca) as beta:
            monkeypatch.setenv("SSL_CERT_FILE", str(pem))
            by_environment = (relay_at(f"wss://localhost:{port}"),)
            async with running(tmp_path, "alpha", listen=False, relays=by_environment) as alpha:
                await alpha.linked(), await beta.linked()
    async with tiny_relay() as relay, encrypting(other, relay.port) as port:
        refused = await ends(relay_at(f"wss://localhost:{port}", ca=str(other)))
        assert refused.reason is Reason.CERTIFICATE


async def test_authorities_are_read_again_when_their_file_changed_and_not_each_time(tmp_path) -> None:
    pem = certificate(tmp_path, "localhost")
    other = certificate(tmp_path, "other.test")
    ours = tmp_path / "ca.pem"
    async with tiny_relay() as relay, encrypting(pem, relay.port) as port:
        there = relay_at(f"wss://localhost:{port}", ca=str(ours))
        ours.write_bytes(other.read_bytes())
        for _ in range(3):
            assert (await ends(there)).reason is Reason.CERTIFICATE
        before = relay_road._made.cache_info()
        ours.write_bytes(pem.read_bytes())
        with trio.fail_after(10):
            await trio.aclose_forcefully(await connect_relay(there, environ={}))
            await trio.aclose_forcefully(await connect_relay(there, environ={}))
        after = relay_road._made.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 1)


async def test_wss_through_a_proxy(tmp_path) -> None:
    pem = certificate(tmp_path, "relay.test")
    async with tiny_relay() as relay, encrypting(pem, relay.port) as port:
        proxy = ConnectProxy(port)
        async with answering(proxy.serve) as proxy_port:
            environ = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy_port}"}
            guest = Nobody()
            there = relay_at("wss://relay.test", ca=str(pem))
            stream = await connect_relay(there, environ=environ)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: attend(there, stream, "alpha", identity("alpha"), guest, app="1"))
                with trio.fail_after(5):
                    await guest.came.wait()
                nursery.cancel_scope.cancel()
            assert proxy.heads[0].startswith(b"CONNECT relay.test:443 ")
