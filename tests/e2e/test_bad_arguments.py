"""Wrong arguments to every tool: the right code, and a message that says which and what instead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ecorelay.wire import TEXT_MAX
from ecorelay_adapters.tools import TOOLS
from tests.e2e.stage import Machine, texts

RULE = "A-Z a-z 0-9 . _ -"
LIMIT = f"{TEXT_MAX}"
TOO_MUCH = "x" * (TEXT_MAX + 1)
NO_NAMES = {
    "empty": "",
    "65 characters": "n" * 65,
    "newline in it": "a\nb",
    "newline at its end": "ab\n",
    "NUL": "a\0b",
    "two at signs": "a@b@c",
    "at sign first": "@b",
    "at sign last": "a@",
    "slash": "a/b",
    "backslash": "a\\b",
    "dots of a path": "../a",
    "dot first": ".a",
    "dash first": "-a",
    "space": "a b",
    "Cyrillic a": "\u0430nn",
    "full-width letters": "\uff41nn",
    "digit of another script": "ann\u0661",
    "zero-width joiner": "an\u200dn",
    "direction override": "ann\u202e",
    "combining accent": "ann\u0301",
    "a star": "*",
}
GOOD: dict[str, dict[str, Any]] = {
    "relay_peers": {},
    "relay_send": {"to": "ann", "text": "x"},
    "relay_inbox": {},
    "relay_reply": {"ask_id": "0" * 26, "text": "x"},
    "relay_broadcast": {"question": "x"},
    "relay_rename": {"new_name": "other"},
    "relay_join": {"room": "den"},
    "relay_leave": {"room": "den"},
    "relay_room": {"room": "den", "text": "x"},
    "relay_rooms": {},
    "relay_group_create": {"name": "team", "members": []},
    "relay_group_invite": {"group": "team", "peer": "ann"},
    "relay_group_remove": {"group": "team", "peer": "ann", "reason": "x"},
    "relay_group_leave": {"group": "team"},
    "relay_group_send": {"group": "team", "text": "x"},
    "relay_group_history": {"group": "team"},
    "relay_group_list": {},
    "relay_group_info": {"group": "team"},
    "relay_group_delete": {"group": "team"},
}
KINDS = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "array": "array"}
NAMES = {"new_name", "name"}
ADDRESSES = {"to", "room", "group", "peer"}
BODIES = {"text", "question"}
OPTIONAL_IDS = {"reply_to", "since_id"}
"""Null says the same as leaving them out."""


def schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    for tool in TOOLS:
        yield tool.name, json.loads(json.dumps(tool.input_schema))


def cases() -> Iterator[tuple[str, dict[str, Any], str, list[str]]]:
    """Tool, arguments, the code and what its message must name."""
    for tool, schema in schemas():
        good = GOOD[tool]
        takes = list(schema["properties"])
        yield tool, {**good, "surprise": 1}, "bad_args", ["'surprise'", *takes]
        for field in schema.get("required", []):
            without = {key: value for key, value in good.items() if key != field}
            yield tool, without, "bad_args", [f"'{field}'", "missing"]
        for field, kind in schema["properties"].items():
            for wrong in {"array": ["x", 1], "string": [1, ["x"]]}.get(kind["type"], ["x", [1]]):
                yield tool, {**good, field: wrong}, "bad_args", [field, KINDS[kind["type"]]]
            if field not in OPTIONAL_IDS:
                yield tool, {**good, field: None}, "bad_args", [field]
            for edge, step in (("minimum", -1), ("maximum", 1)):
                if edge in kind:
                    yield tool, {**good, field: kind[edge] + step}, "bad_args", [field, str(kind[edge])]
            if "maxLength" in kind:
                long = "r" * (kind["maxLength"] + 1)
                yield tool, {**good, field: long}, "bad_args", [field, str(kind["maxLength"])]
            if field in NAMES | ADDRESSES:
                for bad in [*NO_NAMES.values(), *(["a@b"] if field in NAMES else [])]:
                    yield tool, {**good, field: bad}, "bad_args", [field, RULE]
            if field in BODIES:
                yield tool, {**good, field: ""}, "bad_args", [field, "empty"]
                yield tool, {**good, field: TOO_MUCH}, "too_large", [field, LIMIT, str(TEXT_MAX + 1)]
                yield tool, {**good, field: "é" * (TEXT_MAX // 2) + "x"}, "too_large", [field, LIMIT]


MORE: list[tuple[str, dict[str, Any], str, list[str]]] = [
    ("relay_peers", {"match": "m" * 257}, "bad_args", ["match", "256"]),
    ("relay_send", {"to": "ann@mars", "text": "x"}, "hub_not_found", ["mars"]),
    ("relay_send", {"to": "a" * 64, "text": "x"}, "peer_not_found", ["a" * 64]),
    ("relay_send", {"to": "ann", "text": "x", "reply_to": "no id"}, "bad_args", ["reply_to", "msg_id"]),
    ("relay_inbox", {"since_id": "no id"}, "bad_args", ["since_id", "msg_id"]),
    ("relay_inbox", {"since_id": "0" * 26}, "bad_args", ["since_id"]),
    ("relay_inbox", {"since_id": "0" * 26, "wait": 1}, "bad_args", ["since_id", "wait"]),
    ("relay_inbox", {"limit": 1.5}, "bad_args", ["limit", "int"]),
    ("relay_inbox", {"wait": "nan"}, "bad_args", ["wait"]),
    ("relay_inbox", {"wait": "inf"}, "bad_args", ["wait", "600"]),
    ("relay_reply", {"ask_id": "no id", "text": "x"}, "unknown_ask", ["no id"]),
    ("relay_reply", {"ask_id": "", "text": "x"}, "bad_args", ["ask_id", "1"]),
    ("relay_reply", {"ask_id": "0" * 26, "text": "x"}, "unknown_ask", ["0" * 26]),
    ("relay_room", {"room": "den", "text": "x"}, "not_member", ["den", "relay_join"]),
    ("relay_join", {"room": "den@mars"}, "hub_not_found", ["mars"]),
    ("relay_group_create", {"name": "g", "members": ["nobody"]}, "peer_not_found", ["nobody"]),
    ("relay_group_create", {"name": "g", "members": ["x"] * 101}, "bad_args", ["members", "100"]),
    ("relay_group_create", {"name": "g", "members": ["fine", "a b"]}, "bad_args", ["members", RULE]),
    ("relay_group_create", {"name": "g", "members": [1]}, "bad_args", ["members", "str"]),
    ("relay_group_info", {"group": "nowhere"}, "group_not_found", ["nowhere"]),
]


@pytest.mark.guarantee("bad-args-named")
async def test_wrong_arguments_to_any_tool_are_refused_by_name_and_limit(shared: Machine):
    async with shared.assistant("ann") as ann:
        tried: set[str] = set()
        count = 0
        for tool, arguments, code, words in [*cases(), *MORE]:
            said = await ann.refused(tool.removeprefix("relay_"), **arguments)
            shown = {key: str(value)[:80] for key, value in arguments.items()}
            assert said["code"] == code, (tool, shown, said)
            for word in words:
                assert word in said["message"], (tool, shown, word, said)
            assert len(said["message"]) < 1_000
            tried.add(tool)
            count += 1
        assert tried | {"relay_rooms", "relay_group_list"} == set(GOOD)
        assert count > 300
        # None of it left anything behind, and the session is as good as new.
        assert await ann.me() == "ann"
        assert (await ann.call("group_list"))["groups"] == []
        assert (await ann.call("rooms"))["rooms"] == []
        assert await ann.read_all() == []


@pytest.mark.guarantee("bad-args-named")
async def test_a_text_of_exactly_the_limit_passes_wherever_a_text_goes(shared: Machine):
    async with shared.assistants("ann") as (ann,):
        group, room = shared.name("team"), shared.name("den")
        await ann.call("group_create", name=group, members=[])
        await ann.call("join", room=room)
        for text in ("x" * TEXT_MAX, "é" * (TEXT_MAX // 2), '"' * TEXT_MAX, "\u0001" * TEXT_MAX):
            sent = await ann.call("send", to=ann.name, text=text)
            await ann.call("reply", ask_id=sent["msg_id"], text=text)
            await ann.call("group_send", group=group, text=text)
            await ann.call("room", room=room, text=text)
            for mail in [*await ann.read_all(), *(await ann.call("group_history", group=group))["messages"]]:
                with open(mail["file"], encoding="utf-8", newline="") as file:
                    assert file.read() == text


async def test_arguments_that_are_no_object_and_tools_that_are_none_are_protocol_errors(shared: Machine):
    async with shared.assistants("ann") as (ann,):
        wrong: list[dict[str, Any]] = [
            {"name": "relay_send", "arguments": [1]},
            {"name": "relay_send", "arguments": "to ann"},
            {"name": "relay_shout", "arguments": {}},
            {"arguments": {}},
            {},
        ]
        for params in wrong:
            request = ann.make("tools/call", params)
            await ann.write(request)
            assert (await ann.answer(request["id"]))["error"]["code"] == -32602
        assert "isError" not in await ann.ask("tools/call", name="relay_rooms")
        assert "isError" not in await ann.ask("tools/call", name="relay_rooms", arguments=None)


async def test_numbers_and_booleans_written_as_strings_are_understood(shared: Machine):
    async with shared.assistants("ann") as (ann,):
        sent = await ann.call("send", to=ann.name, text="x", urgent="true", reply_to=None)
        assert sent["status"] == "queued"
        page = await ann.call("inbox", limit="1", wait="0.5")
        assert [mail["urgent"] for mail in page["messages"]] == [True]
        assert (await ann.call("broadcast", question="x", exclude_self="false"))["peer_count"] == 1
        assert texts((await ann.call("inbox"))["messages"]) == ["x"]


async def test_names_are_one_whatever_their_case_and_of_at_most_64_characters(shared: Machine):
    long = "n" * 63 + "Z"
    async with shared.assistants("ann") as (ann,):
        await ann.call("rename", new_name=long)
        assert (await ann.call("send", to=long.upper(), text="x"))["status"] == "queued"
        assert (await ann.call("send", to=f"{long}@HERE", text="x"))["status"] == "queued"
        assert len(await ann.read_all()) == 2
