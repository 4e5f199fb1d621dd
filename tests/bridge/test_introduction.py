"""TLS and the handshake over a stream: what each side ends with, whatever the other one does."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair

from ecorelay.errors import RelayError
from ecorelay_bridge.binding import channel_binding
from ecorelay_bridge.handshake import MESSAGE_MAX, Proof, refusal_bytes
from ecorelay_bridge.identity import ALPN, dialing_context
from ecorelay_bridge.introduction import Introducer, Proven, hand_over
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.settings import Secret
from ecorelay_bridge.twins import Twins, twins
from ecorelay_bridge.workers import Workers
from tests.bridge.hubs import CLOCK, OLD, RIGHT, WRONG, identity, introducer, party, password

Outcome = tuple[trio.SSLStream, Proof] | Refused


async def outcome(wait: Callable[[], Awaitable[tuple[trio.SSLStream, Proof]]]) -> Outcome:
    try:
        return await wait()
    except Refused as refused:
        return refused


async def both(
    dialer: Introducer, acceptor: Introducer, *, to: str = "beta", secret: str = RIGHT, **more: Any
) -> tuple[Outcome, Outcome]:
    """What both sides of one introduction end with."""
    here, there = memory_stream_pair()
    found: dict[str, Outcome] = {}
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def dial() -> None:
                found["dialed"] = await outcome(lambda: dialer.dial(here, to, password(secret)))

            found["accepted"] = await outcome(lambda: acceptor.accept(there, **more))
    return found["dialed"], found["accepted"]


async def test_two_hubs_get_an_encrypted_stream_and_the_next_byte_is_theirs() -> None:
    dialed, accepted = await both(introducer("alpha"), introducer("beta"))
    assert not isinstance(dialed, Refused)
    assert not isinstance(accepted, Refused)
    assert (dialed[1].hub_id, accepted[1].hub_id) == ("beta", "alpha")
    assert dialed[0].version() == "TLSv1.3"
    with trio.fail_after(5):
        await dialed[0].send_all(b"hello")
        assert await accepted[0].receive_some(100) == b"hello"
        await accepted[0].send_all(b"and back")
        assert await dialed[0].receive_some(100) == b"and back"


async def test_the_first_words_of_the_link_may_follow_the_last_of_the_handshake_at_once() -> None:
    here, there = memory_stream_pair()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def accept() -> None:
                tls, _ = await introducer("beta").accept(there)
                await tls.send_all(b"hello")

            tls, _ = await introducer("alpha").dial(here, "beta", password())
            assert await tls.receive_some(100) == b"hello"


async def test_a_wrong_secret_is_told_to_the_dialer_and_both_close() -> None:
    dialed, accepted = await both(introducer("alpha"), introducer("beta"), secret=WRONG)
    assert isinstance(dialed, Refused)
    assert isinstance(accepted, Refused)
    assert (dialed.reason, dialed.told) == (Reason.WRONG_SECRET, True)
    assert accepted.reason is Reason.WRONG_SECRET
    assert "`secret`" in dialed.remedy


async def test_the_previous_secret_still_works_and_is_named() -> None:
    dialed, accepted = await both(introducer("alpha"), introducer("beta", secrets=(RIGHT, OLD)), secret=OLD)
    assert not isinstance(dialed, Refused)
    assert not isinstance(accepted, Refused)
    assert accepted[1].secret == Secret(OLD)


async def test_each_refusal_reaches_the_other_side() -> None:
    def changed(hub_id: str, fingerprint: str) -> bool:
        raise Refused(Reason.IDENTITY_CHANGED, "it is another", "do this")

    for dialer, acceptor, to, reason in (
        (introducer("alpha"), introducer("beta"), "gamma", Reason.NOT_ME),
        (introducer("alpha"), introducer("beta", versions=(7,)), "beta", Reason.VERSION),
        (introducer("alpha"), introducer("beta", check=changed), "beta", Reason.IDENTITY_CHANGED),
        (introducer("alpha", check=changed), introducer("beta"), "beta", Reason.IDENTITY_CHANGED),
    ):
        dialed, accepted = await both(dialer, acceptor, to=to)
        assert isinstance(dialed, Refused)
        assert isinstance(accepted, Refused)
        assert (dialed.reason, accepted.reason) == (reason, reason)
        assert dialed.told != accepted.told


async def test_who_cannot_be_remembered_gets_no_link() -> None:
    async def full(proof: Proof) -> None:
        raise RelayError("mailbox_error", "the disk is full")

    dialed, accepted = await both(introducer("alpha"), introducer("beta", remember=full))
    assert isinstance(dialed, Refused)
    assert isinstance(accepted, Refused)
    assert dialed.reason is accepted.reason is Reason.NOT_REMEMBERED
    dialed, accepted = await both(introducer("alpha", remember=full), introducer("beta"))
    assert isinstance(dialed, Refused)
    assert dialed.reason is Reason.NOT_REMEMBERED
    # The acceptor had concluded; it finds the stream closed, and nothing on it that the link would misread.
    assert not isinstance(accepted, Refused)
    with trio.fail_after(5):
        with contextlib.suppress(trio.BrokenResourceError):
            assert await accepted[0].receive_some(100) == b""


async def test_a_new_hub_is_remembered_before_its_link_begins_and_with_the_right_name() -> None:
    kept = []

    async def remember(proof: Proof) -> None:
        kept.append((proof.role, proof.hub_id, proof.identity))

    await both(introducer("alpha", remember=remember), introducer("beta", remember=remember))
    assert sorted(kept) == [
        ("acceptor", "alpha", identity("alpha").fingerprint),
        ("dialer", "beta", identity("beta").fingerprint),
    ]


# --- the other side is no hub, or a bad one ------------------------------------------------------


async def dial_to(
    behave: Callable[[trio.abc.Stream], Awaitable[None]], *, finish_s: float = 5.0, known: bool = False
) -> Refused:
    """What a dialer ends with when `behave` is at the other end."""
    here, there = memory_stream_pair()
    dialer = introducer("alpha", finish_s=finish_s, check=lambda hub_id, fingerprint: known)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(behave, there)
            with pytest.raises(Refused) as refused:
                await dialer.dial(here, "beta", password())
            nursery.cancel_scope.cancel()
    return refused.value


async def accept_from(
    behave: Callable[[trio.abc.Stream], Awaitable[None]], *, finish_s: float = 5.0
) -> Refused:
    here, there = memory_stream_pair()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(behave, there)
            with pytest.raises(Refused) as refused:
                await introducer("beta", finish_s=finish_s).accept(here)
            nursery.cancel_scope.cancel()
    return refused.value


def acceptor_tls(alpn: str = ALPN) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity("beta").path)
    if alpn:
        context.set_alpn_protocols([alpn])
    return context


def talking(raw: bytes, *, tls: ssl.SSLContext | None = None):
    """Somebody who says `raw` and then nothing, in TLS if asked."""

    async def behave(stream: trio.abc.Stream) -> None:
        if tls is not None:
            stream = trio.SSLStream(stream, tls, server_side=True)
        try:
            await stream.send_all(raw)
            while await stream.receive_some(4096):
                pass
        except trio.BrokenResourceError:
            pass

    return behave


async def silent(stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def closing(stream: trio.abc.Stream) -> None:
    await stream.receive_some(10)
    await stream.aclose()


@pytest.mark.parametrize(
    "behave",
    [
        talking(b"SSH-2.0-OpenSSH_9.2\r\n"),
        talking(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        talking(b'{"type":"hello"}\n'),
        closing,
        talking(b"", tls=acceptor_tls(alpn="")),
        talking(b"", tls=acceptor_tls(alpn="h2")),
    ],
    ids=["ssh", "http", "json", "closes", "tls-without-alpn", "https"],
)
async def test_what_is_no_hub_is_said_to_be_none(behave) -> None:
    refused = await dial_to(behave)
    assert refused.reason is Reason.NOT_ECORELAY
    assert not refused.failed_proof


async def test_tls_that_ends_in_an_alert_is_a_failure_of_tls() -> None:
    # protocol_version: what a server says that speaks TLS 1.2 only.
    refused = await dial_to(talking(bytes([21, 3, 3, 0, 2, 2, 70])))
    assert refused.reason is Reason.TLS
    assert "TLS 1.3" in refused.remedy


async def test_a_certificate_with_another_kind_of_key_is_no_hubs(tmp_path) -> None:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = generate_private_key(SECP256R1())
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2000, 1, 1))
        .not_valid_after(datetime.datetime(2100, 1, 1))
        .sign(key, SHA256())
    )
    path = tmp_path / "other.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    context.set_alpn_protocols([ALPN])
    refused = await dial_to(talking(b"", tls=context))
    assert refused.reason is Reason.TLS
    assert "Ed25519" in refused.sentence


async def test_silence_ends_after_the_time_for_a_handshake() -> None:
    refused = await dial_to(silent, finish_s=0.1)
    assert (refused.reason, refused.encrypted) == (Reason.TOO_SLOW, False)
    refused = await dial_to(talking(b"", tls=acceptor_tls()), finish_s=1.5)
    assert (refused.reason, refused.encrypted) == (Reason.TOO_SLOW, True)
    refused = await accept_from(silent, finish_s=0.1)
    assert (refused.reason, refused.encrypted) == (Reason.TOO_SLOW, False)


@pytest.mark.parametrize(
    "raw",
    [b"\0\0", b"\0\5hello", (MESSAGE_MAX + 1).to_bytes(2, "big"), b"\xff\xff", b"GET / HTTP/1.1\r\n\r\n"],
)
async def test_garbage_inside_tls_is_refused_on_the_dialers_side(raw) -> None:
    assert (await dial_to(talking(raw, tls=acceptor_tls()))).reason is Reason.GARBAGE


def in_tls(act: Callable[[trio.SSLStream], Awaitable[None]], alpn: str = ALPN):
    """A client that gets through TLS and then does `act`."""

    async def behave(stream: trio.abc.Stream) -> None:
        context = dialing_context()
        context.set_alpn_protocols([alpn])
        tls = trio.SSLStream(stream, context)
        try:
            await tls.do_handshake()
            await act(tls)
            await tls.receive_some(4096)
        except trio.BrokenResourceError:
            pass

    return behave


@pytest.mark.parametrize(
    "raw", [b"\0\0", b"\0\5hello", b"\xff\xff" + b"x" * 70_000, b'\0\x0f{"type":"open"}']
)
async def test_garbage_inside_tls_is_refused_on_the_acceptors_side(raw) -> None:
    assert (await accept_from(in_tls(lambda tls: tls.send_all(raw)))).reason is Reason.GARBAGE


@pytest.mark.parametrize("raw", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 1000, b"SSH-2.0-x\r\n", b"\x16\x03\x01"])
async def test_what_speaks_no_tls_is_refused_by_the_acceptor(raw) -> None:
    async def behave(stream: trio.abc.Stream) -> None:
        await stream.send_all(raw)
        await stream.aclose()

    assert (await accept_from(behave)).reason is Reason.TLS


async def test_a_client_of_another_protocol_is_refused_by_the_acceptor() -> None:
    async def nothing(tls: trio.SSLStream) -> None:
        await trio.lowlevel.checkpoint()

    refused = await accept_from(in_tls(nothing, alpn="h2"))
    assert refused.reason is Reason.NOT_ECORELAY


async def test_a_client_that_goes_away_is_no_bug_of_ours() -> None:
    async def leave(tls: trio.SSLStream) -> None:
        await tls.transport_stream.aclose()

    async def leave_politely(tls: trio.SSLStream) -> None:
        await tls.aclose()

    for act in (leave, leave_politely):

        async def behave(stream: trio.abc.Stream, act=act) -> None:
            tls = trio.SSLStream(stream, dialing_context())
            await tls.do_handshake()
            await act(tls)

        assert (await accept_from(behave)).reason is Reason.CLOSED


def ends_after_the_proof(how: str):
    """An acceptor that takes the dialer's proof, and says nothing to it."""

    async def behave(stream: trio.abc.Stream) -> None:
        from tests.bridge.hubs import accepting

        tls = trio.SSLStream(stream, identity("beta").accepting_context(), server_side=True)
        await tls.do_handshake()
        acceptor = accepting(binding=channel_binding(tls))

        async def receive() -> bytes:
            size = int.from_bytes(await tls.receive_some(2), "big")
            return bytes(await tls.receive_some(size))

        acceptor.read_open(await receive())
        offer = acceptor.offer()
        await tls.send_all(len(offer).to_bytes(2, "big") + offer)
        await receive()
        match how:
            case "closes":
                await tls.aclose()
            case "breaks":
                await tls.transport_stream.aclose()
            case "is busy":
                raw = refusal_bytes(Refused(Reason.BUSY, "")) or b""
                await tls.send_all(len(raw).to_bytes(2, "big") + raw)
            case "babbles":
                await tls.send_all(b"\0\5hello")
            case _:
                await trio.sleep_forever()

    return behave


