"""The file that is touched to wake an assistant."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ecorelay.process import start_time
from ecorelay_adapters import bell as bell_module
from ecorelay_adapters.bell import Bell


def test_each_ring_changes_the_file_and_taking_it_down_removes_it(tmp_path):
    path = tmp_path / "bells" / "70-7"
    bell = Bell(path)
    bell.hang()
    assert not path.exists()
    bell.ring()
    first = path.read_bytes()
    bell.ring()
    assert path.read_bytes() != first
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    bell.take_down()
    bell.take_down()
    assert not path.exists()


def test_bells_of_processes_that_are_gone_are_swept_and_others_stay(tmp_path):
    folder = tmp_path / "bells"
    folder.mkdir(mode=0o700)
    mine = folder / f"{os.getpid()}-{start_time(os.getpid())}"
    for name in ("4194309-5", f"{os.getpid()}-1", "notes.txt", "x-y"):
        (folder / name).touch()
    mine.touch()
    Bell(folder / "1-1").hang()
    assert {file.name for file in folder.iterdir()} == {mine.name, "notes.txt", "x-y"}


def test_on_a_full_disk_a_bell_that_is_there_still_rings(tmp_path, monkeypatch):
    bell = Bell(tmp_path / "70-7")
    bell.ring()
    os.utime(tmp_path / "70-7", (1, 1))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bell_module, "write_private", full)
    bell.ring()
    assert (tmp_path / "70-7").stat().st_mtime > 1


def test_what_cannot_be_rung_or_hung_is_said_and_breaks_nothing(tmp_path, capsys):
    (tmp_path / "file").touch()
    bell = Bell(tmp_path / "file" / "70-7")
    bell.hang()
    bell.ring()
    bell.take_down()
    said = capsys.readouterr()
    assert said.out == ""
    assert "no bell at" in said.err
    assert "cannot be rung" in said.err


@pytest.mark.skipif(os.name == "nt", reason="directories have no modes there")
def test_a_folder_that_others_can_write_to_is_not_used(tmp_path: Path, capsys):
    folder = tmp_path / "bells"
    folder.mkdir()
    folder.chmod(0o777)
    Bell(folder / "70-7").hang()
    assert "can be written by others" in capsys.readouterr().err
