"""A newer program replaces an older hub that nobody asked to stay; never the reverse."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from ecorelay import __version__, launch, spawn, upgrade
from ecorelay.endpoint import Endpoint, read_endpoint
from ecorelay.paths import Paths
from ecorelay.process import is_alive
from ecorelay.spawn import NoHub, connect_hub, ensure_hub
from ecorelay.upgrade import Upgrade, is_older, order
from tests.client.test_spawn import starts
from tests.helpers import standin_hub

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets and pipes of POSIX")

IN_ORDER = [
    *("0", "0.0.9", "0.1.dev0", "0.1.0.dev3", "0.1.0.dev12", "0.1a1.dev2", "0.1a1", "0.1.0a2", "0.1.0a10"),
    *("0.1b1", "0.1rc1.dev1", "0.1.0rc1", "0.1.0", "0.1.0.post0.dev1", "0.1.0.post0", "0.1.0.post1", "0.1.1"),
    *("0.2", "0.10.0", "1.0.dev1", "1.0", "1.0.0.1", "10.0"),
]
NO_VERSION = [
    "",
    "of no release",
    "v1.0",
    "1.0-1",
    "1..0",
    "1.0.devel",
    "1.0\n",
    "٣.1",
    "1.0.0.0.0.0.0",
    "9" * 40,
]


def test_versions_are_compared_as_python_packages_are():
    keys = [order(version) for version in IN_ORDER]
    assert None not in keys
    assert keys == sorted(keys)  # type: ignore[type-var]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("same", ["0.1", "0.1.0.0", "0.1.0+local.7"])
def test_versions_that_mean_the_same_are_neither_older_nor_newer(same: str):
    assert not is_older(same, "0.1.0")
    assert not is_older("0.1.0", same)


@pytest.mark.parametrize("version", NO_VERSION)
def test_what_is_no_version_is_never_older(version: str):
    assert not is_older(version, "99")
    assert not is_older("0.0.1", version)


# --- replacing --------------------------------------------------------------------------------------------


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    found = Paths(tmp_path / "data")
    yield found
    if found.home.is_dir():
        (found.home / "end").touch()
    for start in starts(found):
        while is_alive(start["pid"]):
            os.kill(start["pid"], signal.SIGKILL)


@pytest.fixture
def environ(paths: Paths) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": "/nowhere", "ECORELAY_HOME": str(paths.home)}


@pytest.fixture(autouse=True)
def standin(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [sys.executable, standin_hub.__file__, "ok", "run"]
    monkeypatch.setattr(launch, "hub_command", lambda *more: [*words, *more])
    renew(monkeypatch)


def renew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this were another process: what it tried is forgotten."""
    monkeypatch.setattr(spawn, "_upgrade", Upgrade())


async def running(paths: Paths, environ: dict[str, str], version: str, **more: str) -> Endpoint:
    """A hub of this version."""
    stream = await ensure_hub(paths, {**environ, "ECORELAY_STANDIN_VERSION": version, **more})
    await stream.aclose()
    endpoint = read_endpoint(paths.endpoint)
    assert endpoint is not None
    return endpoint


def stops(paths: Paths) -> list[str]:
    try:
        return (paths.home / "stops").read_text().splitlines()
    except FileNotFoundError:
        return []


async def test_an_older_hub_is_let_end_and_ours_follows(
    paths: Paths, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    old = await running(paths, environ, "0.0.1")
    renew(monkeypatch)
    new = await running(paths, environ, __version__)
    assert stops(paths) == [f"upgrade to {__version__}"]
    assert not is_alive(old.pid, old.pid_start)
    assert (new.version, len(starts(paths))) == (__version__, 2)


@pytest.mark.parametrize("version", ["99.0", __version__, "of no release"])
async def test_a_hub_that_is_not_surely_older_is_used(
    paths: Paths, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, version: str
):
    old = await running(paths, environ, version)
    renew(monkeypatch)
    assert (await running(paths, environ, __version__)).pid == old.pid
    assert stops(paths) == []


async def test_a_hub_that_was_told_to_stay_is_used(
    paths: Paths, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    old = await running(paths, environ, "0.0.1", ECORELAY_KEEP_ALIVE="true")
    assert old.kept
    renew(monkeypatch)
    assert (await running(paths, environ, __version__)).pid == old.pid


async def test_a_process_tries_it_once(paths: Paths, environ: dict[str, str]):
    first = await running(paths, environ, "0.0.1")
    second = await running(paths, environ, "0.0.2")
    assert first.pid != second.pid
    third = await running(paths, environ, __version__)
    assert third.pid == second.pid
    assert len(stops(paths)) == 1


async def test_who_may_not_start_a_hub_ends_none(paths: Paths, environ: dict[str, str]):
    old = await running(paths, environ, "0.0.1")
    await (await connect_hub(paths)).aclose()
    assert is_alive(old.pid)
    assert stops(paths) == []


async def test_a_hub_that_does_not_end_is_used(
    paths: Paths, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(upgrade, "DRAIN_S", 0.2)
    old = await running(paths, environ, "0.0.1", ECORELAY_STANDIN_STAYS="1")
    renew(monkeypatch)
    assert (await running(paths, environ, __version__)).pid == old.pid
    assert len(stops(paths)) == 1
    assert len(starts(paths)) == 1


async def test_a_dead_older_hubs_file_is_no_hub_to_wait_for(
    paths: Paths, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    old = await running(paths, environ, "0.0.1")
    os.kill(old.pid, signal.SIGKILL)
    renew(monkeypatch)
    assert (await running(paths, environ, __version__)).version == __version__


async def test_a_new_hub_that_refuses_is_heard(
    paths: Paths, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    await running(paths, environ, "0.0.1")
    renew(monkeypatch)
    words = [sys.executable, standin_hub.__file__, "refuse", "run"]
    monkeypatch.setattr(launch, "hub_command", lambda *more: [*words, *more])
    with pytest.raises(Exception, match="spawn is a text"):
        await ensure_hub(paths, environ)
    with pytest.raises(NoHub):
        await connect_hub(paths)


WORKER = """
import sys, trio
from pathlib import Path
from ecorelay import launch
from ecorelay.paths import Paths
from ecorelay.spawn import ensure_hub
standin, home, version = sys.argv[1:]
launch.hub_command = lambda *more: [sys.executable, standin, "ok", "run", *more]
import os
async def main():
    environ = {**os.environ, "ECORELAY_HOME": home, "ECORELAY_STANDIN_VERSION": version}
    async with await ensure_hub(Paths(Path(home)), environ):
        print("there", flush=True)
trio.run(main)
"""


async def test_many_newer_programs_at_once_replace_it_once(paths: Paths, environ: dict[str, str]):
    await running(paths, environ, "0.0.1")
    command = [sys.executable, "-c", WORKER, standin_hub.__file__, str(paths.home), __version__]
    said: list[bytes] = []

    async def work() -> None:
        said.append((await trio.run_process(command, capture_stdout=True)).stdout)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(work)
    assert said == [b"there\n"] * 4
    assert len(stops(paths)) == 1
    assert len(starts(paths)) == 2


def test_an_old_hub_json_without_the_word_is_of_one_that_leaves():
    known: dict[str, Any] = {"pid": 1, "version": "0.0.1", "protocol": (1, 1), "hub_id": "x", "started_at": 0}
    endpoint = Endpoint(**known, transport="unix", path="/x")
    assert not endpoint.kept
    assert Upgrade().is_due(Path("/x"), endpoint)
    assert not Upgrade().is_due(Path("/x"), None)
