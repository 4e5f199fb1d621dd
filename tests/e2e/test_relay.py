"""Hubs that meet at a relay server, all of them processes: what is said arrives, whatever happens to it."""

from __future__ import annotations

import json
import signal
import statistics
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

from ecorelay import wire
from tests.bridge.tiny_relay import TOKEN as TINY_TOKEN, tiny_relay
from tests.e2e.relays import TOKEN, Relay, throttled, tunnel
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

        async def slow_as_it_is() -> bool:
            # A link that was just made anew, after a stall, has measured nothing yet: 0.
            return (await here.link(there)).round_trip_ms >= 200

        await eventually(slow_as_it_is)


@pytest.mark.parametrize(
    "seconds", [1, pytest.param(12, marks=pytest.mark.slow), pytest.param(600, marks=pytest.mark.soak)]
)
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
            took = await eventually(await crossing(here, there))
            print(f"cut for {seconds} s: mail crosses {took:.2f} s later")
        assert await load.all_there() > 20


async def crossing(*sites: Site) -> Callable[[], Awaitable[bool]]:
    """What tells whether mail came in at each of them since now: theirs is only what comes from others."""
    before = [(await each.details()).mail_messages for each in sites]

    async def crosses() -> bool:
        now = [(await each.details()).mail_messages for each in sites]
        return all(more > less for more, less in zip(now, before, strict=True))

    return crosses


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
            await trio.sleep(0.5)
            cable.hang(False)
            since = (await here.link(there)).since
            said = await _talk_until(here, there, lambda: over("tcp"))
            assert (await here.link(there)).since == since, "it is the same link, on another road"
        assert await load.all_there() > 50
        print(f"{said} room messages meanwhile")


async def _talk_until(here: Site, there: Site, holds: Callable[[], Awaitable[bool]]) -> int:
    """Talk in a room of `there` from both sides until that holds, and a while after; all must hear all."""
    pushes: tuple[list[wire.Push], list[wire.Push]] = [], []
    async with here.taker("ann", pushes[0]) as ann, there.taker("bob", pushes[1]) as bob:
        await bob.request(wire.Join(req_id=0, room="hall"))
        await eventually(lambda: there.knows("ann@here", online=True))
        await ann.request(wire.Join(req_id=0, room="hall@there"))
        number, after = 0, 0
        with trio.fail_after(60):
            while after < 20:
                await ann.request(wire.RoomSend(req_id=0, op_id="", room="hall@there", text=f"{number}"))
                await bob.request(wire.RoomSend(req_id=0, op_id="", room="hall", text=f"{number}"))
                number += 1
                after += await holds()
        await until(lambda: all(len(each) >= number for each in pushes))
    for heard in pushes:
        assert [int(push.text) for push in heard] == list(range(number))
    return number


async def test_a_relay_that_lies_about_what_hubs_say_loses_and_doubles_nothing(site: Make) -> None:
    """It changes, doubles, swaps, drops and makes up messages, again and again."""
    here, there = site("here"), site("there")
    async with tiny_relay() as relay:
        for each in (here, there):
            entry = {"url": f"ws://127.0.0.1:{relay.port}", "token": TINY_TOKEN}
            each.configure(listen=None, bind=None, peers=None, relay=entry)
        await start(here, there)
        await linked(here, there)
        tamper = Tamper()
        load = Load(here, there, pause_s=0.002)
        async with load.running():
            relay.tamper = tamper
            await until(lambda: tamper.left <= 0)
        assert await load.all_there() > 50


class Tamper:
    """Does something to a data message each second, each time something else."""

    def __init__(self) -> None:
        self.left = 5
        self._next = trio.current_time()
        self._held: list[bytes] = []

    def __call__(self, number: int, message: bytes) -> list[bytes]:
        if self._held:
            return [message, self._held.pop()]
        if self.left <= 0 or trio.current_time() < self._next:
            return [message]
        self._next = trio.current_time() + 1
        self.left -= 1
        if self.left == 4:
            return [message, message]
        if self.left == 3:
            return []
        if self.left == 2:
            return [message[:-1] + bytes([message[-1] ^ 1])]
        if self.left == 1:
            self._held.append(message)
            return []
        return [message[:41] + b"\x17\x03\x03\x00\x20" + b"x" * 32, message]


async def test_a_relay_of_another_version_is_named_with_who_must_upgrade(site: Make) -> None:
    here = site("here")
    async with tiny_relay() as relay:
        relay.versions = (7, 9)
        entry = {"url": f"ws://127.0.0.1:{relay.port}", "token": TINY_TOKEN}
        here.configure(listen=None, bind=None, peers=None, relay=entry)
        await here.start()

        async def told() -> bool:
            return any("no protocol version" in each.trouble for each in (await here.details()).relays)

        await eventually(told)
        for command, code in ((["hub", "status"], 0), (["bridge-check"], 1)):
            shown = " ".join((await here.cli(*command, code=code)).stdout.decode().split())
            assert "it speaks 7 to 9, this hub 1 to 1" in shown
            assert "upgrade ecorelay: this hub is the older one" in shown
            if code:
                assert "the running hub is not there now; no protocol version" in shown


