"""What a dialer does with each way an attempt can end, on a clock that jumps; and what TCP tells it."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import trio

from ecorelay_bridge.backoff import AWAY_LAST_S, LAST_S, PROOF_FIRST_S, STABLE_S, Backoff
from ecorelay_bridge.dialer import AGAIN_S, BESIDE_MAX, SHORT_S, Dialer, Direct, connect
from ecorelay_bridge.handshake import Proof
from ecorelay_bridge.introduction import Proven
from ecorelay_bridge.refusals import Reason, Refused, closed_after_proof, wrong_secret
from ecorelay_bridge.roads import RoadReport, Roads
from ecorelay_bridge.settings import Peer, Secret
from tests.bridge.hubs import RIGHT, identity, party

PEER = Peer(hub_id="beta", host="desk", port=9700)
ODD = Refused(Reason.NOT_ECORELAY, "", "")
REFUSED = Refused(Reason.CONNECTION_REFUSED, "nothing listens", "start it")


class Stream(trio.abc.Stream):
    """A stream nothing is said on."""

    def __init__(self) -> None:
        self.closed = False

    async def send_all(self, data: Any) -> None:
        raise AssertionError

    async def wait_send_all_might_not_block(self) -> None:
        raise AssertionError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise AssertionError

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


@dataclass
class Stage:
    """An introducer whose attempts end as a script says: an exception, or the seconds a link holds."""

    script: list[Any]
    passwords: tuple[str, ...] = ("new",)
    me: Any = field(default_factory=lambda: party("alpha"))
    attempts: list[tuple[float, str]] = field(default_factory=list)
    reports: list[RoadReport] = field(default_factory=list)
    roads: Roads = field(default_factory=Roads)
    streams: list[Stream] = field(default_factory=list)
    hold_s: float = 0.0
    jitter: float = 1.0

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        assert (host, port) == ("desk", 9700)
        self.streams.append(Stream())
        return self.streams[-1]

    async def dial(self, stream: trio.abc.Stream, to: str, password: str) -> Any:
        self.attempts.append((trio.current_time(), password))
        if not self.script:
            await trio.sleep_forever()
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        self.hold_s = step
        return stream, Proof(
            role="dialer",
            hub_id=to,
            identity=identity(to).fingerprint,
            secret=Secret(RIGHT),
            version=1,
            app="0.1.0",
            clock_ms=0,
            checking=False,
        )

    async def on_link(self, proven: Proven) -> None:
        await trio.sleep(self.hold_s)

    async def run(self) -> None:
        """Dial until the script is over and nothing happens any more."""
        dialer = Dialer(
            PEER.hub_id,
            Direct(PEER, self.roads, self.connect),
            self,  # type: ignore[arg-type]
            self.roads,
            Backoff(lambda: self.jitter),
            self.on_link,
            self.reports.append,
        )
        with trio.move_on_after(100_000):
            await dialer.run()

    def waits(self) -> list[float]:
        """Seconds between the attempts."""
        times = [at for at, _ in self.attempts]
        return [round(later - earlier, 3) for earlier, later in pairwise(times)]

    def events(self) -> list[str]:
        return [each.event for each in self.reports]


async def test_it_tries_again_and_again_with_growing_pauses_and_says_why(autojump_clock) -> None:
    stage = Stage([REFUSED] * 8)
    await stage.run()
    assert stage.waits() == [0.5, 1, *[AWAY_LAST_S] * 6]
    report = stage.reports[1]
    assert (report.event, report.side, report.hub_id, report.address) == (
        "failed",
        "dialer",
        "beta",
        "desk:9700",
    )
    assert (report.reason, report.sentence, report.remedy, report.retry_in_s) == (
        Reason.CONNECTION_REFUSED,
        "nothing listens",
        "start it",
        0.5,
    )


async def test_a_link_that_held_makes_the_pauses_short_again(autojump_clock) -> None:
    stage = Stage([REFUSED, REFUSED, REFUSED, STABLE_S + 1, REFUSED])
    await stage.run()
    assert stage.waits() == [0.5, 1, AWAY_LAST_S, STABLE_S + 1 + 0.5, 1]
    assert stage.events()[6:10] == ["dialing", "up", "down", "dialing"]
    assert all(stream.closed for stream in stage.streams[3:4])


async def test_a_link_that_breaks_at_once_does_not_spin(autojump_clock) -> None:
    stage = Stage([0.0] * 8)
    await stage.run()
    assert stage.waits() == [0.5, 1, *[AWAY_LAST_S] * 6]


async def test_a_link_that_breaks_at_once_does_not_spin_though_the_hub_seeks_another(autojump_clock) -> None:
    stage = Stage([0.1] * 8)

    async def on_link(proven: Proven) -> None:
        await trio.sleep(0.1)
        stage.roads.seek("beta")  # as the hub does when it loses its link

    stage.on_link = on_link  # type: ignore[method-assign]
    await stage.run()
    assert stage.waits() == [0.6, 1.1, *[round(AWAY_LAST_S + 0.1, 3)] * 6]


async def test_a_link_that_held_is_made_again_at_once_when_the_hub_seeks_another(autojump_clock) -> None:
    stage = Stage([SHORT_S, SHORT_S])

    async def on_link(proven: Proven) -> None:
        await trio.sleep(stage.hold_s)
        stage.roads.seek("beta")

    stage.on_link = on_link  # type: ignore[method-assign]
    await stage.run()
    assert stage.waits() == [SHORT_S, SHORT_S]


@pytest.mark.parametrize("how", [wrong_secret(), closed_after_proof(), Refused(Reason.BAD_SIGNATURE, "")])
async def test_a_failed_proof_is_not_repeated_for_a_minute_and_longer(autojump_clock, how) -> None:
    stage = Stage([how] * 3, jitter=0.0)
    await stage.run()
    assert stage.waits() == [PROOF_FIRST_S, 2 * PROOF_FIRST_S, 4 * PROOF_FIRST_S]


async def test_while_secrets_change_the_other_one_is_tried_at_once_and_kept(autojump_clock) -> None:
    stage = Stage([wrong_secret(), 100.0, 100.0], passwords=("new", "old"))
    await stage.run()
    assert [name for _, name in stage.attempts] == ["new", "old", "old", "old"]
    assert stage.waits()[0] == 0


async def test_with_both_secrets_wrong_it_waits_once(autojump_clock) -> None:
    stage = Stage([wrong_secret()] * 4, passwords=("new", "old"), jitter=0.0)
    await stage.run()
    assert [name for _, name in stage.attempts][:4] == ["new", "old", "new", "old"]
    assert stage.waits()[:3] == [0, PROOF_FIRST_S, 0]


async def test_what_is_no_wrong_secret_does_not_try_the_other_one(autojump_clock) -> None:
    stage = Stage([REFUSED, closed_after_proof(), REFUSED], passwords=("new", "old"), jitter=0.0)
    await stage.run()
    assert {name for _, name in stage.attempts} == {"new"}


async def test_a_hub_that_is_left_alone_is_not_dialed_until_it_is_sought(autojump_clock) -> None:
    stage = Stage([10.0, 10.0])
    stage.roads.rest("beta")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run)
        await trio.sleep(1000)
        assert stage.attempts == []
        stage.roads.seek("beta")
        await trio.sleep(1)
        assert len(stage.attempts) == 1
        stage.roads.rest("beta")
        await trio.sleep(1000)
        # The stream that was up ended by itself; nothing came after it.
        assert len(stage.attempts) == 1
        nursery.cancel_scope.cancel()


async def test_sought_anew_it_dials_at_once_with_short_pauses(autojump_clock) -> None:
    stage = Stage([ODD] * 12)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run)
        await trio.sleep(100)  # somewhere in a pause of 30 s
        before = len(stage.attempts)
        stage.roads.seek("beta")
        await trio.sleep(0.1)
        assert len(stage.attempts) == before + 1
        await trio.sleep(0.5)
        assert len(stage.attempts) == before + 2
        nursery.cancel_scope.cancel()


async def test_sought_while_a_stream_is_up_it_makes_another_beside_it(autojump_clock) -> None:
    stage = Stage([10_000.0] * 5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run)
        await trio.sleep(5)
        assert len(stage.attempts) == 1
        stage.roads.seek("beta")
        await trio.sleep(0.1)
        assert len(stage.attempts) == 2
        assert stage.events() == ["dialing", "up", "dialing", "up"]
        # Not without bound, however often it is asked.
        for _ in range(10):
            stage.roads.seek("beta")
            await trio.sleep(0.1)
        assert len(stage.attempts) == BESIDE_MAX
        nursery.cancel_scope.cancel()


async def test_while_one_of_two_streams_is_up_there_is_no_need_to_dial(autojump_clock) -> None:
    stage = Stage([100.0, 1000.0, 1000.0])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run)
        await trio.sleep(5)
        stage.roads.seek("beta")
        await trio.sleep(500)
        assert stage.events() == ["dialing", "up", "dialing", "up", "down"]
        await trio.sleep(600)
        assert len(stage.attempts) == 3
        nursery.cancel_scope.cancel()


async def test_sought_during_an_attempt_it_tries_again_as_soon_as_that_failed(autojump_clock) -> None:
    stage = Stage([ODD] * 12)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run)
        await trio.sleep(100)
        dial, hold = stage.dial, trio.Event()

        async def slow(*args: Any) -> Any:
            await hold.wait()
            return await dial(*args)

        stage.dial = slow  # type: ignore[method-assign,assignment]
        await trio.sleep(31)
        before = len(stage.attempts)
        stage.roads.seek("beta")
        hold.set()
        await trio.sleep(0.1)
        assert len(stage.attempts) == before + 2
        nursery.cancel_scope.cancel()


async def test_the_pause_after_a_failed_proof_is_not_cut_short(autojump_clock) -> None:
    stage = Stage([wrong_secret(), 1.0], jitter=0.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.run)
        await trio.sleep(1)
        stage.roads.seek("beta")
        await trio.sleep(PROOF_FIRST_S - 2)
        assert len(stage.attempts) == 1
        nursery.cancel_scope.cancel()


async def test_what_a_person_must_mend_is_tried_at_leisure(autojump_clock) -> None:
    stage = Stage([Refused(Reason.IDENTITY_CHANGED, "")] * 2)
    await stage.run()
    assert stage.waits() == [LAST_S, LAST_S]


async def test_a_bug_on_the_way_is_reported_and_costs_one_attempt(autojump_clock) -> None:
    bug = ValueError("a bug")
    stage = Stage([bug, 1.0])
    await stage.run()
    report = stage.reports[1]
    assert (report.event, report.reason, report.error) == ("failed", Reason.CRASH, bug)
    assert "up" in stage.events()


async def test_a_bug_of_the_hubs_part_ends_that_link_only(autojump_clock) -> None:
    stage = Stage([1.0, 1.0])
    bugs = [ValueError("a bug")]

    async def on_link(proven: Proven) -> None:
        await trio.lowlevel.checkpoint()
        if bugs:
            raise bugs.pop()

    stage.on_link = on_link  # type: ignore[method-assign]
    await stage.run()
    down = [each for each in stage.reports if each.event == "down"]
    assert [each.reason for each in down] == [Reason.CRASH, None]
    assert isinstance(down[0].error, ValueError)


# --- TCP for real --------------------------------------------------------------------------------

on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="needs Linux's loopback: 127.0.0.2, full queues"
)


async def test_a_port_nobody_listens_at() -> None:
    from tests.bridge.hubs import free_port

    with pytest.raises(Refused) as refused, trio.fail_after(10):
        await connect("127.0.0.1", free_port())
    assert refused.value.reason is Reason.CONNECTION_REFUSED


@contextmanager
def full_queue(host: str, port: int = 0) -> Iterator[int]:
    """A listener whose queue is full, and its port: the kernel drops what comes, as a firewall does."""
    with socket.socket() as sock:
        sock.bind((host, port))
        sock.listen(0)
        port = sock.getsockname()[1]
        waiting = []
        try:
            for _ in range(4):
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex((host, port))
            yield port
        finally:
            for each in waiting:
                each.close()


@on_linux
async def test_a_machine_that_drops_the_connection() -> None:
    with full_queue("127.0.0.1") as port:
        with pytest.raises(Refused) as refused, trio.fail_after(10):
            await connect("127.0.0.1", port, within_s=0.3)
    assert refused.value.reason is Reason.FILTERED
    assert "firewall" in refused.value.sentence


class Names(trio.abc.HostnameResolver):
    """A name service of this test."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked = 0

    async def getaddrinfo(self, host: Any, port: Any, *_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
            for address in self.answer
        ]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise AssertionError


