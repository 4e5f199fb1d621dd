"""One process that says as much as it can: the neighbours' mail goes on, and memory stays bounded."""

from __future__ import annotations

import random

import pytest
import trio

from ecorelay import wire
from tests.e2e.stage import PATIENCE_S, Machine
from tests.hostile.siege import CANARY, attacker, ended, hello, needs_proc, send, siege

pytestmark = needs_proc
FLOOD_S = 0.6
# Connects and says `data` again and again, reads whatever comes; where it is closed, it comes back.
SCRIPT = """
where, seconds, hello, data = sys.argv[1:]
hello, data = open(hello, "rb").read(), memoryview(open(data, "rb").read())
def read(sock):
    try:
        while sock.recv(1 << 20): pass
    except OSError: pass
end, said = time.monotonic() + float(seconds), 0
while time.monotonic() < end:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(0.1)
    try:
        sock.connect(where)
        sock.sendall(hello)
        threading.Thread(target=read, args=(sock,), daemon=True).start()
        while time.monotonic() < end:
            try:
                said += sock.send(data[said % len(data):])
            except TimeoutError: pass
    except OSError: pass
    sock.close()
print(said)
"""
PONG = wire.encode(wire.Pong())
NESTED = b'{"a":' + b"{}," * 1_500 + b"\n"
INVALID: dict[str, bytes] = {
    "nonsense": b"nonsense\n" * 5_000,
    "nonsense among frames": (b"nonsense\n" * 50 + PONG) * 500,
    "nested and invalid, among frames": ((NESTED * 12) + PONG) * 20,
    "random bytes": random.Random(11).randbytes(1_000_000),
    "empty lines": b"\n" * 500_000,
}
REQUESTS: dict[str, bytes] = {
    "pongs": PONG * 10_000,
    "peers": wire.encode(wire.Peers(req_id=1, limit=1000)) * 10_000,
    "empty pages": wire.encode(wire.Inbox(req_id=1)) * 10_000,
    "waiting for mail": wire.encode(wire.Inbox(req_id=1, wait=1)) * 10_000,
    "status": wire.encode(wire.HubStatus(req_id=1)) * 10_000,
}


@pytest.mark.parametrize("data", [*INVALID.values(), *REQUESTS.values()], ids=[*INVALID, *REQUESTS])
async def test_the_neighbours_mail_goes_on_under_a_flood(shared: Machine, data: bytes):
    async with siege(shared) as attack:
        greeting = wire.encode(hello(attack.name("mallory")))
        endpoint = shared.endpoint
        assert endpoint is not None
        async with attack.bounded():
            with attacker(shared, SCRIPT, endpoint.path, str(FLOOD_S), greeting, data) as flood:
                before = len(attack.neighbours.arrived)
                assert int(await ended(flood)) > 0
                assert len(attack.neighbours.arrived) > before


CHURN = """
where, seconds, hello = sys.argv[1:]
hello = open(hello, "rb").read()
end, times = time.monotonic() + float(seconds), 0
while time.monotonic() < end:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(where)
            sock.sendall(hello[: times % 2 * len(hello)])
        except OSError: pass
    times += 1
print(times)
"""


async def test_the_neighbours_mail_goes_on_while_sessions_come_and_go_as_fast_as_they_can(shared: Machine):
    async with siege(shared) as attack:
        endpoint = shared.endpoint
        assert endpoint is not None
        async with attack.bounded():
            greeting = wire.encode(hello(attack.name("fickle")))
            with attacker(shared, CHURN, endpoint.path, str(FLOOD_S), greeting) as churn:
                before = len(attack.neighbours.arrived)
                assert int(await ended(churn)) > 10
                assert len(attack.neighbours.arrived) > before


async def test_mail_by_the_10_000_is_all_stored_while_the_neighbours_mail_goes_on(shared: Machine):
    count = 10_000
    async with siege(shared) as attack:
        sink = attack.name("sink")
        async with attack.session(sink), attack.session(attack.name("eager")) as eager:
            async with attack.bounded(), trio.open_nursery() as nursery:
                nursery.start_soon(eager.say, *[send(sink, CANARY, number) for number in range(count)])
                with trio.fail_after(PATIENCE_S):
                    answers = [await eager.hear() for _ in range(count)]
        assert {answer.req_id for answer in answers} == set(range(count))
        assert all(isinstance(answer, wire.Sent) for answer in answers)
