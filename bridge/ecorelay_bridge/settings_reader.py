"""Goes through a bridge.json field by field; a sentence for each mistake. See `ecorelay_bridge.settings`."""

from __future__ import annotations

import difflib
import socket
import unicodedata
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ecorelay.names import NAME_RULE, is_name, key
from ecorelay.settings_file import encodable, kind_of, shown
from ecorelay_bridge.identity import is_fingerprint
from ecorelay_bridge.settings import ALL_ADDRESSES, ALLOWED, Peer, RelayServer, Secret, Settings, is_relay_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

SECRET_MIN: Final = 8
"""Characters."""
SECRET_MAX: Final = 1024
WEAK_BITS: Final = 80
"""A secret with fewer is warned about."""
PORT_MAX: Final = 65535
PEERS_MAX: Final = 200
RELAYS_MAX: Final = 10
EXAMPLE_SECRET: Final = "at least 8 characters"

_TOP: Final = ("hub_id", "listen", "bind", "secret", "previous_secret", "peers", "relay", "allow")
_PEER: Final = ("hub_id", "host", "port", "identity")
_RELAY: Final = ("url", "token", "ca")


def is_own_address(address: str) -> bool:
    """Whether this machine has the IP address: only then a socket can be bound to it. Sends nothing."""
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
    except (OSError, TypeError, ValueError):  # the latter two for a zone that is no text to the system
        return False
    return True


