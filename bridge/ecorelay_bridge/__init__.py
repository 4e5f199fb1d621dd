"""Links between hubs on one network: everything up to an encrypted stream to a hub that has proved itself.

The hub calls :func:`federate` and gets, for each such stream, a :class:`Proven`. What is said on it (hello,
mail, presence), and which of two streams to one hub is the link, is the hub's affair: nothing here knows of
mail.

::

    settings = read_settings(paths.bridge)            # None: no federation. RelayError: say it, go on without
    identity = open_identity(paths.home / "identity.pem", machine_mark())
    trust = FileTrust(paths.home / "known-hubs.json")
    roads = Roads()
    await nursery.start(partial(federate, settings, identity, trust, on_link=…, report=…, roads=roads))

How it is put together, from the outside in:

=================== =================================================================================
`settings`          bridge.json, checked; `settings_reader` and `ecorelay.settings_file` do the work
`federation`        :func:`federate`: a listener, and a dialer for each configured hub
`listener`, `door`  takes connections; who may come in (decides only)
`dialer`, `backoff` makes them; how long to wait in between (decides only); `roads`: whether at all
`introduction`      TLS and the handshake over any stream, within 5 s; `binding`: which TLS connection
`handshake`         the mutual proof (decides only); `password`: SPAKE2; `workers`: its threads and pace
`identity`          the key that a hub is known by; `machine`: whether it was copied; `known`: who is who
`twins`             notices two machines that are one hub (decides only)
`refusals`          every reason for which there is no link, in words
`check`             what `ecorelay bridge-check` tries, step by step; `relay_check`: at relay servers
`relay_dialer`      is at each relay server, and dials the hubs there that are sought
`relay_connection`  one WebSocket to one of them; `relay_streams`: the streams in it (decides only)
`relay_stream`      one of these as a stream of Trio's; `relay_probe`: measures a relay server
`relay_invitation`  one machine invites another at a relay server
`relay_road`        the way to a relay server; `proxy`, `websocket`: parts of it
`tls`               a cut connection told from a closed one, for all of these
=================== =================================================================================

Importing this package imports none of it, and `cryptography` and `spake2` only come with a first identity or
secret: a hub without bridge.json pays nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ecorelay_bridge.check import Step, check_listening, check_peers
    from ecorelay_bridge.door import Door
    from ecorelay_bridge.federation import federate
    from ecorelay_bridge.identity import Identity, import_identity, open_identity, read_identity
    from ecorelay_bridge.introduction import Proven
    from ecorelay_bridge.known import FileTrust, Known, Trust
    from ecorelay_bridge.machine import machine_mark
    from ecorelay_bridge.refusals import Reason, Refused
    from ecorelay_bridge.relay_check import RelayFound, check_relays
    from ecorelay_bridge.relay_invitation import invite, join
    from ecorelay_bridge.relay_probe import Probe, probe
    from ecorelay_bridge.roads import RoadReport, Roads
    from ecorelay_bridge.settings import Secret, Settings, read_settings

__all__ = [
    "Door",
    "FileTrust",
    "Identity",
    "Known",
    "Probe",
    "Proven",
    "Reason",
    "Refused",
    "RelayFound",
    "RoadReport",
    "Roads",
    "Secret",
    "Settings",
    "Step",
    "Trust",
    "check_listening",
    "check_peers",
    "check_relays",
    "federate",
    "import_identity",
    "invite",
    "join",
    "machine_mark",
    "open_identity",
    "probe",
    "read_identity",
    "read_settings",
]

_HOME: Final = {
    "Door": "door",
    "FileTrust": "known",
    "Identity": "identity",
    "Known": "known",
    "Probe": "relay_probe",
    "Proven": "introduction",
    "Reason": "refusals",
    "Refused": "refusals",
    "RelayFound": "relay_check",
    "RoadReport": "roads",
    "Roads": "roads",
    "Secret": "settings",
    "Settings": "settings",
    "Step": "check",
    "Trust": "known",
    "check_listening": "check",
    "check_peers": "check",
    "check_relays": "relay_check",
    "federate": "federation",
    "import_identity": "identity",
    "invite": "relay_invitation",
    "join": "relay_invitation",
    "machine_mark": "machine",
    "open_identity": "identity",
    "probe": "relay_probe",
    "read_identity": "identity",
    "read_settings": "settings",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
