"""What `bridge-check` says: the true cause, for each thing that can be wrong, over real sockets."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import trio

from ecorelay_bridge import dialer
from ecorelay_bridge.check import Step, check_listening, check_peers
from ecorelay_bridge.door import FAILED_PROOFS_MAX
from ecorelay_bridge.handshake import Party
from ecorelay_bridge.introduction import Introducer
from ecorelay_bridge.known import Known
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.settings import Peer, Secret, Settings
from ecorelay_bridge.workers import Workers
from tests.bridge.hubs import (
    CLOCK,
    OLD,
    RIGHT,
    WRONG,
    Hub,
    anybody,
    free_port,
    identity,
    introducer,
    nothing_to_keep,
    password,
    peer,
    running,
)


def settings(*peers: Peer, secret: str = RIGHT, previous: str = "", name: str = "alpha") -> Settings:
    return Settings(
        hub_id=name,
        secret=Secret(secret),
        previous_secret=Secret(previous) if previous else None,
        peers=peers,
    )


async def check(
    entry: Peer,
    *,
    known: dict[str, Known] | None = None,
    connect_s: float = 5.0,
    finish_s: float = 5.0,
    who: str = "alpha",
    **more: Any,
) -> list[Step]:
    with trio.fail_after(20):
        found = await check_peers(
            settings(entry, **more), identity(who), known or {}, connect_s=connect_s, finish_s=finish_s
        )
    assert list(found) == [entry.hub_id]
    for step in found[entry.hub_id]:
        assert RIGHT not in repr(step)
        assert step.ok or step.cause
    return found[entry.hub_id]


def names(steps: list[Step]) -> list[str]:
    return [step.step for step in steps]


async def failing(step: str, reason: Reason, entry: Peer, **more: Any) -> Step:
    """Check, expect it to end in that step with that reason, and all before it to be well."""
    steps = await check(entry, **more)
    assert [each.ok for each in steps] == [True] * (len(steps) - 1) + [False]
    assert (steps[-1].step, steps[-1].reason) == (step, str(reason)), steps[-1]
    return steps[-1]


def at(port: int, hub_id: str = "beta", host: str = "127.0.0.1", pin: str = "") -> Peer:
    return Peer(hub_id=hub_id, host=host, port=port, identity=pin)


async def test_all_well(tmp_path) -> None:
    async with running(tmp_path, "beta") as beta:
        steps = await check(peer(beta, pin=identity("beta").fingerprint))
        assert all(step.ok for step in steps), steps
        assert names(steps) == ["resolve", "connect", "tls", "proof", "hub_id", "identity", "clock"]
        assert not any(step.remedy for step in steps)
        assert beta.links == []


async def test_an_identity_that_is_new_is_to_be_compared(tmp_path) -> None:
    async with running(tmp_path, "beta") as beta:
        steps = await check(peer(beta))
    found = next(step for step in steps if step.step == "identity")
    assert found.ok
    assert identity("beta").fingerprint in found.detail
    assert "not known yet" in found.detail
    assert "ecorelay identity show" in found.remedy
    known = {"beta": Known(identity=identity("beta").fingerprint)}
    async with running(tmp_path, "beta") as beta:
        found = next(s for s in await check(peer(beta), known=known) if s.step == "identity")
    assert "as known" in found.detail
    assert not found.remedy


async def test_a_name_that_does_not_resolve() -> None:
    class Nobody(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *_: Any) -> Any:
            await trio.lowlevel.checkpoint()
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        async def getnameinfo(self, *_: Any) -> Any:
            raise AssertionError

    trio.socket.set_custom_hostname_resolver(Nobody())
    failed = await failing("resolve", Reason.NOT_RESOLVED, at(9700, host="desk.invalid"))
    assert "desk.invalid" in failed.cause


async def test_a_port_that_refuses() -> None:
    port = free_port()
    failed = await failing("connect", Reason.CONNECTION_REFUSED, at(port))
    assert str(port) in failed.cause
    assert "ecorelay hub start" in failed.remedy


@pytest.mark.skipif(sys.platform != "linux", reason="a full queue drops connections on Linux")
async def test_a_firewall_that_drops() -> None:
    with socket.socket() as sock, contextlib.ExitStack() as waiting:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        port = sock.getsockname()[1]
        for _ in range(4):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        failed = await failing("connect", Reason.FILTERED, at(port), connect_s=0.3)
    assert "firewall" in failed.cause


@contextlib.asynccontextmanager
async def answering(serve: Callable[[trio.SocketStream], Any]) -> AsyncIterator[int]:
    """Something that listens on loopback."""

    async def contained(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await serve(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, contained, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "banner", [b"SSH-2.0-OpenSSH_9.2p1\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b'{"type":"error"}\n', b""]
)
async def test_something_that_is_no_ecorelay(banner) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        if banner:
            await stream.send_all(banner)

    async with answering(serve) as port:
        failed = await failing("tls", Reason.NOT_ECORELAY, at(port))
    assert "host or port" in failed.remedy


async def test_a_web_server_with_tls_is_no_ecorelay_either() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity("beta").path)
    context.set_alpn_protocols(["h2", "http/1.1"])

    async def serve(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True)
        await tls.receive_some(100)

    async with answering(serve) as port:
        failed = await failing("tls", Reason.NOT_ECORELAY, at(port))
    assert "speaks TLS" in failed.cause


async def test_something_that_takes_the_connection_and_hangs() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with answering(serve) as port:
        failed = await failing("tls", Reason.TOO_SLOW, at(port), finish_s=0.3)
    assert "hangs" in failed.cause


@contextlib.contextmanager
def old_tls_server() -> Iterator[int]:
    """A server of Python's own, in a thread, that speaks TLS 1.2 at most, as an old proxy does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity("beta").path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            sock, _ = server.accept()
            with sock, contextlib.suppress(OSError):
                context.wrap_socket(sock, server_side=True)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