@pytest.mark.parametrize("how", ["closes", "breaks", "is silent", "is busy", "babbles"])
async def test_whatever_a_stranger_does_after_our_proof_it_counts_as_a_failed_one(how) -> None:
    refused = await dial_to(ends_after_the_proof(how), finish_s=2.0 if how == "is silent" else 10.0)
    assert refused.failed_proof


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("closes", Reason.CLOSED_AFTER_PROOF),
        ("breaks", Reason.CLOSED),
        ("is silent", Reason.TOO_SLOW),
        ("is busy", Reason.BUSY),
        ("babbles", Reason.GARBAGE),
    ],
)
async def test_of_a_hub_that_tls_has_shown_to_be_the_known_one_only_a_real_close_counts(how, reason) -> None:
    """Otherwise a network that fails at that moment would cost a minute."""
    refused = await dial_to(
        ends_after_the_proof(how), finish_s=2.0 if how == "is silent" else 10.0, known=True
    )
    assert refused.reason is reason
    assert refused.failed_proof == (how == "closes")


@pytest.mark.parametrize(("alert", "reason"), [(49, Reason.SOURCE_BLOCKED), (80, Reason.BUSY)])
async def test_an_alert_in_place_of_tls_says_why_we_were_turned_away(alert, reason) -> None:
    refused = await dial_to(talking(bytes([21, 3, 3, 0, 2, 2, alert])))
    assert (refused.reason, refused.told) == (reason, True)


