"""Where the companion of a session finds our process, when the assistant starts both and joins neither.

A Unix socket, and a file that leads to it: ``links/<hash of the session's id>.json`` in the data directory.
Both are ours alone, so whoever gets in is trusted as the user is. Of several companions of one session the
latest counts: an assistant that loads its extension again may leave the one before for a moment.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from ecorelay.errors import RelayError
from ecorelay.paths import choose_socket_path, find_paths, make_private_dir, write_private
from ecorelay.process import is_alive, start_time
from ecorelay_adapters import jsonrpc
from ecorelay_adapters.companion import ANSWER_S, PREFIX, CompanionCarrier
from ecorelay_adapters.identity import working_directory
from ecorelay_adapters.jsonrpc import Fault, Message

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ecorelay.paths import Paths
    from ecorelay_adapters.carriers import Reports
    from ecorelay_adapters.companion import Send

LINE_MAX: Final = 4 * 1024 * 1024
"""Bytes of one line."""
CHUNK: Final = 64 * 1024
COMPANIONS_MAX: Final = 4
"""Connections at once; who comes beyond them is sent away."""
SWEPT: Final = 200
"""Files of other processes looked at."""
PREDECESSOR_S: Final = 1.0
"""How long the adapter of a session that this one replaces is given to end."""
PREDECESSOR_LOOK_S: Final = 0.02
HAS_UNIX: Final = hasattr(socket, "AF_UNIX")


class Where(msgspec.Struct, frozen=True):
    """What stands in the file: the socket's path, and the process that listens there.

    `parent` is the assistant's process, `directory` the project's: what a session that is cleared has in
    common with the one that takes its place.
    """

    path: str
    pid: int
    start: int
    parent: int = 0
    directory: str = ""


def file_of(paths: Paths, session: str) -> Path:
    """The file that leads to the adapter of this session of an assistant."""
    return paths.links / f"{sha256(session.encode()).hexdigest()[:32]}.json"


class LinkedCarrier(CompanionCarrier):
    """A companion that comes over a socket; see `CompanionCarrier`.

    Args:
        name: of the carrier, in receipts.
        session: the assistant's id of the session.
        environ: of this process.
    """

    def __init__(self, name: str, session: str, environ: Mapping[str, str]) -> None:
        super().__init__(name, session)
        self._environ = environ
        self._scopes: list[trio.CancelScope] = []
        """Of the connections, the latest last."""

    async def probe(self) -> bool:
        """Not where nobody can find us.

        A session that was cleared goes on with another id and another adapter, for a moment beside the one
        before. The peer is the same, but only once that one has left: it is waited for.
        """
        if not HAS_UNIX or not self.session:
            return False
        with trio.move_on_after(PREDECESSOR_S), suppress(RelayError):
            links = find_paths(self._environ).links
            while _predecessor(links):  # noqa: ASYNC110 - it tells nobody that it ends
                await trio.sleep(PREDECESSOR_LOOK_S)
        return True

    async def run(self, reports: Reports) -> None:
        """Listen, and carry."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(super().run, reports)
            try:
                with _listening(find_paths(self._environ), self._environ, self.session) as listener:
                    await trio.serve_listeners(self._serve, [listener])
            except (RelayError, OSError) as error:  # relay_inbox is left, and who calls is told
                print(f"ecorelay: the {self.name} cannot reach us: {error}", file=sys.stderr)

    async def _serve(self, stream: trio.SocketStream) -> None:
        if len(self._scopes) >= COMPANIONS_MAX:
            return
        lock = trio.Lock()

        async def send(method: str, params: dict[str, Any]) -> None:
            async with lock:
                try:
                    with trio.fail_after(ANSWER_S):
                        await stream.send_all(jsonrpc.notification(method, params) + b"\n")
                except BaseException as error:
                    # Half a line may be out: nothing can follow it.
                    await trio.aclose_forcefully(stream)
                    if isinstance(error, trio.TooSlowError):
                        raise trio.BrokenResourceError("the companion does not read") from None
                    raise

        with trio.CancelScope() as scope:
            self._scopes.append(scope)
            try:
                lines = jsonrpc.Lines(LINE_MAX)
                while chunk := await stream.receive_some(CHUNK):
                    for line in lines.feed(chunk):
                        for method, params in _read(line):
                            await self._take(method, params, send)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                self._scopes.remove(scope)
                self.disconnected(send)

    async def _take(self, method: str, params: dict[str, Any], send: Send) -> None:
        what = method.removeprefix(PREFIX)
        if params.get("session") != self.session or what == method:
            return
        if what == "session":
            for other in self._scopes[:-1]:
                other.cancel()
            await self.connected(send, params)
        else:
            self.told(what, params)


def _read(line: bytes | jsonrpc.TooLong) -> Iterator[tuple[str, dict[str, Any]]]:
    """The notifications of a line; what is none is skipped: another version of ours may know more."""
    with suppress(Fault):
        for message in jsonrpc.parse(line).messages:
            if isinstance(message, Message):
                yield message.method, jsonrpc.decode_params(message, dict)


class _listening:
    """A listener that can be found. Use it as a context manager."""

    def __init__(self, paths: Paths, environ: Mapping[str, str], session: str) -> None:
        make_private_dir(paths.links)
        self._socket = choose_socket_path(paths, environ, paths.links / f"{os.getpid()}.sock")
        _sweep(paths.links, self._socket.parent)
        self._file = file_of(paths, session)
        self._listener = _listen(self._socket)
        where = Where(
            path=str(self._socket),
            pid=os.getpid(),
            start=start_time(os.getpid()),
            parent=os.getppid(),
            directory=str(working_directory()),
        )
        self._written = msgspec.json.encode(where) + b"\n"

    def __enter__(self) -> trio.SocketListener:
        write_private(self._file, self._written)
        return self._listener

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            if self._file.read_bytes() == self._written:  # or another process has our session by now
                self._file.unlink()
        with suppress(OSError):
            self._socket.unlink()


def _listen(path: Path) -> trio.SocketListener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)  # of a process that had our number before
        sock.bind(os.fspath(path))
        path.chmod(0o600)
        sock.listen(COMPANIONS_MAX)
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    except BaseException:
        sock.close()
        raise


def _others(folder: Path) -> Iterator[tuple[Path, Where]]:
    """What leads to other processes, which may be gone."""
    for _, file in zip(range(SWEPT), folder.glob("*.json"), strict=False):
        with suppress(OSError, msgspec.DecodeError):
            where = msgspec.json.decode(file.read_bytes(), type=Where)
            if where.pid != os.getpid():
                yield file, where


def _predecessor(folder: Path) -> bool:
    """Whether another adapter lives that the same process of the assistant started in our directory."""
    ours = os.getppid(), str(working_directory())
    return any(
        (where.parent, where.directory) == ours and is_alive(where.pid, where.start)
        for _, where in _others(folder)
    )


def _sockets(*folders: Path) -> Iterator[Path]:
    for folder in dict.fromkeys(folders):
        for file in folder.glob("*.sock"):
            if file.stem.isdecimal():
                yield file


def _sweep(folder: Path, elsewhere: Path) -> None:
    """Take away what processes that are gone left behind; `elsewhere`: where sockets may lie too."""
    for file, where in _others(folder):
        if not is_alive(where.pid, where.start):
            with suppress(OSError):
                file.unlink(missing_ok=True)
    for _, file in zip(range(SWEPT), _sockets(folder, elsewhere), strict=False):
        with suppress(OSError, ValueError):
            if not is_alive(int(file.stem)):
                file.unlink(missing_ok=True)
