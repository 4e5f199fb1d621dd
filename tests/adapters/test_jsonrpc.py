import contextlib
import json

import pytest
from hypothesis import given, strategies as st

from ecorelay_adapters.jsonrpc import (
    BATCH_MAX,
    Fault,
    Lines,
    Message,
    Response,
    TooLong,
    answer,
    clean,
    mend_surrogates,
    parse,
)

PARSE, INVALID = -32700, -32600


def split(data: bytes, limit: int = 100, size: int | None = None) -> list[bytes | TooLong]:
    lines = Lines(limit)
    size = size or len(data)
    return [line for at in range(0, len(data), size) for line in lines.feed(data[at : at + size])]


def fault_of(line: bytes | TooLong) -> tuple[int, object]:
    with pytest.raises(Fault) as caught:
        parse(line)
    return caught.value.code, caught.value.id


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_are_the_same_wherever_reads_cut_them(size: int):
    text = "a\n\n  \r\nüñî→😀\r\nlast\nunfinished"
    assert split(text.encode(), size=size) == [b"a", "üñî→😀\r".encode(), b"last"]


@pytest.mark.parametrize("size", [1, 3, 50, 5000])
def test_a_line_over_the_limit_leaves_its_ends_and_the_next_line_is_whole(size: int):
    data = b"x" * 100 + b"\n" + b'{"id":1' + b"y" * 2000 + b'end"}\n' + b"after\n"
    full, too_long, after = split(data, size=size)
    assert (full, after) == (b"x" * 100, b"after")
    assert isinstance(too_long, TooLong)
    assert too_long.head.startswith(b'{"id":1yyy')
    assert too_long.tail.endswith(b'yyyend"}')


def test_an_endless_line_takes_bounded_memory():
    lines = Lines(1000)
    for _ in range(1000):
        assert list(lines.feed(b"z" * 10_000)) == []
    assert lines.partial
    assert sum(len(v) for v in vars(lines).values() if isinstance(v, bytes | bytearray)) <= 2000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"jsonrpc":"2.0","method":"m"}', Message("m")),
        (b' {"id":"a","params":{"x":1},"method":"m","jsonrpc":"2.0"}\r', Message("m", "a", True, b'{"x":1}')),
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":null}', Message("m", 7, True)),
        (b'{"jsonrpc":"2.0","id":null,"method":"m","params":[1]}', Message("m", None, True, b"[1]")),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"m"}', Message("m", 1.5, True)),
        (b'{"jsonrpc":"2.0","id":9,"result":{}}', Response(9)),
        (b'{"jsonrpc":"2.0","id":9,"error":{"code":1,"message":"x"}}', Response(9)),
    ],
)
def test_a_message_is_read_as_what_it_is(line: bytes, message: Message):
    batch = parse(line)
    assert (batch.messages, batch.array) == ((message,), False)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"", (PARSE, None)),
        (b"hello", (PARSE, None)),
        (b"\x00", (PARSE, None)),
        (b'{"jsonrpc":"2.0","id":1,"method":"m"', (PARSE, None)),
        (b'{"jsonrpc":"2.0","id":1,"method":"m"} x', (PARSE, None)),
        (b'{"jsonrpc":"2.0","id":3,"method":"m","params":{"a":"\xff"}}', (PARSE, 3)),
        (b'{"jsonrpc":"2.0","method":"m","params":{"a":"\xed\xa0\x80"},"id":"q"}', (PARSE, "q")),
        (b'{"jsonrpc":"2.0","id":"\xff","method":"m"}', (PARSE, None)),
        (b"[" * 5000 + b"]" * 5000, (PARSE, None)),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, (PARSE, None)),
        (b'{"id":4,"params":' + b"[" * 5000 + b"]" * 5000 + b"}", (PARSE, 4)),
        (b"null", (INVALID, None)),
        (b"17", (INVALID, None)),
        (b"{}", (INVALID, None)),
        (b"[]", (INVALID, None)),
        (b'{"method":"m","id":5}', (INVALID, 5)),
        (b'{"jsonrpc":"1.0","method":"m","id":5}', (INVALID, 5)),
        (b'{"jsonrpc":"2.0","id":5}', (INVALID, 5)),
        (b'{"jsonrpc":"2.0","id":5,"method":8}', (INVALID, 5)),
        (b'{"jsonrpc":"2.0","id":5,"method":"m","params":"p"}', (INVALID, 5)),
        (b'{"jsonrpc":"2.0","id":true,"method":"m"}', (INVALID, None)),
        (b'{"jsonrpc":"2.0","id":{},"method":"m"}', (INVALID, None)),
        (b'{"jsonrpc":"2.0","id":1e999,"method":"m"}', (INVALID, None)),
        (b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"m"}', (INVALID, None)),
        (b"[" + b"1," * BATCH_MAX + b"1]", (INVALID, None)),
    ],
)
def test_what_is_no_message_gets_the_error_that_says_so(line: bytes, fault: tuple[int, object]):
    assert fault_of(line) == fault