@pytest.mark.parametrize("certificate", ["mallory", "beta"])
async def test_a_man_in_the_middle_who_ends_tls_is_refused_on_both_sides(certificate) -> None:
    """He decrypts, with a certificate of his own or beta's stolen key, and passes on what is said inside."""
    here, there = memory_stream_pair()
    onward, beyond = memory_stream_pair()
    found: dict[str, Outcome] = {}
    seen = bytearray()

    async def pump(source: trio.SSLStream, target: trio.SSLStream) -> None:
        try:
            while data := await source.receive_some(4096):
                seen.extend(data)
                await target.send_all(data)
            await target.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.aclose_forcefully(target)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            left = trio.SSLStream(there, identity(certificate).accepting_context(), server_side=True)
            right = trio.SSLStream(onward, dialing_context())
            nursery.start_soon(pump, left, right)
            nursery.start_soon(pump, right, left)

            @nursery.start_soon
            async def dial() -> None:
                found["dialed"] = await outcome(lambda: introducer("alpha").dial(here, "beta", password()))

            found["accepted"] = await outcome(lambda: introducer("beta").accept(beyond))
    dialed, accepted = found["dialed"], found["accepted"]
    assert isinstance(dialed, Refused)
    assert isinstance(accepted, Refused)
    assert dialed.reason is accepted.reason is Reason.WRONG_SECRET
    assert RIGHT.encode() not in seen
    assert password()._derived.hex().encode() not in seen


