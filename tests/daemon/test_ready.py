"""What a started hub tells whoever started it."""

from __future__ import annotations

import os

import msgspec
import pytest

from ecorelay.daemon.ready import Starter, parse
from ecorelay.errors import RelayError
from ecorelay.launch import Ready


def read(handle: int) -> bytes:
    with open(handle, "rb") as pipe:
        return pipe.read()


def test_it_says_once_that_it_listens_and_closes_the_pipe(capsys: pytest.CaptureFixture[str]):
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    starter = Starter(parse(["--ready-fd", str(writing)]))
    assert not starter.watching
    assert not os.get_inheritable(writing)
    starter.tell_listening("at /x")
    starter.tell_refused(RelayError("unexpected", "too late"))
    assert msgspec.json.decode(read(reading), type=Ready) == Ready(ok=True)
    assert capsys.readouterr() == ("", "")


def test_a_refusal_goes_with_its_code_and_its_words():
    reading, writing = os.pipe()
    Starter(writing).tell_refused(RelayError("mailbox_error", "the disk is full"))
    assert read(reading) == b'{"ok":false,"code":"mailbox_error","message":"the disk is full"}\n'


def test_a_starter_that_left_is_no_trouble():
    reading, writing = os.pipe()
    os.close(reading)
    Starter(writing).tell_listening("at /x")


def test_a_person_is_told_in_words(capsys: pytest.CaptureFixture[str]):
    starter = Starter(parse([]))
    assert starter.watching
    starter.tell_listening("here listens at /x (pid 1)")
    starter.tell_refused(RelayError("unexpected", "whoever catches the error says it"))
    assert capsys.readouterr() == ("", "ecorelay hub: here listens at /x (pid 1)\n")


@pytest.mark.parametrize("words", [["--ready-fd"], ["--ready-fd", "x"], ["--ready-fd", "-1"], ["now"]])
def test_other_arguments_are_refused(words: list[str]):
    with pytest.raises(RelayError, match="takes no arguments"):
        parse(words)


def test_a_descriptor_that_is_not_there_is_refused():
    with pytest.raises(RelayError, match="there is no such descriptor"):
        Starter(10_000)
