"""Why two hubs do not link, each reason with its words for a person and what to do.

A reason crosses the wire as its bare word, see `ecorelay_bridge.handshake.Refuse`; the sentences never do:
each side says them in its own words, about its own files.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

REPLY_MAX: Final = 40
"""Characters of a reason word another hub may send."""


class Reason(StrEnum):
    """Every way in which an attempt to link ends without a link."""

    # Before the proof, on the road there.
    NOT_RESOLVED = "not_resolved"
    CONNECTION_REFUSED = "connection_refused"
    FILTERED = "filtered"
    UNREACHABLE = "unreachable"
    NOT_ECORELAY = "not_ecorelay"
    TLS = "tls"
    # During it.
    GARBAGE = "garbage"
    CLOSED = "closed"
    TOO_SLOW = "too_slow"
    BUSY = "busy"
    VERSION = "version"
    SAME_HUB = "same_hub"
    OWN_HUB_ID = "own_hub_id"
    OWN_IDENTITY = "own_identity"
    NOT_ME = "not_me"
    NOT_WHOM_I_DIALED = "not_whom_i_dialed"
    IDENTITY_CHANGED = "identity_changed"
    OTHER_CASE = "other_case"
    DISTRUSTED = "distrusted"
    TWINS = "twins"
    WRONG_SECRET = "wrong_secret"
    BAD_SIGNATURE = "bad_signature"
    CLOSED_AFTER_PROOF = "closed_after_proof"
    # At the door, before anything was said.
    SOURCE_BLOCKED = "source_blocked"
    SOURCE_FULL = "source_full"
    DOOR_FULL = "door_full"
    # At a relay server, or on the way to it.
    PROXY = "proxy"
    CERTIFICATE = "certificate"
    NO_RELAY = "no_relay"
    WEAK_TOKEN = "weak_token"
    RELAY_AWAY = "relay_away"
    RELAY_LOST = "relay_lost"
    RELAY_TOKEN = "relay_token"
    RELAY_HUB_ID = "relay_hub_id"
    RELAY_REPLACED = "relay_replaced"
    RELAY_FULL = "relay_full"
    RELAY_RATE = "relay_rate"
    RELAY_RULES = "relay_rules"
    INVITATION = "invitation"
    NOT_AT_RELAY = "not_at_relay"
    CONGESTED = "congested"
    # Ours.
    NOT_REMEMBERED = "not_remembered"
    PORT_TAKEN = "port_taken"
    CRASH = "crash"
    # A word of a newer version.
    UNKNOWN = "unknown"


FAILED_PROOFS: Final = frozenset({Reason.WRONG_SECRET, Reason.BAD_SIGNATURE, Reason.CLOSED_AFTER_PROOF})
"""After one of these a dialer waits a minute and longer: it may be handing guesses to an impostor."""

_SLOW: Final = frozenset(
    {
        Reason.RELAY_TOKEN,
        Reason.RELAY_HUB_ID,
        Reason.RELAY_REPLACED,
        Reason.RELAY_RATE,
        Reason.RELAY_RULES,
    }
)
"""A relay server is asked again as slowly: it counts what it refused, and others wait behind us."""

_SETTLED: Final = frozenset(
    {
        Reason.VERSION,
        Reason.SAME_HUB,
        Reason.OWN_HUB_ID,
        Reason.OWN_IDENTITY,
        Reason.NOT_ME,
        Reason.NOT_WHOM_I_DIALED,
        Reason.IDENTITY_CHANGED,
        Reason.OTHER_CASE,
        Reason.DISTRUSTED,
        Reason.WEAK_TOKEN,
        Reason.CONGESTED,
        Reason.TWINS,
    }
)


class Refused(Exception):
    """No link, and why.

    Neither text quotes what the other side sent beyond names that were checked, and never a secret.

    Args:
        reason: the word.
        sentence: what happened, for a person.
        remedy: what to do about it; empty where time or the other side mends it.
        told: whether the other side refused us (then it knows why), rather than we it.
        versions: the other side's protocol versions, where they are the reason.
        encrypted: whether TLS was up by then.
    """

    def __init__(
        self,
        reason: Reason,
        sentence: str,
        remedy: str = "",
        *,
        told: bool = False,
        versions: tuple[int, ...] = (),
        encrypted: bool = True,
    ) -> None:
        super().__init__(f"{reason}: {sentence}")
        self.reason = reason
        self.sentence = sentence
        self.remedy = remedy
        self.told = told
        self.versions = versions
        self.encrypted = encrypted
        self.was_guess = False
        """Whether it came for our proof, from somebody who is not shown to be the hub we know."""

    @property
    def failed_proof(self) -> bool:
        """Whether a dialer must count this as a proof that failed."""
        return self.was_guess or self.reason in FAILED_PROOFS

    @property
    def slow(self) -> bool:
        """Whether trying again within a minute would only make it worse."""
        return self.failed_proof or self.reason in _SLOW

    @property
    def settled(self) -> bool:
        """Whether trying again soon is of no use: a person has to change something first."""
        return self.reason in _SETTLED


_SECRET_REMEDY: Final = "make `secret` the same on both machines, then `ecorelay hub reload` on each"

_TOLD: Final[dict[Reason, tuple[str, str]]] = {
    Reason.GARBAGE: ("it could not read what we said", "see its `ecorelay hub status`"),
    Reason.TOO_SLOW: ("it gave up waiting for us", ""),
    Reason.BUSY: ("it has too many handshakes to do just now", ""),
    Reason.SAME_HUB: ("it says that both hubs have one hub_id", "give each machine a hub_id of its own"),
    Reason.OWN_HUB_ID: (
        "it has the hub_id that we give as ours",
        "give each machine a hub_id of its own in bridge.json",
    ),
    Reason.OWN_IDENTITY: (
        "it has the same identity as this hub: one of them is a copy",
        "on the copy move identity.pem away and restart its hub: it makes its own",
    ),
    Reason.NOT_ME: (
        "it has another hub_id than the one we dialed",
        "correct hub_id, host or port of this peer in bridge.json",
    ),
    Reason.NOT_WHOM_I_DIALED: (
        "it dialed another hub_id than ours",
        "correct hub_id, host or port of this hub in its bridge.json",
    ),
    Reason.IDENTITY_CHANGED: (
        "it knows our hub_id with another identity",
        "there: `ecorelay trust` with our hub_id and the fingerprint of `ecorelay identity show`",
    ),
    Reason.OTHER_CASE: (
        "it knows our hub_id in another spelling of upper and lower case",
        "spell hub_id as before, or choose one that differs in more than case",
    ),
    Reason.DISTRUSTED: ("it distrusts this hub", "there: `ecorelay trust`, if that was a mistake"),
    Reason.TWINS: (
        "another machine is this hub too, with the same identity: one of the two is a copy",
        "on the copy move identity.pem away, give it a hub_id of its own in bridge.json, and restart its hub",
    ),
    Reason.WRONG_SECRET: ("the secrets differ", _SECRET_REMEDY),
    Reason.BAD_SIGNATURE: (
        "it says that our identity's signature is wrong: somebody may stand between the two hubs",
        "",
    ),
    Reason.NOT_REMEMBERED: (
        "it could not save our identity",
        "see its `ecorelay hub status`: is its disk full?",
    ),
}


_BY_WORD: Final = {str(reason): reason for reason in Reason}


def told(word: str, versions: tuple[int, ...], ours: tuple[int, ...]) -> Refused:
    """What the other side's refusal means to us.

    Args:
        word: its reason, as it came.
        versions: the protocol versions it speaks.
        ours: the ones we speak.
    """
    reason = _BY_WORD.get(word, Reason.UNKNOWN)
    if reason is Reason.VERSION:
        return version_refused(versions, ours, told=True)
    if reason in _TOLD:
        sentence, remedy = _TOLD[reason]
        return Refused(reason, sentence, remedy, told=True)
    return Refused(Reason.UNKNOWN, "it refused us for a reason this version does not know", told=True)


def version_refused(theirs: tuple[int, ...], ours: tuple[int, ...], *, told: bool = False) -> Refused:
    """No protocol version in common."""
    older = "that hub" if not theirs or max(theirs) < max(ours) else "this hub"
    return Refused(
        Reason.VERSION,
        f"no protocol version in common: it speaks {_listed(theirs)}, this hub {_listed(ours)}",
        f"upgrade ecorelay on {older}'s machine: it is the older one",
        told=told,
        versions=theirs,
    )


def wrong_secret() -> Refused:
    """The other side does not know any secret that we accept."""
    return Refused(Reason.WRONG_SECRET, "the secrets differ", _SECRET_REMEDY)


def closed_after_proof() -> Refused:
    """The other side took our proof and hung up."""
    return Refused(
        Reason.CLOSED_AFTER_PROOF,
        "it took our proof and ended without one of its own: most likely the secrets differ",
        _SECRET_REMEDY,
    )


def _listed(versions: tuple[int, ...]) -> str:
    return ", ".join(str(version) for version in versions) or "none"
