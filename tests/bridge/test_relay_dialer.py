"""Hubs that meet at a relay server, over real sockets: who dials whom, and what they say when it fails."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
import trio

from ecorelay import relay_wire
from ecorelay_bridge import dialer, relay_connection, relay_dialer
from ecorelay_bridge.backoff import Backoff
from ecorelay_bridge.door import FAILED_PROOFS_MAX, HALF_OPEN_PER_SOURCE
from ecorelay_bridge.known import FileTrust
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.relay_check import check_relays
from ecorelay_bridge.relay_probe import looking
from ecorelay_bridge.settings import RelayServer, Secret, Settings
from tests.bridge.hubs import RIGHT, WRONG, Hub, identity, introducer, password, peer, running
from tests.bridge.tiny_relay import TOKEN, TinyRelay, tiny_relay
from tests.helpers.cables import proxied


def at(*relays: TinyRelay, token: str = TOKEN) -> tuple[RelayServer, ...]:
    return tuple(RelayServer(url=relay.url, token=Secret(token)) for relay in relays)


def relay_reports(hub: Hub) -> list[tuple[str, Reason | None]]:
    return [(each.event, each.reason) for each in hub.reports if "relay" in each.event]


def told(hub: Hub, other: str, reason: Reason) -> bool:
    return any(each.hub_id == other and each.reason is reason for each in hub.reports)


async def until(holds: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not holds():  # noqa: ASYNC110
            await trio.sleep(0.01)


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
        state = alpha.roads.relays[f"127.0.0.1:{relay.port}"]
        assert (state.up, state.hubs, state.trouble) == (True, 1, "")
        await trio.sleep(0.3)
        assert (len(alpha.links), len(beta.links)) == (1, 1)


async def test_the_greater_hub_id_dials_after_a_while_if_the_other_one_does_not(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(relay_dialer, "GRACE_S", 0.3)
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
    ):
        alpha.roads.rest("beta")
        async with running(tmp_path, "beta", listen=False, relays=at(relay)) as beta:
            there = await beta.linked()
            assert there.role == "dialer"


async def test_hubs_that_are_linked_directly_open_nothing_at_the_relay(tmp_path) -> None:
    async with (
        tiny_relay() as relay,
        running(tmp_path, "beta", relays=at(relay)) as beta,
    ):
        beta.roads.rest("alpha")
        async with running(tmp_path, "alpha", peer(beta), listen=False, relays=at(relay)) as alpha:
            first = await alpha.linked()
            assert not first.relayed, "a hub that can be dialed gets half a second for that"
            alpha.roads.rest("beta")
            await trio.sleep(1)
            assert len(alpha.links) == 1
            alpha.roads.seek("beta")  # suspect: another road is wanted beside it
            await until(lambda: any(each.relayed for each in alpha.links))


async def test_a_hub_linked_over_the_relay_is_still_dialed_directly_but_calmly(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("ecorelay_bridge.backoff.LAST_S", 1.0)
    async with (
        tiny_relay() as relay,
        proxied(9) as away,
        running(tmp_path, "beta", relays=at(relay)) as beta,
    ):
        port, away.forwards_to = beta.port, 1  # nobody there
        direct = peer(beta)
        direct = type(direct)(hub_id="beta", host="127.0.0.1", port=away.port)
        async with running(tmp_path, "alpha", direct, listen=False, relays=at(relay)) as alpha:
            await until(lambda: any(each.relayed for each in alpha.links))
            alpha.roads.rest("beta", relayed=True)
            await trio.sleep(0.2)
            tries = len(alpha.reports)
            await trio.sleep(0.4)
            assert len(alpha.reports) <= tries + 3
            away.forwards_to = port
            await until(lambda: any(not each.relayed for each in alpha.links))


async def test_a_wrong_token_is_said_and_not_tried_again_soon(tmp_path) -> None:
    wrong = "another-token-of-128-bits-0123456789"
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, relays=at(relay, token=wrong)) as alpha,
    ):
        report = await alpha.refused(Reason.RELAY_TOKEN)
        assert report.retry_in_s is not None
        assert report.retry_in_s >= 60
        assert "refuses our token" in report.sentence
        await trio.sleep(0.3)
        alpha.roads.seek("beta")  # a link is wanted: no reason to try a token again
        await trio.sleep(0.5)
        assert len(relay.hellos) == 1
        for text in (repr(alpha.reports), repr(relay.hellos)):
            assert wrong not in text


async def test_an_older_or_newer_server_is_named_as_such(tmp_path) -> None:
    async with tiny_relay() as relay:
        relay.versions = (7, 9)
        async with running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha:
            report = await alpha.refused(Reason.VERSION)
            assert "speaks 7 to 9" in report.sentence
            assert "this hub is the older one" in report.remedy
    async with tiny_relay() as relay:
        relay.close_with = relay_wire.CLOSE_VERSION
        async with running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha:
            assert (await alpha.refused(Reason.VERSION)).told


async def test_a_newer_hub_names_the_relay_that_must_be_upgraded(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(relay_wire, "OLDEST_RELAY_VERSION", 2)
    monkeypatch.setattr(relay_wire, "RELAY_VERSION", 3)
    async with tiny_relay() as relay:
        async with running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha:
            report = await alpha.refused(Reason.VERSION)
            [state] = alpha.roads.relays.values()
        assert "it speaks 1 to 1, this hub 2 to 3" in report.sentence
        assert report.remedy == f"upgrade ecorelay: the relay server 127.0.0.1:{relay.port} is the older one"
        assert report.remedy in state.trouble
        assert not relay.hellos, "nothing is proved to it"
        with trio.fail_after(20):
            settings = Settings(hub_id="gamma", secret=Secret(RIGHT), relays=at(relay))
            [found] = await check_relays(settings, identity("gamma"), {}, environ={})
        assert [(step.step, step.remedy) for step in found.steps if not step.ok] == [
            ("version", report.remedy)
        ]


@pytest.mark.parametrize(
    ("here", "there", "words"),
    [
        ("0.2.0", "0.10.0", "this hub (ecorelay 0.2.0) is the older one"),
        ("1.0", "0.10.0", "(ecorelay 0.10.0) is the older one"),
        ("1.0", "1.0", "upgrade the older of the two"),
        ("1.0", "", "upgrade the older of the two"),
        ("1.0", "weather", "upgrade the older of the two"),
    ],
)
async def test_where_one_does_not_understand_the_other_the_older_one_is_named(
    tmp_path, monkeypatch, here, there, words
) -> None:
    monkeypatch.setattr(relay_connection, "__version__", here)
    for code in (0, relay_wire.CLOSE_FRAME, relay_wire.CLOSE_VERSION):
        async with tiny_relay() as relay:
            relay.app, relay.close_with = there, code
            async with running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha:
                if not code:
                    await until(partial(len, relay.hubs))
                    for _, socket in list(relay.hubs.values()):
                        await socket.send_message("not JSON")
                reason = Reason.VERSION if code == relay_wire.CLOSE_VERSION else Reason.RELAY_RULES
                remedy = (await alpha.refused(reason)).remedy
            # Without it the server's own word has a remedy of its own.
            assert words in remedy or (code and "older one" not in words and "older" in remedy)


async def test_ended_at_any_moment_it_leaves_nothing_behind(tmp_path) -> None:
    """Reloads end everything wherever it is: at the relay, in a handshake, with a link."""
    async with (
        tiny_relay() as relay,
        running(tmp_path, "beta", listen=False, relays=at(relay)) as beta,
    ):
        await until(lambda: relay.hubs)
        for moment in range(8):
            async with running(tmp_path, "alpha", listen=False, relays=at(relay)):
                await trio.sleep(moment * 0.02)
            await until(lambda: len(relay.hubs) == 1)
        assert all(each.error is None for each in beta.reports)
        async with running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha:
            await alpha.linked()
            assert all(each.error is None for each in alpha.reports)


@pytest.mark.parametrize(
    ("code", "reason", "seconds"),
    [
        (relay_wire.CLOSE_HUB_ID, Reason.RELAY_HUB_ID, 60),
        (relay_wire.CLOSE_RATE, Reason.RELAY_RATE, 60),
        (relay_wire.CLOSE_FRAME, Reason.RELAY_RULES, 60),
        (relay_wire.CLOSE_FULL, Reason.RELAY_FULL, 0),
        (relay_wire.CLOSE_GOING, Reason.RELAY_AWAY, 0),
        (relay_wire.CLOSE_SLOW, Reason.RELAY_LOST, 0),
        (4999, Reason.RELAY_LOST, 0),
    ],
)
async def test_every_close_has_its_reason_and_its_pause(tmp_path, code, reason, seconds) -> None:
    async with tiny_relay() as relay:
        relay.close_with = code
        async with running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha:
            report = await alpha.refused(reason)
            assert report.retry_in_s is not None
            assert seconds <= report.retry_in_s <= (66 if seconds else 2)
            assert report.sentence


async def test_two_machines_under_one_identity_do_not_fight_for_the_place(tmp_path) -> None:
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
    ):
        await until(lambda: relay.hubs)
        async with running(tmp_path, "copy", listen=False, relays=at(relay), who="alpha"):
            report = await alpha.refused(Reason.RELAY_REPLACED)
            assert "copy" in report.sentence
            assert report.retry_in_s is not None
            assert report.retry_in_s >= 60
            await trio.sleep(1)
            assert len(relay.hellos) == 2


async def test_a_hub_comes_back_to_a_relay_that_was_restarted(tmp_path) -> None:
    async with tiny_relay() as relay:
        port = relay.port
        async with (
            running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
            running(tmp_path, "beta", listen=False, relays=at(relay)) as beta,
        ):
            await alpha.linked(), await beta.linked()
            relay.scope.cancel()
            await alpha.until(lambda: ("relay_failed", Reason.RELAY_LOST) in relay_reports(alpha))
            alpha.release()
            beta.release()
            await until(lambda: any(each.event == "down" for each in alpha.reports))
            down = next(each for each in alpha.reports if each.event == "down")
            assert "relay" in down.sentence
            await trio.sleep(0.5)
            began = trio.current_time()
            async with tiny_relay(port):
                await alpha.linked(2)
                assert trio.current_time() - began < 5


async def test_a_page_in_the_place_of_a_relay_that_was_there_is_asked_again_soon(
    tmp_path, monkeypatch
) -> None:
    """Tunnels show one while the server behind them is away, and it may be back at any moment."""
    monkeypatch.setattr(relay_dialer, "MET_PAUSE_S", 0.2)
    monkeypatch.setattr("ecorelay_bridge.backoff.FIRST_S", 100.0)
    async with tiny_relay() as relay:
        relay.rejects = 404
        async with running(tmp_path, "beta", listen=False, relays=at(relay)) as beta:
            never_met = await beta.refused(Reason.NO_RELAY)
        relay.rejects = 0
        async with running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha:
            await until(lambda: relay.hubs)
            relay.rejects = 404
            await relay.close_all(relay_wire.CLOSE_GOING)
            alpha.roads.seek("beta")
            report = await alpha.refused(Reason.NO_RELAY)
            assert report.retry_in_s is not None
            assert never_met.retry_in_s is not None
            assert report.retry_in_s <= 0.2 < never_met.retry_in_s
            relay.rejects = 0
            await until(lambda: relay.hubs)


async def test_two_relays_at_one_host_are_told_apart(tmp_path) -> None:
    async with tiny_relay() as relay:
        one = RelayServer(url=f"{relay.url}one", token=Secret(TOKEN))
        other = RelayServer(url=f"{relay.url}other", token=Secret("another-token-of-128-bits-0123456789"))
        async with running(tmp_path, "alpha", listen=False, relays=(one, other)) as alpha:
            await alpha.refused(Reason.RELAY_TOKEN)
            await until(lambda: any(each.up for each in alpha.roads.relays.values()))
            shown = {name: each.up for name, each in alpha.roads.relays.items()}
            assert shown == {f"127.0.0.1:{relay.port}/one": True, f"127.0.0.1:{relay.port}/other": False}


async def test_a_relay_that_says_nothing_any_more_is_given_up(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(relay_connection, "ASK_S", 0.1)
    monkeypatch.setattr(relay_connection, "DEAD_S", 0.4)
    async with tiny_relay() as relay, proxied(relay.port) as wire:
        by_wire = (RelayServer(url=f"ws://127.0.0.1:{wire.port}", token=Secret(TOKEN)),)
        async with (
            running(tmp_path, "alpha", listen=False, relays=by_wire) as alpha,
            running(tmp_path, "beta", listen=False, relays=at(relay)) as beta,
        ):
            here, there = await alpha.linked(), await beta.linked()
            for _ in range(3):  # the server answers pings while nobody has anything to say
                await here.stream.send_all(b"hello")
                await there.stream.receive_some(100)
                await trio.sleep(0.2)
            assert ("relay_failed", Reason.RELAY_LOST) not in relay_reports(alpha)
            wire.hang()
            await here.stream.send_all(b"hello")
            await alpha.refused(Reason.RELAY_LOST)
            with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
                await here.stream.receive_some(100)


async def test_a_silent_server_is_given_up_even_if_nothing_is_said(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(relay_connection, "SILENT_S", 0.5)
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
    ):
        report = await alpha.refused(Reason.RELAY_LOST)
        assert "says nothing any more" in report.sentence
        await until(lambda: len(relay.hellos) >= 2)


async def test_a_wrong_federation_secret_is_said_on_both_sides_and_not_tried_again_soon(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(relay_dialer, "GRACE_S", 0.3)
    async with (
        tiny_relay() as relay,
        running(tmp_path, "beta", listen=False, relays=at(relay)) as beta,
        running(tmp_path, "alpha", listen=False, secret=WRONG, relays=at(relay)) as alpha,
    ):
        for hub, other in ((alpha, "beta"), (beta, "alpha")):
            await hub.until(partial(told, hub, other, Reason.WRONG_SECRET))
            report = next(each for each in hub.reports if each.hub_id == other and each.event == "failed")
            assert "secrets differ" in report.sentence
            assert report.retry_in_s is not None
            assert report.retry_in_s >= 60
        refused = next(each for each in beta.reports if each.side == "acceptor" and each.event == "failed")
        assert refused.address == f"relay 127.0.0.1:{relay.port} (alpha)"
        for report in (*alpha.reports, *beta.reports):
            assert RIGHT not in repr(report)
            assert TOKEN not in repr(report)
        await trio.sleep(0.5)
        assert not alpha.links
        assert not beta.links


async def test_only_the_known_identity_is_dialed_and_a_wrong_one_is_told_of_once(tmp_path) -> None:
    (tmp_path / "alpha").mkdir()
    FileTrust(tmp_path / "alpha" / "known-hubs.json").trust("beta", identity("beta").fingerprint)
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
    ):
        async with running(tmp_path, "beta", listen=False, relays=at(relay), who="impostor"):
            report = await alpha.refused(Reason.IDENTITY_CHANGED)
            assert report.hub_id == "beta"
            await relay.close_all(relay_wire.CLOSE_GOING)
            await trio.sleep(1)
        assert (
            sum(each.reason is Reason.IDENTITY_CHANGED and bool(each.hub_id) for each in alpha.reports) == 1
        )
        assert not [each for each in alpha.reports if each.event == "dialing"]
        async with running(tmp_path, "beta", listen=False, relays=at(relay)) as real:
            await real.linked()


async def test_our_own_hub_id_at_the_relay_is_told_and_not_dialed(tmp_path) -> None:
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
    ):
        await until(lambda: relay.hubs)
        async with running(tmp_path, "Alpha", listen=False, relays=at(relay), who="other"):
            report = await alpha.refused(Reason.OWN_HUB_ID)
            assert report.hub_id == ""
            await trio.sleep(0.3)
            assert not alpha.links


async def test_a_hub_that_leaves_in_the_middle_of_the_handshake(tmp_path) -> None:
    async with tiny_relay() as relay, proxied(relay.port) as wire:
        by_wire = (RelayServer(url=f"ws://127.0.0.1:{wire.port}", token=Secret(TOKEN)),)
        async with running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha:
            async with running(tmp_path, "beta", listen=False, relays=by_wire):
                await until(lambda: len(relay.hubs) == 2)
                wire.hang()
                await alpha.until(lambda: any(each.event == "dialing" for each in alpha.reports))
            # Its end of the connection is closed: the relay says so, and nobody waits for the time-out.
            wire.hang(False)
            await until(lambda: len(relay.hubs) == 1)
            assert not [each for each in alpha.reports if each.event == "failed"]
            async with running(tmp_path, "beta", listen=False, relays=by_wire) as beta:
                await alpha.linked(), await beta.linked()


async def test_of_two_relays_one_stream_is_enough_and_the_other_takes_over(tmp_path) -> None:
    async with (
        tiny_relay() as one,
        tiny_relay() as two,
        running(tmp_path, "beta", listen=False, relays=at(one, two)) as beta,
        running(tmp_path, "alpha", listen=False, relays=at(one, two)) as alpha,
    ):
        first = await alpha.linked()
        alpha.roads.rest("beta", relayed=True)
        beta.roads.rest("alpha", relayed=True)
        await trio.sleep(0.5)
        assert len(alpha.links) == 1
        broken = one if first.address.endswith(str(one.port)) else two
        other = two if broken is one else one
        broken.scope.cancel()
        alpha.release()
        beta.release()
        alpha.roads.seek("beta")
        beta.roads.seek("alpha")
        second = await alpha.linked(2)
        assert second.address == f"relay 127.0.0.1:{other.port}"


async def test_a_probe_at_the_relay_is_not_dialed(tmp_path) -> None:
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
    ):
        await until(lambda: relay.hubs)
        probe = relay_wire.HubHere(hub_id="zebra", address="ab" * 32, app_version=relay_wire.PROBE_APP)
        await relay.tell(relay_wire.Joined(hub=probe))
        await trio.sleep(0.2)
        assert not [each for each in alpha.reports if each.event == "dialing"]


async def test_both_dial_at_once_and_both_streams_come_about(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(relay_dialer, "GRACE_S", 0.0)
    async with (
        tiny_relay() as relay,
        running(tmp_path, "beta", listen=False, relays=at(relay)) as beta,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
    ):
        await alpha.linked(2), await beta.linked(2)
        assert sorted(each.role for each in alpha.links) == ["acceptor", "dialer"]
        assert dialer.BESIDE_MAX == 3


# --- strangers, and a server gone bad ---------------------------------------------------------------------


async def test_failed_proofs_of_one_address_at_the_relay_are_few(tmp_path) -> None:
    guesser = introducer("gamma", secrets=(WRONG,))
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
        looking(at(relay)[0], environ={}) as look,
    ):
        address = relay_wire.address_of(identity("alpha").public)
        await look.met(address)
        for _ in range(FAILED_PROOFS_MAX):
            with pytest.raises(Refused) as refused:
                await guesser.dial(look.connection.open(address), "alpha", password(WRONG))
            assert refused.value.reason is Reason.WRONG_SECRET
        with pytest.raises(Refused) as refused:
            await guesser.dial(look.connection.open(address), "alpha", password(WRONG))
        assert refused.value.reason is Reason.SOURCE_BLOCKED
        # Another address is another source.
        async with looking(at(relay)[0], environ={}) as other:
            await other.met(address)
            with pytest.raises(Refused) as refused:
                await guesser.dial(other.connection.open(address), "alpha", password(WRONG))
            assert refused.value.reason is Reason.WRONG_SECRET
        assert not alpha.links


async def test_who_comes_again_and_again_gets_no_further_guess(tmp_path) -> None:
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
    ):
        for _ in range(3):
            async with running(tmp_path, "beta", listen=False, secret=WRONG, relays=at(relay)) as beta:
                beta.roads.rest("alpha")
                await until(lambda: len(relay.hubs) == 2)
                await trio.sleep(0.4)
            await until(lambda: len(relay.hubs) == 1)
        assert [each.event for each in alpha.reports if each.side == "dialer"].count("dialing") == 1


async def test_new_names_get_few_guesses_together(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(relay_dialer, "GUESSES_BURST", 2)
    monkeypatch.setattr(relay_dialer, "GUESSES_PER_S", 0.01)
    monkeypatch.setattr(relay_dialer, "STRANGERS_AT_ONCE", 1)
    monkeypatch.setattr(relay_dialer, "GRACE_S", 1e6)
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
        running(tmp_path, "mu", listen=False, secret=WRONG, relays=at(relay)),
        running(tmp_path, "nu", listen=False, secret=WRONG, relays=at(relay)),
        running(tmp_path, "xi", listen=False, secret=WRONG, relays=at(relay)),
    ):
        await until(lambda: len(relay.hubs) == 4)
        await trio.sleep(1)
        guesses = [each for each in alpha.reports if each.reason is Reason.WRONG_SECRET]
        assert len([each for each in guesses if each.side == "dialer"]) == 2, "the third has to wait"


async def test_half_open_streams_of_one_address_are_few(tmp_path) -> None:
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
        looking(at(relay)[0], environ={}) as look,
    ):
        address = relay_wire.address_of(identity("alpha").public)
        await look.met(address)
        silent = [look.connection.open(address) for _ in range(HALF_OPEN_PER_SOURCE + 1)]
        for stream in silent:
            await stream.send_all(b"\x16")
        await alpha.refused(Reason.SOURCE_FULL)
        with trio.fail_after(5):
            assert (await silent[-1].receive_some())[0] == 21  # a TLS alert


async def test_who_sends_ahead_before_the_proof_is_cut_off(tmp_path) -> None:
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
        looking(at(relay)[0], environ={}) as look,
    ):
        address = relay_wire.address_of(identity("alpha").public)
        await look.met(address)
        stream = look.connection.open(address)
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(10):
            # One record of TLS that never ends, and what the hub does not read meanwhile.
            await stream.send_all(bytes([22, 3, 3, 0x40, 0]))
            while True:
                await stream.send_all(b"\0" * 65_536)
        assert not alpha.links


@pytest.mark.parametrize(
    "nonsense", [b"", b"\x02" * 30, b"\xff" * 100, '{"type":"here","hubs":7}', "not JSON"]
)
async def test_a_server_that_talks_nonsense_is_left_alone_for_a_minute(tmp_path, nonsense) -> None:
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
    ):
        await until(lambda: relay.hubs)
        for _, socket in list(relay.hubs.values()):
            await socket.send_message(nonsense)
        report = await alpha.refused(Reason.RELAY_RULES)
        assert report.retry_in_s is not None
        assert report.retry_in_s >= 60


async def test_what_a_later_server_says_is_passed_over(tmp_path) -> None:
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
    ):
        await until(lambda: relay.hubs)
        for _, socket in list(relay.hubs.values()):
            await socket.send_message('{"type":"weather","sun":true}')
        async with running(tmp_path, "beta", listen=False, relays=at(relay)):
            await alpha.linked()


async def test_a_message_that_is_too_large_ends_the_connection(tmp_path) -> None:
    async with (
        tiny_relay() as relay,
        running(tmp_path, "alpha", listen=False, relays=at(relay)) as alpha,
    ):
        await until(lambda: relay.hubs)
        for _, socket in list(relay.hubs.values()):
            await socket.send_message(b"\x02" * 200_000)
        assert "does not understand" in (await alpha.refused(Reason.RELAY_RULES)).sentence


async def test_two_hundred_hubs_do_not_come_back_at_once(autojump_clock) -> None:
    """What each of them waits after the server said that it goes, with real randomness."""
    waits: list[list[float]] = []
    for _ in range(200):
        backoff = Backoff(random.Random(len(waits)).random)
        going = Refused(Reason.RELAY_AWAY, "")
        waits.append([backoff.after_link(10.0), *[backoff.after_failure(going) for _ in range(5)]])
    for step in zip(*waits, strict=True):
        slots = Counter(int(wait / max(step) * 19.99) for wait in step)
        assert len(slots) >= 18
        assert max(slots.values()) <= 30, "a twentieth of the time holds a twentieth of the hubs, about"
    assert max(map(max, waits)) <= 1.5, "whoever comes back is found again within 3 s"
