"""Whole federations over loopback: real sockets, real TLS, real proofs."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from ecorelay_bridge.door import FAILED_PROOFS_MAX, HALF_OPEN_PER_SOURCE, Door
from ecorelay_bridge.handshake import Proof
from ecorelay_bridge.identity import dialing_context
from ecorelay_bridge.introduction import ALERT_BLOCKED, Introducer
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.settings import Peer, Secret
from tests.bridge.hubs import (
    OLD,
    RIGHT,
    WRONG,
    Hub,
    free_port,
    identity,
    introducer,
    password,
    peer,
    running,
)

on_linux = pytest.mark.skipif(
    sys.platform != "linux",
    reason="connects from several addresses of 127.0.0.0/8, which only Linux has unasked",
)


async def dial(hub: Hub, who: Introducer, secret: str = RIGHT, **more) -> tuple[trio.SSLStream, Proof]:
    with trio.fail_after(15):
        stream = await trio.open_tcp_stream("127.0.0.1", hub.port)
        return await who.dial(stream, hub.name, password(secret), **more)


async def test_a_hub_that_is_dialed_and_the_one_that_dials_both_get_the_link(tmp_path) -> None:
    async with (
        running(tmp_path, "beta") as beta,
        running(tmp_path, "alpha", peer(beta), listen=False) as alpha,
    ):
        there, here = await beta.linked(), await alpha.linked()
        assert (there.hub_id, there.role) == ("alpha", "acceptor")
        assert (here.hub_id, here.role) == ("beta", "dialer")
        assert there.identity == identity("alpha").fingerprint
        assert here.secret == there.secret == Secret(RIGHT)
        with trio.fail_after(5):
            await here.stream.send_all(b"hello")
            assert await there.stream.receive_some(100) == b"hello"
    # Each remembers the other: durable, and before the link began.
    assert alpha.trust.known()["beta"].identity == identity("beta").fingerprint
    assert beta.trust.known()["alpha"].identity == identity("alpha").fingerprint


async def test_two_hubs_that_dial_each_other_at_once_get_both_streams(tmp_path) -> None:
    port = free_port()
    async with (
        running(tmp_path, "alpha", Peer(hub_id="beta", host="127.0.0.1", port=port)) as alpha,
        running(tmp_path, "beta", peer(alpha), port=port) as beta,
    ):
        await alpha.linked(2)
        await beta.linked(2)
        assert sorted(each.role for each in alpha.links) == ["acceptor", "dialer"]
        assert sorted(each.role for each in beta.links) == ["acceptor", "dialer"]


async def test_a_link_that_ends_is_made_again_and_the_roads_are_reported(tmp_path) -> None:
    async with (
        running(tmp_path, "beta") as beta,
        running(tmp_path, "alpha", peer(beta), listen=False) as alpha,
    ):
        await alpha.linked(1)
        beta.release()
        alpha.release()
        await alpha.linked(2)
        await beta.linked(2)
    events = [each.event for each in alpha.reports]
    assert events[:5] == ["dialing", "up", "down", "dialing", "up"]
    assert beta.reports[0].event == "listening"
    assert beta.reports[0].address == f"127.0.0.1:{beta.port}"


async def test_a_hub_that_rests_makes_no_second_link_until_it_seeks(tmp_path) -> None:
    async with (
        running(tmp_path, "beta") as beta,
        running(tmp_path, "alpha", peer(beta), listen=False) as alpha,
    ):
        await alpha.linked(1)
        alpha.roads.rest("beta")
        alpha.release()
        await alpha.until(lambda: alpha.reports[-1].event == "down")
        alpha.roads.seek("beta")
        await alpha.linked(2)


async def test_a_hub_that_comes_later_is_found(tmp_path) -> None:
    port = free_port()
    async with running(
        tmp_path, "alpha", Peer(hub_id="beta", host="127.0.0.1", port=port), listen=False
    ) as alpha:
        report = await alpha.refused(Reason.CONNECTION_REFUSED)
        assert report.retry_in_s is not None
        async with running(tmp_path, "beta", port=port) as beta:
            await beta.linked()
            await alpha.linked()


async def test_a_wrong_secret_is_reported_on_both_sides(tmp_path) -> None:
    async with (
        running(tmp_path, "beta") as beta,
        running(tmp_path, "alpha", peer(beta), secret=WRONG, listen=False) as alpha,
    ):
        ours = await alpha.refused(Reason.WRONG_SECRET)
        theirs = await beta.refused(Reason.WRONG_SECRET)
    assert ours.told
    assert not theirs.told
    assert ours.retry_in_s is not None
    assert ours.retry_in_s >= 60
    assert theirs.hub_id == ""  # nothing a stranger says is repeated
    for report in (*alpha.reports, *beta.reports):
        assert RIGHT not in repr(report)
        assert WRONG not in repr(report)
    assert alpha.trust.known() == beta.trust.known() == {}


@pytest.mark.parametrize("side", ["dialer", "acceptor"])
async def test_secrets_are_changed_one_hub_at_a_time(tmp_path, side) -> None:
    """The hub that has the new secret already and the one that has only the old one link either way."""
    new, old = (RIGHT, OLD), (OLD, "")
    dialer, acceptor = (new, old) if side == "dialer" else (old, new)
    async with (
        running(tmp_path, "beta", secret=acceptor[0], previous=acceptor[1]) as beta,
        running(tmp_path, "alpha", peer(beta), listen=False, secret=dialer[0], previous=dialer[1]) as alpha,
    ):
        assert (await alpha.linked()).secret == Secret(OLD)
        assert (await beta.linked()).secret == Secret(OLD)


async def test_a_hub_with_another_identity_than_before_is_refused_on_both_sides(tmp_path) -> None:
    async with (
        running(tmp_path, "beta") as beta,
        running(tmp_path, "alpha", peer(beta), listen=False) as alpha,
    ):
        await alpha.linked()
        await beta.linked()
    async with (
        running(tmp_path, "beta", who="mallory") as beta,
        running(tmp_path, "alpha", peer(beta), listen=False) as alpha,
    ):
        ours = await alpha.refused(Reason.IDENTITY_CHANGED)
        theirs = await beta.refused(Reason.IDENTITY_CHANGED)
    assert "ecorelay trust beta" in ours.remedy
    assert theirs.told
    assert alpha.links == beta.links == []


async def test_a_pinned_identity_is_demanded_at_first_contact(tmp_path) -> None:
    async with (
        running(tmp_path, "beta") as beta,
        running(tmp_path, "alpha", peer(beta, pin=identity("mallory").fingerprint), listen=False) as alpha,
    ):
        await alpha.refused(Reason.IDENTITY_CHANGED)
    async with (
        running(tmp_path, "beta") as beta,
        running(tmp_path, "alpha", peer(beta, pin=identity("beta").fingerprint), listen=False) as alpha,
    ):
        await alpha.linked()


async def test_a_pin_that_was_corrected_replaces_what_was_remembered(tmp_path) -> None:
    async with running(tmp_path, "alpha", listen=False) as alpha:
        alpha.trust.trust("beta", identity("mallory").fingerprint)
    async with (
        running(tmp_path, "beta") as beta,
        running(tmp_path, "alpha", peer(beta, pin=identity("beta").fingerprint), listen=False) as alpha,
    ):
        await alpha.linked()
    assert alpha.trust.known()["beta"].identity == identity("beta").fingerprint


async def test_the_same_identity_on_both_machines_is_refused(tmp_path) -> None:
    async with (
        running(tmp_path, "beta", who="alpha") as beta,
        running(tmp_path, "alpha", peer(beta), listen=False) as alpha,
    ):
        report = await alpha.refused(Reason.OWN_IDENTITY)
    assert "identity.pem" in report.remedy


async def test_two_first_contacts_under_one_name_at_once_give_one_hub(tmp_path) -> None:
    async with running(tmp_path, "beta") as beta:
        found: list[tuple[trio.SSLStream, Proof] | Reason] = []

        async def come(who: str) -> None:
            me = introducer("gamma")
            me.me = type(me.me)(hub_id="gamma", identity=identity(who), app="0.1.0", now_ms=lambda: 0)
            try:
                found.append(await dial(beta, me))
            except Refused as refused:
                found.append(refused.reason)

        async with trio.open_nursery() as nursery:
            for who in ("gamma", "mallory", "alpha"):
                nursery.start_soon(come, who)
        refusals = [each for each in found if each is Reason.IDENTITY_CHANGED]
        assert len(refusals) == 2
        for each in found:
            if not isinstance(each, Reason):
                await trio.aclose_forcefully(each[0])


async def test_a_check_makes_no_link_and_leaves_nothing_behind(tmp_path) -> None:
    async with running(tmp_path, "beta") as beta:
        tls, proof = await dial(beta, introducer("alpha"), checking=True)
        assert proof.checking
        with trio.fail_after(5):
            assert await tls.receive_some(10) == b""
        await trio.aclose_forcefully(tls)
        assert beta.links == []
        assert beta.trust.known() == {}
        assert [each.event for each in beta.reports] == ["listening"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_bound_to_every_address_it_is_reached_over_both_families(tmp_path, host) -> None:
    if host == "::1":
        with socket.socket(socket.AF_INET6) as sock:
            try:
                sock.bind((host, 0))
            except OSError:
                pytest.skip("this machine has no IPv6")
    async with running(tmp_path, "beta", bind="::") as beta:
        with trio.fail_after(15):
            stream = await trio.open_tcp_stream(host, beta.port)
            tls, _ = await introducer("alpha").dial(stream, "beta", password())
        assert (await beta.linked()).address.startswith("[::1]:" if host == "::1" else "127.0.0.1:")
        await trio.aclose_forcefully(tls)


async def test_a_port_that_is_taken_is_said_and_had_as_soon_as_it_is_free(tmp_path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        manager = running(tmp_path, "beta", port=port)
        beta = await manager.__aenter__()
        report = await beta.refused(Reason.PORT_TAKEN)
        assert report.event == "not_listening"
        assert str(port) in report.sentence
    try:
        await beta.until(lambda: beta.reports[-1].event == "listening")
        tls, _ = await dial(beta, introducer("alpha"))
        await beta.linked()
        await trio.aclose_forcefully(tls)
    finally:
        await manager.__aexit__(None, None, None)


# --- guessing, floods ----------------------------------------------------------------------------


async def test_five_wrong_guesses_and_the_source_is_refused_with_a_word(tmp_path) -> None:
    async with running(tmp_path, "beta") as beta:
        for _ in range(FAILED_PROOFS_MAX):
            with pytest.raises(Refused) as refused:
                await dial(beta, introducer("mallory"), WRONG)
            assert refused.value.reason is Reason.WRONG_SECRET
        # Even with the right one now.
        with pytest.raises(Refused) as refused:
            await dial(beta, introducer("mallory"), RIGHT)
        assert (refused.value.reason, refused.value.told) == (Reason.SOURCE_BLOCKED, True)
        await beta.refused(Reason.SOURCE_BLOCKED)


async def test_who_takes_an_offer_and_never_proves_counts_as_a_guess(tmp_path) -> None:
    async with running(tmp_path, "beta") as beta:
        for _ in range(FAILED_PROOFS_MAX):
            tls = trio.SSLStream(await trio.open_tcp_stream("127.0.0.1", beta.port), dialing_context())
            with trio.fail_after(10):
                await tls.do_handshake()
                from tests.bridge.hubs import dialing

                raw = dialing("mallory").open()
                await tls.send_all(len(raw).to_bytes(2, "big") + raw)
                assert await tls.receive_some(2)
            await tls.aclose()
        await beta.until(
            lambda: sum(each.reason is Reason.CLOSED for each in beta.reports) == FAILED_PROOFS_MAX
        )
        with pytest.raises(Refused) as refused:
            await dial(beta, introducer("alpha"))
        assert refused.value.reason is Reason.SOURCE_BLOCKED


@contextlib.asynccontextmanager
async def silent_connections(port: int, count: int, sources: int) -> AsyncIterator[list[socket.socket]]:
    """Connections that say nothing, from so many addresses of this machine."""
    made = []
    try:
        for number in range(count):
            sock = socket.socket()
            made.append(sock)
            sock.bind((f"127.0.1.{1 + number % sources}", 0))
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            if number % 50 == 49:
                await trio.sleep(0.005)
        yield made
    finally:
        for sock in made:
            sock.close()


@on_linux
async def test_a_thousand_half_open_connections_leave_the_door_open_for_known_hubs(tmp_path) -> None:
    async with running(tmp_path, "beta") as beta:
        tls, _ = await dial(beta, introducer("alpha"))
        await beta.linked()
        async with silent_connections(beta.port, 1000, 250):
            await beta.refused(Reason.DOOR_FULL)
            # A source from which a hub proved itself has a part of the room to itself.
            again, _ = await dial(beta, introducer("alpha"))
            await beta.linked(2)
            # And the link that was up never noticed.
            with trio.fail_after(5):
                await tls.send_all(b"still here")
                assert await beta.links[0].stream.receive_some(100) == b"still here"
        assert len(beta.reports) < 100
        for each in (tls, again):
            await trio.aclose_forcefully(each)


@on_linux
async def test_one_source_has_room_for_four(tmp_path) -> None:
    async with running(tmp_path, "beta") as beta:
        async with silent_connections(beta.port, HALF_OPEN_PER_SOURCE + 1, 1) as made:
            await beta.refused(Reason.SOURCE_FULL)
            with trio.fail_after(5):
                await trio.lowlevel.wait_readable(made[-1])
            assert made[-1].recv(100)[-1] == 80  # the alert: no room


@on_linux
async def test_four_silent_connections_from_a_familiar_address_keep_its_hub_not_out(tmp_path) -> None:
    async with running(tmp_path, "beta") as beta:
        tls, _ = await dial(beta, introducer("alpha"))
        await tls.aclose()
        held = [await trio.open_tcp_stream("127.0.0.1", beta.port) for _ in range(HALF_OPEN_PER_SOURCE)]
        await trio.sleep(0.2)
        tls, _ = await dial(beta, introducer("alpha"))
        for stream in (tls, *held):
            await trio.aclose_forcefully(stream)


async def test_guesses_at_its_name_close_the_door_like_garbage(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("ecorelay_bridge.door.FRUITLESS_MAX", 5)
    async with running(tmp_path, "beta") as beta:
        answers = []
        for _ in range(7):
            stream = await trio.open_tcp_stream("127.0.0.1", beta.port)
            with pytest.raises(Refused) as refused:
                await introducer("alpha").dial(stream, "gamma", password())
            answers.append(refused.value.reason)
    assert answers == [Reason.NOT_ME] * 5 + [Reason.SOURCE_BLOCKED] * 2


async def test_a_hub_that_dials_in_a_new_spelling_takes_no_pinned_place(tmp_path) -> None:
    pinned = Peer(hub_id="Desk", host="127.0.0.1", port=free_port(), identity=identity("Desk").fingerprint)
    async with running(tmp_path, "beta", pinned) as beta:
        stream = await trio.open_tcp_stream("127.0.0.1", beta.port)
        with pytest.raises(Refused) as refused:
            await introducer("desk").dial(stream, "beta", password())
        assert refused.value.reason is Reason.OTHER_CASE
        tls, _ = await dial(beta, introducer("Desk"))
        await trio.aclose_forcefully(tls)


async def test_a_hub_and_its_copy_are_told_of_each_other(tmp_path) -> None:
    async with running(tmp_path, "beta") as beta:
        hub, copy = introducer("alpha", instance="1" * 32), introducer("alpha", instance="2" * 32)
        kept = [(await dial(beta, hub))[0], (await dial(beta, copy))[0]]
        with pytest.raises(Refused) as refused:
            await dial(beta, hub)
        assert (refused.value.reason, refused.value.told) == (Reason.TWINS, True)
        assert "alpha" in (await beta.refused(Reason.TWINS)).sentence
        for tls in kept:
            await trio.aclose_forcefully(tls)


async def test_an_odd_error_of_the_listening_socket_ends_no_link(tmp_path, monkeypatch) -> None:
    original = trio.SocketListener.accept
    failures: list[OSError] = []

    async def accept(self: trio.SocketListener) -> trio.SocketStream:
        stream = await original(self)
        if failures:
            await stream.aclose()
            raise failures.pop()
        return stream

    monkeypatch.setattr(trio.SocketListener, "accept", accept)
    async with running(tmp_path, "beta") as beta:
        first, _ = await dial(beta, introducer("alpha"))
        failures.append(OSError(errno.EIO, "odd"))
        await trio.aclose_forcefully(await trio.open_tcp_stream("127.0.0.1", beta.port))
        await beta.until(lambda: sum(each.event == "listening" for each in beta.reports) == 2)
        second, _ = await dial(beta, introducer("gamma"))
        assert not any(each.event == "down" for each in beta.reports)
        for tls in (first, second):
            await trio.aclose_forcefully(tls)


async def test_no_room_for_a_connection_is_told_once_and_waited_out(tmp_path, monkeypatch) -> None:
    original, failures = trio.SocketListener.accept, [OSError(errno.EMFILE, "Too many open files")] * 3

    async def accept(self: trio.SocketListener) -> trio.SocketStream:
        if failures:
            raise failures.pop()
        return await original(self)

    monkeypatch.setattr(trio.SocketListener, "accept", accept)
    async with running(tmp_path, "beta") as beta:
        tls, _ = await dial(beta, introducer("alpha"))
        assert [each.event for each in beta.reports][:2] == ["listening", "failed"]
        assert sum(each.event == "failed" for each in beta.reports) == 1
        assert "Too many open files" in beta.reports[1].sentence
        await trio.aclose_forcefully(tls)


async def test_who_is_familiar_stays_so_when_it_is_begun_anew(tmp_path) -> None:
    door = Door(trio.current_time)
    for _ in range(2):
        async with running(tmp_path, "beta", door=door) as beta:
            tls, _ = await dial(beta, introducer("alpha"))
            await trio.aclose_forcefully(tls)
    assert door.is_familiar("127.0.0.1")
    assert door.half_open == 0


async def test_garbage_at_speed_is_refused_and_reported_within_bounds(tmp_path) -> None:
    async with running(tmp_path, "beta") as beta:
        answers = []
        with trio.fail_after(60):
            for _ in range(300):
                stream = await trio.open_tcp_stream("127.0.0.1", beta.port, local_address="127.0.2.2")
                async with stream:
                    try:
                        await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
                        answers.append(await stream.receive_some(100))
                    except trio.BrokenResourceError:
                        answers.append(b"")
        # From some point on there is no TLS any more, only the alert that says why, and soon not even that.
        alert = bytes([21, 3, 3, 0, 2, 2, ALERT_BLOCKED])
        assert alert in answers
        assert set(answers) <= {alert, b""}
        assert (await beta.refused(Reason.SOURCE_BLOCKED)).sentence
        assert len(beta.reports) < 100
        tls, _ = await dial(beta, introducer("alpha"))
        await beta.linked()
        await trio.aclose_forcefully(tls)


async def test_a_bug_while_somebody_is_let_in_costs_that_connection_only(tmp_path, monkeypatch) -> None:
    bug = ValueError("a bug")
    real = Introducer.accept
    failing = [bug]

    async def accept(self: Introducer, stream: trio.abc.Stream, **more: Any) -> Any:
        if failing:
            await trio.aclose_forcefully(stream)
            raise failing.pop()
        return await real(self, stream, **more)

    monkeypatch.setattr(Introducer, "accept", accept)
    async with running(tmp_path, "beta") as beta:
        with pytest.raises(Refused):
            await dial(beta, introducer("alpha"))
        assert (await beta.refused(Reason.CRASH)).error is bug
        tls, _ = await dial(beta, introducer("alpha"))
        await beta.linked()
        await trio.aclose_forcefully(tls)


# --- what is on the wire -------------------------------------------------------------------------


async def test_nothing_on_the_wire_shows_a_secret_or_a_word_of_the_handshake(tmp_path) -> None:
    seen = bytearray()
    port = free_port()

    async def copy(source: trio.SocketStream, target: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(65536):
                seen.extend(data)
                await target.send_all(data)

    async with running(tmp_path, "beta", previous=OLD) as beta:

        async def between(stream: trio.SocketStream) -> None:
            onward = await trio.open_tcp_stream("127.0.0.1", beta.port)
            async with onward, trio.open_nursery() as nursery:
                nursery.start_soon(copy, stream, onward)
                nursery.start_soon(copy, onward, stream)

        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_tcp, between, port)
            through = Peer(hub_id="beta", host="127.0.0.1", port=port)
            async with running(tmp_path, "alpha", through, listen=False) as alpha:
                here, there = await alpha.linked(), await beta.linked()
                with trio.fail_after(5):
                    await here.stream.send_all(b'{"type":"hello","text":"the first mail"}')
                    assert await there.stream.receive_some(100)
            nursery.cancel_scope.cancel()
    assert len(seen) > 1500
    derived = password()._derived
    private = {
        "secret": RIGHT.encode(),
        "the other secret": OLD.encode(),
        "derived": derived,
        "derived, hex": derived.hex().encode(),
        "derived, the other": password(OLD)._derived,
        "dialer's name": b"alpha",
        "acceptor's name": b"beta",
        "dialer's key": identity("alpha").public,
        "dialer's key, hex": identity("alpha").public.hex().encode(),
        "acceptor's key": identity("beta").public,
        "acceptor's certificate": identity("beta").certificate[40:120],
        "common name": b"ecorelay\x30",
        "a field": b'"macs"',
        "a mail": b"the first mail",
        "hello": b"hello",
    }
    assert [name for name, each in private.items() if each in seen] == []
    # What does show, because TLS needs it in the open.
    assert b"ecorelay-link/1" in seen


async def test_a_program_that_only_reads_settings_pays_for_no_cryptography() -> None:
    code = (
        "import sys, ecorelay_bridge; from ecorelay_bridge import read_settings, federate; "
        "from pathlib import Path; read_settings(Path(sys.argv[1])); "
        "print([name for name in ('cryptography', 'spake2') if name in sys.modules])"
    )
    example = Path(__file__).parents[2] / "bridge.example.json"
    with trio.fail_after(60):
        done = await trio.run_process(
            [sys.executable, "-c", code, str(example.with_name("no such file"))], capture_stdout=True
        )
    assert done.stdout.strip() == b"[]"


def test_the_package_gives_what_it_names_and_nothing_else() -> None:
    import ecorelay_bridge

    for name in ecorelay_bridge.__all__:
        assert getattr(ecorelay_bridge, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = ecorelay_bridge.nothing_of_the_kind
