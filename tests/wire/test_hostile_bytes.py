"""The one door for foreign bytes: whatever comes, a frame goes through it or a WireError comes back."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from ecorelay import wire
from ecorelay.errors import WireError
from tests.helpers.frames import frames_of
from tests.wire.examples import EXAMPLES, ID

DECODERS = (wire.decode_from_session, wire.decode_to_session, wire.decode_auth, wire.decode_challenge)

HOSTILE = {
    "nothing": b"",
    "a space": b" ",
    "a number": b"5",
    "null": b"null",
    "a list": b"[]",
    "no type": b"{}",
    "a type that is no text": b'{"type":5}',
    "an unknown type": b'{"type":"shutdown","req_id":5}',
    "a base class's tag": b'{"type":"mutation","req_id":5}',
    "bad UTF-8": b'{"type":"send","req_id":5,"text":"\xff\xfe"}',
    "UTF-8 cut in a character": b'{"type":"bye","reason":"\xe6\x97"}',
    "an overlong encoding": b'{"type":"bye","reason":"\xc0\xaf"}',
    "a surrogate as UTF-8": b'{"type":"bye","reason":"\xed\xa0\x80"}',
    "a lone high surrogate": b'{"type":"bye","reason":"\\ud83d"}',
    "a lone low surrogate": b'{"type":"bye","reason":"\\ude00"}',
    "surrogates in the wrong order": b'{"type":"bye","reason":"\\ude00\\ud83d"}',
    "5,000 nested lists": b"[" * 5_000,
    "5,000 nested objects": b'{"x":' * 5_000,
    "5,000 nested lists in a key nobody knows": b'{"type":"rooms","req_id":5,"x":'
    + b"[" * 5_000
    + b"]" * 5_000
    + b"}",
    "a NUL after it": b'{"type":"rooms","req_id":5}\x00',
    "a NUL in it": b'{"type":"rooms",\x00"req_id":5}',
    "a bare control character in a text": b'{"type":"bye","reason":"\x07"}',
    "two frames": b'{"type":"rooms","req_id":5}{"type":"rooms","req_id":6}',
    "a byte order mark": b'\xef\xbb\xbf{"type":"rooms","req_id":5}',
    "UTF-16": '{"type":"rooms","req_id":5}'.encode("utf-16"),
    "a comment": b'{"type":"rooms","req_id":5} // now',
    "a trailing comma": b'{"type":"rooms","req_id":5,}',
    "single quotes": b"{'type':'rooms','req_id':5}",
    "NaN": b'{"type":"inbox","req_id":5,"wait":NaN}',
    "infinity by a large exponent": b'{"type":"inbox","req_id":5,"wait":1e999}',
    "a wait too long": b'{"type":"inbox","req_id":5,"wait":601}',
    "a negative req_id": b'{"type":"rooms","req_id":-1}',
    "a req_id beyond 2**53": b'{"type":"rooms","req_id":9007199254740992}',
    "a req_id that is a fraction": b'{"type":"rooms","req_id":5.5}',
    "a req_id that is a text": b'{"type":"rooms","req_id":"5"}',
    "a req_id that is true": b'{"type":"rooms","req_id":true}',
    "a lease beyond 64 bits": b'{"type":"release","req_id":5,"lease":' + b"9" * 30 + b"}",
    "a number of 5,000 digits": b'{"type":"release","req_id":5,"lease":' + b"9" * 5_000 + b"}",
    "a pid beyond 64 bits": b'{"type":"hello","versions":[1,1],"pid":' + b"9" * 20 + b"}",
    "a name with a newline": b'{"type":"hello","versions":[1,1],"name":"alice\\n"}',
    "a name with a slash": b'{"type":"hello","versions":[1,1],"name":"../alice"}',
    "an empty name": b'{"type":"hello","versions":[1,1],"name":""}',
    "an address of two hubs": b'{"type":"join","req_id":5,"room":"a@b@c"}',
    "an id with a newline": b'{"type":"inbox","req_id":5,"since_id":"' + ID.encode() + b'\\n"}',
    "an id in upper case": b'{"type":"inbox","req_id":5,"since_id":"' + ID.upper().encode() + b'"}',
    "a notice that is none": b'{"type":"confirm","req_id":5,"notices":["n1"]}',
    "1,001 ids": msgspec.json.encode({"type": "confirm", "req_id": 5, "msg_ids": [ID] * 1_001}),
    "2 MiB of one letter": b"x" * 2**21,
    "2 MiB of quotes": b'"' * 2**21,
    "2 MiB of escaped quotes": b'{"type":"send","req_id":5,"text":"' + b'\\"' * 2**20,
    "2 MiB of backslashes": b'{"type":"send","req_id":5,"text":"' + b"\\" * 2**21,
    "2 MiB of empty objects": b'{"type":"send","x":[' + b"{}," * (2**21 // 3),
    "a type of 2 MiB": b'{"type":"' + b"s" * 2**21 + b'","req_id":5}',
}


@pytest.mark.guarantee("hostile-bytes")
@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_frame_raises_a_wire_error(decode, line: bytes):
    for form in (line, bytearray(line)):
        with pytest.raises(WireError) as caught:
            decode(form)
        assert caught.value.req_id in (None, 5)
        assert len(caught.value.message) < 300


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda frame: type(frame).__name__)
def test_a_frame_cut_short_anywhere_raises_a_wire_error(kind: wire.Frame):
    line = wire.encode(kind).rstrip()
    for end in range(len(line)):
        for decode in DECODERS:
            with pytest.raises(WireError):
                decode(line[:end])


@given(st.binary(max_size=200))
@example(b'{"type":"rooms","req_id":5}')
def test_any_bytes_become_a_frame_or_a_wire_error(data: bytes):
    for decode in DECODERS:
        try:
            frame = decode(data)
        except WireError:
            continue
        assert isinstance(frame, wire.Frame)


@given(frames_of(wire.Send), st.data())
def test_a_frame_with_one_byte_changed_becomes_a_frame_or_a_wire_error(frame: wire.Send, data: st.DataObject):
    line = bytearray(wire.encode(frame).rstrip())
    line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    with suppress(WireError):
        assert isinstance(wire.decode_from_session(line), wire.Frame)


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"my-secret","req_id":5}',
        b'{"type":"hello","versions":[1,1],"role":"my-secret"}',
        b'{"type":"join","req_id":5,"room":"my-secret\\u0000"}',
        b'{"type":"send","req_id":5,"op_id":"my-secret","to":"bob","text":"my-secret"}',
        b'{"type":"send","req_id":5,"my-secret":',
        b'{"type":"x\' - at `my-secret"}',
    ],
)
def test_a_wire_error_does_not_quote_what_it_refuses(line: bytes):
    with pytest.raises(WireError) as caught:
        wire.decode_from_session(line)
    assert "secret" not in caught.value.message


def test_of_a_key_given_twice_the_last_counts():
    assert wire.decode_from_session(b'{"type":"rooms","req_id":5,"req_id":6}') == wire.Rooms(req_id=6)


def test_a_type_given_twice_is_refused():
    with pytest.raises(WireError):
        wire.decode_from_session(b'{"type":"rooms","type":"groups","req_id":5}')


# --- the request a line belongs to -----------------------------------------------------------------

SURROGATE = rb'"text":"\ud800"'


@pytest.mark.guarantee("error-names-request")
@pytest.mark.parametrize(
    ("line", "req_id"),
    [
        (b'{"type":"send","req_id":5,' + SURROGATE + b"}", 5),
        (b'{"type":"send",' + SURROGATE + b',"req_id":5}', 5),
        (b'{ "type" : "send" , "req_id" : 5 , ' + SURROGATE + b" }", 5),
        (b'{"req_id":0,' + SURROGATE + b"}", 0),
        (b'{"req_id":9007199254740991,' + SURROGATE + b"}", 2**53 - 1),
        (b'{"type":"send","req_id":5,"text":"\xff"}', 5),
        (b'{"type":"send","req_id":5,"text":"cut o', 5),
        # A text cannot pass for a key, however it is written.
        (rb'{"text":"\"req_id\":5,","req_id":6,' + SURROGATE + b"}", 6),
        (rb'{"text":"\",\"req_id\":5,\"","req_id":6,' + SURROGATE + b"}", 6),
        (rb'{"text":"\\","req_id":6,' + SURROGATE + b"}", 6),
        (rb'{"text":"\\\",\"req_id\":5,","req_id":6,' + SURROGATE + b"}", 6),
        (rb'{"text":"req_id","req_id":6,' + SURROGATE + b"}", 6),
        (rb'{"text":"{[","req_id":6,' + SURROGATE + b"}", 6),
        (rb'{"text":"}]","req_id":6,' + SURROGATE + b"}", 6),
        (rb'{"text":"\"req_id\":5,' + SURROGATE + b"}", None),
        (rb'{"text":"cut off in a text, \"req_id\":5,', None),
        (rb'{"text":"cut off after a backslash, \"req_id\":5, \\' + b"\\", None),
        # Nor can a key further inside, before or after.
        (b'{"x":{"req_id":5},"req_id":6,' + SURROGATE + b"}", 6),
        (b'{"req_id":6,"x":{"req_id":5},' + SURROGATE + b"}", 6),
        (b'{"x":[{"req_id":5}],' + SURROGATE + b"}", None),
        (b'[{"req_id":5,' + SURROGATE + b"}]", None),
        (b'{"a":1}{"req_id":5,' + SURROGATE + b"}", None),
        (b'}{"req_id":5,' + SURROGATE + b"}", None),
        # What is no req_id is none.
        (b'{"req_id":-5,' + SURROGATE + b"}", None),
        (b'{"req_id":5.5,' + SURROGATE + b"}", None),
        (b'{"req_id":5e3,' + SURROGATE + b"}", None),
        (b'{"req_id":"5",' + SURROGATE + b"}", None),
        (b'{"req_id":9007199254740992,' + SURROGATE + b"}", None),
        (b'{"req_id":' + b"9" * 400 + b"," + SURROGATE + b"}", None),
        ('{"req_id":\u0665,"x":"'.encode() + b'\xff"}', None),  # a five, but not one of JSON's
        (b'{"req_id":5', None),
        (b'{"xreq_id":5,' + SURROGATE + b"}", None),
        (b"[" * 20_000 + b'{"req_id":5,' + SURROGATE + b"}", None),
        (b'{"x":' * 20_000 + b'{"req_id":5,' + SURROGATE + b"}", None),
    ],
)
def test_the_request_is_found_in_a_line_that_cannot_be_read(line: bytes, req_id: int | None):
    with pytest.raises(WireError) as caught:
        wire.decode_from_session(line)
    assert caught.value.req_id == req_id


@given(frames_of(wire.Send))
def test_the_request_of_any_send_is_found_behind_a_surrogate_and_in_a_cut_line(frame: wire.Send):
    line = wire.encode(frame).rstrip()
    assert wire.find_req_id(line) == frame.req_id
    with pytest.raises(WireError) as caught:
        wire.decode_from_session(line[:-1] + b"," + SURROGATE + b"}")
    assert caught.value.req_id == frame.req_id
    # Cut anywhere: the right one or none, never another.
    for end in range(len(line)):
        assert wire.find_req_id(line[:end]) in (None, frame.req_id)
