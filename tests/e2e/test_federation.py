"""Hubs as processes, linked by the real bridge: all that is said arrives, whatever is killed or wrong."""

from __future__ import annotations

import base64
import json
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from itertools import permutations
from pathlib import Path

import pytest
import trio

from ecorelay import wire
from ecorelay.client import HubClient
from ecorelay.errors import RelayError
from ecorelay_bridge.password import Password
from ecorelay_bridge.settings import Secret
from tests.e2e.sites import SECRET, Load, Site, all_list_all, eventually, linked, start
from tests.e2e.stage import until
from tests.helpers.cables import proxied

WRONG = "a-guess-that-is-wrong-0123456789"
Make = Callable[..., Site]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Make]:
    """Makes machines; their hubs are ended with the test."""
    with ExitStack() as stack:

        def make(hub_id: str, **more: object) -> Site:
            made = Site(tmp_path / hub_id, hub_id, **more)  # type: ignore[arg-type]
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
async def pair(site: Make) -> tuple[Site, Site]:
    """Two hubs that list each other, linked."""
    here, there = site("here"), site("there")
    all_list_all((here, there))
    await start(here, there)
    await linked(here, there)
    return here, there


async def send(client: HubClient, to: str, text: str) -> wire.Sent:
    return await client.request(wire.Send(req_id=0, op_id="", to=to, text=text))


async def delivered(client: HubClient, to: str, text: str) -> None:
    """Send until it is taken at once: until the other hub told of the session there."""

    async def taken() -> bool:
        return (await send(client, to, text)).status == "delivered"

    await eventually(taken, 5)


def has(heard: list[wire.Push], text: str) -> bool:
    return any(push.text == text for push in heard)


def uninvited(details: wire.HubDetails) -> dict[str, int]:
    """Counts that only a mistake of ours can raise."""
    return {name: n for name, n in details.counters.items() if "garbage" in name or "crash" in name}


# --- what is said ------------------------------------------------------------------------------------------


async def test_mail_replies_broadcasts_and_who_is_there(pair: tuple[Site, Site]) -> None:
    here, there = pair
    heard: list[wire.Push] = []
    back: list[wire.Push] = []
    async with here.taker("alice", back) as alice, there.taker("bob", heard) as bob:
        # Who is there is known within a second of their coming.
        await eventually(lambda: here.knows("bob@there", online=True, push=True), 1)
        sent = await send(alice, "bob@there", "are you there?")
        assert sent.status == "delivered"
        await until(lambda: len(heard) == 1)
        assert (heard[0].sender, heard[0].text, heard[0].msg_id) == (
            "alice@here",
            "are you there?",
            sent.msg_id,
        )
        answered = await bob.request(wire.Reply(req_id=0, op_id="", ask_id=sent.msg_id, text="yes"))
        await until(lambda: back)
        assert (back[0].sender, back[0].text, back[0].reply_to) == ("bob@there", "yes", sent.msg_id)
        assert answered.msg_id == back[0].msg_id
        asked = await alice.request(wire.Broadcast(req_id=0, op_id="", question="who is there?"))
        assert (asked.peer_count, asked.pending_hubs) == (1, 0)
        page = await bob.request(wire.Inbox(req_id=0))
        assert [(mail.kind, mail.text) for mail in page.messages if mail.text] == [("ask", "who is there?")]
        assert len(heard) == 1, "it wakes nobody"
        with pytest.raises(RelayError, match="peer_not_found"):
            await send(alice, "nobody@there", "x")
        with pytest.raises(RelayError, match="hub_not_found"):
            await send(alice, "bob@nowhere", "x")
    await eventually(lambda: here.knows("bob@there", online=False, push=False), 1)
    status = await here.status()
    [link] = status["links"]
    assert (link["hub_id"], link["up"], link["waiting"], link["trouble"]) == ("there", True, 0, "")
    assert (link["peers"], link["online"]) == (1, 0)
    assert status["listening"] == [f"127.0.0.1:{here.port}"]
    assert status["problems"] == []