async def test_both_ends_of_each_connection_agree_on_its_binding_and_no_two_are_alike() -> None:
    found = set()
    for _ in range(30):
        here, there = memory_stream_pair()
        dialer = trio.SSLStream(here, dialing_context())
        acceptor = trio.SSLStream(there, identity("beta").accepting_context(), server_side=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialer.do_handshake)
            nursery.start_soon(acceptor.do_handshake)
        assert channel_binding(dialer) == channel_binding(acceptor)
        found.add(channel_binding(dialer))
    assert len(found) == 30


@pytest.mark.parametrize("gives", [None, b"", b"short", ValueError("not implemented")])
async def test_a_python_without_a_channel_binding_makes_no_link(monkeypatch, gives) -> None:
    class Blind:
        session_reused = False

        def version(self) -> str:
            return "TLSv1.3"

        def get_channel_binding(self, kind: str) -> bytes | None:
            if isinstance(gives, Exception):
                raise gives
            return gives

    with pytest.raises(Refused) as refused:
        channel_binding(Blind())  # type: ignore[arg-type]
    assert refused.value.reason is Reason.TLS
    assert "OpenSSL" in refused.value.remedy


@pytest.mark.parametrize(("version", "reused"), [("TLSv1.2", False), ("TLSv1.3", True)])
async def test_an_old_tls_or_a_resumed_session_makes_no_link(version, reused) -> None:
    class Odd:
        session_reused = reused

        def version(self) -> str:
            return version

        def get_channel_binding(self, kind: str) -> bytes:
            return bytes(48)

    with pytest.raises(Refused):
        channel_binding(Odd())  # type: ignore[arg-type]


