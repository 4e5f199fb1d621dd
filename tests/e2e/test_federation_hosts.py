"""Hubs on separate hosts: cables are pulled, networks swallow, delay and lose what is sent."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from ecorelay import wire
from ecorelay.client import HubClient
from ecorelay.errors import RelayError
from tests.e2e.sites import Load, Site, all_list_all, eventually, linked, start
from tests.helpers import cables

pytestmark = pytest.mark.skipif(bool(cables.why_not()), reason=cables.why_not() or "-")

BACK_S = 2.0
"""A link is back so long after the network, at most."""
SLOW_S = 1.5
"""What a busy machine adds."""


class Lan:
    """Hosts, and a hub in each."""

    def __init__(self, root: Path, hosts: list[cables.Host]) -> None:
        self.hosts = hosts
        self.sites = [
            Site(root / name, name, host=host.address, port=9700, inside=host.inside)
            for name, host in zip("abcdefgh", hosts, strict=False)
        ]
        all_list_all(self.sites)

    async def begin(self) -> None:
        await start(*self.sites)
        print(f"linked {await linked(*self.sites, within_s=15):.2f} s after they took sessions")


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    """Two hosts; their network is the test's affair."""
    with cables.hosts(2) as hosts, ExitStack() as stack:
        made = Lan(tmp_path, hosts)
        for site in made.sites:
            stack.callback(site.close)
        yield made


async def mail_goes(load: Load) -> float:
    """Wait until mail arrives both ways: a link may be dead and nobody know it. Seconds it took."""
    one, other = load.sites
    began = trio.current_time()
    async with one.session("probe") as p, other.session("probe") as q, trio.open_nursery() as nursery:
        nursery.start_soon(_goes, p, load, one, other)
        nursery.start_soon(_goes, q, load, other, one)
    return trio.current_time() - began


async def _goes(client: HubClient, load: Load, here: Site, there: Site) -> None:
    to = f"{load.recipient(there)}@{there.hub_id}"
    text = f"probe@{here.hub_id} {int(trio.current_time() * 1000)}"
    sent = await client.request(wire.Send(req_id=0, op_id="", to=to, text=text))
    async with there.session("looker") as looker:
        with trio.fail_after(40):
            while True:
                try:
                    await looker.request(wire.Trace(req_id=0, msg_id=sent.msg_id))
                except RelayError:
                    await trio.sleep(0.02)
                else:
                    return


async def pulled(lan: Lan, seconds: float, *, load: bool) -> None:
    """Pull the cable out of one host for so long."""
    one, other = lan.sites
    traffic = Load(one, other, senders=2 if load else 0, pause_s=0.05)
    async with traffic.running():
        await trio.sleep(0.5)
        lan.hosts[0].down()
        await trio.sleep(seconds)
        lan.hosts[0].up()
        back = await mail_goes(traffic)
        print(f"cable out for {seconds:g} s, load {load}: mail goes {back:.2f} s after")
        assert back < BACK_S + SLOW_S
    await traffic.all_there()


@pytest.mark.parametrize("load", [True, False])
@pytest.mark.parametrize(
    "seconds", [1, pytest.param(5, marks=pytest.mark.soak), pytest.param(30, marks=pytest.mark.soak)]
)
async def test_a_cable_is_pulled_and_put_back(lan: Lan, seconds: float, load: bool) -> None:
    cables.cable(*lan.hosts)
    await lan.begin()
    await pulled(lan, seconds, load=load)


