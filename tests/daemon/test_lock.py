"""At most one hub per data directory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ecorelay.daemon.lock import TRY_EVERY_S, WAIT_S, HubLock, holder_pid
from ecorelay.errors import RelayError
from tests.helpers.children import unmeasured

HOLD = """
import sys
from pathlib import Path
from ecorelay.daemon.lock import HubLock
with HubLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the lock until its stdin closes."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=unmeasured(),
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        try:
            yield child
        finally:
            child.kill()


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.guarantee("single-hub")
def test_a_second_hub_waits_then_says_who_holds_the_lock(tmp_path: Path):
    path, time = tmp_path / "hub.lock", Time()
    with held_elsewhere(path) as holder:
        assert holder_pid(path) == holder.pid
        lock = HubLock(path)
        with pytest.raises(RelayError, match=f"process {holder.pid} holds hub.lock") as refused:
            lock.take(sleep=time.sleep, clock=time.clock)
        assert refused.value.code == "already_registered"
        assert WAIT_S <= time.now < WAIT_S + 2 * TRY_EVERY_S
        assert not lock.still_ours()


def test_the_lock_of_a_leaving_hub_is_taken_as_soon_as_it_is_free(tmp_path: Path):
    path, time = tmp_path / "hub.lock", Time()
    with held_elsewhere(path) as holder:

        def sleep(seconds: float) -> None:
            time.sleep(seconds)
            assert holder.stdin is not None
            holder.stdin.close()
            holder.wait(60)

        lock = HubLock(path)
        lock.take(sleep=sleep, clock=time.clock)
        assert lock.still_ours()
        assert holder_pid(path) == os.getpid()
        lock.release()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_the_lock_of_a_killed_hub_is_free(tmp_path: Path):
    path = tmp_path / "hub.lock"
    with held_elsewhere(path) as holder:
        holder.kill()
        holder.wait(60)
        with HubLock(path) as lock:
            assert lock.still_ours()


def test_a_lock_that_was_removed_is_not_ours_any_more(tmp_path: Path):
    path = tmp_path / "hub.lock"
    with HubLock(path) as lock:
        path.unlink()
        assert not lock.still_ours()
        with HubLock(path) as other:
            assert other.still_ours()
            assert not lock.still_ours()


def test_a_file_that_says_nothing_sensible_names_nobody(tmp_path: Path):
    path = tmp_path / "hub.lock"
    assert holder_pid(path) == 0
    path.write_bytes(b"\xff{")
    assert holder_pid(path) == 0


def test_where_no_file_can_be_made_the_refusal_says_why(tmp_path: Path):
    with pytest.raises(RelayError, match=r"cannot lock .*No such file") as refused:
        HubLock(tmp_path / "missing" / "hub.lock").take()
    assert refused.value.code == "mailbox_error"


def test_the_lock_file_is_its_owners_alone(tmp_path: Path):
    with HubLock(tmp_path / "hub.lock"):
        assert (tmp_path / "hub.lock").stat().st_mode & 0o777 == 0o600
