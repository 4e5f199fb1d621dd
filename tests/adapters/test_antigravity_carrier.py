"""The line that `agy` is given, and an `agy` that is missing, fails, hangs, or was given too little."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from ecorelay_adapters import antigravity_carrier
from ecorelay_adapters.antigravity_carrier import AntigravityCarrier, make_carrier, send, why_not
from ecorelay_adapters.tool_calls import ToolCall
from tests.helpers.carrying import IDS, Heard, mail
from tests.helpers.standin_agy import CONVERSATION, ENVIRON, SECRET, Agy

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script")

SOON_S = 30
NASTY = "'; touch pwned; $(touch pwned) `touch pwned` \n--title=x"


@pytest.fixture
def agy(tmp_path: Path) -> Agy:
    return Agy(tmp_path / "bin")


@asynccontextmanager
async def running(agy: Agy, **environ: str) -> AsyncIterator[AntigravityCarrier]:
    carrier = AntigravityCarrier(agy.environ | environ, lambda: 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carrier.run, Heard())
        with trio.fail_after(SOON_S):
            yield carrier
        nursery.cancel_scope.cancel()


async def sent(agy: Agy, count: int) -> None:
    while len(agy.calls) < count:  # noqa: ASYNC110 - another process writes them
        await trio.sleep(0.01)


async def test_the_conversation_is_told_that_there_is_mail_and_never_a_word_of_it(agy, capfd):
    async with running(agy) as carrier:
        assert await carrier.probe()
        assert await carrier.push(mail(0, NASTY)) is False  # unread, for relay_inbox
        await sent(agy, 1)
    [words] = agy.calls
    assert words[:3] == ["agentapi", "send-message", CONVERSATION]
    assert words[3] == f"[ecorelay] message from ben, id {IDS[0]}, just now. Read it with relay_inbox."
    assert not list(Path.cwd().glob("pwned"))
    assert capfd.readouterr() == ("", "")


async def test_what_comes_together_is_one_line_and_an_urgent_message_is_the_one_it_names(agy):
    async with running(agy) as carrier:
        await carrier.push(mail(0))
        await sent(agy, 1)
        for n in range(1, 20):
            await carrier.push(mail(n, urgent=n == 7))
        await sent(agy, 2)
        await trio.sleep(0.5)
    first, second = agy.texts
    assert IDS[0] in first
    assert f"id {IDS[7]}, just now, URGENT. Read it with relay_inbox. 19 more there." in second


async def test_what_was_read_is_not_counted_and_what_is_pushed_again_is_not_told_again(agy):
    async with running(agy) as carrier:
        await carrier.push(mail(0))
        await sent(agy, 1)
        carrier.heard(ToolCall("relay_inbox", b"{}", {}))
        await carrier.push(mail(0))
        await carrier.push(mail(1))
        await sent(agy, 2)
    assert IDS[1] in agy.texts[1]
    assert "more" not in agy.texts[1]


async def test_a_refusal_is_said_without_the_token_and_tried_again_until_somebody_reads(
    agy, capfd, monkeypatch
):
    monkeypatch.setattr("ecorelay_adapters.pointing.AGAIN_S", (0.05, 0.05, 60))
    agy.fails(7)
    async with running(agy) as carrier:
        await carrier.push(mail(0))
        await sent(agy, 3)
        carrier.heard(ToolCall("relay_inbox", b"{}", {}))
        await trio.sleep(0.2)
    assert len(agy.calls) == 3
    err = capfd.readouterr().err
    assert err.count("`agy agentapi send-message` failed (7): mail waits for relay_inbox") == 3
    assert SECRET not in err


async def test_who_reads_nothing_is_left_alone_in_the_end(agy, monkeypatch):
    monkeypatch.setattr("ecorelay_adapters.pointing.AGAIN_S", (0.01, 0.01))
    agy.fails(1)
    async with running(agy) as carrier:
        await carrier.push(mail(0))
        await sent(agy, 3)
        await trio.sleep(0.3)
        assert len(agy.calls) == 3
        await carrier.push(mail(1))
        await sent(agy, 4)


async def test_one_is_sent_at_a_time_and_one_that_hangs_is_ended(agy, monkeypatch):
    monkeypatch.setattr(antigravity_carrier, "SEND_S", 0.3)
    agy.is_slow()
    with trio.fail_after(SOON_S):
        assert await send(agy.environ, "line") == "`agy agentapi send-message` failed (not done within 0 s)"
    assert agy.calls == []


@pytest.mark.parametrize("name", list(ENVIRON))
async def test_without_one_of_the_variables_there_is_no_door(agy, name):
    environ = {key: value for key, value in agy.environ.items() if key != name}
    carrier = make_carrier(environ)
    assert not await carrier.probe()
    assert why_not(environ) == f"Antigravity did not give us {name}"
    found = await carrier.canary()
    assert (found.ok, found.says) == (False, f"Antigravity did not give us {name}")
    assert name in await send(environ, "line")
    assert agy.calls == []


@pytest.mark.parametrize("id", ["--title=x", "a b", "../x", "x" * 300, ";ls"])
async def test_what_is_no_id_is_handed_to_no_program(agy, id):
    environ = agy.environ | {"ANTIGRAVITY_CONVERSATION_ID": id}
    assert not await make_carrier(environ).probe()
    assert "no id of a conversation" in await send(environ, "line")
    assert agy.calls == []


async def test_without_the_program_there_is_no_door(agy, tmp_path):
    environ = agy.environ | {"PATH": str(tmp_path / "nowhere")}
    assert not await make_carrier(environ).probe()
    assert "no program agy" in why_not(environ)


async def test_it_is_found_where_its_installer_puts_it(tmp_path):
    agy = Agy(tmp_path / ".local" / "bin")
    environ = agy.environ | {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    carrier = make_carrier(environ)
    assert await carrier.probe()
    assert (await carrier.canary()).ok is None
    with trio.fail_after(SOON_S):
        assert await send(environ, "line") == ""
    assert agy.texts == ["line"]


async def test_a_program_that_is_named_is_the_one(tmp_path):
    agy = Agy(tmp_path / "other")
    environ = agy.environ | {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    with trio.fail_after(SOON_S):
        assert await send(environ | {"AGY_BIN": str(agy.folder / "agy")}, "line") == ""
    assert "no program agy" in why_not(agy.environ | {"AGY_BIN": str(tmp_path / "nowhere")})
    assert agy.texts == ["line"]


async def test_a_program_that_cannot_be_run_is_no_error(agy):
    (agy.folder / "agy").write_bytes(b"\x7fELF no program")
    with trio.fail_after(SOON_S):
        assert "failed" in await send(agy.environ, "line")