@pytest.mark.parametrize("word", [Reason.WRONG_SECRET, Reason.BAD_SIGNATURE])
async def test_a_proof_refused_before_it_was_sent_costs_no_minute(word) -> None:
    raw = b'{"type":"refuse","reason":"%b"}' % str(word).encode()
    refused = await dial_to(talking(len(raw).to_bytes(2, "big") + raw, tls=acceptor_tls()))
    assert refused.reason is Reason.GARBAGE
    assert not refused.failed_proof


@pytest.mark.parametrize("known", [True, False])
async def test_only_known_hubs_get_in_where_the_address_is_refused(known) -> None:
    beta = introducer("beta", check=lambda hub_id, fingerprint: known)
    dialed, accepted = await both(introducer("alpha"), beta, only_known=True)
    assert isinstance(dialed, Refused) is isinstance(accepted, Refused) is not known


@pytest.mark.parametrize(("known", "familiar"), [(True, True), (True, False), (False, True)])
async def test_saying_that_one_is_known_helps_only_where_a_hub_was_before(
    monkeypatch, known, familiar
) -> None:
    turns = []

    async def take_turn(self: Workers, *, known: bool) -> None:
        turns.append(known)
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Workers, "take_turn", take_turn)
    beta = introducer("beta", check=lambda hub_id, fingerprint: known)
    await both(introducer("alpha"), beta, familiar=familiar)
    assert turns == [known and familiar]


