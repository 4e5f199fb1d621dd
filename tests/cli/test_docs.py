"""The documents name everything there is, and nothing that is not."""

import re
import tomllib
import typing
from pathlib import Path

import msgspec
import pytest
import typer

from ecorelay import config, link_wire, relay_wire, wire
from ecorelay.cli import exits
from ecorelay.core import links, messages, outbox
from ecorelay.daemon import links as roads
from ecorelay.errors import CODES
from ecorelay.limits import Limits
from ecorelay_adapters.tools import TOOLS

ROOT = Path(__file__).parents[2]
PROTOCOL, LINKS = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8").split("\n## Links\n")
LINKS, RELAY = LINKS.split("\n## Relay server\n")
README = (ROOT / "README.md").read_text(encoding="utf-8")
FRAMES = sorted(
    {
        *typing.get_args(wire.FromSession),
        *typing.get_args(wire.ToSession),
        wire.AuthStart,
        wire.AuthChallenge,
        wire.AuthProof,
    },
    key=lambda frame: frame.__name__,
)
ON_LINKS = [*typing.get_args(link_wire.OnLink), *typing.get_args(link_wire.Body)]
LINK_ENTRIES = [
    link_wire.Rejection,
    link_wire.PeerState,
    link_wire.GroupState,
    link_wire.GroupLine,
    link_wire.FarReceipt,
]
AT_RELAYS = [*typing.get_args(relay_wire.ToHub), relay_wire.RelayHello]
ENTRIES = [
    wire.Mail,
    wire.Peer,
    wire.GroupEntry,
    wire.GroupUnread,
    wire.Room,
    wire.Member,
    wire.LinkDetails,
    wire.MailboxSize,
]


def row(document, first_cell):
    """The table row that begins with this cell."""
    found = [line for line in document.splitlines() if re.match(rf"\| `{first_cell}`( ✎)? \|", line)]
    assert len(found) == 1, f"{first_cell}: {len(found)} rows"
    return found[0]


def tag(frame):
    return frame.__struct_config__.tag


@pytest.mark.parametrize("frame", FRAMES, ids=tag)
def test_every_frame_has_one_row_in_the_protocol_that_names_all_its_fields(frame):
    described = row(PROTOCOL, tag(frame))
    common = {"req_id", "unread"} if issubclass(frame, wire.Request | wire.Result) else set()
    for field in frame.__struct_fields__:
        assert field in common or f"`{field}`" in described, f"{field} is missing"


@pytest.mark.parametrize("frame", FRAMES, ids=tag)
def test_mutations_and_only_they_are_marked_as_such(frame):
    assert ("✎" in row(PROTOCOL, tag(frame))) == issubclass(frame, wire.Mutation)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
def test_every_field_of_an_entry_is_in_the_protocol(entry):
    wanted = ", ".join(entry.__struct_fields__)
    assert wanted in " ".join(PROTOCOL.split())


def test_the_protocol_describes_no_frame_that_does_not_exist():
    rows = re.findall(r"^\| `([a-z_]+)`", PROTOCOL, re.MULTILINE)
    assert sorted(rows) == sorted(tag(frame) for frame in FRAMES)


@pytest.mark.parametrize("frame", ON_LINKS, ids=tag)
def test_every_frame_of_a_link_has_one_row_that_names_all_its_fields(frame):
    described = row(LINKS, tag(frame))
    for field in frame.__struct_fields__:
        assert f"`{field}`" in described, f"{field} is missing"


@pytest.mark.parametrize("entry", LINK_ENTRIES, ids=lambda entry: entry.__name__)
def test_every_field_of_an_entry_on_a_link_is_in_the_protocol(entry):
    assert ", ".join(entry.__struct_fields__) in " ".join(LINKS.split())


def test_the_protocol_describes_no_frame_of_a_link_that_does_not_exist():
    rows = re.findall(r"^\| `([a-z_]+)`", LINKS, re.MULTILINE)
    assert sorted(rows) == sorted(tag(frame) for frame in ON_LINKS)


def test_the_protocol_and_the_links_have_the_same_limits():
    assert link_wire.LINK_VERSION == 1
    assert "link protocol version 1 " in LINKS
    assert link_wire.LINE_MAX == 4 << 20
    assert (link_wire.WINDOW_FRAMES, link_wire.WINDOW_BYTES) == (1_000, 4 << 20)
    assert "At most 1,000 frames or 4 MiB" in LINKS
    assert f"up to {links.RESULTS_EVERY} of them" in LINKS
    assert f"within {links.BEGINS_WITHIN_S:.0f} s" in LINKS
    assert f"no result for {outbox.ANSWERED_WITHIN_S:.0f} s" in LINKS
    assert f"more than {links.UNTOLD_MAX:,} frames" in LINKS
    assert (messages.HUB_FACTOR, messages.SENDER_FACTOR, messages.BACKLOG_MS) == (10, 2, 10_000)
    live = f"{roads.LIVE_PER_S:,.0f} frames per second of one hub are read ({roads.LIVE_BURST:,.0f} at once"
    assert live in LINKS
    assert link_wire.PRESENCE_PART == 200
    assert "in parts of 200" in LINKS


