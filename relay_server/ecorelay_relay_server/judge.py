"""Whether a hello proves a hub, and for which realm. Decides; no I/O, no clock.

Failed proofs are counted against the source, and against the identity where its own signature shows that it
is the one who failed: else anybody could have a hub locked out by failing in its name. A source that is
refused does not lock out the hubs behind it that have been here before, nor, where no token can be guessed,
any other that proves itself: else a stranger behind the same address, or the same tunnel, could keep all
hubs out of a server that was just started.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ecorelay import relay_wire
from ecorelay.relay_wire import OLDEST_RELAY_VERSION, RELAY_VERSION, RelayHello
from ecorelay_relay_server.bounds import COMINGS_MAX, FAILED_MAX, STRONG_BITS
from ecorelay_relay_server.door import Comings, Failures, Familiar

if TYPE_CHECKING:
    from ecorelay.secret import Secret
    from ecorelay_relay_server.settings import Settings


class Proven(NamedTuple):
    """It is that hub, and knows a token."""

    realm: str
    token: Secret
    """Also of one that proved a pass: the token it was made from."""
    invitation: str = ""
    """By which it meets another apart; "": it is one of the realm."""
    invited: bool = False


class Refused(NamedTuple):
    """It is not let in."""

    code: int
    """To close with, see `ecorelay.relay_wire`."""
    why: str
    """A word, for counting."""
    reason: str
    """For a person at the hub."""


class Judge:
    """The tokens of this server, and what it remembers of those who tried.

    Args:
        settings: they can be changed, see :meth:`use`.
    """

    def __init__(self, settings: Settings) -> None:
        self._sources = Failures(FAILED_MAX)
        self._identities = Failures(FAILED_MAX)
        self._comings = Failures(COMINGS_MAX)
        self._from = Comings()
        self._familiar = Familiar()
        self.use(settings)

    def use(self, settings: Settings) -> None:
        """Other settings from now on."""
        self._tokens = [Proven(realm.name, token) for realm in settings.realms for token in realm.tokens]
        self._unguessable = all(each.token.bits() >= STRONG_BITS for each in self._tokens)
        self._urls = frozenset([normal(url) for url in settings.urls])

    def judge(self, hello: RelayHello, nonce: str, source: str, now: float) -> Proven | Refused:
        """Judge a hello.

        Args:
            hello: as it came.
            nonce: the server's, of this connection.
            source: where it comes from.
            now: seconds, monotonic.
        """
        wrong = other_version(hello.version)
        if wrong is not None:
            return wrong
        identity = hello.public
        if self._identities.refused(identity, now):
            return _later("identity_refused", "too many failed proofs of this identity")
        said = relay_wire.statement(nonce, hello)
        proven = self._matching(said, hello)
        signed = _signed(hello, said)
        if self._sources.refused(source, now):
            known = identity in self._familiar or (proven is not None and self._unguessable)
            if not (signed and known):
                return _later("source_refused", "too many failed proofs from this address")
        if proven is None or not signed:
            self._sources.count(source, now)
            if signed:
                self._identities.count(identity, now)
        if proven is None:
            return Refused(relay_wire.CLOSE_TOKEN, "token", "the token is none of this server's")
        if not signed:
            return Refused(relay_wire.CLOSE_TOKEN, "signature", "the signature is not of this identity")
        if self._urls and normal(hello.url) not in self._urls:
            return Refused(
                relay_wire.CLOSE_TOKEN,
                "url",
                "dialed by a URL that is not among `urls` of this server's configuration",
            )
        if self._comings.refused(identity, now):
            return _later("comings", "this identity comes too often: do two machines have it?")
        if self._from.too_many(source, now):
            return _later("source_comings", "too many hubs come from this address")
        self._comings.count(identity, now)
        if not hello.invitation:
            self._familiar.add(identity)
        return proven

    def _matching(self, said: bytes, hello: RelayHello) -> Proven | None:
        found: Proven | None = None
        # All are tried, in the same time whichever it is.
        for each in self._tokens:
            key = each.token.reveal()
            if hello.invitation:
                key = relay_wire.pass_of(key, hello.invitation, invited=hello.invited)
            if hmac.compare_digest(relay_wire.proof_of(key, said), hello.proof):
                found = each
        if found is None or not hello.invitation:
            return found
        return found._replace(invitation=hello.invitation, invited=hello.invited)


def _later(why: str, what: str) -> Refused:
    return Refused(relay_wire.CLOSE_RATE, why, f"{what}: come again in a minute")


def other_version(version: int) -> Refused | None:
    """What a hub is told that speaks a version which this server does not; None: it does."""
    if OLDEST_RELAY_VERSION <= version <= RELAY_VERSION:
        return None
    older = "server" if version > RELAY_VERSION else "hub"
    # It may have thousands of digits.
    its = f"relay version {version}" if abs(version) < 1_000 else "another relay version"
    return Refused(
        relay_wire.CLOSE_VERSION,
        "version",
        f"{its}, this server speaks {_versions()}: upgrade the {older}",
    )


def _versions() -> str:
    if OLDEST_RELAY_VERSION == RELAY_VERSION:
        return str(RELAY_VERSION)
    return f"{OLDEST_RELAY_VERSION} to {RELAY_VERSION}"


def _signed(hello: RelayHello, said: bytes) -> bool:
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(hello.public))
        key.verify(bytes.fromhex(hello.signature), relay_wire.to_sign(said))
    except (InvalidSignature, ValueError):
        return False
    return True


def normal(url: str) -> str:
    """A URL so that two spellings of one are the same: case of the host, the default port, a final slash."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return url
    default = {"ws": 80, "wss": 443}.get(parts.scheme)
    host = parts.hostname or ""
    at = f"[{host}]" if ":" in host else host
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{at}:{port or default}{parts.path.rstrip('/')}{query}"
