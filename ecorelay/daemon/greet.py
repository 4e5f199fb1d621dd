"""The first words of a connection: the proof over TCP, hello, and whether both speak one protocol version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecorelay import wire
from ecorelay.daemon.reasons import Ended, Reason
from ecorelay.errors import Code, WireError
from ecorelay.loopback import prove_to_client

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from ecorelay.daemon.lines import Lines

HELLO_S = 5.0
"""Seconds from accepting a connection to its hello."""


class Turned(Ended):
    """The connection is refused; `frame` says so to the other side."""

    def __init__(self, reason: Reason, code: Code, message: str) -> None:
        super().__init__(reason)
        self.frame = wire.Refused(code=code, message=message)


async def prove(lines: Lines, stream: trio.abc.Stream, token: str, new_nonce: Callable[[], str]) -> None:
    """Over TCP: have the other side prove that it read hub.json, and prove it to it.

    Raises:
        Ended: `AUTH_FAILED`; nothing is said about why.
    """
    try:
        await prove_to_client(lines.next, stream.send_all, token=token, nonce=new_nonce())
    except WireError:
        raise Ended(Reason.AUTH_FAILED) from None


async def read_hello(lines: Lines, version: str) -> wire.Hello:
    """The first line, which must be a hello of a protocol version we speak.

    Args:
        lines: of the connection.
        version: our own, of the program.

    Raises:
        Turned: it is not.
        Ended: the connection ended before it.
    """
    try:
        hello = wire.decode_from_session(await lines.next())
    except WireError as error:
        raise Turned(Reason.BAD_HELLO, "bad_msg", error.message) from None
    if not isinstance(hello, wire.Hello):
        raise Turned(Reason.BAD_HELLO, "not_registered", "the first line of a connection must be hello")
    check_versions(hello, version)
    return hello


def check_versions(hello: wire.Hello, version: str) -> None:
    """Refuse who shares no protocol version with us.

    Raises:
        Turned: ``protocol_mismatch``; its message says which side to upgrade.
    """
    oldest, newest = hello.versions
    ours = (wire.OLDEST_PROTOCOL_VERSION, wire.PROTOCOL_VERSION)
    if max(oldest, ours[0]) <= min(newest, ours[1]):
        return
    program = f"ecorelay {hello.app_version}" if hello.app_version else "this program"
    if oldest > newest:
        advice = "versions must be [oldest, newest]"
    elif newest < ours[0]:
        advice = f"upgrade {program}, it is the older one"
    else:
        advice = f"upgrade the hub (ecorelay {version}), then `ecorelay hub restart`"
    raise Turned(
        Reason.PROTOCOL_MISMATCH,
        "protocol_mismatch",
        f"{program} speaks protocol {oldest} to {newest}, the hub {ours[0]} to {ours[1]}: {advice}",
    )