async def test_tls_that_fails() -> None:
    with old_tls_server() as port:
        failed = await failing("tls", Reason.TLS, at(port))
    assert "TLS 1.3" in failed.remedy
    assert "version" in failed.cause


async def test_a_wrong_secret(tmp_path) -> None:
    async with running(tmp_path, "beta") as beta:
        failed = await failing("proof", Reason.WRONG_SECRET, peer(beta), secret=WRONG)
    assert "`secret`" in failed.remedy


async def test_a_hub_that_has_only_the_previous_secret(tmp_path) -> None:
    async with running(tmp_path, "beta", secret=OLD) as beta:
        steps = await check(peer(beta), previous=OLD)
    assert all(step.ok for step in steps)
    proof = next(step for step in steps if step.step == "proof")
    assert "previous_secret" in proof.detail
    assert "new secret" in proof.remedy


async def test_an_identity_that_changed(tmp_path) -> None:
    known = {"beta": Known(identity=identity("mallory").fingerprint)}
    async with running(tmp_path, "beta") as beta:
        failed = await failing("identity", Reason.IDENTITY_CHANGED, peer(beta), known=known)
        assert "ecorelay trust beta" in failed.remedy
        pinned = peer(beta, pin=identity("mallory").fingerprint)
        failed = await failing("identity", Reason.IDENTITY_CHANGED, pinned)
        assert "bridge.json" in failed.remedy


async def test_an_identity_of_ours_that_changed_for_them(tmp_path) -> None:
    async with running(tmp_path, "beta") as beta:
        beta.trust.trust("alpha", identity("mallory").fingerprint)
    async with running(tmp_path, "beta") as beta:
        failed = await failing("identity", Reason.IDENTITY_CHANGED, peer(beta))
    assert "there: `ecorelay trust`" in failed.remedy


async def test_a_hub_id_other_than_expected(tmp_path) -> None:
    async with running(tmp_path, "beta") as beta:
        failed = await failing("hub_id", Reason.NOT_ME, peer(beta, hub_id="gamma"))
        assert "bridge.json" in failed.remedy
        failed = await failing("hub_id", Reason.NOT_ME, peer(beta, hub_id="Beta"))


async def test_our_own_hub_id_on_another_machine(tmp_path) -> None:
    async with running(tmp_path, "alpha", who="beta") as other:
        failed = await failing("hub_id", Reason.SAME_HUB, peer(other, hub_id="Alpha"))
    assert "hub_id" in failed.remedy


async def test_a_machine_that_is_a_copy_of_this_one(tmp_path) -> None:
    async with running(tmp_path, "beta", who="alpha") as beta:
        await failing("identity", Reason.OWN_IDENTITY, peer(beta))


@contextlib.asynccontextmanager
async def other_version(versions: tuple[int, ...], *, clock: int = CLOCK) -> AsyncIterator[int]:
    """A hub of another version, or with another clock."""
    me = Party(hub_id="beta", identity=identity("beta"), app="9.9.9", now_ms=lambda: clock, versions=versions)
    hub = Introducer(me, (password(),), anybody, nothing_to_keep, Workers())

    async def serve(stream: trio.SocketStream) -> None:
        with contextlib.suppress(Refused):
            tls, _ = await hub.accept(stream)
            await tls.aclose()

    async with answering(serve) as port:
        yield port


async def test_a_version_too_old() -> None:
    async with other_version((0,)) as port:
        failed = await failing("proof", Reason.VERSION, at(port))
    assert "that hub's machine" in failed.remedy


async def test_this_hub_too_old() -> None:
    async with other_version((8, 9)) as port:
        failed = await failing("proof", Reason.VERSION, at(port))
    assert "this hub's machine" in failed.remedy


