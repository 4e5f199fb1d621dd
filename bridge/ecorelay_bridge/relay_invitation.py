"""One machine invites another at a relay server, and hands over all that it needs, the secret included.

The two meet there apart (`ecorelay.relay_wire`), with a pass that is good while the invitation is open, and
prove to each other in the hubs' own handshake that both have its *code*, drawn for this one invitation. What
is handed over goes through the TLS of that handshake, end to end: the relay server could make a pass, but
has not the code, and one proof with another code ends the invitation. Both hubs remember each other's
identity, so that their first link is no first contact any more.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import msgspec
import trio
from msgspec import Meta, Struct

from ecorelay.names import Name
from ecorelay.relay_wire import pass_of
from ecorelay_bridge.federation import introduce_as
from ecorelay_bridge.refusals import FAILED_PROOFS, Reason, Refused
from ecorelay_bridge.relay_probe import looking
from ecorelay_bridge.relay_road import TOKEN_BITS, Where
from ecorelay_bridge.settings import RelayServer, Secret, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ecorelay_bridge.identity import Identity
    from ecorelay_bridge.known import Trust

Message = TypeVar("Message", bound=Struct)

ID_BYTES: Final = 16
CODE_BYTES: Final = 16
"""Nobody guesses that, whatever the number of tries."""
GIVEN_MAX: Final = 48 * 1024
"""Bytes; less than what a stream takes of somebody who is not trusted yet."""
KEEP_S: Final = 30.0
"""Seconds to hand over and to write it down there."""
MEET_S: Final = 10.0
"""Seconds to be told of each other."""
PART_S: Final = 5.0
"""Seconds the invited waits for the other one to have heard that all is kept."""


class Pass(Struct, frozen=True, kw_only=True):
    """What the invited machine must have: the way to the meeting, and the code. Its repr shows neither."""

    url: str
    """Of the relay."""
    hub_id: str
    """Of the hub that invites."""
    invitation: str
    """32 hexadecimal digits."""
    token: Secret
    """The pass, in the place of the relay's token."""
    code: Secret


class GivenRelay(Struct, frozen=True, kw_only=True):
    """A relay server, as it goes into bridge.json. An authority of one's own is a file, and stays behind."""

    url: Annotated[str, Meta(max_length=2_048)]
    token: Annotated[str, Meta(max_length=1_024)]


class Given(Struct, frozen=True, kw_only=True):
    """What is handed over."""

    secret: Annotated[str, Meta(max_length=1_024)]
    """Of the federation."""
    relays: tuple[GivenRelay, ...]

    def __repr__(self) -> str:
        return "Given(...)"


class _Kept(Struct, frozen=True, kw_only=True):
    kept: bool


class Joined(Struct, frozen=True, kw_only=True):
    """Who proved that it has the code."""

    hub_id: Name
    identity: str
    """Its fingerprint."""


def given_of(settings: Settings) -> Given:
    """What a machine is given that joins these hubs; they have a secret."""
    assert settings.secret is not None
    relays = [GivenRelay(url=each.url, token=each.token.reveal()) for each in settings.relays]
    return Given(secret=settings.secret.reveal(), relays=tuple(relays))


async def invite(
    relay: RelayServer,
    settings: Settings,
    identity: Identity,
    trust: Trust,
    *,
    on_open: Callable[[Pass], None],
    on_failed: Callable[[Refused], None],
    environ: Mapping[str, str] | None = None,
) -> Joined:
    """Invite one machine, and wait until it has joined; to be cancelled when that takes too long.

    Args:
        relay: where to meet, one of those in `settings`.
        settings: of this hub, with a secret: what is handed over.
        identity: of this hub.
        trust: the other one is remembered there.
        on_open: called once, when somebody can come: what that one must have.
        on_failed: somebody came and did not get through, for a reason that leaves the invitation open.
        environ: has the proxies; default: this process's variables.

    Raises:
        Refused: the relay cannot be used, the invitation is void, or the other side did not keep it.
    """
    if relay.token.bits() < TOKEN_BITS:
        raise Refused(
            Reason.WEAK_TOKEN,
            f"the token of the relay {Where(relay.url).name} is so weak (under {TOKEN_BITS} bits) that who "
            "sees an invitation could find it out",
            "give the relay server a new one: `ecorelay relay-server --init` makes a good one",
        )
    number, code = secrets.token_hex(ID_BYTES), Secret(secrets.token_urlsafe(CODE_BYTES))
    inviting, invited = [
        Secret(pass_of(relay.token.reveal(), number, invited=which)) for which in (False, True)
    ]
    place = msgspec.structs.replace(relay, token=inviting, invitation=number)
    introducer = await introduce_as(_with_code(settings, code), identity, trust)
    async with looking(place, settings.hub_id, environ=environ) as look:
        on_open(Pass(url=relay.url, hub_id=settings.hub_id, invitation=number, token=invited, code=code))
        while True:
            try:
                tls, proof = await introducer.accept(await look.stream())
            except Refused as refused:
                if refused.reason in FAILED_PROOFS:
                    raise Refused(
                        Reason.INVITATION,
                        "somebody came by this invitation with another code: it is void, and nothing was "
                        "handed over",
                        "make a new one, and bring it to the other machine in another way",
                    ) from None
                on_failed(refused)
                continue
            try:
                with trio.fail_after(KEEP_S):
                    await _send(tls, given_of(settings))
                    await _receive(tls, _Kept)
            except (trio.TooSlowError, trio.BrokenResourceError, msgspec.DecodeError):
                raise Refused(
                    Reason.CLOSED,
                    f"{proof.hub_id} came and was given all, but did not say that it could keep it",
                    "see what it says there; if it has no bridge.json, make a new invitation",
                ) from None
            finally:
                await _close(tls)
            return Joined(hub_id=proof.hub_id, identity=proof.identity)


