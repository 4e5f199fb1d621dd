"""Hubs that meet at a relay server, all of them processes: what is said arrives, whatever happens to it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

from ecorelay import wire
from tests.e2e.relays import TOKEN, Relay, tunnel
from tests.e2e.sites import SECRET, Load, Site, eventually, linked, start
from tests.e2e.stage import until
from tests.helpers.cables import proxied

Make = Callable[..., Site]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Make]:
    """Makes machines that listen nowhere; their hubs are ended with the test."""
    with ExitStack() as stack:

        def make(hub_id: str, **more: object) -> Site:
            made = Site(tmp_path / hub_id, hub_id, **{"port": 0, **more})  # type: ignore[arg-type]
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def _relay(tmp_path: Path) -> Iterator[Relay]:
    made = Relay(tmp_path / "relay")
    yield made
    made.close()


@pytest.fixture
async def relay(_relay: Relay) -> Relay:
    """One that runs."""
    await _relay.start()
    return _relay


def meet(relay: Relay, *sites: Site, port: int = 0) -> None:
    for each in sites:
        each.configure(listen=None, bind=None, peers=None, relay=relay.entry(port))


async def send(client, to: str, text: str) -> wire.Sent:
    return await client.request(wire.Send(req_id=0, op_id="", to=to, text=text))


@pytest.mark.guarantee("relay-ciphertext")
async def test_two_hubs_behind_a_relay_and_nothing_to_read_on_the_wire(site: Make, relay: Relay) -> None:
    canaries = ("canary-of-a-text", "canary-of-a-name", "canary-of-a-room", "canary-of-a-directory")
    async with proxied(relay.port) as wire_of_here:
        here, there = site("here"), site("there")
        meet(relay, here, port=wire_of_here.port)
        meet(relay, there)
        await start(here, there)
        await linked(here, there)
        heard: list[wire.Push] = []
        async with here.session("canary-of-a-name") as alice, there.taker("bob", heard):
            await eventually(lambda: here.knows("bob@there", online=True))
            await send(alice, "bob@there", "canary-of-a-text")
            await until(lambda: heard)
            assert heard[0].sender == "canary-of-a-name@here"
            await alice.request(wire.Join(req_id=0, room="canary-of-a-room"))
        details = await here.details()
        [link] = details.links
        assert (link.road, link.address) == ("relay", f"relay 127.0.0.1:{wire_of_here.port}")
        assert link.round_trip_ms >= 0
        [at] = details.relays
        assert (at.name, at.up, at.hubs, at.trouble) == (f"127.0.0.1:{wire_of_here.port}", True, 1, "")
        recorded = bytes(wire_of_here.seen)
    assert b"here" in recorded, "it is not encrypted: names of hubs are to be found"
    assert len(recorded) > 2_000
    # What goes to the server is masked, as WebSockets demand: that alone would hide it, so both ways count,
    # and what comes from the server is not.
    for canary in (*canaries, SECRET, TOKEN):
        assert canary.encode() not in recorded


@pytest.mark.guarantee("relay-roads")
@pytest.mark.parametrize("how", ["killed", "restarted", "frozen"])
async def test_a_relay_that_goes_and_comes_under_load(site: Make, relay: Relay, how: str) -> None:
    here, there = site("here"), site("there")
    meet(relay, here, there)
    await start(here, there)
    await linked(here, there)
    load = Load(here, there, pause_s=0.002)
    async with load.running():
        for _ in range(2):
            await trio.sleep(0.7)
            if how == "frozen":
                relay.signal(signal.SIGSTOP)
                await trio.sleep(3)
                relay.signal(signal.SIGCONT)
            else:
                await relay.kill(signal.SIGKILL if how == "killed" else signal.SIGTERM)
                await trio.sleep(1)
                await relay.start()
            took = await linked(here, there)
            print(f"{how}: linked again {took:.2f} s later")
            assert took < 10
    assert await load.all_there() > 50


async def test_through_a_slow_tunnel_that_stalls(site: Make, relay: Relay) -> None:
    here, there = site("here"), site("there")
    async with tunnel(relay.port) as slow:
        meet(relay, here, port=slow.port)
        meet(relay, there)
        await start(here, there)
        await linked(here, there)
        load = Load(here, there, pause_s=0.005)
        async with load.running():
            await trio.sleep(6)
        print(f"{slow.stalled} stalls, {len(load.acknowledged)} messages")
        assert await load.all_there() > 50
        link = await here.link(there)
        assert link.round_trip_ms >= 200


@pytest.mark.parametrize("seconds", [1, pytest.param(12, marks=pytest.mark.slow)])
async def test_the_network_to_the_relay_is_cut_for_a_while(site: Make, relay: Relay, seconds: int) -> None:
    here, there = site("here"), site("there")
    async with proxied(relay.port) as cable:
        meet(relay, here, port=cable.port)
        meet(relay, there)
        await start(here, there)
        await linked(here, there)
        load = Load(here, there, pause_s=0.002)
        async with load.running():
            await trio.sleep(0.5)
            cable.hang()
            await trio.sleep(seconds)
            cable.hang(False)
            took = await eventually(partial(crosses, here, there))
            print(f"cut for {seconds} s: mail crosses {took:.2f} s later")
            assert took < 6
        assert await load.all_there() > 20


async def crosses(here: Site, there: Site) -> bool:
    """Whether a link is up that answered lately."""
    link = await here.link(there)
    return link.up and (await there.link(here)).up and link.in_flight == 0


@pytest.mark.guarantee("relay-roads")
async def test_from_the_cable_to_the_relay_and_back(site: Make, relay: Relay) -> None:
    there = site("there", port=None)
    async with proxied(there.port) as cable:
        here = site("here")
        peer = there.as_peer(port=cable.port)
        here.configure(listen=None, bind=None, peers=[peer], relay=relay.entry())
        there.configure(relay=relay.entry())
        await start(here, there)
        await linked(here, there)

        async def over(road: str) -> bool:
            link = await here.link(there)
            return link.up and link.road == road

        await eventually(lambda: over("tcp"))
        load = Load(here, there, pause_s=0.002)
        async with load.running():
            await trio.sleep(0.5)
            cable.hang()
            took = await eventually(lambda: over("relay"))
            print(f"the cable hung, over the relay after {took:.2f} s")
            assert took < 8
            await trio.sleep(0.5)
            cable.hang(False)
            took = await eventually(lambda: over("tcp"), 60)
            print(f"the cable works, over it after {took:.2f} s")
            await trio.sleep(0.5)
        assert await load.all_there() > 50


@pytest.mark.guarantee("relay-strangers")
async def test_hubs_with_different_secrets_at_one_relay_each_say_why(site: Make, relay: Relay) -> None:
    here, there = site("here"), site("there")
    meet(relay, here, there)
    there.change(secret="quite-another-secret-0123456789")
    await start(here, there)
    await here.trouble("there", "the secrets differ") if (await here.details()).links else None
    problem = await there.problem("the secrets differ")
    assert f"relay 127.0.0.1:{relay.port} (here)" in problem
    await here.problem("the secrets differ")
    there.change(secret=SECRET)
    there.signal(signal.SIGHUP)
    here.signal(signal.SIGHUP)
    await linked(here, there)


async def test_the_check_and_the_probe(site: Make, relay: Relay) -> None:
    here, there = site("here"), site("there")
    meet(relay, here, there)
    await start(here, there)
    await linked(here, there)
    since = (await here.link(there)).since
    found = json.loads((await here.cli("bridge-check", "--json")).stdout)
    assert found["ok"], found
    [at] = found["relays"]
    assert [step["step"] for step in at["steps"]] == ["resolve", "connect", "websocket", "token", "hubs"]
    assert at["steps"][-1]["detail"] == "this hub is there; 1 other hub: there"
    [hub] = at["hubs"]
    assert (hub["hub_id"], hub["ok"], hub["linked"]) == ("there", True, True)
    shown = (await here.cli("bridge-check")).stdout.decode()
    assert f"127.0.0.1:{relay.port} (relay)" in shown
    probed = json.loads((await here.cli("relay-probe", "--json")).stdout)
    [measured] = probed["relays"]
    print(measured)
    assert measured["ok"]
    assert measured["hubs"] == 2
    shown = (await here.cli("relay-probe", f"ws://127.0.0.1:{relay.port}/")).stdout.decode()
    assert "throughput" in shown
    assert TOKEN not in shown
    assert (await here.link(there)).since == since, "no link was disturbed"


async def test_a_wrong_token_is_told_and_a_reload_mends_it(site: Make, relay: Relay) -> None:
    here, there = site("here"), site("there")
    meet(relay, here, there)
    here.change(relay=relay.entry(token="quite-another-token-0123456789"))
    await start(here, there)

    async def refused() -> bool:
        return any("refuses our token" in each.trouble for each in (await here.details()).relays)

    await eventually(refused)
    here.change(relay=relay.entry())
    here.signal(signal.SIGHUP)
    await linked(here, there)
