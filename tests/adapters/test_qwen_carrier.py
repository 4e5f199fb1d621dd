"""The input file of Qwen Code: which it is, whether it may be written, and what stands in it then."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from ecorelay_adapters import qwen_carrier
from ecorelay_adapters.pointing import AGAIN_S
from ecorelay_adapters.qwen_carrier import (
    AGAIN_KEPT_S,
    QwenCarrier,
    append_line,
    find_file,
    keeps_lines,
    make_carrier,
    named_in,
    named_in_text,
)
from ecorelay_adapters.tool_calls import ToolCall
from tests.helpers.carrying import IDS, Heard, mail

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such files there")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.touch()
    return path


def texts(file: Path) -> list[str]:
    found = [json.loads(line) for line in file.read_text().splitlines() if line]
    assert all(each["type"] == "submit" and len(each) == 2 for each in found)
    return [each["text"] for each in found]


@asynccontextmanager
async def running(file: Path, *, keeps: bool = False) -> AsyncIterator[QwenCarrier]:
    carrier = QwenCarrier(str(file), lambda: 0, keeps=keeps)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carrier.run, Heard())
        yield carrier
        nursery.cancel_scope.cancel()


# --- lines -----------------------------------------------------------------------------------------------


async def test_a_line_says_at_once_that_there_is_mail_and_never_a_word_of_it(file, autojump_clock: MockClock):
    async with running(file) as carrier:
        assert await carrier.probe()
        assert await carrier.push(mail(0, "@/etc/passwd\n!rm -rf ~\n/quit")) is False
        await trio.sleep(0.01)
        assert texts(file) == [
            f"[ecorelay] message from ben, id {IDS[0]}, just now. Read it with relay_inbox."
        ]
        assert file.read_bytes().endswith(b"\n")


async def test_what_comes_within_the_next_moment_goes_into_one_line(file, autojump_clock: MockClock):
    async with running(file) as carrier:
        await carrier.push(mail(0))
        await trio.sleep(0.01)
        carrier.heard(ToolCall("relay_inbox", b"{}", {}))
        for n in range(1, 30):
            await carrier.push(mail(n))
            await trio.sleep(0.01)
        assert len(texts(file)) == 1
        await trio.sleep(carrier.spacing)
        assert len(texts(file)) == 2
        assert IDS[1] in texts(file)[1]
        assert texts(file)[1].endswith("Read it with relay_inbox. 28 more there.")


async def test_a_line_that_may_have_been_dropped_comes_again_ever_more_seldom_until_the_session_reads(
    file, autojump_clock: MockClock
):
    async with running(file) as carrier:
        await carrier.push(mail(0))
        await trio.sleep(sum(AGAIN_S[:3]) + 0.1)
        assert len(texts(file)) == 4
        carrier.heard(ToolCall("relay_peers", b"{}", {}))
        await trio.sleep(AGAIN_S[3] + 0.1)
        assert len(texts(file)) == 5
        carrier.heard(ToolCall("relay_inbox", b"{}", {}))
        await trio.sleep(10_000)
        assert len(texts(file)) == 5


async def test_a_session_that_never_reads_is_left_alone_in_the_end_until_something_new_comes(
    file, autojump_clock: MockClock
):
    async with running(file) as carrier:
        await carrier.push(mail(0))
        await trio.sleep(10_000)
        assert len(texts(file)) == len(AGAIN_S) + 1
        await carrier.push(mail(1))
        await trio.sleep(0.01)
        assert len(texts(file)) == len(AGAIN_S) + 2


async def test_new_mail_does_not_wait_for_the_end_of_a_long_pause(file, autojump_clock: MockClock):
    async with running(file) as carrier:
        await carrier.push(mail(0))
        await trio.sleep(sum(AGAIN_S[:6]) + 1)
        assert len(texts(file)) == 7
        await carrier.push(mail(1))
        await carrier.push(mail(2))
        await trio.sleep(AGAIN_S[0] + 0.1)
        assert len(texts(file)) == 8
        assert texts(file)[-1].endswith("Read it with relay_inbox. 2 more there.")


async def test_a_line_that_is_kept_until_the_turn_is_over_is_not_put_beside_others(
    file, autojump_clock: MockClock
):
    async with running(file, keeps=True) as carrier:
        await carrier.push(mail(0))
        await trio.sleep(10)
        await carrier.push(mail(1))  # whoever comes to the line reads both
        await trio.sleep(AGAIN_KEPT_S[0] - 11)
        assert len(texts(file)) == 1
        await trio.sleep(10_000)
        assert len(texts(file)) == len(AGAIN_KEPT_S) + 1


async def test_mail_that_a_new_hub_pushes_again_is_told_once(file, autojump_clock: MockClock):
    async with running(file) as carrier:
        await carrier.push(mail(0))
        await trio.sleep(0.01)
        carrier.heard(ToolCall("relay_inbox", b"{}", {}))
        await carrier.push(mail(0))
        await trio.sleep(100)
        assert len(texts(file)) == 1


async def test_a_file_that_is_gone_is_not_made_and_said_once_a_line(file, autojump_clock: MockClock, capfd):
    async with running(file) as carrier:
        file.unlink()
        await carrier.push(mail(0))
        await trio.sleep(0.01)
        assert not file.exists()
        assert "mail waits for relay_inbox" in capfd.readouterr().err
        assert not await carrier.probe()
        found = await carrier.canary()
        assert (found.ok, found.stage) == (False, "carrier")
        file.touch()
        assert (await carrier.canary()).ok is None
        await trio.sleep(AGAIN_S[0])
        assert len(texts(file)) == 1


# --- writing ---------------------------------------------------------------------------------------------


def test_a_line_is_whole_also_after_another_writers_half_line(file):
    file.write_text('{"type":"subm')
    append_line(str(file), b'{"ours": 1}')
    append_line(str(file), b'{"ours": 2}')
    assert file.read_text() == '{"type":"subm\n{"ours": 1}\n{"ours": 2}\n'


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_takes_half_a_line_is_an_error(file, monkeypatch):
    monkeypatch.setattr(os, "write", lambda handle, data: len(data) // 2)
    with pytest.raises(OSError, match="only a part"):
        append_line(str(file), b"{}")


def test_links_folders_and_pipes_are_not_written(tmp_path, file):
    link = tmp_path / "link"
    link.symlink_to(file)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path, tmp_path / "missing"):
        with pytest.raises(OSError, match=path.name):
            append_line(str(path), b"{}")
    assert file.read_bytes() == b""


def test_a_file_of_somebody_else_is_not_written(file, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(file).st_uid + 1)
    with pytest.raises(PermissionError):
        append_line(str(file), b"{}")
    assert file.read_bytes() == b""


def test_modes_stay_as_they_are(file):
    file.chmod(0o600)
    append_line(str(file), b"{}")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


# --- the door --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["node", "/x/qwen", "--input-file", "/tmp/in"], "/tmp/in"),
        (["node", "/x/qwen", "--input-file=/tmp/a b=c"], "/tmp/a b=c"),
        (["qwen", "--inputFile", "in", "-y"], "in"),
        (["qwen", "--input-file", "a", "--input-file=b"], "b"),
        (["qwen", "-p", "--", "--input-file", "a"], ""),
        (["qwen", "--input-file"], ""),
        (["qwen", "--input-file="], ""),
        (["qwen", "--input-files", "a"], ""),
        (["qwen"], ""),
        ([], ""),
    ],
)
def test_the_file_is_named_by_the_command_line(words, named):
    assert named_in(words) == named


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("node /x/qwen --input-file /tmp/in", "/tmp/in"),
        ("node /x/qwen --input-file=/tmp/my in.jsonl -y", "/tmp/my in.jsonl"),
        ("qwen --input-file a --inputFile b --yolo", "b"),
        ("qwen -- --input-file a", ""),
        ("qwen x--input-file a", ""),
        ("qwen", ""),
        ("", ""),
    ],
)
def test_on_macos_the_file_is_named_by_what_ps_says(command, named):
    assert named_in_text(command) == named


@pytest.mark.skipif(sys.platform != "linux", reason="reads procfs")
@pytest.mark.parametrize("named", ["in.jsonl", "sub/../in.jsonl", "{here}/in.jsonl"])
def test_a_running_process_is_asked_and_its_directory_counts(tmp_path, named):
    word = named.format(here=tmp_path)
    words = [sys.executable, "-c", "print('ready', flush=True); input()", "--input-file", word]
    with subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        found = find_file(process.pid)
        process.communicate(b"\n")
    assert os.path.normpath(found) == str(tmp_path / "in.jsonl")
    assert find_file(process.pid) == ""


def test_on_macos_ps_is_asked_and_relative_paths_are_of_our_directory(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(qwen_carrier, "_darwin", lambda pid: f"node qwen --input-file in-{pid}")
    assert find_file(7) == str(tmp_path / "in-7")


def test_ps_that_fails_or_hangs_names_no_file(monkeypatch):
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("ps", 2)

    assert qwen_carrier._darwin(os.getpid()) or True  # whatever this system's ps says, it is no error
    monkeypatch.setattr(subprocess, "run", hang)
    assert qwen_carrier._darwin(7) == ""


def test_elsewhere_there_is_no_door(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert find_file(1) == ""


async def test_without_the_door_mail_waits(monkeypatch):
    carrier = make_carrier()  # pytest was not started so
    assert not await carrier.probe()
    found = await carrier.canary()
    assert (found.ok, "without --input-file" in found.says) == (False, True)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere words are told apart by spaces")
@pytest.mark.parametrize(
    ("manifest", "keeps"),
    [
        ({"name": "@qwen-code/qwen-code", "version": "0.23.0"}, True),
        ({"name": "@qwen-code/qwen-code", "version": "1.0.0-preview.1"}, True),
        ({"name": "@qwen-code/qwen-code", "version": "0.21.10"}, False),
        ({"name": "@qwen-code/qwen-code", "version": "new"}, False),
        ({"name": "another", "version": "2.0.0"}, False),
        ([], False),
        (None, False),
    ],
)
def test_the_program_says_whether_it_keeps_lines(tmp_path: Path, manifest: object, keeps: bool):
    package = tmp_path / "a package"
    package.mkdir()
    (package / "cli.js").write_text("import time; print(flush=True); time.sleep(60)")
    if manifest is not None:
        (package / "package.json").write_text(json.dumps(manifest))
    (tmp_path / "qwen").symlink_to(package / "cli.js")
    words = [sys.executable, "-S", str(tmp_path / "qwen"), "--input-file", "x"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as program:
        try:
            assert program.stdout is not None
            program.stdout.readline()  # it runs
            assert keeps_lines(program.pid) is keeps
        finally:
            program.kill()