@pytest.mark.parametrize("load", [True, pytest.param(False, marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(1, marks=pytest.mark.soak),
        7,
        pytest.param(12, marks=pytest.mark.soak),
        pytest.param(30, marks=pytest.mark.soak),
    ],
)
async def test_a_network_that_swallows_everything(lan: Lan, seconds: float, load: bool) -> None:
    one, other = lan.sites
    async with cables.switched(lan.hosts) as switch:
        await lan.begin()
        traffic = Load(one, other, senders=2 if load else 0, pause_s=0.05)
        async with traffic.running():
            await trio.sleep(0.5)
            switch.cut = {lan.hosts[0].name}
            await trio.sleep(seconds)
            switch.cut = set()
            back = await mail_goes(traffic)
            print(f"silent for {seconds:g} s, load {load}: mail goes {back:.2f} s after")
            assert back < BACK_S + SLOW_S
        await traffic.all_there()
        await lan_ends(lan)


async def lan_ends(lan: Lan) -> None:
    """End the hubs while their network is still there."""
    for site in lan.sites:
        await site.kill()


@pytest.mark.soak
@pytest.mark.parametrize("load", [True, False])
async def test_only_one_side_can_dial(lan: Lan, load: bool) -> None:
    one, other = lan.sites
    other.change(peers=[])
    one.change(listen=None, bind=None)
    async with cables.switched(lan.hosts) as switch:
        await lan.begin()
        for seconds in (3, 8, 15, 25):
            traffic = Load(other, one, senders=2 if load else 0, pause_s=0.05)
            async with traffic.running():
                await trio.sleep(0.5)
                switch.cut = {lan.hosts[0].name}
                await trio.sleep(seconds)
                switch.cut = set()
                back = await mail_goes(traffic)
                print(f"silent for {seconds} s, one side dials, load {load}: mail goes {back:.2f} s after")
                assert back < BACK_S + SLOW_S
            await traffic.all_there()
        await lan_ends(lan)


async def test_mail_across_a_long_way(lan: Lan) -> None:
    one, other = lan.sites
    async with cables.switched(lan.hosts) as switch:
        switch.delay_s = 0.05
        await lan.begin()
        heard: list[wire.Push] = []
        arrived: list[float] = []
        async with one.session("ann") as ann, other.taker("ben", heard):
            await eventually(lambda: one.knows("ben@b", push=True))
            took = []
            for number in range(20):
                began = trio.current_time()
                sent = await ann.request(wire.Send(req_id=0, op_id="", to="ben@b", text=str(number)))
                assert sent.status == "delivered"
                took.append(trio.current_time() - began)
                arrived.append(trio.current_time())
            print(
                f"50 ms each way: delivered {statistics.median(took) * 1000:.0f} ms after the send (median)"
            )
            assert [push.text for push in heard] == [str(number) for number in range(20)]
            # One round trip: there, and the word that it was taken. Two cannot be quicker than 200 ms on any
            # machine; one is, at least once in twenty, however busy it is.
            assert min(took) < 0.2
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for number in range(500):
                    frame = wire.Send(req_id=0, op_id="", to="ben@b", text=f"many {number}")
                    nursery.start_soon(ann.request, frame)
            with trio.fail_after(20):
                while len(heard) < 520:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            print(f"500 messages at once across it: {trio.current_time() - began:.2f} s")

        async def told() -> bool:
            return 100 <= (await one.link(other)).round_trip_ms < 400

        await eventually(told)  # it is measured once the link was silent for some seconds, and then again
        await lan_ends(lan)


@pytest.mark.parametrize("loss", [0.05, pytest.param(0.2, marks=pytest.mark.soak)])
async def test_a_network_that_loses_frames(lan: Lan, loss: float) -> None:
    one, other = lan.sites
    async with cables.switched(lan.hosts) as switch:
        switch.delay_s, switch.loss = 0.005, loss
        await lan.begin()
        traffic = Load(one, other, senders=2, pause_s=0.02)
        async with traffic.running():
            await trio.sleep(4)
        count = await traffic.all_there()
        print(f"{loss:.0%} lost ({switch.lost} of {switch.frames} frames): {count} messages")
        assert count > 50
        await lan_ends(lan)


@pytest.mark.soak
async def test_three_hosts_one_of_which_comes_and_goes(tmp_path: Path) -> None:
    with cables.hosts(3) as hosts, ExitStack() as stack:
        lan = Lan(tmp_path, hosts)
        for site in lan.sites:
            stack.callback(site.close)
        async with cables.switched(hosts) as switch:
            await lan.begin()
            a, b, _ = lan.sites
            traffic = Load(*lan.sites, senders=2, pause_s=0.02)
            async with traffic.running():
                since = (await a.link(b)).since
                for seconds in (0.5, 3, 6, 12):
                    switch.cut = {hosts[2].name}
                    await trio.sleep(seconds)
                    switch.cut = set()
                    back = await linked(*lan.sites, within_s=30)
                    print(f"third host away for {seconds} s: links up {back:.2f} s after")
                    await trio.sleep(1)
                assert (await a.link(b)).since == since
            await traffic.all_there()
            await lan_ends(lan)


@pytest.mark.soak
async def test_twenty_hubs_come_back_to_one_at_once(tmp_path: Path) -> None:
    with cables.hosts(21) as hosts, ExitStack() as stack:
        center, *others = sites = [
            Site(tmp_path / f"h{n}", f"h{n}", host=host.address, port=9700, inside=host.inside)
            for n, host in enumerate(hosts)
        ]
        for site in sites:
            stack.callback(site.close)
            site.configure(*([] if site is center else [center]))
        async with cables.switched(hosts) as switch:
            await start(*sites)
            print(f"20 hubs linked to one {await all_linked(center, others):.2f} s after they took sessions")
            await center.kill()
            await center.start()
            print(f"after it was killed: {await all_linked(center, others):.2f} s after it took sessions")
            switch.cut = {hosts[0].name}
            await trio.sleep(15)
            switch.cut = set()
            back = await all_linked(center, others)
            print(f"after 15 s without a network: {back:.2f} s")
            assert back < BACK_S + 3 * SLOW_S
            for site in sites:
                await site.kill()


async def all_linked(center: Site, others: list[Site]) -> float:
    wanted = {each.hub_id for each in others}

    async def holds() -> bool:
        return {each.hub_id for each in (await center.details()).links if each.up} == wanted

    return await eventually(holds)