async def test_a_third_hub_and_one_that_only_dials(site: Make) -> None:
    a, b, c = site("a"), site("b"), site("c", port=0)
    a.configure(b)
    b.configure()
    c.configure(a, b, listen=None, bind=None)
    await start(a, b, c)
    await linked(a, b, c, within_s=10)
    heard: dict[str, list[wire.Push]] = {each.hub_id: [] for each in (a, b, c)}
    async with (
        a.taker("p", heard["a"]) as pa,
        b.taker("p", heard["b"]) as pb,
        c.taker("p", heard["c"]) as pc,
    ):
        clients = {"a": pa, "b": pb, "c": pc}
        for one, other in permutations(clients, 2):
            await delivered(clients[one], f"p@{other}", f"{one} to {other}")
        for one, other in permutations(clients, 2):
            await until(partial(has, heard[other], f"{one} to {other}"))
        asked = await pc.request(wire.Broadcast(req_id=0, op_id="", question="all?"))
        assert asked.peer_count == 2
    for each in (a, b, c):
        assert not uninvited(await each.details())


async def test_a_reply_to_a_hub_that_is_away_arrives_when_it_returns(pair: tuple[Site, Site]) -> None:
    here, there = pair
    async with there.session("bob"), here.session("alice") as alice:
        sent = await send(alice, "bob@there", "a question")
    mail: list[wire.Mail] = []

    async def comes(site: Site, name: str) -> bool:
        mail[:] = await site.read(name)
        return bool(mail)

    await eventually(lambda: comes(there, "bob"))
    await here.kill()
    async with there.session("bob") as bob:
        assert mail[0].msg_id == sent.msg_id
        await bob.request(wire.Reply(req_id=0, op_id="", ask_id=sent.msg_id, text="the answer"))
        await there.kill()
        await there.start()
        await here.start()
        await linked(here, there)
        await eventually(lambda: comes(here, "alice"))
    assert [(m.text, m.sender, m.reply_to) for m in mail] == [("the answer", "bob@there", sent.msg_id)]


async def test_what_is_sent_while_the_other_hub_is_down_survives_our_kill_and_arrives(
    pair: tuple[Site, Site],
) -> None:
    here, there = pair
    async with there.session("bob"), here.session("alice"):
        pass
    async with here.session("alice") as alice:
        await eventually(lambda: here.knows("bob@there"))
        await there.kill()
        await here.until_link(there, up=False, within_s=2)
        for number in range(20):
            assert (await send(alice, "bob@there", str(number))).status == "queued"
        peers = (await alice.request(wire.Peers(req_id=0))).peers
        [bob] = [peer for peer in peers if peer.name == "bob@there"]
        assert not bob.online
        assert bob.unreachable_since
    assert (await here.link(there)).waiting == 20
    assert "nothing listens" in (await here.trouble(there, "nothing listens"))
    await trio.sleep(3)
    log = here.paths.log.read_text()
    assert log.count("nothing listens") <= 2, "it is dialed all the time, and that is not news"
    await here.kill()
    await here.start()
    assert (await here.link(there)).waiting == 20
    await there.start()
    took = await linked(here, there, within_s=10)
    print(f"link up {took:.2f} s after the other hub was there")
    await eventually(here.nothing_waits)
    found = await there.read("bob")
    assert [mail.text for mail in found] == [str(number) for number in range(20)]


# --- killed, stopped, started ------------------------------------------------------------------------------


async def storm(load: Load, rng: random.Random, victims: list[list[Site]]) -> list[float]:
    """Kill each group of hubs in turn while everybody sends; seconds until all were linked again."""
    took = []
    async with load.running():
        for group in victims:
            await trio.sleep(0.2 + rng.random() * 0.5)
            for each in group:
                each.signal(signal.SIGKILL)
            for each in group:
                await each.kill()
            await trio.sleep(rng.random() * 0.3)
            await start(*group)
            took.append(await linked(*load.sites, within_s=20))
        await trio.sleep(0.3)
    return took


async def test_hubs_killed_under_load_lose_and_double_nothing(pair: tuple[Site, Site]) -> None:
    here, there = pair
    seed = random.randrange(10**6)
    print("seed", seed)
    load = Load(here, there, senders=3, pause_s=0.01)
    took = await storm(load, random.Random(seed), [[here], [there], [here, there]])
    count = await load.all_there()
    print(f"{count} messages; linked again after {[round(each, 2) for each in took]} s")
    assert count > 100
    for each in pair:
        assert not uninvited(await each.details())


