"""The proof that opens a connection over loopback TCP: both sides know the token of hub.json.

A Unix socket needs none: the file system keeps others out. A port does not: any user of the machine may
connect to it, and may listen on it after a hub died. So the client asks first and says nothing else
to a listener that cannot prove itself, and the hub hears nothing else before the client's proof::

    client                                  hub
    auth_start(nonce)              →
                                   ←        auth_challenge(nonce, proof)
    auth_proof(proof), hello, ...  →

A proof is HMAC-SHA256 under the token over the prover's label and both nonces, each with its length
before it, in hexadecimal. The labels differ, so a proof sent back to its maker is worth nothing; the
nonces are fresh on both sides, so an old one is worth nothing either.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

from ecorelay.errors import WireError
from ecorelay.wire import AuthChallenge, AuthProof, AuthStart, decode_auth, decode_challenge, encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    ReceiveLine = Callable[[], Awaitable[bytes]]
    """The next line, without its end. Raises at the end of the stream, and WireError for one too long."""
    Send = Callable[[bytes], Awaitable[None]]

_HUB: Final = b"ecorelay hub"
_CLIENT: Final = b"ecorelay client"
TOKEN_MIN: Final = 32
"""Characters: a token cut short must not pass for one that is easy to guess."""


def _proof(token: str, label: bytes, client_nonce: str, hub_nonce: str) -> str:
    if len(token) < TOKEN_MIN:
        raise WireError("the token of hub.json was cut short")
    parts = (label, client_nonce.encode(), hub_nonce.encode())
    message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hmac.digest(token.encode(), message, "sha256").hex()


def _same(one: str, other: str) -> bool:
    # Over bytes: compare_digest refuses text outside ASCII, and the other side chooses that text.
    return hmac.compare_digest(one.encode(), other.encode())


async def prove_to_hub(receive_line: ReceiveLine, send: Send, *, token: str, nonce: str) -> None:
    """The client's side. Returns after the client's proof was sent; the hub does not answer it.

    Args:
        receive_line: see `ReceiveLine`.
        send: sends bytes.
        token: from hub.json.
        nonce: fresh, from `ecorelay.names.new_id`.

    Raises:
        WireError: the listener is not the hub that wrote the token. Nothing but a nonce was said to it.
    """
    await send(encode(AuthStart(nonce=nonce)))
    challenge = decode_challenge(await receive_line())
    if not _same(challenge.proof, _proof(token, _HUB, nonce, challenge.nonce)):
        raise WireError("the listener does not know the token of hub.json: it is not our hub")
    await send(encode(AuthProof(proof=_proof(token, _CLIENT, nonce, challenge.nonce))))


async def prove_to_client(receive_line: ReceiveLine, send: Send, *, token: str, nonce: str) -> None:
    """The hub's side. Returns once the client proved itself; the next line is its hello.

    Arguments as in :func:`prove_to_hub`. The caller bounds the time.

    Raises:
        WireError: the client does not know the token, or says something else first.
    """
    start = decode_auth(await receive_line())
    if not isinstance(start, AuthStart):
        raise WireError("auth_start must come first")
    await send(encode(AuthChallenge(nonce=nonce, proof=_proof(token, _HUB, start.nonce, nonce))))
    proof = decode_auth(await receive_line())
    if not isinstance(proof, AuthProof):
        raise WireError("auth_proof must follow the challenge")
    if not _same(proof.proof, _proof(token, _CLIENT, start.nonce, nonce)):
        raise WireError("the client does not know the token of hub.json")