async def test_both_sides_meet_each_other_and_a_twin_is_told() -> None:
    class Noting(Twins):
        def __init__(self) -> None:
            super().__init__(trio.current_time)
            self.met: list[tuple[str, str]] = []

        def meet(self, hub_id: str, instance: str) -> None:
            self.met.append((hub_id, instance))

    ones, twos = "1" * 32, "2" * 32
    seen_by_alpha, seen_by_beta = Noting(), Noting()
    await both(
        introducer("alpha", twins=seen_by_alpha, instance=ones),
        introducer("beta", twins=seen_by_beta, instance=twos),
    )
    assert seen_by_alpha.met == [("beta", twos)]
    assert seen_by_beta.met == [("alpha", ones)]

    class Sure(Twins):
        def expect(self, hub_id: str, instance: str) -> None:
            raise twins(hub_id)

    def known(hub_id: str, fingerprint: str) -> bool:
        return True

    sure = Sure(trio.current_time)
    for here, there in (
        (introducer("alpha", instance=ones), introducer("beta", twins=sure)),
        (introducer("alpha", twins=sure, check=known), introducer("beta")),
    ):
        found = await both(here, there)
        assert [each.reason for each in found if isinstance(each, Refused)] == [Reason.TWINS] * 2


async def test_our_side_closes_the_stream_of_a_refusal() -> None:
    here, there = memory_stream_pair()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talking(b"SSH-2.0-x\r\n"), there)
            with pytest.raises(Refused):
                await introducer("alpha").dial(here, "beta", password())
    with pytest.raises(trio.ClosedResourceError):
        await here.send_all(b"x")


async def test_cancelled_in_the_middle_it_leaves_nothing_open() -> None:
    here, there = memory_stream_pair()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(introducer("alpha").dial, here, "beta", password())
            await there.receive_some(10)
            nursery.cancel_scope.cancel()
    with pytest.raises(trio.ClosedResourceError):
        await here.send_all(b"x")


# --- handing over --------------------------------------------------------------------------------


async def test_what_is_handed_over_says_who_it_is_and_is_closed_afterwards() -> None:
    dialed, accepted = await both(introducer("alpha"), introducer("beta"))
    assert not isinstance(dialed, Refused)
    assert not isinstance(accepted, Refused)
    seen: list[Proven] = []

    async def on_link(proven: Proven) -> None:
        seen.append(proven)

    me = party("alpha")
    late = type(me)(hub_id=me.hub_id, identity=me.identity, app=me.app, now_ms=lambda: CLOCK + 4000)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hand_over, dialed, late, "192.0.2.1:9700", on_link)
            assert await accepted[0].receive_some(10) == b""
    (proven,) = seen
    assert (proven.role, proven.hub_id, proven.app) == ("dialer", "beta", "0.1.0")
    assert proven.identity == identity("beta").fingerprint
    assert proven.secret == Secret(RIGHT)
    assert proven.clock_ahead_ms == -4000
    assert proven.address == "192.0.2.1:9700"
    assert RIGHT not in repr(proven)


@pytest.mark.parametrize("how", ["raises", "is cancelled"])
async def test_however_the_hubs_part_ends_the_stream_is_closed(how) -> None:
    dialed, accepted = await both(introducer("alpha"), introducer("beta"))
    assert not isinstance(dialed, Refused)
    assert not isinstance(accepted, Refused)

    async def on_link(proven: Proven) -> None:
        if how == "raises":
            raise ValueError("a bug")
        await trio.sleep_forever()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def run() -> None:
                with trio.move_on_after(0.1):
                    with contextlib.suppress(ValueError):
                        await hand_over(dialed, party("alpha"), "", on_link)

            assert await accepted[0].receive_some(10) == b""


async def test_an_other_side_that_reads_nothing_cannot_hold_up_the_end() -> None:
    here, there = memory_stream_pair()
    tls: dict[str, trio.SSLStream] = {}
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def accept() -> None:
                tls["accepted"] = (await introducer("beta").accept(there))[0]

            introduced = await introducer("alpha").dial(here, "beta", password())

    async def stuck() -> None:
        await trio.sleep_forever()

    here.send_stream.send_all_hook = stuck

    async def on_link(proven: Proven) -> None:
        await trio.lowlevel.checkpoint()

    with trio.fail_after(5):
        await hand_over(introduced, party("alpha"), "", on_link)
