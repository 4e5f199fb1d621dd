"""What bridge.json says: who this hub is in the federation, where it listens, whom it dials, and the secret.

Every mistake in it has a sentence of its own, and all of them are said at once. A mistake keeps federation
off and nothing else: local messaging never reads this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from msgspec import Struct

from ecorelay.config import ConfigError
from ecorelay.names import key
from ecorelay.secret import Secret as Secret  # a name of this module too
from ecorelay.settings_file import encodable, parse_json, read_private

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ALL_ADDRESSES: Final = "0.0.0.0"
"""The default of `bind`."""
URL_MAX: Final = 2_048
"""Characters of a relay server's URL: it is part of the hello there."""
ALLOWED: Final = ("mail", "groups", "rooms", "broadcast")


class Peer(Struct, frozen=True, kw_only=True):
    """A hub to dial."""

    hub_id: str
    host: str
    port: int
    identity: str = ""
    """Its fingerprint, if a person pinned it here."""


class RelayServer(Struct, frozen=True, kw_only=True):
    """A relay server to meet other hubs at."""

    url: str
    token: Secret
    ca: str = ""
    """A PEM file with an authority that is trusted besides the system's."""
    invitation: str = ""
    """Meet one other there apart, see `ecorelay.relay_wire`; `token` is the pass then. Never in the file."""
    invited: bool = False


class Settings(Struct, frozen=True, kw_only=True):
    """A whole bridge.json, checked. Its repr shows no secret."""

    hub_id: str
    listen: int = 0
    """The port; 0: dial only."""
    bind: str = ALL_ADDRESSES
    """An address of this machine; ``0.0.0.0`` all of IPv4, ``::`` all of both families."""
    secret: Secret | None = None
    """None only where nobody is to be reached: neither peers, relays nor a port."""
    previous_secret: Secret | None = None
    """Still accepted and, where the new one is refused, still tried."""
    peers: tuple[Peer, ...] = ()
    relays: tuple[RelayServer, ...] = ()
    allow: Mapping[str, frozenset[str]] = {}
    """`names.key` of a hub_id → what it may; ``*``: hubs not named. See :meth:`allows`."""
    warnings: tuple[str, ...] = ()
    """What works and should be looked at, a sentence each."""

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Those accepted, the new one first."""
        return tuple(secret for secret in (self.secret, self.previous_secret) if secret is not None)

    @property
    def federates(self) -> bool:
        """Whether there is anything to do: a port to listen at, a hub to dial, a relay to join."""
        return bool(self.listen or self.peers or self.relays)

    def pinned(self, hub_id: str) -> str:
        """The fingerprint this file demands of a hub, however that spells its name; "" if none."""
        return next((peer.identity for peer in self.peers if key(peer.hub_id) == key(hub_id)), "")

    def allows(self, hub_id: str, what: str) -> bool:
        """Whether hub `hub_id` may do `what`, one of :data:`ALLOWED`. What nobody restricted is allowed."""
        found = self._allow_of(hub_id)
        return found is None or what in found

    def broadcast_wakes(self, hub_id: str) -> bool:
        """Whether a broadcast of that hub wakes sessions: only where ``broadcast`` was allowed in words."""
        found = self._allow_of(hub_id)
        return found is not None and "broadcast" in found

    def _allow_of(self, hub_id: str) -> frozenset[str] | None:
        return self.allow.get(key(hub_id), self.allow.get("*"))


def is_relay_url(url: str) -> bool:
    """Whether it may be the URL of a relay server."""
    if len(url) > URL_MAX or not encodable(url):
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for one that is none
        host = parts.hostname or ""
        host.encode("idna")  # as the resolver will
    except ValueError:
        return False
    return (
        parts.scheme in ("ws", "wss")
        and bool(host)
        and host.isprintable()
        and not any(c.isspace() for c in url)
    )


def read_settings(path: Path, *, is_ours: Callable[[str], bool] | None = None) -> Settings | None:
    """The settings in bridge.json; None where there is no such file. Makes the file 0600.

    Args:
        path: of bridge.json.
        is_ours: whether an IP address is one of this machine's; default: asks the system.

    Raises:
        RelayError: ``bad_args``, and a sentence for each mistake (`ConfigError` has them apart).
    """
    found = read_private(path)
    if found is None:
        return None
    data, notes = found
    return parse_settings(parse_json(data, path), path, notes=notes, is_ours=is_ours)


def parse_settings(
    table: Mapping[str, Any],
    path: Path,
    *,
    notes: list[str] | None = None,
    is_ours: Callable[[str], bool] | None = None,
) -> Settings:
    """As :func:`read_settings`, of the JSON object already read.

    Args:
        table: the object.
        path: where it came from, for the sentences.
        notes: warnings there are already.
        is_ours: see :func:`read_settings`.
    """
    from ecorelay_bridge.settings_reader import Reader, is_own_address

    reader = Reader(table, path, is_ours or is_own_address)
    settings = reader.read(notes or [])
    if reader.mistakes:
        raise ConfigError(reader.mistakes)
    return settings
