"""What the tools take: the same as what models are shown, and mistakes named."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from ecorelay.errors import RelayError
from ecorelay_adapters import arguments as args
from ecorelay_adapters.arguments import parse
from ecorelay_adapters.calls import _TOOLS
from ecorelay_adapters.tools import TOOLS

SHOWN = {tool.name: json.loads(json.dumps(tool.input_schema)) for tool in TOOLS}
BOUNDS = ("minimum", "maximum", "maxLength", "maxItems")


def refusal(kind: type[args.Args], raw: object) -> str:
    """Parse what must be refused; what the model is told."""
    data = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    with pytest.raises(RelayError) as caught:
        parse("relay_x", kind, data)
    assert caught.value.code == "bad_args"
    message = caught.value.message
    assert message.startswith("relay_x: ")
    return message.removeprefix("relay_x: ")


# --- the schema that is shown, and the struct that checks ------------------------------------------------


def test_every_tool_that_is_shown_can_be_called_and_no_other():
    assert list(_TOOLS) == list(SHOWN)


@pytest.mark.guarantee("tool-contract")
@pytest.mark.parametrize("tool", SHOWN)
def test_a_tool_takes_exactly_the_arguments_it_shows(tool: str):
    kind, _ = _TOOLS[tool]
    checked: dict[str, Any] = msgspec.json.schema(kind)["$defs"][kind.__name__]
    shown = SHOWN[tool]
    assert list(shown["properties"]) == list(kind.__struct_fields__)
    assert shown.get("required", []) == checked["required"]
    for field, schema in shown["properties"].items():
        known = checked["properties"][field]
        either = known.get("anyOf", [known])
        assert schema["type"] in [each["type"] for each in either]
        for bound in BOUNDS:
            assert schema.get(bound, known.get(bound)) == known.get(bound), (field, bound)


# --- what is understood ----------------------------------------------------------------------------------


def test_what_models_write_in_strings_is_understood():
    found = parse("relay_inbox", args.InboxArgs, b'{"limit": "7", "wait": "1.5"}')
    assert (found.limit, found.wait) == (7, 1.5)
    sent = parse("relay_send", args.SendArgs, b'{"to": "ann", "text": "12", "urgent": "true"}')
    assert (sent.urgent, sent.text) == (True, "12")


def test_optional_arguments_may_be_null_or_left_out():
    sent = parse("relay_send", args.SendArgs, b'{"to": "ann@mars", "text": "x", "reply_to": null}')
    assert (sent.to, sent.reply_to, sent.urgent) == ("ann@mars", None, False)
    assert parse("relay_broadcast", args.BroadcastArgs, b'{"question": "x"}').exclude_self
    assert parse("relay_rooms", args.NoArgs, b"{}") == args.NoArgs()


# --- what is refused -------------------------------------------------------------------------------------


@pytest.mark.guarantee("bad-args-named")
@pytest.mark.parametrize(
    ("kind", "raw", "message"),
    [
        (args.SendArgs, {"text": "x"}, "the argument 'to' is missing; it takes to, text, reply_to, urgent"),
        (args.NoArgs, {"a": 1}, "there is no argument 'a'; it takes no arguments"),
        (args.RoomArgs, {"room": "x", "rooom": "x"}, "there is no argument 'rooom'; it takes room"),
        (
            args.NoArgs,
            {"a\n" + "x" * 200: 1},
            f"there is no argument 'a\\n{'x' * 62}'; it takes no arguments",
        ),
        (args.InboxArgs, {"limit": 0}, "limit: expected `int` >= 1"),
        (args.InboxArgs, {"limit": 101}, "limit: expected `int` <= 100"),
        (args.InboxArgs, {"wait": 601}, "wait: expected `float` <= 600.0"),
        (args.InboxArgs, {"since_id": "x"}, "since_id is the msg_id of a message, as relay_inbox shows it"),
        (args.SendArgs, {"to": "a", "text": 1}, "text: expected `str`, got `int`"),
        (args.PeersArgs, {"match": "x" * 257}, "match: expected `str` of length <= 256"),
        (
            args.RenameArgs,
            {"new_name": "a@b"},
            "new_name must be 1-64 characters of A-Z a-z 0-9 . _ -, beginning with a letter or digit",
        ),
        (
            args.GroupCreateArgs,
            {"name": "team", "members": ["ann", "a b"]},
            "members[1] must be a name or name@hub_id; a name is 1-64 characters of A-Z a-z 0-9 . _ -, "
            "beginning with a letter or digit",
        ),
        (
            args.GroupRemoveArgs,
            {"group": "g", "peer": "p", "reason": "r" * 257},
            "reason: expected `str` of length <= 256",
        ),
    ],
)
def test_a_mistake_is_named_with_what_the_argument_may_be(kind: type[args.Args], raw: object, message: str):
    assert refusal(kind, raw) == message


def test_a_long_name_of_an_argument_is_cut_and_its_value_not_quoted():
    secret = "s" * 10_000
    assert len(refusal(args.NoArgs, {secret: 1})) < 200
    assert "sss" not in refusal(args.InboxArgs, {"since_id": secret})


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{", b"null", b'{"room": "\xff"}', b"[" * 5_000, b'{"room":' * 5_000]
)
def test_what_is_no_json_object_is_refused_too(raw: bytes):
    assert refusal(args.RoomArgs, raw)


@given(
    st.binary(max_size=60) | st.dictionaries(st.text(), st.text() | st.integers()).map(msgspec.json.encode)
)
def test_nothing_but_a_refusal_ever_comes_of_bad_bytes(raw: bytes):
    for kind, _ in _TOOLS.values():
        try:
            found = parse("relay_x", kind, raw)
        except RelayError:
            continue
        assert isinstance(found, kind)
