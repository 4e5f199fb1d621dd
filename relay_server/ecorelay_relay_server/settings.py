"""What relay-config.json says: where the relay server listens, and which tokens let hubs into which realm.

The smallest file is ``{"port": 9800, "secret": "..."}``. Every mistake in it has a sentence of its own, and
all of them are said at once. In a container the secret may come from the environment instead.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from ecorelay.config import ConfigError
from ecorelay.errors import RelayError
from ecorelay.secret import Secret
from ecorelay.settings_file import parse_json, read_private

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

VARIABLE: Final = "ECORELAY_RELAY_SECRET"
"""In the environment: the secret of the realm `DEFAULT_REALM`, before what the file says."""
DEFAULT_REALM: Final = "default"
"""The realm of the `secret` at the top of the file."""
ALL_ADDRESSES: Final = "0.0.0.0"
LOOPBACK: Final = "127.0.0.1"
MAX_HUBS: Final = 1_000
TRUSTED_PROXIES: Final = ("127.0.0.0/8", "::1/128")
"""Default of `proxies`."""


class RealmSettings(Struct, frozen=True, kw_only=True):
    """Hubs that see each other, and nobody else."""

    name: str
    tokens: tuple[Secret, ...]
    """Those accepted: the secret, then the one before it."""
    max_hubs: int


class Settings(Struct, frozen=True, kw_only=True):
    """A whole relay-config.json, checked. Its repr shows no secret."""

    port: int
    bind: str = ALL_ADDRESSES
    """An IP address of this machine; ``0.0.0.0`` all of IPv4, ``::`` all of both families."""
    tls_cert: str = ""
    """Path of the certificate chain, PEM; "": plain, for a proxy that ends TLS, or for a tunnel."""
    tls_key: str = ""
    max_hubs: int = MAX_HUBS
    """In all realms."""
    realms: tuple[RealmSettings, ...] = ()
    metrics_port: int = 0
    """0: no metrics."""
    metrics_bind: str = LOOPBACK
    urls: tuple[str, ...] = ()
    """The URLs under which hubs may have dialed; none: any."""
    proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Whose word on a hub's address (X-Forwarded-For) is taken."""
    warnings: tuple[str, ...] = ()
    """What works and should be looked at, a sentence each."""


def read_settings(path: Path, environ: Mapping[str, str]) -> Settings:
    """The settings in relay-config.json. Makes the file 0600 where it is ours.

    Args:
        path: of the file.
        environ: may have the secret.

    Raises:
        RelayError: ``bad_args``, and a sentence for each mistake (`ConfigError` has them apart).
    """
    found = read_private(path, foreign=True)
    if found is None:
        raise RelayError("bad_args", f"there is no {path}: `ecorelay relay-server --init {path}` writes one")
    data, notes = found
    table = parse_json(data, path, maker="ecorelay relay-server --init")
    return parse_settings(table, path, environ, notes=notes)


def parse_settings(
    table: Mapping[str, Any],
    path: Path,
    environ: Mapping[str, str],
    *,
    notes: list[str] | None = None,
) -> Settings:
    """As :func:`read_settings`, of the JSON object already read; `notes` are warnings there are already."""
    from ecorelay_relay_server.settings_reader import Reader

    reader = Reader(table, path, environ)
    settings = reader.read(notes or [])
    if reader.mistakes:
        raise ConfigError(reader.mistakes)
    return settings
