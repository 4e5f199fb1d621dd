"""Lines out of bytes, however they are cut."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from ecorelay import wire
from ecorelay.errors import WireError
from ecorelay.framing import LineSplitter


def split_all(splitter: LineSplitter, *chunks: bytes) -> list[bytes]:
    return [line for chunk in chunks for line in splitter.feed(chunk)]


def test_a_line_is_given_once_its_end_came():
    splitter = LineSplitter(100)
    assert split_all(splitter, b"one") == []
    assert splitter.pending == 3
    assert split_all(splitter, b" more\ntwo") == [b"one more"]
    assert split_all(splitter, b"\n") == [b"two"]
    assert splitter.pending == 0


def test_one_read_may_hold_many_lines():
    assert split_all(LineSplitter(100), b"a\nb\nc\nd") == [b"a", b"b", b"c"]


def test_carriage_returns_and_empty_lines_are_tolerated():
    splitter = LineSplitter(100)
    assert split_all(splitter, b"\n\r\na\r\n\n", b"b\r", b"\n\r", b"\nc\n") == [b"a", b"b", b"c"]


def test_a_carriage_return_within_a_line_stays():
    assert split_all(LineSplitter(100), b"a\rb\n") == [b"a\rb"]


def test_a_bytearray_may_be_used_again_by_the_caller():
    splitter = LineSplitter(100)
    chunk = bytearray(b"one\ntw")
    lines = splitter.feed(chunk)
    chunk[:] = b"xxxxxx"
    assert list(lines) == [b"one"]
    assert split_all(splitter, b"o\n") == [b"two"]


@pytest.mark.guarantee("no-cut-multibyte")
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1)),
    st.lists(st.integers(1, 20)),
    st.sampled_from([b"\n", b"\r\n", b"\n\n"]),
)
def test_texts_in_any_script_come_whole_wherever_the_reads_cut_them(
    texts: list[str], cuts: list[int], end: bytes
):
    data = b"".join(text.encode() + end for text in texts)
    splitter = LineSplitter(10_000)
    lines: list[bytes] = []
    for cut in [*cuts, *[1] * len(data)]:
        lines += splitter.feed(data[:cut])
        data = data[cut:]
    assert [line.decode() for line in lines] == texts
    assert splitter.pending == 0


@given(st.lists(st.binary(max_size=30)), st.integers(1, 12))
def test_where_the_reads_cut_makes_no_difference(chunks: list[bytes], limit: int):
    def outcome(parts: list[bytes]) -> tuple[list[bytes], bool]:
        splitter = LineSplitter(limit)
        lines: list[bytes] = []
        try:
            for part in parts:
                for line in splitter.feed(part):
                    lines.append(line)
        except WireError:
            return lines, True
        return lines, False

    whole = b"".join(chunks)
    singly = [whole[at : at + 1] for at in range(len(whole))]
    assert outcome(chunks) == outcome([whole]) == outcome(singly)


def test_a_line_of_the_limit_passes_and_one_byte_more_does_not():
    assert split_all(LineSplitter(5), b"12345\n") == [b"12345"]
    with pytest.raises(WireError, match="longer than 5 bytes; send the text in several messages"):
        split_all(LineSplitter(5), b"123456\n")


def test_a_line_over_the_limit_is_noticed_before_its_end():
    splitter = LineSplitter(1_000)
    assert split_all(splitter, b"x" * 1_000) == []
    with pytest.raises(WireError, match="1,000 bytes"):
        split_all(splitter, b"x")


@pytest.mark.guarantee("error-names-request")
def test_a_line_over_the_limit_is_answered_under_its_request():
    with pytest.raises(WireError) as caught:
        split_all(LineSplitter(100), b'{"type":"send","req_id":7,"text":"' + b"x" * 200)
    assert caught.value.req_id == 7


def test_lines_before_one_over_the_limit_are_given():
    lines = LineSplitter(5).feed(b"1\n2\n3456789\n")
    assert [next(lines), next(lines)] == [b"1", b"2"]
    with pytest.raises(WireError):
        next(lines)


def test_the_limit_may_be_raised_between_two_lines_of_one_read():
    splitter = LineSplitter(5)
    lines = splitter.feed(b"hello\n" + b"x" * 50 + b"\n" + b"y" * 70)
    assert next(lines) == b"hello"
    splitter.limit = 100
    assert list(lines) == [b"x" * 50]


def test_a_long_line_in_tiny_pieces_costs_linear_work():
    splitter = LineSplitter(wire.LINE_MAX)
    size = 400_000
    for _ in range(size):
        assert list(splitter.feed(b"x")) == []
    # What was looked through before is not looked through again: the rest never holds a newline.
    assert splitter.pending == size
    assert list(splitter.feed(b"\n")) == [b"x" * size]