@pytest.mark.parametrize(
    ("head", "tail", "id"),
    [
        (b'{"jsonrpc":"2.0","id":12,"method":"tools/call","params":{"t":"', b'xxx"}}', 12),
        (b'{"method":"tools/call","params":{"t":"', b'x"},"jsonrpc":"2.0","id":"a-7"}', "a-7"),
        (b'{"method":"m","params":{"id":1,"t":"', b'x","id":5}}', None),
        (b'{"params":{"t":"x', b'\\",\\"id\\":5}"}}', None),
    ],
)
def test_a_line_over_the_limit_is_refused_under_its_own_id_or_none(head: bytes, tail: bytes, id: object):
    assert fault_of(TooLong(head, tail)) == (INVALID, id)


def test_the_messages_of_a_batch_are_judged_one_by_one():
    batch = parse(b'[{"jsonrpc":"2.0","id":1,"method":"m"}, 5, {"jsonrpc":"2.0","id":2}]')
    assert batch.array
    first, number, no_method = batch.messages
    assert first == Message("m", 1, True)
    assert isinstance(number, Fault)
    assert (number.code, number.id) == (INVALID, None)
    assert isinstance(no_method, Fault)
    assert (no_method.code, no_method.id) == (INVALID, 2)


@pytest.mark.parametrize(
    ("raw", "mended"),
    [
        (r"\ud800", "�"),
        (r"\udc00\ud800", "��"),
        (r"a\ud83dz", "a�z"),
        (r"\ud83d\ud83d\ude00", "�😀"),
        (r"\uD83D\uDE00", "😀"),
        (r"\\ud800", r"\ud800"),
        (r"\\\ud800", "\\�"),
        (r"\ud83d\\ude00", r"�\ude00"),
        (r"\"\ud83d\"", '"�"'),
    ],
)
def test_a_lone_surrogate_becomes_the_replacement_character_and_nothing_else_changes(raw: str, mended: str):
    assert json.loads(mend_surrogates(b'"' + raw.encode() + b'"')) == mended
    [message] = parse(b'{"jsonrpc":"2.0","method":"m","params":{"x":"' + raw.encode() + b'"}}').messages
    assert isinstance(message, Message)
    assert json.loads(message.params) == {"x": mended}


@given(st.text(st.characters(codec=None)))
def test_any_text_of_javascript_arrives_with_only_its_lone_surrogates_replaced(text: str):
    line = json.dumps(text).encode()  # ASCII with escapes, lone surrogates and all
    expected = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert json.loads(mend_surrogates(line)) == expected == clean(text)
    assert json.loads(answer(1, clean(text)))["result"] == expected


@given(st.binary(max_size=300) | st.text(alphabet='{}[]":,\\u0d89id \n', max_size=60).map(str.encode))
def test_no_bytes_raise_anything_but_a_fault(data: bytes):
    for line in split(data + b"\n", limit=200):
        with contextlib.suppress(Fault):
            parse(line)
