"""Whatever a peer writes and is called: no command lets any of it do more on a terminal than be seen."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from ecorelay import wire
from tests.cli.test_printing import ANSWERS
from tests.fuzz.shown import moves
from tests.helpers.command_line import run_here
from tests.helpers.hostile_words import HOSTILE
from tests.helpers.scripted_hub import ScriptedHub

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in listens on a Unix socket")

COMMANDS = ("peers", "inbox", "groups history team", "groups info team", "rooms", "block", "hub status")
NASTY = (
    "\x1b\x07\x08\r\n\t\x0b\x0c\x1c\x85\x9b\u2028\u2029\u202e\u2066\u2069\u200f\u061c\ufeff\U000e0041"
    "\\\"'`[]m;?25h"
)
words = st.lists(
    st.sampled_from(NASTY)
    | st.characters(exclude_categories=["Cs"])
    | st.sampled_from(["\x1b[2J", "\x1b]0;x\x07"]),
    min_size=1,
    max_size=12,
).map("".join)


def saying(text: str) -> dict[str, wire.Frame]:
    """The answers of `test_printing`, with these words in the place of those."""
    old, new = (msgspec.json.encode(each)[1:-1] for each in (HOSTILE, text))
    return {
        tag: wire.decode_to_session(wire.encode(answer).replace(old, new).rstrip(b"\n"))
        for tag, answer in ANSWERS.items()
        if isinstance(answer, wire.Frame)
    }


@pytest.mark.guarantee("terminal-safe")
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words)
@example("\x1b[2J\u202e\x9b31m\u2028")
def test_no_command_lets_any_word_of_a_peer_move_the_cursor(monkeypatch, capsys, text: str):
    answers = saying(text)
    for command in COMMANDS:
        with (
            tempfile.TemporaryDirectory() as folder,
            ScriptedHub(Path(folder, "home"), answers, name=text) as hub,
        ):
            for more in ("", " --json"):
                said = run_here(hub.home, monkeypatch, capsys, *(command + more).split())
                assert said.code == 0, said
                assert not {each for each in said.out + said.err if moves(each)} - {"\n", "\t"}, said