@pytest.mark.soak
async def test_hubs_killed_again_and_again(site: Make) -> None:
    a, b, c = sites = [site(name) for name in "abc"]
    all_list_all(sites)
    await start(*sites)
    seed = random.randrange(10**6)
    print("seed", seed)
    rng = random.Random(seed)
    groups = [rng.sample([a, b, c], rng.choice((1, 1, 2, 3))) for _ in range(25)]
    load = Load(*sites, senders=4)
    took = await storm(load, rng, groups)
    count = await load.all_there()
    print(f"{count} messages, refused {load.refused}; linked again after {[round(t, 2) for t in took]} s")
    for each in sites:
        assert not uninvited(await each.details())


@pytest.mark.soak
async def test_a_hub_that_hangs_is_found_dead_and_comes_back(pair: tuple[Site, Site]) -> None:
    here, there = pair
    load = Load(here, there, senders=2, pause_s=0.05)
    async with load.running():
        await trio.sleep(0.5)
        there.signal(signal.SIGSTOP)
        try:
            took = await here.until_link(there, up=False, within_s=20)
            print(f"found dead after {took:.1f} s")
            assert took < 13
            # The sessions of this machine go on meanwhile.
            async with here.session("x") as x, here.session("y"):
                with trio.fail_after(2):
                    await send(x, "y", "still here")
        finally:
            there.signal(signal.SIGCONT)
        back = await linked(here, there, within_s=10)
        print(f"back {back:.2f} s after it went on")
        await trio.sleep(0.3)
    assert await load.all_there() > 20


async def test_a_short_hang_costs_nothing(pair: tuple[Site, Site]) -> None:
    here, there = pair
    load = Load(here, there, senders=2, pause_s=0.02)
    async with load.running():
        for stopped in ([there], [here], [here, there]):
            await trio.sleep(0.3)
            for each in stopped:
                each.signal(signal.SIGSTOP)
            await trio.sleep(1.5)
            for each in stopped:
                each.signal(signal.SIGCONT)
            await linked(here, there, within_s=10)
    assert await load.all_there() > 20


@pytest.mark.parametrize("count", [4, pytest.param(8, marks=pytest.mark.soak)])
async def test_hubs_started_at_once_have_one_link_per_pair(site: Make, count: int) -> None:
    sites = [site(f"hub{number}") for number in range(count)]
    pairs = count * (count - 1) // 2
    all_list_all(sites)
    began = trio.current_time()
    await start(*sites)
    ready = trio.current_time() - began
    took = await linked(*sites)
    print(f"{count} hubs ready after {ready:.1f} s, all {pairs} links up {took:.1f} s later")

    # Nobody dials on, and streams that were too many are gone: one connection per pair, and it lasts.
    async def settled() -> bool:
        return sum(connections(each) for each in sites) == 2 * pairs

    await eventually(settled)
    before = [(await each.details()).links for each in sites]
    await trio.sleep(1.5)
    for each, links in zip(sites, before, strict=True):
        found = (await each.details()).links
        assert [(link.hub_id, link.up, link.since, link.address) for link in found] == [
            (link.hub_id, True, link.since, link.address) for link in links
        ]
        assert not uninvited(await each.details())
    assert sum(connections(each) for each in sites) == 2 * pairs


