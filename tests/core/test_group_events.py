"""Events of groups: what crosses, and what is made of it."""

from __future__ import annotations

import pytest

from ecorelay import link_wire, names
from ecorelay.core import group_events

AN_ID = names.new_id(0, lambda _: 1)


def crossed(sender: str, text: str) -> link_wire.GroupLine:
    """A line of one hub, as another one gets it."""
    name, _, hub = sender.partition("@")
    told = group_events.told_as(sender, text, event=True)
    return link_wire.GroupLine(seq=1, msg_id=AN_ID, author=name, author_hub=hub or None, **told)


@pytest.mark.parametrize(
    ("sender", "text"),
    [
        ("ann", "ann created the group red"),
        ("ann", "ann invited bob@near"),
        ("ann", "ann removed bob@near: too loud: really"),
        ("bob@near", "bob@near left"),
    ],
)
def test_an_event_says_the_same_on_every_hub(sender: str, text: str):
    assert group_events.sentence(crossed(sender, text)) == text


def test_the_circumstances_of_a_departure_stay_at_home():
    line = crossed("ann", "ann left: a person removed it from this hub")
    assert group_events.sentence(line) == "ann left"


@pytest.mark.parametrize(
    "text",
    ["ann danced", "bob left", "ann invited bob: now", "ann removed b b: why", "ann invited <b>", "ann"],
)
def test_what_is_no_event_crosses_as_nothing(text: str):
    assert group_events.told_as("ann", text, event=True) == {}


def test_words_cross_as_they_are():
    assert group_events.told_as("ann", "ann left", event=False) == {"text": "ann left"}
    assert group_events.told_as("ann", None, event=True) == {"text": None}


def test_a_reason_is_one_short_line():
    line = link_wire.GroupLine(
        seq=1, msg_id=AN_ID, author="m", event="removed", whom="bob", text="so\n\x1b[2J\u202ewhat" + "x" * 999
    )
    assert group_events.sentence(line) == "m removed bob: so  [2J what" + "x" * 244


def test_an_event_without_whom_and_one_of_a_later_version():
    line = link_wire.GroupLine(seq=1, msg_id=AN_ID, author="m", event="invited")
    assert group_events.sentence(line) == "m invited somebody"
    assert group_events.sentence(link_wire.GroupLine(seq=1, msg_id=AN_ID, author="m", event="sang")) is None