@pytest.mark.soak
async def test_ten_thousand_messages_through_a_slow_downlink(site: Make, relay: Relay) -> None:
    """Nothing times out and begins anew for that, nothing fills up, and others do not notice."""
    here, slow, one, other = site("here"), site("slow"), site("one"), site("other")
    async with throttled(relay.port, bytes_per_s=256 * 1024) as line:
        meet(relay, here, one, other)
        meet(relay, slow, port=line.port)
        await start(here, slow, one, other)
        await linked(here, slow, one, other)
        for each in (slow, other):
            async with each.session("box"):
                pass
        await eventually(partial(here.knows, "box@slow"))
        await eventually(partial(one.knows, "box@other"))
        await slow.kill()
        text = "x" * 500
        async with here.session("writer") as client:
            limiter = trio.CapacityLimiter(50)
            said: list[int] = []

            async def write(number: int) -> None:
                async with limiter:
                    said.append(number)
                    await send(client, "box@slow", f"{number} {text}")

            async with trio.open_nursery() as nursery:
                for number in range(10_000):
                    nursery.start_soon(write, number)
        assert (await here.link(slow)).waiting == 10_000
        async with one.session("caller") as client:
            before = await _latencies(client, 100)
            await slow.start()
            began = trio.current_time()
            await linked(here, slow)
            since = (await here.link(slow)).since
            during = await _latencies(client, 300, until=lambda: here.nothing_waits())
            drained = trio.current_time() - began
        link = await here.link(slow)
        print(f"10,000 messages in {drained:.0f} s; third pair {before:.1f} ms before, {during:.1f} during")
        print(f"memory: here {rss_mb(here):.0f} MB, slow {rss_mb(slow):.0f}, relay {rss_mb(relay):.0f}")
        assert drained > 10_000 * 500 / (256 * 1024), "the line was slow"
        assert link.since == since, "it was one link from the beginning to the end"
        assert max([rss_mb(each) for each in (here, slow, relay)]) < 300
        assert during < 10 * before
        numbers = [int((mail.text or "").split()[0]) for mail in await slow.read("box")]
        assert numbers == said


@pytest.mark.soak
async def test_the_largest_text_through_the_slowest_of_lines(site: Make, relay: Relay) -> None:
    here, slow = site("here"), site("slow")
    async with throttled(relay.port, bytes_per_s=24 * 1024) as line:
        meet(relay, here)
        meet(relay, slow, port=line.port)
        await start(here, slow)
        await linked(here, slow)
        async with slow.session("box"):
            pass
        await eventually(partial(here.knows, "box@slow"))
        since = (await here.link(slow)).since
        async with here.session("writer") as client:
            await send(client, "box@slow", "x" * 500_000)
        took = await eventually(here.nothing_waits, 60)
        print(f"it took {took:.0f} s")
        assert took > 15
        assert (await here.link(slow)).since == since, "it was one link from the beginning to the end"
        assert [len(mail.text or "") for mail in await slow.read("box")] == [500_000]


async def _latencies(client, count: int, until: Callable[[], Awaitable[bool]] | None = None) -> float:
    """Milliseconds of a message to ``box@other`` until it is forwarded: the median of so many or more."""
    took: list[float] = []
    while len(took) < count or (until is not None and not await until()):
        began = trio.current_time()
        sent = await send(client, "box@other", "hello")
        while True:
            trace = await client.request(wire.Trace(req_id=0, msg_id=sent.msg_id))
            if all(receipt.forwarded_at for receipt in trace.receipts):
                break
            await trio.sleep(0.001)
        took.append((trio.current_time() - began) * 1000)
    return statistics.median(took)


def rss_mb(of: Site | Relay) -> float:
    assert of.process is not None
    status = Path(f"/proc/{of.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@pytest.mark.guarantee("relay-strangers")
async def test_hubs_with_different_secrets_at_one_relay_each_say_why(site: Make, relay: Relay) -> None:
    here, there = site("here"), site("there")
    meet(relay, here, there)
    there.change(secret="quite-another-secret-0123456789")
    await start(here, there)
    problem = await there.problem(f"relay 127.0.0.1:{relay.port} (here)", "the secrets differ")
    assert "make `secret` the same on both machines" in problem
    # It dialed, and says so though the other one has no line there yet.
    await here.problem(f"there at relay 127.0.0.1:{relay.port}: the secrets differ")
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
    assert at["running"] is True
    assert [step["step"] for step in at["steps"]] == ["resolve", "connect", "websocket", "token", "hubs"]
    assert at["steps"][-1]["detail"] == "this hub is there; 1 other hub: there"
    [hub] = at["hubs"]
    assert (hub["hub_id"], hub["ok"], hub["linked"]) == ("there", True, True)
    shown = (await here.cli("bridge-check")).stdout.decode()
    assert f"127.0.0.1:{relay.port} (relay)" in shown
    assert "the running hub is there: 1 other hub" in shown
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