def connections(site: Site) -> int:
    """Established TCP connections of a hub."""
    assert site.process is not None
    inodes = set()
    for handle in Path(f"/proc/{site.process.pid}/fd").iterdir():
        try:
            target = str(handle.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    rows = Path(f"/proc/{site.process.pid}/net/tcp").read_text().splitlines()[1:]
    return sum(row.split()[3] == "01" and row.split()[9] in inodes for row in rows)


@pytest.mark.soak
@pytest.mark.parametrize("links", [0, 1, 7])
async def test_hubs_with_nothing_to_do_do_nothing(site: Make, links: int) -> None:
    sites = [site(f"hub{number}") for number in range(links + 1)]
    all_list_all(sites)
    await start(*sites)
    await linked(*sites)
    await trio.sleep(10)
    before = [each.cpu_s() for each in sites]
    await trio.sleep(30)
    spent = [(each.cpu_s() - was) / 30 for each, was in zip(sites, before, strict=True)]
    print(f"{links} links, idle: {[f'{each:.2%}' for each in spent]} of a processor")
    assert max(spent) < 0.01


@pytest.mark.soak
async def test_a_hub_that_is_away_costs_next_to_nothing(site: Make) -> None:
    here = site("here")
    here.configure(*[site(f"away{number}") for number in range(7)])
    await here.start()
    await trio.sleep(10)
    before = here.cpu_s()
    await trio.sleep(30)
    spent = (here.cpu_s() - before) / 30
    print(f"7 hubs away: {spent:.2%} of a processor, log {here.paths.log.stat().st_size} bytes")
    assert spent < 0.03
    assert here.paths.log.stat().st_size < 20_000


async def test_a_hub_restarted_in_order_is_linked_again_within_two_seconds(pair: tuple[Site, Site]) -> None:
    here, there = pair
    for restarted, other in ((here, there), (there, here)):
        async with other.session("bob"):
            await eventually(lambda: restarted.knows(f"bob@{other.hub_id}", online=True), 1)  # noqa: B023
            await restarted.kill(signal.SIGTERM)
            await restarted.start()
            took = await linked(here, there, within_s=10)
            known = await eventually(lambda: restarted.knows(f"bob@{other.hub_id}", online=True), 1)  # noqa: B023
            print(
                f"linked {took:.2f} s after {restarted.hub_id} took sessions again, peers {known:.2f} s later"
            )
            assert took < 2 + 2  # the machine of a test may be slow


# --- mistakes ----------------------------------------------------------------------------------------------


@pytest.fixture
async def three(site: Make) -> tuple[Site, Site, Site]:
    """A hub with a friend it is linked to, and an odd one that is not started yet."""
    hub, friend, odd = site("hub"), site("friend"), site("odd")
    hub.configure(friend, odd)
    friend.configure(hub)
    odd.configure(hub)
    await start(hub, friend)
    await linked(hub, friend)
    return hub, friend, odd


async def undisturbed(hub: Site, friend: Site, since: int) -> None:
    """The link of these two is the same as before, and local mail goes."""
    link = await hub.link(friend)
    assert (link.up, link.since) == (True, since)
    heard: list[wire.Push] = []
    async with hub.taker("one", heard), hub.session("two") as two, friend.session("three") as three:
        with trio.fail_after(5):
            assert (await send(two, "one", "local")).status == "delivered"
            await delivered(three, "one@hub", "far")


async def test_a_wrong_secret_is_told_on_both_sides_and_mended_by_a_reload(
    three: tuple[Site, Site, Site],
) -> None:
    hub, friend, odd = three
    since = (await hub.link(friend)).since
    odd.change(secret="another-secret-of-good-length-0123456789")
    await odd.start()
    assert "secret" in await odd.trouble(hub, "secret", within_s=10)
    assert SECRET not in await hub.trouble(odd, "secrets differ", within_s=10)
    await undisturbed(hub, friend, since)
    odd.change(secret=SECRET)
    odd.signal(signal.SIGHUP)
    told = json.loads((await hub.cli("hub", "reload", "--json")).stdout)
    assert told["hub_id"] == "hub"
    took = await linked(hub, odd, within_s=10)
    print(f"linked {took:.2f} s after the reload")
    await linked(hub, friend, within_s=10)


async def test_the_secret_is_changed_while_hubs_run(pair: tuple[Site, Site]) -> None:
    here, there = pair
    new = "the-new-secret-of-good-length-9876543210"
    load = Load(here, there, senders=1, pause_s=0.02)
    async with load.running():
        for changed in (here, there):
            changed.change(secret=new, previous_secret=SECRET)
            changed.signal(signal.SIGHUP)
            await trio.sleep(0.3)
            took = await linked(here, there, within_s=10)
            print(f"linked {took + 0.3:.2f} s after {changed.hub_id} had the new secret")
        for changed in (here, there):
            changed.change(previous_secret=None)
            changed.signal(signal.SIGHUP)
            await trio.sleep(0.3)
            await linked(here, there, within_s=10)
    assert await load.all_there() > 5


async def test_a_secret_that_is_taken_away_ends_the_link_and_no_mail(pair: tuple[Site, Site]) -> None:
    here, there = pair
    async with there.session("bob"), here.session("alice") as alice:
        await eventually(lambda: here.knows("bob@there", online=True))
        here.change(secret="the-new-secret-of-good-length-9876543210")
        here.signal(signal.SIGHUP)
        await here.until_link(there, up=False, within_s=5)
        assert (await send(alice, "bob@there", "later")).status == "queued"
        for one, other in ((here, there), (there, here)):
            assert "secrets differ" in await one.trouble(other, "secrets differ", within_s=10)
        there.change(secret="the-new-secret-of-good-length-9876543210")
        there.signal(signal.SIGHUP)
        print(f"linked {await linked(here, there, within_s=10):.2f} s after the other one had it too")
        await eventually(here.nothing_waits)
    assert [mail.text for mail in await there.read("bob")] == ["later"]


async def test_another_identity_is_refused_on_both_sides(three: tuple[Site, Site, Site]) -> None:
    hub, friend, odd = three
    since = (await hub.link(friend)).since
    await odd.start()
    await linked(hub, odd)
    await odd.kill(signal.SIGTERM)
    (odd.home / "identity.pem").unlink()
    await odd.start()
    assert "identity" in await odd.trouble(hub, "identity", within_s=15)
    assert "identity" in await hub.trouble(odd, "identity", within_s=15)
    await undisturbed(hub, friend, since)


async def test_a_hub_with_another_name_than_expected(three: tuple[Site, Site, Site]) -> None:
    hub, friend, odd = three
    since = (await hub.link(friend)).since
    odd.change(hub_id="stranger", peers=[])
    await odd.start()
    assert "hub_id" in await hub.trouble(odd, "hub_id", within_s=10)
    assert "dialed the hub odd, and this is stranger" in await odd.problem("dialed", within_s=10)
    await undisturbed(hub, friend, since)


async def test_a_stranger_on_the_port_of_a_peer(three: tuple[Site, Site, Site]) -> None:
    hub, friend, odd = three
    since = (await hub.link(friend)).since

    async def talk_nonsense(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"220 mail.example ESMTP\r\n")
            await stream.receive_some(1000)

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_tcp, talk_nonsense, odd.port, host="127.0.0.1"))
        assert await hub.trouble(odd, "TLS", within_s=40)
        await undisturbed(hub, friend, since)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("who_dials", [pytest.param("hub", marks=pytest.mark.soak), "friend"])
