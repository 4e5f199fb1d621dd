"""Where the hub can be found, and that it never leads anybody astray."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from ecorelay import __version__
from ecorelay.config import Config
from ecorelay.daemon import place as place_module
from ecorelay.daemon.lock import HubLock
from ecorelay.daemon.place import Place
from ecorelay.endpoint import Endpoint, read_endpoint, write_endpoint
from ecorelay.errors import RelayError
from ecorelay.paths import Paths
from ecorelay.process import start_time

Make = Callable[..., Place]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    tmp_path.chmod(0o700)
    return Paths(tmp_path)


@pytest.fixture
def lock(paths: Paths) -> Iterator[HubLock]:
    with HubLock(paths.hub_lock) as lock:
        yield lock


@pytest.fixture
def make(paths: Paths, lock: HubLock) -> Iterator[Make]:
    made: list[Place] = []

    def make(transport: Any = "auto", **environ: str) -> Place:
        config = Config(hub_id="here", me="me", transport=transport)
        made.append(Place(paths, config, environ, lock))
        return made[-1]

    yield make
    for place in made:
        place.withdraw()


@pytest.mark.parametrize(("transport", "kind"), [("auto", "unix"), ("unix", "unix"), ("tcp", "tcp")])
def test_hub_json_tells_how_to_reach_it(paths: Paths, make: Make, transport: str, kind: str):
    place = make(transport)
    assert read_endpoint(paths.endpoint) is None
    place.announce()
    endpoint = read_endpoint(paths.endpoint)
    assert endpoint == place.endpoint
    assert (endpoint.pid, endpoint.pid_start) == (os.getpid(), start_time(os.getpid()))
    assert (endpoint.hub_id, endpoint.version, endpoint.protocol) == ("here", __version__, (1, 1))
    assert endpoint.transport == kind
    if kind == "unix":
        assert endpoint.path == str(paths.socket)
        assert (endpoint.host, endpoint.port, endpoint.token) == ("", 0, "")
    else:
        assert endpoint.path == ""
        assert (endpoint.host, len(endpoint.token)) == ("127.0.0.1", 64)
        socket.create_connection((endpoint.host, endpoint.port)).close()
    assert f"pid {os.getpid()}" in str(place)


@pytest.mark.parametrize("keep_alive", [True, False])
def test_hub_json_tells_whether_it_was_told_to_stay(paths: Paths, lock: HubLock, keep_alive: bool):
    place = Place(paths, Config(hub_id="here", me="me", keep_alive=keep_alive), {}, lock)
    place.announce()
    endpoint = read_endpoint(paths.endpoint)
    assert endpoint is not None
    assert endpoint.kept is keep_alive
    place.withdraw()


@pytest.mark.guarantee("secrets-and-modes-0600")
def test_hub_json_with_its_token_is_its_owners_alone(paths: Paths, make: Make):
    before = os.umask(0)
    try:
        make("tcp").announce()
    finally:
        os.umask(before)
    assert paths.endpoint.stat().st_mode & 0o777 == 0o600


def test_what_a_killed_hub_left_behind_is_replaced(paths: Paths, make: Make):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(paths.socket))
    stale = Endpoint(
        pid=1, version="0", protocol=(1, 1), hub_id="old", transport="unix", path="/nowhere", started_at=0
    )
    write_endpoint(paths.endpoint, stale)
    place = make()
    place.announce()
    assert read_endpoint(paths.endpoint) == place.endpoint
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(place.endpoint.path)


def test_nothing_of_it_is_left_when_it_withdraws(paths: Paths, make: Make):
    place = make()
    place.announce()
    place.withdraw()
    assert sorted(path.name for path in paths.home.iterdir()) == ["hub.lock"]
    place.withdraw()


def test_a_path_too_long_for_a_socket_leads_to_a_short_one_that_is_removed_too(tmp_path: Path):
    paths = Paths(tmp_path / ("x" * 100))
    paths.home.mkdir(mode=0o700)
    with HubLock(paths.hub_lock) as lock:
        # A directory of its own: the test's one may have too long a path itself.
        with TemporaryDirectory(dir="/tmp") as runtime:
            place = Place(paths, Config(hub_id="here", me="me"), {"XDG_RUNTIME_DIR": runtime}, lock)
            short = Path(place.endpoint.path)
            found = (short.is_socket(), short.parent.parent, short.parent.stat().st_mode & 0o777)
            place.withdraw()
            assert found == (True, Path(runtime), 0o700)
            assert not short.parent.exists()


def test_a_hub_json_that_was_removed_is_put_back(paths: Paths, make: Make):
    place = make()
    place.announce()
    assert place.lost() == ""
    paths.endpoint.unlink()
    assert place.lost() == ""
    assert read_endpoint(paths.endpoint) == place.endpoint


@pytest.mark.parametrize("content", [b"", b"garbage", b"{}", b'{"pid": 1'])
def test_a_hub_json_that_was_garbled_is_written_anew(paths: Paths, make: Make, content: bytes):
    place = make()
    place.announce()
    paths.endpoint.write_bytes(content)
    assert place.lost() == ""
    assert read_endpoint(paths.endpoint) == place.endpoint


def test_a_hub_whose_lock_was_removed_says_so(paths: Paths, make: Make):
    place = make()
    place.announce()
    paths.hub_lock.unlink()
    assert place.lost() == f"{paths.hub_lock} was removed"
    paths.hub_lock.write_bytes(b"another's")
    assert place.lost() == f"{paths.hub_lock} was removed"


def test_a_socket_that_was_removed_is_made_again_and_hub_json_leads_to_it(paths: Paths, make: Make):
    place = make()
    place.announce()
    before = place.sock
    paths.socket.unlink()
    assert place.lost() == ""
    before.close()
    assert place.sock is not before
    assert read_endpoint(paths.endpoint) == place.endpoint
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(place.endpoint.path)
    assert place.lost() == ""
    place.withdraw()
    assert sorted(path.name for path in paths.home.iterdir()) == ["hub.lock"]


def test_a_socket_whose_runtime_directory_is_gone_is_made_where_there_is_one(tmp_path: Path):
    paths = Paths(tmp_path / ("x" * 100))
    paths.home.mkdir(mode=0o700)
    with HubLock(paths.hub_lock) as lock, TemporaryDirectory(dir="/tmp") as runtime:
        place = Place(paths, Config(hub_id="here", me="me"), {"XDG_RUNTIME_DIR": runtime}, lock)
        place.announce()
        before, short = place.sock, Path(place.endpoint.path)
        short.unlink()
        short.parent.rmdir()
        assert place.lost() == ""
        before.close()
        assert short.is_socket()
        place.withdraw()


def test_a_hub_that_cannot_be_found_any_more_says_so(paths: Paths, make: Make):
    place = make()
    place.announce()
    paths.socket.unlink()
    paths.socket.write_bytes(b"another's")
    assert place.lost() == f"{paths.socket} was removed"


def test_the_files_of_a_hub_that_came_after_us_stay(paths: Paths, make: Make):
    place = make()
    place.announce()
    for path in (paths.hub_lock, paths.socket, paths.endpoint):
        path.unlink()
    with HubLock(paths.hub_lock) as lock:
        after = Place(paths, Config(hub_id="later", me="me"), {}, lock)
        after.announce()
        place.withdraw()
        assert read_endpoint(paths.endpoint) == after.endpoint
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(paths.socket))
        after.withdraw()


def test_without_unix_sockets_it_is_tcp_or_a_clear_refusal(make: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(place_module, "HAS_UNIX", False)
    assert make("auto").endpoint.transport == "tcp"
    with pytest.raises(RelayError, match="set transport to auto or tcp"):
        make("unix")


def test_a_hub_json_that_cannot_be_written_is_a_clear_refusal(paths: Paths, make: Make):
    place = make()
    paths.endpoint.mkdir()
    (paths.endpoint / "x").touch()
    with pytest.raises(RelayError, match=r"cannot write .*hub\.json") as refused:
        place.announce()
    assert refused.value.code == "mailbox_error"