async def test_a_clock_that_is_wrong_is_said_though_everything_works() -> None:
    async with other_version((1,), clock=CLOCK) as port:
        steps = await check(at(port))
    assert [step.ok for step in steps] == [True] * 6 + [False]
    assert steps[-1].step == "clock"
    assert "minutes ahead of" in steps[-1].cause or "minutes behind" in steps[-1].cause


async def test_a_machine_whose_address_is_refused_for_a_while(tmp_path) -> None:
    async with running(tmp_path, "beta") as beta:
        for _ in range(FAILED_PROOFS_MAX):
            with pytest.raises(Refused):
                stream = await trio.open_tcp_stream("127.0.0.1", beta.port)
                await introducer("mallory").dial(stream, "beta", password(WRONG))
        failed = await failing("tls", Reason.SOURCE_BLOCKED, peer(beta))
    assert "for a minute" in failed.cause


async def test_a_hub_that_distrusts_us(tmp_path) -> None:
    async with running(tmp_path, "beta") as beta:
        beta.trust.trust("alpha", identity("alpha").fingerprint)
        beta.trust.distrust("alpha")
    async with running(tmp_path, "beta") as beta:
        failed = await failing("identity", Reason.DISTRUSTED, peer(beta))
    assert "distrusts this hub" in failed.cause


async def test_a_check_disturbs_no_running_link(tmp_path) -> None:
    async with (
        running(tmp_path, "beta") as beta,
        running(tmp_path, "alpha", peer(beta), listen=False) as alpha,
    ):
        await alpha.linked()
        await beta.linked()
        steps = await check(peer(beta), known=dict(alpha.trust.known()))
        assert all(step.ok for step in steps)
        with trio.fail_after(5):
            await alpha.links[0].stream.send_all(b"still")
            assert await beta.links[0].stream.receive_some(10) == b"still"
        assert (len(alpha.links), len(beta.links)) == (1, 1)


async def test_all_hubs_are_checked_at_once_and_apart(tmp_path) -> None:
    async with running(tmp_path, "beta") as beta:
        with trio.fail_after(20):
            found = await check_peers(
                settings(peer(beta), at(free_port(), hub_id="gamma")), identity("alpha"), {}
            )
    assert list(found) == ["beta", "gamma"]
    assert all(step.ok for step in found["beta"])
    assert not found["gamma"][-1].ok


# --- our own port --------------------------------------------------------------------------------


def listening(port: int, bind: str = "127.0.0.1") -> Settings:
    return Settings(hub_id="alpha", listen=port, bind=bind, secret=Secret(RIGHT))


@pytest.mark.parametrize("host", ["foo..bar", "a" * 64 + ".example"])
async def test_a_name_no_machine_can_have(host) -> None:
    peers = (Peer(hub_id="beta", host=host, port=9700),)
    settings = Settings(hub_id="alpha", secret=Secret(RIGHT), peers=peers)
    (step,) = (await check_peers(settings, identity("alpha"), {}))["beta"]
    assert (step.step, step.ok, step.reason) == ("resolve", False, str(Reason.NOT_RESOLVED))


async def test_a_bug_in_one_check_leaves_the_others(tmp_path, monkeypatch) -> None:
    async def connect(host: str, port: int, *, within_s: float) -> trio.SocketStream:
        if host == "broken":
            raise ValueError("a bug, and what it says")
        return await original(host, port, within_s=within_s)

    original = dialer.connect
    monkeypatch.setattr("ecorelay_bridge.check.connect", connect)
    async with running(tmp_path, "beta") as beta:
        peers = (Peer(hub_id="other", host="broken", port=1), peer(beta))
        settings = Settings(hub_id="alpha", secret=Secret(RIGHT), peers=peers)
        found = await check_peers(settings, identity("alpha"), {})
    assert [step.reason for step in found["other"]] == [str(Reason.CRASH)]
    assert "ValueError" in found["other"][0].cause
    assert all(step.ok for step in found["beta"])


async def test_our_port_is_free_held_by_our_hub_or_taken(tmp_path) -> None:
    free = await check_listening(listening(free_port()), held_by_our_hub=False)
    assert free.ok
    assert "is free" in free.detail
    async with running(tmp_path, "beta") as beta:
        assert isinstance(beta, Hub)
        ours = await check_listening(listening(beta.port), held_by_our_hub=True)
        assert ours.ok
        taken = await check_listening(listening(beta.port), held_by_our_hub=False)
    assert (taken.ok, taken.reason) == (False, str(Reason.PORT_TAKEN))
    assert str(beta.port) in taken.cause
    none = await check_listening(listening(0), held_by_our_hub=False)
    assert none.ok


async def test_an_address_this_machine_does_not_have() -> None:
    step = await check_listening(listening(free_port(), bind="192.0.2.1"), held_by_our_hub=False)
    assert (step.ok, step.reason) == (False, str(Reason.UNREACHABLE))
    assert "does not have the address 192.0.2.1" in step.cause
    assert "bind" in step.remedy