async def test_strangers_on_our_port_disturb_nobody(three: tuple[Site, Site, Site], who_dials: str) -> None:
    hub, friend, _ = three
    dials, waits = (hub, friend) if who_dials == "hub" else (friend, hub)
    dials.change(peers=[waits.as_peer()])
    waits.change(peers=[])
    for each in (hub, friend):
        await each.kill()
        await each.start()
    await linked(hub, friend)
    since = (await hub.link(friend)).since
    before = hub.cpu_s()
    rng = random.Random(1)
    async with AsyncExitStack() as stack:
        for number in range(240):
            # Of many machines, as far as the hub can tell.
            stranger = trio.socket.socket()
            stack.push_async_callback(trio.aclose_forcefully, trio.SocketStream(stranger))
            await stranger.bind((f"127.0.1.{1 + number % 60}", 0))
            await stranger.connect(("127.0.0.1", hub.port))
            with suppress(OSError):
                if number >= 200:
                    await stranger.send(rng.randbytes(100) if number % 2 else b"GET / HTTP/1.1\r\n\r\n")
        await undisturbed(hub, friend, since)
        # The door is full of them, and still open for a hub we know.
        await friend.kill()
        await friend.start()
        assert await linked(hub, friend, within_s=10) < 2 + 2
    spent = hub.cpu_s() - before
    print(f"240 strangers cost {spent:.2f} s of processor time")
    assert spent < 3


async def no_problems(site: Site) -> bool:
    return not (await site.details()).problems