@pytest.mark.parametrize("message", AT_RELAYS, ids=tag)
def test_every_text_at_a_relay_server_has_one_row_that_names_all_its_fields(message):
    described = row(RELAY, tag(message))
    for field in message.__struct_fields__:
        assert f"`{field}`" in described, f"{field} is missing"


def test_the_protocol_describes_no_text_at_a_relay_server_that_does_not_exist():
    rows = re.findall(r"^\| `([a-z_]+)`", RELAY, re.MULTILINE)
    assert sorted(rows) == sorted(tag(message) for message in AT_RELAYS)
    assert ", ".join(relay_wire.HubHere.__struct_fields__) in RELAY


def test_every_close_code_of_a_relay_server_is_in_the_protocol():
    codes = {value for name, value in vars(relay_wire).items() if name.startswith("CLOSE_")}
    assert {int(code) for code in re.findall(r"^\| (\d{4}) \|", RELAY, re.MULTILINE)} == codes


def test_the_protocol_and_the_relay_server_have_the_same_limits():
    assert relay_wire.RELAY_VERSION == 1
    assert "relay protocol version 1." in RELAY
    assert f"`{relay_wire.SUBPROTOCOL}`" in RELAY
    assert relay_wire.TEXT_MAX == 64 << 10
    assert "at most 64 KiB" in RELAY
    assert f"1 to {relay_wire.PIECE_MAX:,} bytes" in RELAY
    assert f"begins with {relay_wire.CREDIT:,} bytes" in RELAY
    assert f"At most {relay_wire.STREAMS_MAX} streams" in RELAY
    assert f"in parts of {relay_wire.HERE_PART}" in RELAY
    assert f"every {relay_wire.PING_S:.0f} s" in RELAY
    assert f"within {relay_wire.HELLO_S:.0f} s" in RELAY
    assert relay_wire.LABEL.decode() in RELAY
    assert relay_wire.SIGN_LABEL.decode().rstrip("\0") in RELAY


def commands():
    """Every command there is, as a person types it."""
    from typer.main import get_group

    from ecorelay.cli.app import app

    top = get_group(app)
    for name in top.list_commands(typer.Context(top)):
        command = top.get_command(typer.Context(top), name)
        yield name
        for inner in getattr(command, "commands", {}):
            yield f"{name} {inner}"


def test_every_command_is_in_the_readme():
    rows = [line for line in README.splitlines() if line.startswith("| `")]
    # What stands together in one cell: `hub start|stop`, `groups …: create info`.
    table = " ".join(rows).replace("\\|", " ").replace("`", " ").replace(",", " ")
    for command in commands():
        for word in command.split():
            assert re.search(rf"(?<![\w-]){word}(?![\w-])", table), command


def test_the_protocol_and_the_wire_have_the_same_limits():
    assert (wire.LINE_MAX_BEFORE_HELLO, wire.LINE_MAX, wire.TEXT_MAX) == (64 << 10, 4 << 20, 512 << 10)
    assert "64 KiB before" in PROTOCOL
    assert "4 MiB afterwards" in PROTOCOL
    assert wire.PROTOCOL_VERSION == 1
    assert "protocol version 1." in PROTOCOL


@pytest.mark.parametrize("code", CODES)
def test_every_error_code_is_in_the_readme_with_what_to_do(code):
    cells = row(README, code).split(" | ")
    assert len(cells) == 3
    assert len(cells[2]) > 10


@pytest.mark.parametrize("code", CODES)
def test_every_error_code_has_the_exit_code_the_readme_gives_it(code):
    line = next(line for line in README.splitlines() if line.startswith(f"| {exits.exit_code(code)} |"))
    others = [
        line
        for line in README.splitlines()
        if re.match(r"\| [0-9]+ \|", line) and f"`{code}`" in line and exits.exit_code(code) != exits.REFUSED
    ]
    assert others == ([line] if exits.exit_code(code) != exits.REFUSED else [])


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_every_tool_is_in_the_readme_with_its_arguments(tool):
    described = row(README, tool.name)
    schema = tool.input_schema
    for name in schema["properties"]:
        shown = f"[{name}" if name not in schema.get("required", []) else name
        assert shown in described


@pytest.mark.parametrize("field", msgspec.structs.fields(Limits), ids=lambda field: field.name)
def test_every_limit_is_in_the_readme_with_its_default(field):
    assert row(README, field.name).split(" | ")[1] == str(field.default)


def test_every_setting_is_in_the_readme_with_its_variable():
    for name in config.Config.__struct_fields__:
        if name not in ("limits", "origins"):
            assert f"`{config.variable(name)}`" in row(README, name)


def test_the_architecture_fits_on_two_screens():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100


PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", PAGES)
def test_links_between_the_documents_lead_somewhere(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert ((ROOT / path).parent / target).exists(), target


RELIABILITY = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_the_page_on_reliability_names_promises_that_there_are():
    listed = tomllib.loads((ROOT / "tests" / "guarantees.toml").read_text(encoding="utf-8"))["guarantee"]
    promised = RELIABILITY.partition("## The promises")[2].partition("## How they are tried")[0]
    cells = [line.split("|")[1] for line in promised.splitlines() if line.startswith("| ")]
    named = {name for cell in cells for name in re.findall(r"`([a-z0-9]+(?:-[a-z0-9]+)+)`", cell)}
    assert len(named) > 30
    assert named <= {each["id"] for each in listed}