class Reader:
    """Goes once through the table and collects mistakes."""

    def __init__(self, table: Mapping[str, Any], path: Path, is_ours: Callable[[str], bool]) -> None:
        self.table = table
        self.path = path
        self.is_ours = is_ours
        self.mistakes: list[str] = []
        self.odd: list[str] = []
        """What is wrong on this machine just now, and may be right later: warnings."""

    def read(self, notes: list[str]) -> Settings:
        """The settings; of no use if there are `mistakes` afterwards. `notes` become its first warnings."""
        self._unknown(self.table, _TOP, "")
        hub_id = self._hub_id(self.table, "hub_id")
        listen = self._listen()
        bind = self._bind()
        secret = self._secret("secret")
        previous = self._secret("previous_secret")
        peers = self._peers(hub_id, listen, bind)
        relays = self._relays()
        self._demand_secret(relays)
        if previous is not None and "secret" not in self.table:
            self._wrong("previous_secret stands without secret: the one in use goes into secret")
        if previous is not None and previous == secret:
            notes = [*notes, f"previous_secret is the same as secret in {self.path}: take it out"]
        return Settings(
            hub_id=hub_id,
            listen=listen,
            bind=bind,
            secret=secret,
            previous_secret=None if previous == secret else previous,
            peers=peers,
            relays=relays,
            allow=self._allow(),
            warnings=(*notes, *self.odd, *self._warnings(secret, peers)),
        )

    def _wrong(self, sentence: str) -> None:
        self.mistakes.append(f"{self.path}: {sentence}")

    def _unknown(self, table: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
        for name in table:
            if name in known:
                continue
            near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
            elsewhere = next((where for where, fields in _PLACES if name in fields), "")
            if near:
                hint = f"do you mean {near[0]!r}?"
            elif elsewhere:
                hint = f"it belongs {elsewhere}"
            else:
                hint = "known are " + ", ".join(known)
            self._wrong(f"{shown(name)} is no field{place}: {hint}")

    def _hub_id(self, table: Mapping[str, Any], field: str, place: str = "") -> str:
        if field not in table:
            self._wrong(f"{field} is missing{place}: a name, {NAME_RULE}")
            return ""
        value = table[field]
        if not isinstance(value, str):
            self._wrong(f"{field}{place} is {kind_of(value)}: it must be a name, {NAME_RULE}")
            return ""
        if not is_name(value):
            self._wrong(f"{field}{place} is {shown(value)}: it must be a name, {NAME_RULE}")
            return ""
        return value

    def _listen(self) -> int:
        value = self.table.get("listen", 0)
        if value is None:
            return 0
        return self._port(value, "listen", "", zero=True)

    def _port(self, value: object, field: str, place: str, *, zero: bool) -> int:
        bounds = f"a whole number from {0 if zero else 1} to {PORT_MAX:,}"
        if isinstance(value, bool) or not isinstance(value, int):
            self._wrong(f"{field}{place} is {kind_of(value)}: it must be {bounds}")
            return 0
        if value == 0 and not zero:
            self._wrong(f"{field}{place} is 0: it must be the port where that hub listens, 1 to {PORT_MAX:,}")
            return 0
        if not 0 <= value <= PORT_MAX:
            word = f"{value:,}" if abs(value) < 10**12 else "a huge number"
            self._wrong(f"{field}{place} is {word}: there is no such port, it must be {bounds}")
            return 0
        return value

    def _bind(self) -> str:
        value = self.table.get("bind", ALL_ADDRESSES)
        if not isinstance(value, str):
            self._wrong(f"bind is {kind_of(value)}: it must be an address of this machine as a text")
            return ALL_ADDRESSES
        if value == "localhost":
            return "127.0.0.1"
        address = _address(value)
        if address is None:
            self._wrong(
                f"bind is {shown(value)}: it must be an IP address of this machine; 0.0.0.0 is every IPv4 "
                "one, :: every one, 127.0.0.1 only this machine"
            )
            return ALL_ADDRESSES
        if not address.is_unspecified and not self.is_ours(value):
            # No mistake of the file: at the start of a machine its network may not be there yet.
            self.odd.append(
                f"bind is {value}: this machine does not have that address just now; other hubs reach this "
                "one as soon as it has"
            )
        return value

    def _secret(self, field: str) -> Secret | None:
        if field not in self.table:
            return None
        value = self.table[field]
        if not isinstance(value, str):
            self._wrong(f"{field} is {kind_of(value)}: it must be a text in quotes")
        elif not value:
            self._wrong(f"{field} is empty: `ecorelay bridge-init` makes a good one")
        elif len(value) < SECRET_MIN:
            self._wrong(
                f"{field} is shorter than {SECRET_MIN} characters: `ecorelay bridge-init` makes a good one"
            )
        elif len(value) > SECRET_MAX:
            self._wrong(f"{field} is longer than {SECRET_MAX:,} characters")
        elif not encodable(value) or any(unicodedata.category(c) == "Cc" for c in value):
            self._wrong(f"{field} holds a character that is none (a control character or half a one)")
        elif not value.strip():
            self._wrong(f"{field} is nothing but spaces: `ecorelay bridge-init` makes a good one")
        else:
            return Secret(value)
        return None

    def _demand_secret(self, relays: tuple[RelayServer, ...]) -> None:
        if "secret" in self.table:
            return
        line = (
            'add the line  "secret": "...",  with the same text on every machine '
            "(`ecorelay bridge-init` makes one)"
        )
        if self.table.get("peers"):
            self._wrong(f"secret is missing, and there are peers: {line}")
        elif self.table.get("listen"):
            self._wrong(f"secret is missing, and listen is set: {line}")
        elif relays or self.table.get("relay"):
            self._wrong(
                "secret is missing, and there is a relay. The relay's token is for the relay server only "
                f"and must not be the hubs' secret as well: {line}"
            )

    # --- peers -----------------------------------------------------------------------------------

    def _peers(self, own: str, listen: int, bind: str) -> tuple[Peer, ...]:
        value = self.table.get("peers", [])
        if value is None:
            return ()
        if not isinstance(value, list):
            self._wrong(f"peers is {kind_of(value)}: it must be a list, [{{...}}, {{...}}]")
            return ()
        if len(value) > PEERS_MAX:
            self._wrong(f"peers has {len(value):,} entries: at most {PEERS_MAX} hubs can be dialed")
            return ()
        peers = []
        seen: dict[str, int] = {}
        for number, item in enumerate(value, 1):
            place = f" in peers, entry {number}"
            if not isinstance(item, dict):
                self._wrong(f"entry {number} of peers is {kind_of(item)}: it must be an object, {{...}}")
                continue
            peer = self._peer(item, place)
            if own and key(peer.hub_id) == key(own):
                self._wrong(f"hub_id{place} is {peer.hub_id}, this hub's own: each machine needs another one")
            if peer.hub_id and key(peer.hub_id) in seen:
                first = seen[key(peer.hub_id)]
                self._wrong(
                    f"hub_id {peer.hub_id} stands twice in peers, entries {first} and {number}: take one out"
                )
            seen.setdefault(key(peer.hub_id), number)
            if listen and peer.port == listen and peer.host and self._is_me(peer.host, bind):
                # Nor this: the machine may have got that address only now.
                self.odd.append(
                    f"host {shown(peer.host)} with port {peer.port}{place} is this hub's own address: "
                    f"{peer.hub_id} is not reached there"
                )
            peers.append(peer)
        return tuple(peers)

    def _peer(self, item: Mapping[str, Any], place: str) -> Peer:
        self._unknown(item, _PEER, place)
        hub_id = self._hub_id(item, "hub_id", place)
        if "port" not in item:
            self._wrong(f"port is missing{place}: the port where that hub listens")
            port = 0
        else:
            port = self._port(item["port"], "port", place, zero=False)
        identity = item.get("identity", "")
        if not isinstance(identity, str) or (identity and not is_fingerprint(identity)):
            self._wrong(
                f"identity{place} is no fingerprint: it looks like SHA256: and 43 characters, see "
                "`ecorelay identity show` on that machine"
            )
            identity = ""
        return Peer(hub_id=hub_id, host=self._host(item, place), port=port, identity=identity)

    def _host(self, item: Mapping[str, Any], place: str) -> str:
        if "host" not in item:
            self._wrong(f"host is missing{place}: that machine's name or IP address")
            return ""
        value = item["host"]
        if not isinstance(value, str):
            self._wrong(
                f"host{place} is {kind_of(value)}: it must be a machine's name or IP address in quotes"
            )
            return ""
        address = _address(value[1:-1] if value.startswith("[") and value.endswith("]") else value)
        if address is not None:
            if address.is_unspecified or address.is_multicast:
                self._wrong(f"host{place} is {address}: that is no machine's address")
                return ""
            return value.strip("[]")
        if "://" in value or "/" in value:
            self._wrong(f"host{place} is {shown(value)}: only the machine's name or address, no URL")
            return ""
        if ":" in value:
            self._wrong(f"host{place} is {shown(value)}: the port goes into the field port")
            return ""
        if not value.strip() or len(value) > 253 or any(c.isspace() or not c.isprintable() for c in value):
            self._wrong(f"host{place} is {shown(value)}: it must be a machine's name or IP address")
            return ""
        if not _is_host_name(value):
            self._wrong(
                f"host{place} is {shown(value)}: no machine can have that name (between its dots stand 1 to "
                "63 letters, digits or hyphens)"
            )
            return ""
        return value

    def _is_me(self, host: str, bind: str) -> bool:
        address = _address(host)
        own_name = socket.gethostname().lower()
        if address is None:
            return host.lower().rstrip(".") in ("localhost", own_name, own_name.partition(".")[0])
        listens = _address(bind)
        if listens is not None and not listens.is_unspecified:
            return address == listens  # this hub is at that address only
        return address.is_loopback or self.is_ours(host)

    # --- relays, what others may, warnings -------------------------------------------------------

    def _relays(self) -> tuple[RelayServer, ...]:
        value = self.table.get("relay")
        if value is None:
            return ()
        items = value if isinstance(value, list) else [value]
        if len(items) > RELAYS_MAX:
            self._wrong(f"relay has {len(items):,} entries: at most {RELAYS_MAX}")
            return ()
        relays: list[RelayServer] = []
        for number, item in enumerate(items, 1):
            place = f" in relay, entry {number}" if isinstance(value, list) else " in relay"
            if not isinstance(item, dict):
                self._wrong(f"relay is {kind_of(item)}: it must be an object {{...}} or a list of such")
                continue
            self._unknown(item, _RELAY, place)
            relay = self._relay(item, place)
            if relay is not None:
                if any(relay.url == other.url for other in relays):
                    self._wrong(f"one relay's url stands twice: {_shown_url(relay.url)}")
                relays.append(relay)
        return tuple(relays)

    def _relay(self, item: Mapping[str, Any], place: str) -> RelayServer | None:
        url, token = item.get("url"), item.get("token")
        good = True
        if not isinstance(url, str) or not is_relay_url(url):
            what = "missing" if url is None else _shown_url(url) if isinstance(url, str) else kind_of(url)
            self._wrong(f"url{place} is {what}: it must begin with wss:// (or ws://) and name a host")
            good = False
        elif "@" in urlsplit(url).netloc:
            self._wrong(
                f"url{place} is {_shown_url(url)} with a name or password in it: take that out, the relay "
                "server's secret goes into token"
            )
            good = False
        if isinstance(token, str) and not encodable(token):
            self._wrong(f"token{place} holds half a character")
            good = False
        elif not isinstance(token, str) or not token:
            what = "missing" if token is None else "empty" if token == "" else kind_of(token)
            self._wrong(f"token{place} is {what}: it must be the relay server's secret as a text")
            good = False
        elif token == self.table.get("secret"):
            self._wrong(
                f"token{place} is the same as secret: the relay server must not know the hubs' secret"
            )
            good = False
        ca = item.get("ca", "")
        if not isinstance(ca, str):
            self._wrong(f"ca{place} is {kind_of(ca)}: it must be the path of a PEM file")
            good = False
        elif "\0" in ca or not encodable(ca):
            self._wrong(f"ca{place} is {shown(ca)}: no file can have that name")
            good = False
        if not good:
            return None
        ca = str(self.path.parent / ca) if ca else ""
        return RelayServer(url=str(url), token=Secret(str(token)), ca=ca)

    def _allow(self) -> Mapping[str, frozenset[str]]:
        value = self.table.get("allow", {})
        shape = 'an object such as {"machine-b": ["mail", "groups"]}, where "*" names all other hubs'
        if isinstance(value, list):
            value = {"*": value}
        if not isinstance(value, dict):
            self._wrong(f"allow is {kind_of(value)}: it must be {shape}")
            return {}
        found: dict[str, frozenset[str]] = {}
        for name, words in value.items():
            if name != "*" and not is_name(name):
                self._wrong(f"{shown(name)} in allow is no hub_id: {NAME_RULE}, or * for all other hubs")
            elif key(name) in found:
                self._wrong(f"{shown(name)} stands twice in allow: take one out")
            elif not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                self._wrong(f"{name} in allow must be a list of {', '.join(ALLOWED)}")
            elif unknown := [word for word in words if word not in ALLOWED]:
                near = difflib.get_close_matches(unknown[0].lower(), ALLOWED, n=1, cutoff=0.5)
                hint = f"do you mean {near[0]!r}?" if near else "known are " + ", ".join(ALLOWED)
                self._wrong(f"{shown(unknown[0])} in allow for {name} is not known: {hint}")
            else:
                found[key(name)] = frozenset(words)
        return found

    def _warnings(self, secret: Secret | None, peers: tuple[Peer, ...]) -> list[str]:
        warnings = []
        if secret is not None and secret == Secret(EXAMPLE_SECRET):
            warnings.append(
                "secret is the one of the example, which everybody knows: `ecorelay bridge-init` makes one"
            )
        elif secret is not None and secret.bits() < WEAK_BITS:
            warnings.append(
                f"secret is weak (under {WEAK_BITS} bits at best): `ecorelay bridge-init` makes one of 128"
            )
        unpinned = [peer.hub_id for peer in peers if not peer.identity]
        if unpinned:
            names = ", ".join(unpinned[:5]) + (" and more" if len(unpinned) > 5 else "")
            warnings.append(
                f"no identity is pinned for {names}: the first hub there with the secret is taken for it"
            )
        return warnings


_PLACES: Final = (
    ("into an entry of peers", frozenset(_PEER)),
    ("into relay", frozenset(_RELAY)),
    ("at the top", frozenset(_TOP)),
)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    if not (text.isascii() and text.isprintable()):  # the zone of an IPv6 address may be any text
        return None
    try:
        return ip_address(text)
    except ValueError:
        return None


def _is_host_name(text: str) -> bool:
    """Whether a resolver can be asked for it at all. Underscores are no letters, but machines have them."""
    try:
        # As the resolver will: what is not ASCII by the rules for names in all languages.
        coded = text if text.isascii() else text.encode("idna").decode("ascii")
    except UnicodeError:
        return False
    return all(0 < len(label) <= 63 for label in coded.removesuffix(".").split("."))


def _shown_url(url: str) -> str:
    """Scheme, host and port of a URL: the rest may hold a password."""
    try:
        parts = urlsplit(url)
        port = parts.netloc.rpartition(":")[2]
        where = f"{parts.hostname or ''}{f':{port}' if port.isdigit() else ''}"
    except ValueError:
        return "no URL"
    return shown(f"{parts.scheme}://{where}") if parts.scheme else "no URL"
