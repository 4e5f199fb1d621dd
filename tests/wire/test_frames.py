"""Every frame has golden JSON, and every frame that can be made survives the way over the wire."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given, strategies as st

from ecorelay import wire
from ecorelay.errors import WireError
from tests.helpers.frames import frames_of
from tests.wire.examples import EXAMPLES

GOLDEN = Path(__file__).parent / "golden" / "frames.jsonl"
FROM_SESSION = get_args(wire.FromSession)
TO_SESSION = get_args(wire.ToSession)
PROOF = (wire.AuthStart, wire.AuthChallenge, wire.AuthProof)
BASES = {wire.Frame, wire.Request, wire.Mutation, wire.Result}


def all_frame_types(base: type[wire.Frame] = wire.Frame) -> Iterator[type[wire.Frame]]:
    for kind in base.__subclasses__():
        yield kind
        yield from all_frame_types(kind)


def decode(line: bytes, kind: type) -> wire.Frame:
    if kind is wire.AuthChallenge:
        return wire.decode_challenge(line)
    if kind in PROOF:
        return wire.decode_auth(line)
    return wire.decode_from_session(line) if kind in FROM_SESSION else wire.decode_to_session(line)


def test_every_frame_has_a_direction_and_an_example():
    kinds = set(all_frame_types()) - BASES
    assert kinds == {*FROM_SESSION, *TO_SESSION, *PROOF}
    assert kinds == {type(example) for example in EXAMPLES}


def test_only_bye_goes_in_both_directions():
    assert set(FROM_SESSION) & set(TO_SESSION) == {wire.Bye}


def test_every_example_is_written_as_in_the_golden_file():
    written = b"".join(wire.encode(example) for example in EXAMPLES)
    assert written.decode() == GOLDEN.read_text(encoding="utf-8")


def test_every_line_of_the_golden_file_is_read_as_its_example():
    lines = GOLDEN.read_bytes().splitlines()
    assert [decode(line, type(example)) for line, example in zip(lines, EXAMPLES, strict=True)] == list(
        EXAMPLES
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda frame: type(frame).__name__)
def test_a_frame_with_unknown_keys_is_read_without_them(example: wire.Frame):
    line = msgspec.json.encode(msgspec.json.decode(wire.encode(example)) | {"of_a_later_version": [1]})
    assert decode(line, type(example)) == example


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda frame: type(frame).__name__)
def test_a_frame_of_the_other_direction_is_refused(example: wire.Frame):
    line = wire.encode(example)
    if type(example) not in FROM_SESSION:
        with pytest.raises(WireError):
            wire.decode_from_session(line)
    if type(example) not in TO_SESSION:
        with pytest.raises(WireError):
            wire.decode_to_session(line)


def test_a_line_holds_exactly_one_newline_at_its_end():
    for example in EXAMPLES:
        line = wire.encode(example)
        assert line.index(b"\n") == len(line) - 1


@given(st.sampled_from([*FROM_SESSION, *TO_SESSION, *PROOF]).flatmap(frames_of))
def test_any_frame_survives_the_wire(frame: wire.Frame):
    line = wire.encode(frame)
    assert decode(line, type(frame)) == frame
    assert line.count(b"\n") == 1
