"""Companions that come over a socket: found by a file, two at once, hostile bytes, what the killed left."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ecorelay.paths import Paths, choose_socket_path
from ecorelay_adapters import companion, link
from ecorelay_adapters.batches import labelled
from ecorelay_adapters.jsonrpc import notification
from ecorelay_adapters.link import COMPANIONS_MAX, HAS_UNIX, LINE_MAX, PREDECESSOR_S, LinkedCarrier, file_of
from tests.helpers.carrying import IDS, Heard, mail

pytestmark = pytest.mark.skipif(not HAS_UNIX, reason="no Unix sockets here")


async def until(holds: Callable[[], object]) -> None:
    while not holds():  # noqa: ASYNC110
        await trio.sleep(0.01)


class Line:
    """A companion's end of the socket."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""

    async def say(self, what: str, session: str = "s-1", **params: Any) -> None:
        params["session"] = session
        await self.stream.send_all(notification(f"ecorelay/{what}", params) + b"\n")

    async def hear(self) -> Any:
        """The next notification's name and parameters; None at the end."""
        while b"\n" not in self.buffer:
            chunk = await self.stream.receive_some()
            if not chunk:
                return None
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        said = json.loads(line)
        return said["method"], said["params"]


class Bench:
    """A carrier that listens."""

    def __init__(self, home: Path) -> None:
        self.paths = Paths(home)
        self.carrier = LinkedCarrier("extension", "s-1", {"ECORELAY_HOME": str(home)})
        self.heard = Heard()
        self.file = file_of(self.paths, "s-1")
        self.lines: list[Line] = []

    async def line(self, *, introduces: bool = True) -> Line:
        """A connection, made as a companion makes it."""
        await until(lambda: self.file.exists())
        where = json.loads(self.file.read_bytes())
        line = Line(await trio.open_unix_socket(where["path"]))
        self.lines.append(line)
        if introduces:
            await line.say("session")
        return line


@asynccontextmanager
async def bench(home: Path) -> AsyncIterator[Bench]:
    made = Bench(home)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.carrier.run, made.heard)
        with trio.fail_after(20):
            yield made
        for line in made.lines:
            await line.stream.aclose()
        nursery.cancel_scope.cancel()


async def test_a_companion_finds_us_and_is_given_mail(tmp_path: Path):
    async with bench(tmp_path) as b:
        assert await b.carrier.probe()
        line = await b.line()
        await b.carrier.push(mail(0, "a\nb 👋"))
        method, params = await line.hear()
        assert method == "ecorelay/hand_over"
        assert labelled(params["id"]) == (IDS[0],)
        assert "not of your user ---\na\nb 👋\n---" in params["text"]
        await line.say("handed_over", id=params["id"])
        await line.say("seen", id=params["id"])
        await until(lambda: b.heard.read)
        assert b.heard.accepted == b.heard.read == [IDS[0]]
        assert stat.S_IMODE(b.file.stat().st_mode) == 0o600
        assert stat.S_IMODE(b.file.parent.stat().st_mode) == 0o700
    assert list(b.file.parent.iterdir()) == []


async def test_without_a_session_id_nobody_could_find_us(tmp_path: Path):
    assert not await LinkedCarrier("extension", "", {"ECORELAY_HOME": str(tmp_path)}).probe()


async def test_what_is_said_of_another_session_or_is_nonsense_is_ignored(tmp_path: Path):
    async with bench(tmp_path) as b:
        line = await b.line(introduces=False)
        await line.say("session", session="s-2")
        for data in (
            b"{}\n",
            b"\xff\xfe\n",
            b"[]\n",
            b'{"jsonrpc":"2.0","method":"ecorelay/seen","params":[]}\n',
        ):
            await line.stream.send_all(data)
        await line.stream.send_all(b"x" * (LINE_MAX + 10) + b"\n")
        await line.stream.send_all(notification("other/session", {"session": "s-1"}) + b"\n")
        await b.carrier.push(mail(0))
        with trio.move_on_after(0.2):
            raise AssertionError(await line.hear())
        await line.say("session")
        method, _ = await line.hear()
        assert method == "ecorelay/hand_over"


async def test_the_companion_that_came_last_counts(tmp_path: Path):
    async with bench(tmp_path) as b:
        old = await b.line()
        await b.carrier.welcomed("You are shop")
        assert (await old.hear())[0] == "ecorelay/welcome"
        new = await b.line()
        assert (await new.hear())[0] == "ecorelay/welcome"
        assert await old.hear() is None
        await b.carrier.push(mail(0))
        assert (await new.hear())[0] == "ecorelay/hand_over"


async def test_too_many_are_sent_away(tmp_path: Path):
    async with bench(tmp_path) as b:
        lines = [await b.line(introduces=False) for _ in range(COMPANIONS_MAX)]
        await trio.sleep(0.1)
        assert await (await b.line(introduces=False)).hear() is None
        await lines[0].stream.aclose()
        await trio.sleep(0.1)
        last = await b.line()
        await b.carrier.push(mail(0))
        assert (await last.hear())[0] == "ecorelay/hand_over"


async def test_one_that_goes_away_in_the_middle_of_mail_gets_it_when_it_is_back(tmp_path: Path):
    async with bench(tmp_path) as b:
        line = await b.line()
        await b.carrier.push(mail(0))
        await line.hear()
        await line.stream.aclose()
        line = await b.line()
        _, params = await line.hear()
        assert labelled(params["id"]) == (IDS[0],)
        await line.say("handed_over", id=params["id"])
        await until(lambda: b.heard.accepted)


