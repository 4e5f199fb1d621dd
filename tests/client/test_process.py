"""Telling a living process from one that ended, and from a later one with the same number."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ecorelay import process
from ecorelay.peercred import PeerCred, peer_cred
from ecorelay.process import is_alive, start_time

KNOWS = sys.platform in ("linux", "darwin", "win32")


def test_this_process_lives_and_began_once():
    began = start_time(os.getpid())
    assert bool(began) is KNOWS
    assert start_time(os.getpid()) == began
    assert is_alive(os.getpid())
    assert is_alive(os.getpid(), began)


@pytest.mark.skipif(not KNOWS, reason="this system does not tell when a process began")
def test_a_later_process_with_the_same_number_is_another():
    assert not is_alive(os.getpid(), start_time(os.getpid()) - 1)


def test_an_ended_process_is_not_alive_even_before_its_parent_looked():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = start_time(child.pid)
    assert is_alive(child.pid, began)
    child.kill()
    assert child.stdin is not None
    child.stdin.close()
    if sys.platform == "linux":
        deadline = time.monotonic() + 10
        while is_alive(child.pid, began) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_alive(child.pid, began)
    child.wait()
    assert not is_alive(child.pid, began)
    assert start_time(child.pid) == 0


@pytest.mark.parametrize("pid", [0, -1])
def test_a_process_nobody_knows_counts_as_alive(pid: int):
    assert is_alive(pid)
    assert start_time(pid) == 0


def test_a_number_no_process_can_have_is_not_alive():
    assert not is_alive(2**62)
    assert start_time(2**62) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_process_of_another_user_lives(monkeypatch: pytest.MonkeyPatch):
    def not_ours(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", not_ours)
    assert is_alive(os.getpid())


@pytest.mark.skipif(sys.platform != "linux", reason="procfs")
@pytest.mark.parametrize("name", ["a b", "a) R 1", "(((", ") Z 1 1"])
def test_a_program_may_be_called_anything(tmp_path: Path, name: str):
    program = tmp_path / name
    program.symlink_to(sys.executable)
    child = subprocess.Popen(
        [str(program), "-c", "print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"
        assert Path(f"/proc/{child.pid}/comm").read_text().strip() == name[:15].strip()
        assert is_alive(child.pid, start_time(child.pid))
        assert 0 < start_time(os.getpid()) <= start_time(child.pid)
    finally:
        child.communicate(b"\n")


@pytest.mark.skipif(sys.platform != "linux", reason="procfs")
@pytest.mark.parametrize("text", [b"", b"1 (x) S", b"1 (x) S " + b"x " * 40])
def test_what_procfs_says_otherwise_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: bytes):
    (tmp_path / "stat").write_bytes(text)
    real = open
    monkeypatch.setattr(process, "open", lambda path, mode: real(tmp_path / "stat", mode), raising=False)
    assert start_time(os.getpid()) == 0
    assert is_alive(os.getpid(), 5)


def test_the_kernel_tells_who_is_at_the_other_end_of_a_socket():
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("no Unix sockets here")
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert peer_cred(one) == PeerCred(os.geteuid(), os.getpid())


def test_where_the_system_cannot_tell_nobody_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "sunos5")
    one, other = socket.socketpair()
    with one, other:
        assert peer_cred(one) is None
    assert start_time(os.getpid()) == 0
    assert is_alive(os.getpid(), 5)
