"""Goes through a relay-config.json field by field; a sentence for each mistake. See `settings`."""

from __future__ import annotations

import difflib
import os
import socket
import unicodedata
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ecorelay.names import NAME_RULE, is_name, key
from ecorelay.secret import Secret
from ecorelay.settings_file import encodable, kind_of, shown
from ecorelay_relay_server.bounds import STRONG_BITS
from ecorelay_relay_server.settings import (
    ALL_ADDRESSES,
    DEFAULT_REALM,
    LOOPBACK,
    MAX_HUBS,
    TRUSTED_PROXIES,
    VARIABLE,
    RealmSettings,
    Settings,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SECRET_MIN: Final = 8
"""Characters."""
SECRET_MAX: Final = 1024
WEAK_BITS: Final = 80
PORT_MAX: Final = 65535
HUBS_MAX: Final = 100_000
REALMS_MAX: Final = 100
LIST_MAX: Final = 100

_MAKE: Final = "`ecorelay relay-server --init` makes a good one"
_TOP: Final = (
    "port",
    "secret",
    "previous_secret",
    "bind",
    "tls_cert",
    "tls_key",
    "max_hubs",
    "realms",
    "metrics_port",
    "metrics_bind",
    "urls",
    "proxies",
)
_REALM: Final = ("name", "secret", "previous_secret", "max_hubs")
_OF_A_HUB: Final = frozenset({"hub_id", "listen", "peers", "relay", "allow"})


class Reader:
    """Goes once through the table and collects mistakes."""

    def __init__(self, table: Mapping[str, Any], path: Path, environ: Mapping[str, str]) -> None:
        self.table = table
        self.path = path
        self.environ = environ
        self.mistakes: list[str] = []
        self._secrets: dict[str, str] = {}
        """Text → where it stood, to find one that stands twice."""

    def read(self, notes: list[str]) -> Settings:
        """The settings; of no use if there are `mistakes` afterwards. `notes` become its first warnings."""
        self._unknown(self.table, _TOP, "")
        port = self._listening_port()
        max_hubs = self._count(self.table, "max_hubs", "", MAX_HUBS)
        realms = self._realms(max_hubs)
        cert, tls_key = self._tls()
        metrics_port = self._port("metrics_port") if self.table.get("metrics_port") else 0
        if metrics_port and metrics_port == port:
            self._wrong(f"metrics_port is {port}, the same as port: metrics need a port of their own")
        return Settings(
            port=port,
            bind=self._bind("bind", ALL_ADDRESSES),
            tls_cert=cert,
            tls_key=tls_key,
            max_hubs=max_hubs,
            realms=realms,
            metrics_port=metrics_port,
            metrics_bind=self._bind("metrics_bind", LOOPBACK),
            urls=self._urls(),
            proxies=self._proxies(),
            warnings=(*notes, *self._warnings(realms, tls=bool(cert))),
        )

    def _wrong(self, sentence: str) -> None:
        self.mistakes.append(f"{self.path}: {sentence}")

    def _unknown(self, table: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
        for name in table:
            if name in known:
                continue
            near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
            if name in _OF_A_HUB:
                hint = "it belongs into a hub's bridge.json, this is the relay server's file"
            elif near:
                hint = f"do you mean {near[0]!r}?"
            elif name == "token":
                hint = "here it is called secret; token is its name in a hub's bridge.json"
            else:
                hint = "known are " + ", ".join(known)
            self._wrong(f"{shown(name)} is no field{place}: {hint}")

    # --- where it listens --------------------------------------------------------------------------------

    def _listening_port(self) -> int:
        if "port" not in self.table:
            self._wrong("port is missing: the port where hubs connect, such as 9800")
            return 0
        if self.table["port"] == 0 and not isinstance(self.table["port"], bool):
            self._wrong("port is 0: hubs must know where to connect, so choose one, such as 9800")
            return 0
        return self._port("port")

    def _port(self, field: str) -> int:
        value = self.table[field]
        bounds = f"a whole number from 1 to {PORT_MAX:,}"
        if isinstance(value, bool) or not isinstance(value, int):
            self._wrong(f"{field} is {kind_of(value)}: it must be {bounds}")
            return 0
        if not 1 <= value <= PORT_MAX:
            word = f"{value:,}" if abs(value) < 10**12 else "a huge number"
            self._wrong(f"{field} is {word}: there is no such port, it must be {bounds}")
            return 0
        return value

    def _bind(self, field: str, default: str) -> str:
        value = self.table.get(field, default)
        if not isinstance(value, str):
            self._wrong(f"{field} is {kind_of(value)}: it must be an address of this machine as a text")
            return default
        if value == "localhost":
            return LOOPBACK
        try:
            # The zone of an IPv6 address may be any text.
            address = ip_address(value if value.isascii() and value.isprintable() else "")
        except ValueError:
            self._wrong(
                f"{field} is {shown(value)}: it must be an IP address of this machine; 0.0.0.0 is every "
                "IPv4 one, :: every one, 127.0.0.1 only this machine"
            )
            return default
        if not address.is_unspecified and not is_own_address(value):
            what = value if value.isprintable() else shown(value)
            self._wrong(f"{field} is {what}: this machine does not have that address")
        return value

    def _tls(self) -> tuple[str, str]:
        found = []
        for field in ("tls_cert", "tls_key"):
            value = self.table.get(field)
            if value in (None, ""):
                found.append("")
                continue
            if not isinstance(value, str):
                self._wrong(f"{field} is {kind_of(value)}: it must be the path of a PEM file")
                found.append("")
                continue
            if "-----BEGIN" in value:  # and must not be shown
                self._wrong(f"{field} is the text of a PEM file: it must be the path of one")
                found.append("")
                continue
            # Relative to the file that names it, not to wherever the server was started.
            path = self.path.parent / (value if "\0" in value else os.path.expanduser(value))
            try:
                if not encodable(value) or not path.is_file():
                    what = path if encodable(value) else ascii(value)
                    self._wrong(f"{field}: there is no file {what}")
                elif not os.access(path, os.R_OK):
                    self._wrong(f"{field}: {path} cannot be read by this user")
            except OSError as error:  # a directory on the way may not be looked into, a name is too long
                self._wrong(f"{field}: {path} cannot be read: {error.strerror or error}")
            found.append(str(path))
        cert, tls_key = found
        if bool(cert) != bool(tls_key):
            missing, there = ("tls_key", "tls_cert") if cert else ("tls_cert", "tls_key")
            self._wrong(f"{missing} is missing, and {there} is there: TLS needs both")
            return "", ""
        return cert, tls_key

    # --- who may come in ---------------------------------------------------------------------------------

    def _realms(self, max_hubs: int) -> tuple[RealmSettings, ...]:
        realms = []
        top = self._top_realm(max_hubs)
        if top is not None:
            realms.append(top)
        value = self.table.get("realms", [])
        if not isinstance(value, list):
            self._wrong(f"realms is {kind_of(value)}: it must be a list, [{{...}}, {{...}}]")
            return ()
        if len(value) > REALMS_MAX:
            self._wrong(f"realms has {len(value):,} entries: at most {REALMS_MAX}")
            return ()
        seen = {} if top is None else {key(DEFAULT_REALM): "secret at the top"}
        for number, item in enumerate(value, 1):
            place = f" in realms, entry {number}"
            if not isinstance(item, dict):
                self._wrong(f"entry {number} of realms is {kind_of(item)}: it must be an object, {{...}}")
                continue
            self._unknown(item, _REALM, place)
            name = self._realm_name(item, place)
            if name and key(name) in seen:
                self._wrong(f"realm {name} is there twice, {seen[key(name)]} and entry {number}: rename one")
            seen.setdefault(key(name), f"entry {number}")
            tokens = self._tokens(item, place, None)
            realms.append(
                RealmSettings(
                    name=name, tokens=tokens, max_hubs=self._count(item, "max_hubs", place, max_hubs)
                )
            )
        if not realms and not self.mistakes:
            self._wrong(f'secret is missing: add  "secret": "...",  ({_MAKE}), or set {VARIABLE}')
        return tuple(realms)

    def _top_realm(self, max_hubs: int) -> RealmSettings | None:
        given = self.environ.get(VARIABLE) or None
        if given is None and "secret" not in self.table and "previous_secret" not in self.table:
            return None
        return RealmSettings(
            name=DEFAULT_REALM, tokens=self._tokens(self.table, "", given), max_hubs=max_hubs
        )

    def _realm_name(self, item: Mapping[str, Any], place: str) -> str:
        value = item.get("name")
        if not isinstance(value, str) or not is_name(value):
            what = "missing" if value is None else shown(value) if isinstance(value, str) else kind_of(value)
            self._wrong(f"name{place} is {what}: it must be a name, {NAME_RULE}")
            return ""
        return value

    def _tokens(self, table: Mapping[str, Any], place: str, given: str | None) -> tuple[Secret, ...]:
        found = []
        if given is not None:
            found.append(self._secret(given, VARIABLE, ""))
        elif "secret" in table:
            found.append(self._secret(table["secret"], "secret", place))
        elif "previous_secret" in table:
            self._wrong(f"previous_secret{place} stands without secret: the one in use goes into secret")
        else:
            self._wrong(f"secret is missing{place}: {_MAKE}")
        if table.get("previous_secret") is not None:
            found.append(self._secret(table["previous_secret"], "previous_secret", place))
        return tuple([secret for secret in found if secret is not None])

    def _secret(self, value: object, field: str, place: str) -> Secret | None:
        name = f"{field}{place}"
        if not isinstance(value, str):
            self._wrong(f"{name} is {kind_of(value)}: it must be a text in quotes")
        elif not value:
            self._wrong(f"{name} is empty: {_MAKE}")
        elif len(value) < SECRET_MIN:
            self._wrong(f"{name} is shorter than {SECRET_MIN} characters: {_MAKE}")
        elif len(value) > SECRET_MAX:
            self._wrong(f"{name} is longer than {SECRET_MAX:,} characters")
        elif not encodable(value) or any(unicodedata.category(c) == "Cc" for c in value):
            self._wrong(f"{name} holds a character that is none (a control character or half a one)")
        elif not value.strip():
            self._wrong(f"{name} is nothing but spaces: {_MAKE}")
        else:
            secret = Secret(value)
            where = self._secrets.setdefault(secret.reveal(), name)
            if where != name:
                self._wrong(
                    f"{name} is the same as {where}: a token stands for one realm, and a new one is new"
                )
            return secret
        return None

    def _count(self, table: Mapping[str, Any], field: str, place: str, default: int) -> int:
        value = table.get(field)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= HUBS_MAX:
            what = f"{value}" if type(value) is int and abs(value) < 10**12 else kind_of(value)
            self._wrong(f"{field}{place} is {what}: it must be a whole number from 1 to {HUBS_MAX:,}")
            return default
        return value

    # --- the rest ----------------------------------------------------------------------------------------

    def _texts(self, field: str, default: tuple[str, ...]) -> list[str]:
        value = self.table.get(field, list(default))
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            self._wrong(f"{field} is {kind_of(value)}: it must be a list of texts")
            return []
        if len(value) > LIST_MAX:
            self._wrong(f"{field} has {len(value):,} entries: at most {LIST_MAX}")
            return []
        return value

    def _urls(self) -> tuple[str, ...]:
        urls = self._texts("urls", ())
        for url in urls:
            if not _is_relay_url(url):
                self._wrong(
                    f"{shown(url)} in urls is no relay URL: as in hubs' bridge.json, it begins with wss:// "
                    "(or ws://) and names a host"
                )
        return tuple(urls)

    def _proxies(self) -> tuple[IPv4Network | IPv6Network, ...]:
        found = []
        for text in self._texts("proxies", TRUSTED_PROXIES):
            try:
                found.append(ip_network(text))
            except ValueError:
                self._wrong(
                    f"{shown(text)} in proxies is no address or network: write 10.0.0.7 or 172.16.0.0/12"
                )
        return tuple(found)

    def _warnings(self, realms: tuple[RealmSettings, ...], *, tls: bool) -> list[str]:
        warnings = []
        for realm in realms:
            weakest = min([token.bits() for token in realm.tokens], default=STRONG_BITS)
            if weakest < WEAK_BITS:
                warnings.append(f"a secret of realm {realm.name} is weak (under {WEAK_BITS} bits): {_MAKE}")
            elif weakest < STRONG_BITS and not tls:
                warnings.append(
                    f"a secret of realm {realm.name} has under {STRONG_BITS} bits: hubs use it over wss:// "
                    "only, not over plain ws://"
                )
        return warnings


def is_own_address(address: str) -> bool:
    """Whether this machine has the IP address: only then a socket can be bound to it. Sends nothing."""
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
    except (OSError, TypeError, ValueError):  # the last two: of a scope that is no text for the kernel
        return False
    return True


def _is_relay_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for one that is none
    except ValueError:
        return False
    return parts.scheme in ("ws", "wss") and bool(parts.hostname) and not any(c.isspace() for c in url)
