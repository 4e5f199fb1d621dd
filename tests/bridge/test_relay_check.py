"""What `bridge-check` and `relay-probe` find at relay servers."""

from __future__ import annotations

import pytest
import trio

from ecorelay_bridge.check import Step
from ecorelay_bridge.known import Known
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.relay_check import check_relays
from ecorelay_bridge.relay_probe import looking, probe
from ecorelay_bridge.settings import RelayServer, Secret, Settings
from tests.bridge.hubs import OLD, RIGHT, WRONG, free_port, identity, running
from tests.bridge.test_relay_dialer import at, until
from tests.bridge.tiny_relay import TOKEN, TinyRelay, tiny_relay


def settings(*relays: RelayServer, previous: str = "") -> Settings:
    return Settings(
        hub_id="gamma",
        secret=Secret(RIGHT),
        previous_secret=Secret(previous) if previous else None,
        relays=relays,
    )


def marks(steps: list[Step]) -> str:
    return " ".join(f"{step.step}{'' if step.ok else '!'}" for step in steps)


async def check(*relays: RelayServer, known=None, previous: str = ""):
    with trio.fail_after(20):
        return await check_relays(
            settings(*relays, previous=previous), identity("gamma"), known or {}, environ={}
        )


async def test_a_relay_and_the_hubs_there_are_checked_end_to_end(tmp_path) -> None:
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
        running(tmp_path, "beta", listen=False, secret=WRONG, relays=at(relay)),
        running(tmp_path, "gamma", listen=False, relays=at(relay)) as gamma,
    ):
        await until(lambda: len(relay.hubs) == 3)
        await gamma.linked()
        known = {"alpha": Known(identity=identity("alpha").fingerprint)}
        [found] = await check(*at(relay), known=known)
        assert found.name == f"127.0.0.1:{relay.port}"
        assert marks(found.steps) == "resolve connect websocket token hubs"
        assert found.steps[-1].detail == "this hub is there; 2 other hubs: alpha, beta"
        assert marks(found.hubs["alpha"]) == "tls proof hub_id identity clock"
        assert found.hubs["alpha"][3].detail.endswith("as known")
        assert marks(found.hubs["beta"]) == "tls proof!"
        assert found.hubs["beta"][1].reason == Reason.WRONG_SECRET
        assert not found.ok
        # Nobody lost its place, or dialed whoever only looked.
        assert Reason.RELAY_REPLACED not in {each.reason for each in (*alpha.reports, *gamma.reports)}
        assert all(each.hub_id != "gamma" for each in gamma.reports)


async def test_the_old_secret_is_tried_as_well(tmp_path) -> None:
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, secret=OLD, relays=at(relay)),
    ):
        await until(lambda: relay.hubs)
        [found] = await check(*at(relay), previous=OLD)
        assert "previous_secret" in found.hubs["alpha"][1].detail


@pytest.mark.parametrize(
    ("kind", "steps", "words"),
    [
        ("nobody", "resolve connect!", "nothing listens"),
        ("name", "resolve!", "has no address"),
        ("token", "resolve connect websocket token!", "refuses our token"),
        ("version", "resolve connect websocket version!", "speaks 7 to 9"),
        ("weak", "token!", "not encrypted"),
        ("web", "resolve connect websocket!", "a web server answers"),
    ],
)
async def test_what_is_wrong_is_said_at_its_step(kind, steps, words) -> None:
    async with tiny_relay() as relay:
        url, token = relay.url, TOKEN
        if kind == "nobody":
            url = f"ws://127.0.0.1:{free_port()}"
        elif kind == "name":
            url = "ws://no-such-host.invalid"
        elif kind == "token":
            token = "another-token-of-128-bits-0123456789"
        elif kind == "version":
            relay.versions = (7, 9)
        elif kind == "weak":
            url, token = "ws://192.168.7.7", "feeble"
        elif kind == "web":
            relay.rejects = 404
        [found] = await check(RelayServer(url=url, token=Secret(token)))
    assert marks(found.steps) == steps
    assert words in found.steps[-1].cause
    assert token not in repr(found)


async def test_no_relay_is_checked_where_there_is_none() -> None:
    assert await check() == []


async def test_a_probe_measures_and_is_gone_afterwards(tmp_path) -> None:
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
    ):
        await until(lambda: relay.hubs)
        with trio.fail_after(15):
            found = await probe(at(relay)[0], environ={}, seconds=0.3)
        assert found.hubs == 1
        assert 0 < found.best_ms <= found.round_trip_ms < 1000
        assert found.bytes_per_s > 100_000
        await until(lambda: len(relay.hubs) == 1)
        assert [each.event for each in alpha.reports] == ["at_relay"]


async def test_a_probe_says_why_it_cannot(tmp_path) -> None:
    async with tiny_relay() as relay:
        with pytest.raises(Refused) as refused:
            await probe(at(relay, token="another-token-of-128-bits-0123456789")[0], environ={})
        assert refused.value.reason is Reason.RELAY_TOKEN


async def test_what_somebody_opens_to_a_look_is_closed(tmp_path) -> None:
    async with tiny_relay() as relay:
        async with looking(at(relay)[0], environ={}) as one, looking(at(relay)[0], environ={}) as other:
            with trio.fail_after(5):
                await one.met(other.connection.address)
                first = one.connection.open(other.connection.address)
                second = one.connection.open(other.connection.address)
                await first.send_all(b"x")
                await second.send_all(b"x")
                assert await second.receive_some(10) == b""
                assert isinstance(relay, TinyRelay)
