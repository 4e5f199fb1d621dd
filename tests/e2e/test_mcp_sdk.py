"""The official MCP SDK as the client: it validates what it gets, as the assistants' own clients do."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
from mcp import types
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from ecorelay.process import is_alive
from ecorelay_adapters.tools import TOOLS
from tests.e2e.stage import Machine

GOLDEN = Path(__file__).parent / "golden" / "results.json"
Mode = Literal["auto", "legacy"]
_ID = re.compile(r"[0-7][0-9a-hjkmnp-tv-z]{25}")
_AGE = re.compile(r"just now|\d+ s ago")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class SdkClient:
    """One SDK client and what its tools returned first."""

    def __init__(self, client: Client, heard: list[Any]) -> None:
        self.client = client
        self.heard = heard
        self.first: dict[str, dict[str, Any]] = {}

    async def call(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """Call a tool that must not fail."""
        result = await self.client.call_tool(f"relay_{tool}", arguments, read_timeout_seconds=30)
        fields = self.fields(result)
        assert not result.is_error, fields
        self.first.setdefault(f"relay_{tool}", fields)
        return fields

    @staticmethod
    def fields(result: types.CallToolResult) -> dict[str, Any]:
        [content] = result.content
        assert isinstance(content, types.TextContent)
        fields: dict[str, Any] = json.loads(content.text)
        return fields


@asynccontextmanager
async def sdk_client(machine: Machine, name: str, mode: Mode, *arguments: str) -> AsyncIterator[SdkClient]:
    """The SDK passes on a handful of variables only, as some assistants do; the rest is the entry's env."""
    settings = {key: value for key, value in machine.environ.items() if key.startswith("ECORELAY_")}
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "ecorelay", "mcp", *arguments],
        env={"RELAY_PEER_ID": name, **settings},
        cwd=machine.directory(name),
    )
    heard: list[Any] = []

    async def hear(message: Any) -> None:
        heard.append(message)
        await trio.lowlevel.checkpoint()

    talk = machine.root / f"{name}.stderr"
    with talk.open("w") as stderr, trio.fail_after(60):
        transport = stdio_client(server, stderr)
        async with Client(transport, mode=mode, message_handler=hear, read_timeout_seconds=30) as client:
            yield SdkClient(client, heard)
    assert "Traceback" not in talk.read_text()
    assert not [message for message in heard if isinstance(message, Exception)]


def plain(value: Any, root: Path) -> Any:
    """`value` without what differs between two runs: ids, times and paths."""
    match value:
        case dict():
            return {key: plain(each, root) for key, each in value.items()}
        case list():
            return [plain(each, root) for each in value]
        case str():
            value = _AGE.sub("AGE", _TIME.sub("TIME", _ID.sub("ID", value)))
            return value.replace(str(root), "ROOT")
        case _:
            return value


async def use_every_tool(ann: SdkClient, ben: SdkClient) -> dict[str, dict[str, Any]]:
    """All 19 at least once; gives one result of each."""
    await ann.call("peers")
    await ann.call("send", to="ben", text="Which branch has the fix?", urgent=True)
    [mail] = (await ben.call("inbox"))["messages"]
    await ben.call("reply", ask_id=mail["msg_id"], text="fix/läuft")
    await ann.call("inbox")
    await ann.call("broadcast", question="Who has the lock?")
    [ask] = (await ben.call("inbox"))["messages"]
    await ben.call("reply", ask_id=ask["ask_id"], text="not me")
    await ann.call("inbox")
    await ann.call("join", room="den")
    await ben.call("join", room="den")
    await ann.call("room", room="den", text="hello, room")
    await ann.call("rooms")
    await ann.call("leave", room="den")
    await ann.call("group_create", name="team", members=[])
    await ann.call("group_invite", group="team", peer="ben")
    await ann.call("group_send", group="team", text="hello, team")
    await ann.call("group_list")
    await ann.call("group_info", group="team")
    await ben.call("group_history", group="team")
    await ben.call("group_leave", group="team")
    await ann.call("group_invite", group="team", peer="ben")
    await ann.call("group_remove", group="team", peer="ben", reason="done")
    await ann.call("group_delete", group="team")
    await ann.call("rename", new_name="anne")
    return ben.first | ann.first


@pytest.mark.guarantee("tool-contract")
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_sdk_lists_and_calls_all_tools_and_results_are_the_golden_ones(
    machine: Machine, mode: Mode
):
    async with sdk_client(machine, "ann", mode) as ann, sdk_client(machine, "ben", mode) as ben:
        assert ann.client.protocol_version == "2025-11-25"
        assert ann.client.server_info is not None
        assert (ann.client.server_info.name, ann.client.server_info.title) == ("ecorelay", "ecorelay")
        assert 'You are "ann"' in (ann.client.instructions or "")
        listed = (await ann.client.list_tools()).tools
        assert [tool.name for tool in listed] == [tool.name for tool in TOOLS]
        assert all(tool.title and tool.description and tool.annotations for tool in listed)
        assert len(listed) == 19
        results = await use_every_tool(ann, ben)
    found = {tool.name: plain(results[tool.name], machine.root) for tool in TOOLS}
    # After a wanted change: write `json.dumps(found, indent=1, ensure_ascii=False)` and a newline into it.
    assert found == json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_sdk_sees_errors_progress_and_pushed_mail(shared: Machine, mode: Mode):
    me, other = shared.name("ann"), shared.name("ben")
    async with (
        sdk_client(shared, me, mode) as ann,
        sdk_client(shared, other, mode, "--carrier", "channel") as ben,
    ):
        refused = await ann.client.call_tool("relay_send", {"to": "nobody", "text": "x"})
        assert refused.is_error
        assert ann.fields(refused)["code"] == "peer_not_found"
        assert (await ann.call("send", to=other, text="pushed"))["status"] == "delivered"

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            await trio.lowlevel.checkpoint()

        async def answer() -> None:
            await ann.call("rooms")  # behind the wait below
            await ben.call("send", to=me, text="wake up")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            waited = await ann.client.call_tool("relay_inbox", {"wait": 30}, progress_callback=on_progress)
        assert [mail["text"] for mail in ann.fields(waited)["messages"]] == ["wake up"]
        # A call given up by its caller: the SDK sends notifications/cancelled.
        with trio.move_on_after(0.2):
            await ann.client.call_tool("relay_inbox", {"wait": 30})
        await ben.call("send", to=me, text="after that")
        assert [mail["text"] for mail in (await ann.call("inbox"))["messages"]] == ["after that"]


async def test_the_adapter_is_gone_when_the_sdk_has_closed_it(machine: Machine):
    async with sdk_client(machine, "ann", "auto") as ann:
        await ann.call("rooms")
        before = (await machine.status())["sessions"]
    assert (await machine.status())["sessions"] == before - 1
    assert is_alive(machine.hub_pid)
