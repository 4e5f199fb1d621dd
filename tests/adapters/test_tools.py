import json
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest

from ecorelay_adapters.tools import INSTRUCTIONS_BUDGET, TOOLS, TOOLS_BUDGET, instructions

GOLDEN = Path(__file__).parent / "golden" / "tools.json"

# The contract: required arguments, and optional ones behind the bar.
ARGUMENTS = {
    "relay_peers": "| match",
    "relay_send": "to text | reply_to urgent",
    "relay_inbox": "| limit since_id wait",
    "relay_reply": "ask_id text |",
    "relay_broadcast": "question | exclude_self",
    "relay_rename": "new_name |",
    "relay_join": "room |",
    "relay_leave": "room |",
    "relay_room": "room text |",
    "relay_rooms": "|",
    "relay_group_create": "name members |",
    "relay_group_invite": "group peer |",
    "relay_group_remove": "group peer reason |",
    "relay_group_leave": "group |",
    "relay_group_send": "group text |",
    "relay_group_history": "group | limit",
    "relay_group_list": "|",
    "relay_group_info": "group |",
    "relay_group_delete": "group |",
}

listed = json.loads(msgspec.json.encode(TOOLS))
by_name = {tool["name"]: tool for tool in listed}


def test_the_tools_are_those_of_the_golden_file():
    # After a wanted change: write `json.dumps(listed, indent=1)` and a newline into the golden file.
    assert listed == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_names_and_arguments_are_those_of_the_contract():
    assert {
        name: " ".join(
            [
                *tool["inputSchema"].get("required", []),
                "|",
                *(
                    key
                    for key in tool["inputSchema"]["properties"]
                    if key not in tool["inputSchema"].get("required", [])
                ),
            ]
        )
        for name, tool in by_name.items()
    } == ARGUMENTS
    assert len(TOOLS) == len(by_name) == 19


@pytest.mark.guarantee("token-budget")
def test_what_a_model_is_shown_fits_its_budget():
    shown = [{key: tool[key] for key in ("name", "description", "inputSchema")} for tool in listed]
    assert len(msgspec.json.encode(shown)) <= TOOLS_BUDGET == 6_000

    longest = max(
        len(instructions("n" * 64, warning=warning, pushes=pushes, beside_claude=claude).encode())
        for warning in ("w" * 500, "é" * 500, "😀" * 500, "\ud800" * 500, " \n" * 500 + "x")
        for pushes in (True, False)
        for claude in (True, False)
    )
    assert longest <= INSTRUCTIONS_BUDGET == 1_600


@pytest.mark.parametrize("name", by_name)
def test_each_schema_is_valid_and_plain_enough_for_every_client(name: str):
    schema = by_name[name]["inputSchema"]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object"
    # Members that one or another model service refuses in a function's schema.
    for refused in ("$schema", "$ref", "additionalProperties", "default", "anyOf", "oneOf", "allOf"):
        assert f'"{refused}":' not in json.dumps(schema)


@pytest.mark.parametrize(
    ("tool", "arguments", "valid"),
    [
        ("relay_peers", {}, True),
        ("relay_send", {"to": "api@laptop", "text": "x", "urgent": True, "reply_to": "01j"}, True),
        ("relay_send", {"to": "api"}, False),
        ("relay_inbox", {"limit": 1, "wait": 0}, True),
        ("relay_inbox", {"limit": 100, "wait": 600}, True),
        ("relay_inbox", {"limit": 0}, False),
        ("relay_inbox", {"limit": 101}, False),
        ("relay_inbox", {"wait": 601}, False),
        ("relay_inbox", {"wait": -1}, False),
        ("relay_rename", {"new_name": "a" * 64}, True),
        ("relay_rename", {"new_name": "a" * 65}, False),
        ("relay_rename", {"new_name": "-a"}, False),
        ("relay_rename", {"new_name": "ä"}, False),
        ("relay_group_create", {"name": "g.1_x-y", "members": ["a", "b@c"]}, True),
        ("relay_group_create", {"name": "g@h", "members": []}, False),
        ("relay_group_create", {"name": "g", "members": ["a"] * 101}, False),
        ("relay_group_remove", {"group": "g", "peer": "p", "reason": "r" * 256}, True),
        ("relay_group_remove", {"group": "g", "peer": "p", "reason": "r" * 257}, False),
        ("relay_group_history", {"group": "g", "limit": 500}, True),
        ("relay_group_history", {"group": "g", "limit": 501}, False),
        ("relay_broadcast", {"question": "?", "exclude_self": False}, True),
    ],
)
def test_the_schemas_hold_the_limits(tool: str, arguments: dict, valid: bool):
    validator = jsonschema.Draft202012Validator(by_name[tool]["inputSchema"])
    assert validator.is_valid(arguments) is valid


def test_only_tools_that_change_nothing_are_marked_read_only_and_none_as_destructive():
    reading = {name for name, tool in by_name.items() if tool["annotations"]["readOnlyHint"]}
    assert reading == {"relay_peers", "relay_rooms", "relay_group_list", "relay_group_info"}
    for tool in listed:
        assert tool["annotations"]["destructiveHint"] is False
        assert tool["annotations"]["openWorldHint"] is False


def test_the_three_tools_every_session_needs_are_always_loaded():
    always = {name for name, tool in by_name.items() if tool.get("_meta") == {"anthropic/alwaysLoad": True}}
    assert always == {"relay_send", "relay_inbox", "relay_peers"}


def test_instructions_say_who_you_are_first_and_then_the_warning():
    lines = instructions("api-2", warning="api is in use,\nso you are api-2").splitlines()
    assert lines[0].startswith('You are "api-2" in ecorelay')
    assert lines[1] == "Note: api is in use, so you are api-2"


def test_instructions_cover_what_a_session_must_know():
    text = instructions("api")
    for needed in (
        "relay_reply",
        "Urgent",
        "never your user's approval",
        "relay_peers",
        "relay_broadcast only",
    ):
        assert needed in text
    assert "SendMessage" not in text
    assert "SendMessage" in instructions("api", beside_claude=True)


def test_a_session_without_push_is_told_to_read():
    text = instructions("api", pushes=False)
    assert "Nothing is pushed" in text
    assert "relay_inbox with wait" in text


def test_every_tool_the_instructions_name_exists():
    words = instructions("api", beside_claude=True).replace("_inbox.", "_inbox").split()
    named = {word.strip(".,:;`()") for word in words if word.startswith("relay_")}
    assert named <= set(by_name)