@pytest.fixture
def names():
    def use(answer: Any) -> Names:
        resolver = Names(answer)
        trio.socket.set_custom_hostname_resolver(resolver)
        return resolver

    return use


@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_AGAIN])
async def test_a_name_without_an_address(names, code) -> None:
    names(socket.gaierror(code, "whatever the system says"))
    with pytest.raises(Refused) as refused:
        await connect("desk.invalid", 9700)
    assert refused.value.reason is Reason.NOT_RESOLVED
    assert "desk.invalid" in refused.value.sentence


@on_linux
async def test_a_name_is_looked_up_anew_each_time_and_any_address_will_do(names) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    # The first address refuses; the machine has moved to the second.
    resolver = names(["127.0.0.2", "127.0.0.1"])
    with trio.fail_after(10):
        for _ in range(2):
            stream = await connect("desk", port)
            assert stream.socket.getpeername()[0] == "127.0.0.1"
            await stream.aclose()
    assert resolver.asked == 2
    await listeners[0].aclose()


@on_linux
async def test_one_address_that_drops_the_connection_does_not_hide_one_that_takes_it(names) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    with full_queue("127.0.0.2", port):
        names(["127.0.0.2", "127.0.0.1"])
        with trio.fail_after(2):
            stream = await connect("desk", port)
        assert stream.socket.getpeername()[0] == "127.0.0.1"
        await stream.aclose()
    await listeners[0].aclose()


