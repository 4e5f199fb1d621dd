"""What is the same at both ends of one TLS connection and of no other: the proof inside is tied to it.

Without it somebody with a hub's stolen key, but not the secret, could end TLS in its place and pass the
proof on from one connection to another.

It is the client's Finished message, which Python calls ``tls-unique``: a keyed hash over the whole
handshake, both key shares among it, at least 32 bytes. RFC 9266 has an exporter in its place for TLS 1.3,
because of attacks with resumed sessions and with hashes cut short. Here is neither: no session is ever
resumed, which is checked, and TLS 1.3 sends the hash whole. Python has no exporter (python/cpython#82133,
open in 2026).

Where a Python or its TLS library gives nothing here, there is no link: never one without the binding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ecorelay_bridge.refusals import Reason, Refused

if TYPE_CHECKING:
    import trio

BINDING_MIN: Final = 32
"""Bytes: what TLS 1.3 has with its shortest hash."""


def channel_binding(tls: trio.SSLStream[Any]) -> bytes:
    """The binding of a connection whose TLS handshake is over.

    Raises:
        Refused: ``tls``, there is none to be had, or the session is a resumed one.
    """
    try:
        found: bytes | None = tls.get_channel_binding("tls-unique")
    except ValueError:
        found = None  # this Python does not know it any more
    if found is None or len(found) < BINDING_MIN or tls.version() != "TLSv1.3" or tls.session_reused:
        raise Refused(
            Reason.TLS,
            "this Python's TLS does not tell one connection from another (no channel binding)",
            "run ecorelay with a Python that uses OpenSSL 1.1.1 or newer",
        )
    return found
