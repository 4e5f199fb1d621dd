"""One machine invites another at a relay server: the real one, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from ecorelay.errors import RelayError
from ecorelay_bridge.known import FileTrust
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.relay_invitation import Given, Joined, Pass, given_of, invite, join
from ecorelay_bridge.settings import RelayServer, Secret, Settings
from tests.bridge.hubs import RIGHT, identity
from tests.relay_server.clients import running

TOKEN = "the-token-of-the-relay-0123456789abcdef"
PATIENCE_S = 20.0


def trust(folder: Path, name: str) -> FileTrust:
    return FileTrust(folder / f"{name}-known.json")


class Host:
    """The machine that invites."""

    def __init__(self, relay: RelayServer, folder: Path) -> None:
        self.relay = relay
        self.folder = folder
        self.settings = Settings(hub_id="anna", secret=Secret(RIGHT), relays=(relay,))
        self.trust = trust(folder, "anna")
        self.joined: Joined | None = None
        self.refused: Refused | None = None
        self.failed: list[Refused] = []
        self.ended = trio.Event()
        self._open = trio.Event()
        self._pass: Pass

    async def run(self) -> None:
        try:
            self.joined = await invite(
                self.relay,
                self.settings,
                identity("anna"),
                self.trust,
                on_open=self._opened,
                on_failed=self.failed.append,
                environ={},
            )
        except Refused as refused:
            self.refused = refused
        self.ended.set()
        self._open.set()

    def _opened(self, found: Pass) -> None:
        self._pass = found
        self._open.set()

    async def line(self, **changes: Any) -> Pass:
        """What it gives out, or that with something changed."""
        await self._open.wait()
        return msgspec.structs.replace(self._pass, **changes)

    async def join(self, by: Pass, name: str = "ben") -> list[tuple[Given, Joined]]:
        """Another machine comes by a line; what it kept."""
        kept: list[tuple[Given, Joined]] = []
        await join(
            by,
            name,
            identity(name),
            trust(self.folder, name),
            keep=lambda *what: kept.append(what),
            environ={},
        )
        return kept


@asynccontextmanager
async def inviting(folder: Path, token: str = TOKEN) -> AsyncIterator[tuple[Host, Any]]:
    with trio.fail_after(PATIENCE_S):
        async with running(token=token) as server, trio.open_nursery() as nursery:
            host = Host(RelayServer(url=f"ws://127.0.0.1:{server.port}", token=Secret(token)), folder)
            nursery.start_soon(host.run)
            yield host, server
            nursery.cancel_scope.cancel()


@pytest.mark.guarantee("relay-invitation")
async def test_who_has_the_line_gets_all_it_needs_and_both_know_each_other_afterwards(tmp_path) -> None:
    async with inviting(tmp_path) as (host, server):
        by = await host.line()
        [(given, who)] = await host.join(by)
        await host.ended.wait()
        assert given == given_of(host.settings)
        assert (given.secret, given.relays[0].token) == (RIGHT, TOKEN)
        assert who == Joined(hub_id="anna", identity=identity("anna").fingerprint)
        assert host.joined == Joined(hub_id="ben", identity=identity("ben").fingerprint)
        assert host.trust.known()["ben"].identity == identity("ben").fingerprint
        assert trust(tmp_path, "ben").known()["anna"].identity == identity("anna").fingerprint
        # Once, and no more.
        with pytest.raises(Refused) as again:
            await host.join(by, "carl")
        assert again.value.reason is Reason.INVITATION
        for line in server.lines:
            assert by.code.reveal() not in line
            assert by.token.reveal() not in line


@pytest.mark.guarantee("relay-invitation")
async def test_one_try_with_another_code_ends_the_invitation(tmp_path) -> None:
    async with inviting(tmp_path) as (host, _):
        with pytest.raises(Refused) as refused:
            await host.join(await host.line(code=Secret("a guess that is wrong")))
        assert refused.value.reason is Reason.INVITATION
        await host.ended.wait()
        assert host.refused is not None
        assert "it is void" in host.refused.sentence
        assert host.trust.known() == {}
        with pytest.raises(Refused, match="nobody invites"):
            await host.join(await host.line())


async def test_a_machine_with_the_same_name_is_told_so_and_comes_again_with_another(tmp_path) -> None:
    async with inviting(tmp_path) as (host, _):
        by = await host.line()
        with pytest.raises(Refused) as refused:
            await join(by, "anna", identity("ben"), trust(tmp_path, "ben"), keep=lambda *_: None, environ={})
        assert refused.value.reason is Reason.SAME_HUB
        assert len(await host.join(by)) == 1
        await host.ended.wait()
        assert host.joined is not None


async def test_a_hub_that_anna_knows_with_another_identity_is_refused_and_given_nothing(tmp_path) -> None:
    async with inviting(tmp_path) as (host, _):
        host.trust.trust("ben", identity("carl").fingerprint)
        with pytest.raises(Refused) as refused:
            await host.join(await host.line())
        assert refused.value.reason is Reason.IDENTITY_CHANGED
        assert [each.reason for each in host.failed] == [Reason.IDENTITY_CHANGED]
        assert not host.ended.is_set()


async def test_what_cannot_be_kept_there_is_not_taken_for_joined(tmp_path) -> None:
    def full(given: Given, who: Joined) -> None:
        raise RelayError("mailbox_error", "the disk is full")

    async with inviting(tmp_path) as (host, _):
        with pytest.raises(RelayError, match="the disk is full"):
            await join(
                await host.line(), "ben", identity("ben"), trust(tmp_path, "ben"), keep=full, environ={}
            )
        await host.ended.wait()
        assert host.joined is None
        assert host.refused is not None
        assert "did not say that it could keep it" in host.refused.sentence


async def test_a_relay_that_goes_ends_the_invitation(tmp_path) -> None:
    async with inviting(tmp_path) as (host, server):
        await host.line()
        server.stop()
        await host.ended.wait()
        assert host.refused is not None
        assert host.refused.reason is Reason.RELAY_AWAY


async def test_a_token_that_could_be_found_out_from_a_line_makes_none(tmp_path) -> None:
    async with inviting(tmp_path, token="weak-token") as (host, _):
        await host.ended.wait()
        assert host.refused is not None
        assert host.refused.reason is Reason.WEAK_TOKEN


def test_nothing_of_it_shows_what_is_in_it() -> None:
    by = Pass(url="wss://r", hub_id="a", invitation="0" * 32, token=Secret("sesame"), code=Secret("open"))
    given = Given(secret="sesame", relays=())
    assert "sesame" not in repr(by) + repr(given)
    assert "open" not in repr(by)


async def test_an_invitation_that_is_withdrawn_is_worth_nothing(tmp_path) -> None:
    with trio.fail_after(PATIENCE_S):
        async with running(token=TOKEN) as server:
            host = Host(RelayServer(url=f"ws://127.0.0.1:{server.port}", token=Secret(TOKEN)), tmp_path)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(host.run)
                by = await host.line()
                assert len(server.switch.meetings) == 1
                nursery.cancel_scope.cancel()
            with pytest.raises(Refused) as refused:
                await host.join(by)
            assert refused.value.reason is Reason.INVITATION
            assert server.switch.meetings == {}