async def join(
    by: Pass,
    hub_id: str,
    identity: Identity,
    trust: Trust,
    *,
    keep: Callable[[Given, Joined], None],
    environ: Mapping[str, str] | None = None,
) -> None:
    """Go where an invitation leads, and take what is handed over.

    Args:
        by: the invitation.
        hub_id: of this hub.
        identity: of this hub.
        trust: the one that invites is remembered there.
        keep: writes it down, durably; the other side hears of it only afterwards. What it raises is raised.
        environ: see :func:`invite`.

    Raises:
        Refused: that was not to be; `keep` was not called.
    """
    place = RelayServer(url=by.url, token=by.token, invitation=by.invitation, invited=True)
    introducer = await introduce_as(Settings(hub_id=hub_id, secret=by.code), identity, trust)
    kept = False
    try:
        async with looking(place, hub_id, environ=environ) as look:
            with trio.move_on_after(MEET_S):
                await look.met_any()
            address = next(iter(look.connection.hubs), b"")
            stream = look.connection.open(address)
            try:
                tls, _ = proven = await introducer.dial(stream, by.hub_id, introducer.passwords[0])
            except Refused as refused:
                raise _of_joining(refused) from None
            try:
                with trio.fail_after(KEEP_S):
                    given = await _receive(tls, Given)
                keep(given, Joined(hub_id=by.hub_id, identity=proven[1].identity))
                kept = True
                # Who leaves a relay takes with it what is on its way: wait until the other side has heard.
                with trio.move_on_after(PART_S), suppress(trio.BrokenResourceError):
                    await _send(tls, _Kept(kept=True))
                    await tls.receive_some(1)
            except (trio.TooSlowError, trio.BrokenResourceError, msgspec.DecodeError):
                raise Refused(
                    Reason.CLOSED,
                    f"{by.hub_id} is who it should be, but handed over nothing that this version understands",
                    "try again with a new invitation; upgrade the older of the two",
                ) from None
            finally:
                await _close(tls)
    except Refused:
        if not kept:
            raise  # else the other one was done first, and the meeting ended with it


def _with_code(settings: Settings, code: Secret) -> Settings:
    return msgspec.structs.replace(settings, secret=code, previous_secret=None)


def _of_joining(refused: Refused) -> Refused:
    """The handshake's words are about secrets and bridge.json; here they are about this line."""
    if refused.failed_proof:
        return Refused(
            Reason.INVITATION,
            "who answered does not know this invitation's code: somebody else stands in that hub's place",
            "make a new invitation; who runs the relay server, or stands before it, may be at work",
        )
    return refused


async def _send(stream: trio.abc.Stream, message: Struct) -> None:
    data = msgspec.json.encode(message)
    await stream.send_all(len(data).to_bytes(4, "big") + data)


async def _receive(stream: trio.abc.Stream, kind: type[Message]) -> Message:
    size = int.from_bytes(await _exactly(stream, 4), "big")
    if size > GIVEN_MAX:
        raise msgspec.DecodeError("too long")
    return msgspec.json.decode(await _exactly(stream, size), type=kind)


async def _exactly(stream: trio.abc.Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            raise trio.BrokenResourceError
        data += more
    return data


async def _close(stream: trio.abc.Stream) -> None:
    with trio.move_on_after(1), suppress(trio.BrokenResourceError, trio.BusyResourceError):
        await stream.aclose()
    await trio.aclose_forcefully(stream)
