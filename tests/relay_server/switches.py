"""A switch for tests, and hubs at it whose names are one letter."""

import hashlib
from typing import Any

from ecorelay import relay_wire
from ecorelay.relay_wire import CLOSE, CREDIT_MORE, DATA, OPEN, HubHere
from ecorelay_relay_server.switch import Switch

EVERYTHING = 1 << 40
NUMBER = b"stream-1"
OTHER = b"stream-2"


def address(name):
    return hashlib.sha256(name.encode()).digest()


def card(name, hub_id=""):
    return HubHere(hub_id=hub_id or name, address=address(name).hex())


def switch(realms=("default",), max_hubs=1000, per_realm=1000):
    return Switch(dict.fromkeys(realms, per_realm), max_hubs)


def join(at, name, realm="default"):
    """A hub that has read who is here, and sleeps."""
    assert not at.full(realm, address(name))
    hub, _ = at.join(realm, card(name))
    take(at, hub)
    return hub


def take(at, hub):
    """All that waits for a hub: texts as messages, data as (kind, whose, stream, payload)."""
    found: list[Any] = []
    while True:
        taken, _ = at.take(hub, EVERYTHING)
        if not taken:
            return [shown(each) for each in found]
        found += taken


def shown(each):
    if isinstance(each, str):
        return relay_wire.decode_to_hub(each)
    piece = relay_wire.take_apart(each.head + bytes(each.payload))
    return piece.kind, piece.address, piece.stream, bytes(piece.payload)


def opening(to, stream=NUMBER):
    return relay_wire.piece(OPEN, to.address, stream)


def data(to, payload, stream=NUMBER):
    return relay_wire.piece(DATA, to.address, stream, payload)


def credit(to, count, stream=NUMBER):
    return relay_wire.piece(CREDIT_MORE, to.address, stream, count.to_bytes(4, "big"))


def closing(to, stream=NUMBER):
    return relay_wire.piece(CLOSE, to.address, stream)


def opened(at, one, other, stream=NUMBER):
    """A stream between two hubs, its open read."""
    at.data(one, opening(other, stream))
    take(at, other)
