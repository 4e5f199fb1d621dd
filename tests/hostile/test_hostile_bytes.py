"""Bytes that are no frames, over the real socket: answered, or the end of their connection; and counted."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from ecorelay import wire
from tests.e2e.stage import Machine
from tests.hostile.siege import CANARY, Raw, hello, op_id, siege
from tests.wire.examples import EXAMPLES
from tests.wire.test_hostile_bytes import HOSTILE

MIB = 1024 * 1024
SEND = b'{"type":"send","req_id":5,"op_id":"%s","to":"ben","text":"%s' % (op_id().encode(), CANARY.encode())

LINES: dict[str, tuple[bytes, int | None]] = {
    "bad UTF-8": (SEND + b'\xff\xfe"}', 5),
    "UTF-8 cut in a character": (SEND + b'\xe6\x97"}', 5),
    "a lone surrogate": (SEND + rb'\ud800"}', 5),
    "a NUL in a text": (SEND + b'\0"}', 5),
    "a NUL behind it": (b'{"type":"rooms","req_id":5}\0', 5),
    "5,000 nested lists": (b"[" * 5_000, None),
    "5,000 nested objects behind the req_id": (b'{"type":"rooms","req_id":5,"x":' + b'{"x":' * 5_000, 5),
    "a frame cut short": (SEND, 5),
    "a type given twice": (b'{"type":"rooms","type":"groups","req_id":5}', 5),
    "an unknown type": (b'{"type":"shutdown","req_id":5}', 5),
    "a number too large": (b'{"type":"release","req_id":5,"lease":' + b"9" * 30 + b"}", 5),
    "a number of 5,000 digits": (b'{"type":"release","req_id":5,"lease":' + b"9" * 5_000 + b"}", 5),
    "a req_id too large": (b'{"type":"rooms","req_id":9007199254740992}', None),
    "a page too large": (b'{"type":"inbox","req_id":5,"budget":' + b"9" * 15 + b"}", 5),
    "2 MiB of one letter": (b"x" * 2 * MIB, None),
    "2 MiB of text that is not closed": (SEND + b"x" * 2 * MIB, 5),
    "2 MiB of nested lists": (b"[" * 2 * MIB, None),
    "2 MiB of backslashes": (SEND + b"\\" * 2 * MIB, 5),
    "an HTTP request": (b"GET / HTTP/1.1\r", None),
    "a TLS hello": (bytes.fromhex("16030100c8010000c40303") + bytes(range(32, 128)), None),
}


async def sound(raw: Raw) -> None:
    """The connection goes on as if nothing had been."""
    assert isinstance(await raw.ask(wire.Rooms(req_id=77)), wire.RoomList)


@pytest.mark.guarantee("hostile-bytes")
@pytest.mark.guarantee("error-names-request")
async def test_a_line_that_is_no_frame_is_answered_under_its_req_id_and_counted(either: Machine):
    async with siege(either) as attack, attack.session(attack.name("mallory")) as mallory:
        for what, (line, req_id) in LINES.items():
            await mallory.say(line + b"\n")
            if req_id is not None:
                answer = await mallory.hear()
                assert isinstance(answer, wire.Failed), what
                assert (answer.code, answer.req_id) == ("bad_msg", req_id), what
                assert CANARY not in answer.message
            await sound(mallory)
        await attack.counted("bad_msg", len(LINES))
        # A person finds it too.
        shown = (await either.status())["counters"]
        assert shown["bad_msg"] == (await attack.counters())["bad_msg"]


async def test_whatever_the_decoder_refuses_the_socket_survives(shared: Machine):
    async with siege(shared) as attack, attack.session(attack.name("mallory")) as mallory:
        for line in HOSTILE.values():
            await mallory.say(line + b"\n")
            await sound(mallory)
        await attack.counted("bad_msg", sum(map(bool, HOSTILE.values())))


async def test_of_a_key_given_twice_the_last_counts(shared: Machine):
    async with siege(shared) as attack, attack.session(attack.name("mallory")) as mallory:
        await mallory.say(b'{"type":"rooms","req_id":5,"req_id":6}\n')
        assert (await mallory.hear()).req_id == 6


async def test_a_frame_of_the_other_direction_is_no_frame(shared: Machine):
    frames = [frame for frame in EXAMPLES if not isinstance(frame, wire.FromSession)]
    assert len(frames) > 20
    async with siege(shared) as attack, attack.session(attack.name("mallory")) as mallory:
        for frame in frames:
            await mallory.say(frame)
            if (req_id := getattr(frame, "req_id", None)) is not None:
                answer = await mallory.hear()
                assert (type(answer), answer.code, answer.req_id) == (wire.Failed, "bad_msg", req_id)
            await sound(mallory)
        await attack.counted("bad_msg", len(frames))


async def test_one_byte_at_a_time_is_as_good_as_all_at_once(shared: Machine):
    async with siege(shared) as attack, attack.session(attack.name("mallory")) as mallory:
        for byte in '{"type":"peers","req_id":5,"match":"żółć"}\n'.encode():
            await mallory.say(bytes([byte]))
        assert (await mallory.hear()).req_id == 5


# --- what ends the connection ----------------------------------------------------------------------------

GREETINGS: dict[str, bytes] = {
    "bad UTF-8": b"\xff\xfe\n",
    "5,000 nested lists": b"[" * 5_000 + b"\n",
    "a NUL": b"\0\n",
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a request instead of hello": b'{"type":"rooms","req_id":1}\n',
    "a frame of the hub's own": wire.encode(wire.Welcome(version=1, hub_id="x", app_version="1")),
    "a hello cut short": wire.encode(hello("eve"))[:-10] + b"\n",
    "a pid beyond 64 bits": b'{"type":"hello","versions":[1,1],"pid":' + b"9" * 20 + b"}\n",
    "2 MiB on one line": b"x" * 2 * MIB + b"\n",
    "5 MiB on one line": b"x" * 5 * MIB + b"\n",
    "5 MiB of an endless line": b'{"type":"hello","cwd":"' + b"x" * 5 * MIB,
}


@pytest.mark.guarantee("hostile-bytes")
async def test_what_is_no_hello_is_refused_and_counted(shared: Machine):
    async with siege(shared) as attack:
        for what, data in GREETINGS.items():
            async with attack.connection() as eve:
                await eve.say(data)
                frames = await eve.hear_all()
                # What was never read may take the refusal with it.
                assert [type(frame) for frame in frames] in ([wire.Refused], []), what
        await attack.counted("closed bad_hello", len(GREETINGS))


@pytest.mark.parametrize("end", [b"\n", b""], ids=["whole", "endless"])
@pytest.mark.guarantee("hostile-bytes")
async def test_a_line_over_4_mib_ends_its_connection_and_is_answered(either: Machine, end: bytes):
    async with siege(either) as attack, attack.session(attack.name("mallory")) as mallory:
        await mallory.say(SEND + b"x" * 5 * MIB + end)
        frames = await mallory.hear_all()
        if frames:  # what is not read any more may take the last words with it
            failed, bye = frames
            assert (failed.req_id, failed.code, bye.code) == (5, "too_large", "too_large")
        await attack.counted("closed line_too_long", 1)


async def test_nothing_but_garbage_ends_its_connection_however_it_is_mixed(shared: Machine):
    pong = wire.encode(wire.Pong())
    for data in (b"nonsense\n" * 100, (b"nonsense\n" * 99 + pong) * 3):
        async with siege(shared) as attack, attack.session(attack.name("mallory")) as mallory:
            await mallory.say(data)
            *_, bye = await mallory.hear_all()
            assert (type(bye), bye.code) == (wire.Bye, "bad_msg")
            await attack.counted("closed garbage", 1)


async def test_a_session_may_be_wrong_now_and_then_for_ever(shared: Machine):
    async with siege(shared) as attack, attack.session(attack.name("clumsy")) as clumsy:
        await clumsy.say((b"nonsense\n" + wire.encode(wire.Pong())) * 300)
        await sound(clumsy)
        await attack.counted("bad_msg", 300)


@pytest.mark.parametrize("greeted", [False, True], ids=["before hello", "after hello"])
async def test_random_bytes_are_counted_and_harm_nobody(shared: Machine, greeted: bool):
    bytes_of = random.Random(20_000 + greeted).randbytes
    async with siege(shared) as attack:
        for size in (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000):
            async with attack.connection() as mallory:
                if greeted:
                    await mallory.enter(attack.name("mallory"))
                await mallory.say(bytes_of(size) + b"\n")
                await mallory.stream.send_eof()
                await mallory.gone()
        await attack.counted("bad_msg" if greeted else "closed bad_hello")


async def test_frames_with_bytes_changed_are_answered_or_refused(shared: Machine):
    rng = random.Random(7)
    examples = [frame for frame in EXAMPLES if isinstance(frame, wire.FromSession)]
    # What ends the hub or this connection, or rightly reaches everybody, is not what is tried here.
    left_out = (wire.HubStop, wire.Bye, wire.Broadcast)
    examples = [frame for frame in examples if not isinstance(frame, left_out)]
    async with siege(shared) as attack:
        for _ in range(5):
            async with attack.session(attack.name("mallory"), push=True) as mallory:
                await mallory.say(*[changed(rng, frame) for frame in rng.choices(examples, k=60)])
                await mallory.stream.send_eof()
                await mallory.gone()
        await attack.counted("bad_msg")


def changed(rng: random.Random, frame: Any) -> bytes:
    line = bytearray(msgspec.json.encode(frame))
    for _ in range(rng.randint(1, 4)):
        line[rng.randrange(len(line))] = rng.randrange(256)
    return bytes(line).replace(b"hub_stop", b"hub_halt") + b"\n"


async def test_a_connection_that_ends_in_the_middle_of_a_frame_leaves_nothing_behind(either: Machine):
    async with siege(either) as attack:
        for cut in (1, 20, len(SEND)):
            async with attack.session(attack.name("mallory")) as mallory:
                await mallory.say(SEND[:cut])
        await attack.counted("closed eof", 3)