async def test_a_broken_bridge_json_costs_the_links_only(site: Make) -> None:
    here = site("here")
    here.write('{\n  "hub_id": "here",\n  "listen": 9700,\n}')
    await here.start()
    said = await here.problem("line")
    assert "line 3" in said or "line 4" in said
    assert "column" in said
    heard: list[wire.Push] = []
    async with here.taker("one", heard), here.session("two") as two:
        assert (await send(two, "one", "local")).status == "delivered"
    there = site("there")
    all_list_all((here, there))
    await there.start()
    here.signal(signal.SIGHUP)
    await linked(here, there, within_s=10)
    assert not (await here.details()).problems


async def test_a_file_that_became_wrong_leaves_the_links_as_they_were(pair: tuple[Site, Site]) -> None:
    here, there = pair
    since = (await here.link(there)).since
    good = json.dumps(here.config)
    here.write(good[:-1])
    here.signal(signal.SIGHUP)
    said = await here.problem("line", within_s=5)
    assert "column" in said
    link = await here.link(there)
    assert (link.up, link.since) == (True, since)
    here.write(good)
    here.signal(signal.SIGHUP)
    await eventually(lambda: no_problems(here))
    await linked(here, there, within_s=10)


async def test_a_port_that_is_taken(site: Make) -> None:
    here, there = site("here"), site("there")
    all_list_all((here, there))
    with trio.socket.socket() as taken:
        await taken.bind(("127.0.0.1", here.port))
        taken.listen(1)
        await start(here, there)
        assert str(here.port) in await here.problem("cannot reach", within_s=10)
        # It dials, though it is not reached.
        await linked(here, there, within_s=10)
    # The port became free: it listens again by itself.
    await eventually(lambda: no_problems(here))
    assert (await here.details()).listening


# --- what can be seen on the way ---------------------------------------------------------------------------


async def test_nothing_can_be_read_on_the_way(site: Make) -> None:
    here, there = site("hub-of-alpha"), site("hub-of-omega")
    async with proxied(there.port) as way:
        here.configure(there, peers=[there.as_peer(port=way.port)])
        there.configure()
        await start(here, there)
        await linked(here, there)
        heard: list[wire.Push] = []
        async with there.taker("bartholomew", heard), here.session("alexandra") as alexandra:
            for number in range(50):
                await send(alexandra, "bartholomew@hub-of-omega", f"a telling sentence, number {number}")
            await until(lambda: len(heard) == 50)
            # Through a new handshake as well, and one with a secret that is wrong.
            await there.kill()
            await there.start()
            await linked(here, there, within_s=20)
            here.change(secret=WRONG)
            await here.kill()
            await here.start()
            await here.trouble(there, "secret", within_s=20)
        seen = bytes(way.seen)
    print(f"{len(seen)} bytes of {way.connections} connections")
    assert way.connections >= 3
    assert len(seen) > 20_000
    for name, hidden in secrets_of(here, there).items():
        for form in forms(hidden):
            assert form not in seen, f"{name} can be read"
    # What is in clear is found: the name of the protocol.
    assert b"ecorelay-link" in seen
    for each in (here, there):
        for log in each.home.glob("hub.log*"):
            text = log.read_bytes()
            for name, hidden in secrets_of().items():
                if "peer" not in name:
                    assert not any(form in text for form in forms(hidden)), f"{name} is in the log"


def secrets_of(*sites: Site) -> dict[str, bytes]:
    """What nobody on the way may see."""
    hidden = {
        "text": b"a telling sentence",
        "a peer": b"bartholomew",
        "another peer": b"alexandra",
        **{f"the hub_id {each.hub_id}": each.hub_id.encode() for each in sites},
    }
    for name, secret in (("secret", SECRET), ("wrong secret", WRONG)):
        password = Password(Secret(secret))
        hidden[name] = secret.encode()
        hidden[f"{name} derived"] = password._derived
        for number, product in enumerate((*password._m, *password._n)):
            hidden[f"{name} multiplied {number}"] = product.to_bytes()
    return hidden


def forms(hidden: bytes) -> list[bytes]:
    """As it is, and as programs write bytes."""
    return [hidden, hidden.hex().encode(), base64.b64encode(hidden).rstrip(b"="), hidden[::-1]]