async def test_no_answer_is_asked_for_again_beside_the_first_time(autojump_clock, monkeypatch) -> None:
    began: list[float] = []

    async def open_tcp_stream(host: str, port: int) -> Any:
        number = len(began)
        began.append(trio.current_time())
        if number < 3:
            await trio.sleep_forever()
        return "a stream"

    start = trio.current_time()
    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    assert str(await connect("192.0.2.1", 9700)) == "a stream"
    assert [each - start for each in began] == [0, AGAIN_S, 2 * AGAIN_S, 3 * AGAIN_S]


async def test_the_first_of_two_answers_is_taken_and_the_other_closed(autojump_clock, monkeypatch) -> None:
    opened: list[Stream] = []

    async def open_tcp_stream(host: str, port: int) -> Any:
        stream = Stream()
        opened.append(stream)
        await trio.sleep(AGAIN_S + 1 - (AGAIN_S if len(opened) == 2 else 0))
        return stream

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    won: Any = await connect("192.0.2.1", 9700)
    assert [each.closed for each in opened] == [each is not won for each in opened]


async def test_no_way_there(monkeypatch) -> None:
    async def no_route(host: str, port: int) -> Any:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(trio, "open_tcp_stream", no_route)
    with pytest.raises(Refused) as refused:
        await connect("192.0.2.1", 9700)
    assert refused.value.reason is Reason.UNREACHABLE
    assert "network is unreachable" in refused.value.sentence


async def test_a_kernel_that_gave_up_before_us(monkeypatch) -> None:
    async def timed_out(host: str, port: int) -> Any:
        raise OSError("all attempts to connect failed") from ExceptionGroup(
            "attempts", [OSError(errno.ETIMEDOUT, "Connection timed out")]
        )

    monkeypatch.setattr(trio, "open_tcp_stream", timed_out)
    with pytest.raises(Refused) as refused:
        await connect("192.0.2.1", 9700)
    assert refused.value.reason is Reason.FILTERED
