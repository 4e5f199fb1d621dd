"""Hubs that meet at a relay server, over real sockets: who dials whom, and what they say when it fails."""

from __future__ import annotations

import trio

from ecorelay import relay_wire
from ecorelay_bridge.refusals import Reason
from ecorelay_bridge.settings import RelayServer, Secret
from tests.bridge.hubs import WRONG, Hub, identity, peer, running
from tests.bridge.tiny_relay import TOKEN, TinyRelay, tiny_relay


def at(relay: TinyRelay, token: str = TOKEN) -> tuple[RelayServer, ...]:
    return (RelayServer(url=relay.url, token=Secret(token)),)


async def test_two_hubs_at_a_relay_link_and_the_smaller_hub_id_dials(tmp_path) -> None:
    async with (
        tiny_relay() as relay,
        running(tmp_path, "beta", listen=False, relays=at(relay)) as beta,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
    ):
        here, there = await alpha.linked(), await beta.linked()
        assert (here.hub_id, here.role, there.hub_id, there.role) == ("beta", "dialer", "alpha", "acceptor")
        assert here.relayed
        assert here.address == there.address == f"relay 127.0.0.1:{relay.port}"
        assert here.identity == identity("beta").fingerprint
        with trio.fail_after(10):
            big = bytes(range(256)) * 8192
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.stream.send_all, big)
                got = bytearray()
                while len(got) < len(big):
                    got += await there.stream.receive_some(65536)
            assert got == big