async def test_leftovers_of_processes_that_are_gone_are_swept_and_others_stay(tmp_path: Path):
    folder = Paths(tmp_path).links
    folder.mkdir(mode=0o700)
    gone, lives = 2**22 - 3, os.getppid()
    for pid in (gone, lives):
        (folder / f"{pid}.json").write_text(json.dumps({"path": "/x", "pid": pid, "start": 0}))
        (folder / f"{pid}.sock").write_text("")
    (folder / "what.json").write_text("no JSON")
    async with bench(tmp_path) as b:
        await b.line()
        names = {file.name for file in folder.iterdir()}
        assert names == {f"{lives}.json", f"{lives}.sock", "what.json", b.file.name, f"{os.getpid()}.sock"}


async def test_the_file_of_a_process_that_took_over_stays(tmp_path: Path):
    async with bench(tmp_path) as b:
        await b.line()
        b.file.write_text("another's")
    assert b.file.read_text() == "another's"


async def test_a_data_directory_too_long_for_a_socket_has_it_elsewhere(tmp_path: Path, monkeypatch):
    short = tmp_path / "t"
    short.mkdir()
    home = tmp_path / ("long" * 25)
    made = Bench(home)
    made.carrier = LinkedCarrier("extension", "s-1", {"ECORELAY_HOME": str(home), "TMPDIR": "/tmp"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.carrier.run, made.heard)
        with trio.fail_after(20):
            line = await made.line()
            await made.carrier.push(mail(0))
            assert (await line.hear())[0] == "ecorelay/hand_over"
            await line.stream.aclose()
        where = Path(json.loads(made.file.read_bytes())["path"])
        assert where.parent.parent == Path("/tmp")
        nursery.cancel_scope.cancel()
    assert not where.exists()
    where.parent.rmdir()


async def test_where_nobody_can_listen_mail_is_left_to_the_inbox(tmp_path: Path, capfd, monkeypatch):
    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(socket.socket, "bind", fails)
    async with bench(tmp_path) as b:
        await b.carrier.push(mail(0))
        await until(lambda: b.heard.refused)
    assert "the extension cannot reach us" in capfd.readouterr().err


async def test_the_adapter_that_this_one_replaces_is_given_a_moment_to_end(tmp_path: Path):
    folder = Paths(tmp_path).links
    folder.mkdir(mode=0o700)
    carrier = LinkedCarrier("extension", "s-2", {"ECORELAY_HOME": str(tmp_path)})
    async with trio.open_nursery() as nursery:
        other = await trio.lowlevel.open_process(["sleep", "60"])
        where = {"path": "/x", "pid": other.pid, "start": 0, "parent": os.getppid(), "directory": os.getcwd()}
        (folder / "other.json").write_text(json.dumps(where))

        async def end() -> None:
            await trio.sleep(0.3)
            other.kill()
            await other.wait()

        nursery.start_soon(end)
        began = trio.current_time()
        assert await carrier.probe()
        assert 0.25 < trio.current_time() - began < 0.9


@pytest.mark.parametrize("other", [{"parent": 1}, {"directory": "/elsewhere"}])
async def test_other_adapters_are_not_waited_for(tmp_path: Path, other: dict[str, object]):
    folder = Paths(tmp_path).links
    folder.mkdir(mode=0o700)
    where = {"path": "/x", "pid": os.getppid(), "start": 0, "parent": os.getppid(), "directory": os.getcwd()}
    (folder / "other.json").write_text(json.dumps({**where, **other}))
    began = trio.current_time()
    assert await LinkedCarrier("extension", "s-2", {"ECORELAY_HOME": str(tmp_path)}).probe()
    assert trio.current_time() - began < 0.2


async def test_one_that_stays_is_waited_for_once(tmp_path: Path, autojump_clock: MockClock):
    folder = Paths(tmp_path).links
    folder.mkdir(mode=0o700)
    where = {"path": "/x", "pid": os.getppid(), "start": 0, "parent": os.getppid(), "directory": os.getcwd()}
    (folder / "other.json").write_text(json.dumps(where))
    began = trio.current_time()
    assert await LinkedCarrier("extension", "s-2", {"ECORELAY_HOME": str(tmp_path)}).probe()
    assert trio.current_time() - began == pytest.approx(PREDECESSOR_S, abs=0.05)


async def test_a_companion_that_does_not_read_holds_mail_no_longer_than_one_that_is_silent(
    tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(link, "ANSWER_S", 0.3)
    monkeypatch.setattr(companion, "HOLD_S", 0.3)
    async with bench(tmp_path) as b:
        await b.line()
        await until(lambda: b.carrier._send is not None)
        await b.carrier.push(mail(0, "x" * 2_000_000))
        await b.carrier.push(mail(1))
        await until(lambda: b.heard.refused == IDS[:2])
        line = await b.line()
        await b.carrier.push(mail(2))
        method, params = await line.hear()
        assert (method, labelled(params["id"])) == ("ecorelay/hand_over", (IDS[2],))


async def test_sockets_left_elsewhere_are_swept(tmp_path: Path):
    home = tmp_path / ("long" * 25)
    made = Bench(home)
    made.carrier = LinkedCarrier("extension", "s-1", {"ECORELAY_HOME": str(home), "TMPDIR": "/tmp"})
    elsewhere = choose_socket_path(made.paths, {"TMPDIR": "/tmp"}, made.paths.links / "1.sock").parent
    (elsewhere / f"{2**22 - 3}.sock").touch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.carrier.run, made.heard)
        with trio.fail_after(20):
            await (await made.line()).stream.aclose()
        assert [file.name for file in elsewhere.iterdir()] == [f"{os.getpid()}.sock"]
        nursery.cancel_scope.cancel()
    elsewhere.rmdir()
