"""The hub's log: small, private, and without anybody's words."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio

from ecorelay.daemon import log as log_module
from ecorelay.daemon.guard import contain, guard, log_crash
from ecorelay.daemon.log import FILES, log, log_to, stack_of, warn
from ecorelay.daemon.reasons import Ended, Reason
from ecorelay.errors import RelayError, WireError

SECRET = "the text of a message"


def lines_of(path: Path) -> list[dict[str, object]]:
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    with log_to(tmp_path / "hub.log"):
        yield tmp_path / "hub.log"


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_a_line_is_json_with_time_level_event_and_fields(path: Path):
    log("started", pid=17, problems=["one"])
    warn("no room", error="EMFILE")
    first, second = lines_of(path)
    assert str(first.pop("ts")).endswith("Z")
    assert first == {"level": "info", "event": "started", "pid": 17, "problems": ["one"]}
    assert second["level"] == "warning"


def test_what_libraries_warn_of_is_in_the_same_file(path: Path):
    logging.getLogger("trio.something").warning("careful: %s", 1)
    logging.getLogger("trio.something").info("chatter")
    (line,) = lines_of(path)
    assert (line["logger"], line["event"]) == ("trio.something", "careful: 1")


def test_an_exception_a_library_logs_keeps_its_words_to_itself(path: Path):
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("trio.something").exception("failed")
    (line,) = lines_of(path)
    assert "ValueError" in str(line["stack"])
    assert SECRET not in path.read_text()


@pytest.mark.guarantee("secrets-and-modes-0600")
def test_the_files_are_their_owners_alone_and_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log_module, "FILE_BYTES", 1000)
    before = os.umask(0)
    try:
        with log_to(tmp_path / "hub.log"):
            for number in range(200):
                log("something happened", number=number)
    finally:
        os.umask(before)
    files = sorted(tmp_path.iterdir())
    assert len(files) == FILES
    for file in files:
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.stat().st_size <= 1100
    assert lines_of(tmp_path / "hub.log")[-1]["number"] == 199


def test_after_the_block_nothing_more_is_written(tmp_path: Path):
    handlers = logging.getLogger().handlers[:]
    with log_to(tmp_path / "hub.log"):
        log("one")
    log("two")
    assert [line["event"] for line in lines_of(tmp_path / "hub.log")] == ["one"]
    assert logging.getLogger().handlers == handlers


def test_a_person_who_looks_on_sees_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with log_to(tmp_path / "hub.log", echo=True):
        log("started")
    assert '"event":"started"' in capsys.readouterr().err


def test_without_a_log_nothing_is_said(capsys: pytest.CaptureFixture[str]):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])
        log_crash("somewhere", raised(ValueError(SECRET)))
    assert capsys.readouterr() == ("", "")


def test_a_log_that_cannot_be_written_is_a_clear_refusal(tmp_path: Path):
    with pytest.raises(RelayError, match="cannot write the log"), log_to(tmp_path / "missing" / "hub.log"):
        pass


@pytest.mark.guarantee("no-text-in-logs")
@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        UnicodeEncodeError("utf-8", SECRET, 0, 1, "surrogates not allowed"),
        RuntimeError(SECRET),
        ExceptionGroup(SECRET, [ValueError(SECRET), ExceptionGroup(SECRET, [RuntimeError(SECRET)])]),
        msgspec.ValidationError(SECRET),
    ],
)
def test_a_crash_is_logged_with_its_stack_and_without_its_words(path: Path, error: Exception):
    text = SECRET  # noqa: F841 - a local variable that a careless traceback would show

    def broken() -> None:
        try:
            raise error
        except Exception as cause:
            raise LookupError(SECRET) from cause

    assert not contain(broken, "store")
    (line,) = lines_of(path)
    assert (line["event"], line["where"]) == ("crash", "store")
    stack = line["stack"]
    assert isinstance(stack, list)
    assert any("test_log.py" in entry and "broken" in entry for entry in stack)
    assert type(error).__qualname__ in stack
    assert SECRET not in path.read_text()


def test_words_that_name_files_or_codes_are_kept():
    stack = stack_of(raised(FileNotFoundError(2, "No such file or directory", "/x")))
    assert stack[-1] == "FileNotFoundError: [Errno 2] No such file or directory: '/x'"
    assert stack_of(KeyError(17)) == ["KeyError: 17"]
    assert len(stack_of(TypeError("x" * 10_000))[0]) < 300


def test_an_endless_chain_of_causes_is_cut():
    error: Exception = ValueError()
    for _ in range(100):
        following = ValueError()
        following.__cause__ = error
        error = following
    assert len(stack_of(error)) < 10


# --- the guard ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Ended(Reason.EOF), Reason.EOF),
        (WireError("no frame"), Reason.GARBAGE),
        (trio.BrokenResourceError(), Reason.BROKEN),
        (trio.ClosedResourceError(), Reason.BROKEN),
        (ConnectionResetError(), Reason.BROKEN),
        (trio.TooSlowError(), Reason.STALLED),
        (ZeroDivisionError(), Reason.CRASH),
        (ExceptionGroup("", [ZeroDivisionError()]), Reason.CRASH),
    ],
)
async def test_the_guard_says_why_a_connection_ended(error: Exception, reason: Reason):
    async def serve() -> str:
        raise error

    assert await guard(serve) == reason


async def test_the_guard_passes_a_reason_on():
    async def serve() -> str:
        return "because"

    assert await guard(serve) == "because"


async def test_a_cancellation_passes_the_guard_and_a_crash_beside_it_does_not(path: Path):
    async def crash() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async def serve() -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash)
            nursery.start_soon(trio.sleep_forever)
        return "never"

    with trio.CancelScope() as scope:
        scope.cancel()
        await guard(serve)
        raise AssertionError("not cancelled")
    assert scope.cancelled_caught
    assert "ZeroDivisionError" in path.read_text()
