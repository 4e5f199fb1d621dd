"""hub.json: written whole and private, read with tolerance."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import msgspec
import pytest

from ecorelay.endpoint import Endpoint, read_endpoint, remove_endpoint, write_endpoint
from ecorelay.errors import RelayError

UNIX = Endpoint(
    pid=42,
    pid_start=7,
    version="0.1.0",
    protocol=(1, 1),
    hub_id="laptop",
    transport="unix",
    path="/h/hub.sock",
    started_at=1_700_000_000_123,
)
TCP = msgspec.structs.replace(UNIX, transport="tcp", path="", host="127.0.0.1", port=4711, token="ab" * 32)


@pytest.mark.guarantee("secrets-and-modes-0600")
@pytest.mark.parametrize("endpoint", [UNIX, TCP])
def test_what_was_written_is_read_and_is_private(tmp_path: Path, endpoint: Endpoint):
    path = tmp_path / "hub.json"
    write_endpoint(path, endpoint)
    assert read_endpoint(path) == endpoint
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_file_is_no_endpoint(tmp_path: Path):
    assert read_endpoint(tmp_path / "hub.json") is None
    assert read_endpoint(tmp_path / "no" / "hub.json") is None


WHOLE = msgspec.json.encode(UNIX)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 200,
        b"garbage",
        b"\xff\xfe",
        b"[" * 5_000,
        b"null",
        b"{}",
        WHOLE.replace(b'"pid":42', b'"pid":"42"'),
        WHOLE.replace(b"unix", b"pipe"),
        WHOLE.replace(b"/h/hub.sock", b"/h/\\u0000hub.sock"),
        WHOLE.replace(b'"pid":42', b'"pid":' + b"9" * 30),
        WHOLE.replace(b'"pid":42', b'"pid":0'),
        msgspec.json.encode(TCP).replace(b"4711", b"65536"),
        WHOLE.replace(b"/h/hub.sock", b""),
        WHOLE.replace(b"unix", b"tcp"),
        msgspec.json.encode(msgspec.structs.replace(TCP, token="")),
        msgspec.json.encode(msgspec.structs.replace(TCP, port=0)),
    ],
)
def test_a_file_that_makes_no_sense_is_no_endpoint(tmp_path: Path, data: bytes):
    (tmp_path / "hub.json").write_bytes(data)
    assert read_endpoint(tmp_path / "hub.json") is None


def test_a_half_written_file_is_no_endpoint(tmp_path: Path):
    for end in range(len(WHOLE)):
        (tmp_path / "hub.json").write_bytes(WHOLE[:end])
        assert read_endpoint(tmp_path / "hub.json") is None


def test_keys_of_a_later_version_are_passed_over(tmp_path: Path):
    (tmp_path / "hub.json").write_bytes(WHOLE[:-1] + b',"later":1}')
    assert read_endpoint(tmp_path / "hub.json") == UNIX


def test_a_directory_or_a_pipe_in_its_place_is_no_endpoint(tmp_path: Path):
    (tmp_path / "dir").mkdir()
    assert read_endpoint(tmp_path / "dir") is None
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe")
        assert read_endpoint(tmp_path / "pipe") is None


@pytest.mark.skipif(sys.platform == "win32", reason="owners of POSIX")
def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_endpoint(tmp_path / "hub.json", UNIX)
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(RelayError, match="belongs to another user: run as its owner"):
        read_endpoint(tmp_path / "hub.json")


def test_a_hub_takes_away_its_own_file_and_no_other(tmp_path: Path):
    path = tmp_path / "hub.json"
    write_endpoint(path, UNIX)
    remove_endpoint(path, 43)
    assert path.exists()
    remove_endpoint(path, 42)
    assert not path.exists()
    remove_endpoint(path, 42)
