"""The doctor's table: no hub, no session, two hundred of them, hostile words, modules that fail."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ecorelay import wire
from ecorelay.cli import doctor_assistant, doctor_checks, doctor_hub, doctor_table, screen
from ecorelay.cli.doctor_assistant import Looked, look, look_at_all
from ecorelay.cli.doctor_checks import Examined
from ecorelay.errors import RelayError
from ecorelay.paths import Paths
from ecorelay_adapters.clients import ASSISTANTS, together
from ecorelay_adapters.clients.assistant import (
    Client,
    Command,
    Configured,
    Finding,
    Machine,
    Plan,
    Step,
)

NOW = 1_700_000_000_000


class Module:
    """An assistant's module as a test wants it."""

    def __init__(self, name: str = "emacs", **does: Any) -> None:
        self.name = name
        self.title = name.title()
        self.does = does

    def _do(self, what: str, usual: Any) -> Any:
        found = self.does.get(what, usual)
        if isinstance(found, Exception):
            raise found
        return found

    def find(self, machine: Machine) -> Client | None:
        if "meets" in self.does:
            self.does["meets"].wait(timeout=30)
        found: Client | None = self._do("find", Client(path="/bin/x", version="1.2"))
        return found

    def configured(self, machine: Machine) -> Configured | None:
        found: Configured | None = self._do("configured", Configured())
        return found

    def plan_install(self, machine: Machine) -> Plan:
        found: Plan = self._do("plan", Plan())
        return found

    def plan_removal(self, machine: Machine) -> Plan:
        return Plan()

    def check(self, machine: Machine) -> list[Finding]:
        found: list[Finding] = self._do("check", [Finding(check=self.title, level="ok", says="well")])
        return found


class Renaming(Module):
    """Its sessions go by other names than its own."""

    clients = ("emacs-mcp", "emacs-old")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(environ={}, paths=Paths(tmp_path), program=("/bin/ecorelay",), version="1")


def looked(module: Module, **fields: Any) -> Looked:
    known = {"client": Client(path="/bin/x", version="1.2"), "set_up": "yes", "configured": Configured()}
    return Looked(assistant=module, **{**known, **fields})


def peer(name: str, client: str = "emacs", **fields: Any) -> wire.Peer:
    return wire.Peer(name=name, online=True, client=client, **fields)


def table(*rows: Looked, live: list[wire.Peer] | None) -> list[list[str]]:
    """Its lines, in cells."""
    text = doctor_table.shown(Examined(assistants=rows, live=live), NOW)
    return [line.replace("  ", "\t").split("\t") for line in text.splitlines()]


def cells(row: list[str]) -> list[str]:
    return [cell.strip() for cell in row if cell.strip()]


# --- asking the modules ----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["find", "configured", "plan", "check"])
def test_a_module_that_cannot_tell_is_a_finding_and_not_the_end(step: str, machine: Machine):
    fails: dict[str, Any] = {step: RelayError("bad_args", "settings.json is no JSON: line 3")}
    found = look(Module(**fails), machine)
    [finding] = found.findings
    assert (finding.level, finding.says) == ("fail", "settings.json is no JSON: line 3")
    assert finding.remedy.endswith("`ecorelay install emacs`")
    assert found.is_here


def test_what_is_set_up_is_so_up_to_date_or_not(machine: Machine):
    step = Step(title="write it", do=lambda: None)
    assert look(Module(), machine).set_up == "yes"
    assert look(Module(plan=Plan(steps=(step,))), machine).set_up == "outdated"
    assert look(Module(configured=None, plan=Plan(steps=(step,))), machine).set_up == "no"


def test_what_fails_is_not_set_up(machine: Machine):
    step = Step(title="write it", do=lambda: None)
    fails = Finding(check="x", level="fail", says="no")
    warns = Finding(check="x", level="warn", says="well")
    assert look(Module(check=[fails]), machine).set_up == "no"
    assert look(Module(check=[warns]), machine).set_up == "yes"
    assert look(Module(check=[fails], plan=Plan(steps=(step,))), machine).set_up == "outdated"
    assert look(Module(plan=Plan(problem="it is broken")), machine).set_up == "no"
    assert look(Module(plan=Plan(steps=(step,), problem="it is broken")), machine).set_up == "outdated"


async def test_what_cannot_be_run_is_not_set_up(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    gone = Configured(server=Command(words=("/nowhere/ecorelay", "mcp")))
    monkeypatch.setattr(doctor_checks, "ASSISTANTS", [Module(configured=gone), Module("vim")])
    monkeypatch.setattr(doctor_hub, "check_hub", _no_hub)
    examined = await doctor_checks.examine(machine, lambda finding: None)
    assert [each.set_up for each in examined.assistants] == ["no", "yes"]


async def _no_hub(machine: Machine, heard: Any) -> AsyncIterator[Finding]:
    if heard is None:
        yield Finding(check="hub", level="fail", says="none")


@pytest.mark.parametrize("terminal", [True, False])
async def test_what_takes_long_is_said_to_a_person(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: Any, terminal: bool
):
    monkeypatch.setattr(together, "SLOW_S", 0.0)
    monkeypatch.setattr(screen, "is_terminal", lambda stream: terminal)
    meeting = threading.Barrier(2)
    asked = threading.Timer(0.2, meeting.wait)
    asked.start()
    await look_at_all([Module(meets=meeting)], machine)
    asked.join()
    assert capsys.readouterr().err == ("looking for assistants…\n" if terminal else "")


def test_what_is_not_here_at_all_is_not_checked(machine: Machine):
    found = look(Module(find=None, configured=None, check=AssertionError()), machine)
    assert not found.is_here
    assert look(Module(find=None), machine).is_here


async def test_modules_are_asked_side_by_side_and_told_in_order(machine: Machine):
    meeting = threading.Barrier(4)  # where one alone would wait for ever
    found = await look_at_all([Module(f"m{number}", meets=meeting) for number in range(4)], machine)
    assert [each.assistant.name for each in found] == ["m0", "m1", "m2", "m3"]


async def test_nothing_is_run_of_what_was_not_set_up(machine: Machine):
    found = [
        each
        async for each in doctor_assistant.check_assistant(look(Module(configured=None), machine), machine)
    ]
    assert [each.says for each in found] == ["well"]


def test_each_assistant_that_is_known_has_names_for_its_sessions_of_its_own():
    names = [client for each in ASSISTANTS for client in doctor_table.clients_of(each)]
    assert len(names) == len(set(names))
    assert doctor_table.clients_of(Renaming()) == ("emacs-mcp", "emacs-old")


# --- what it shows ---------------------------------------------------------------------------------------


def test_without_a_hub_it_is_not_known_who_is_live():
    head, row = table(looked(Module()), live=None)
    assert cells(head) == ["ASSISTANT", "VERSION", "SET UP", "LIVE", "MAIL BY", "PROVED"]
    assert cells(row) == ["Emacs", "1.2", "yes", "?", "-", "-"]


def test_with_nobody_live_it_is_said():
    [_, row] = table(looked(Module()), live=[])
    assert cells(row) == ["Emacs", "1.2", "yes", "0", "-", "-"]


def test_what_is_not_here_is_named_in_one_line():
    absent = [
        looked(Module(name), client=None, configured=None, set_up="no") for name in ("vim", "ed", "nano")
    ]
    lines = table(looked(Module()), *absent, live=[])
    assert len(lines) == 3
    assert lines[-1] == ["not found here: Vim, Ed, Nano"]
    assert table(*absent, live=[]) == [["not found here: Vim, Ed, Nano"]]
    assert table(live=[]) == []


def test_one_that_is_set_up_and_gone_or_broken_has_its_row():
    gone = looked(Module("vim"), client=None)
    broken = looked(Module("ed"), client=Client(path="/bin/ed", problem="it crashes"), set_up="outdated")
    mute = looked(Module("nano"), client=Client(path="/bin/nano"), configured=None, set_up="no")
    rows = [cells(row)[:3] for row in table(gone, broken, mute, live=[])[1:]]
    assert rows == [["Vim", "not found", "yes"], ["Ed", "cannot be run", "outdated"], ["Nano", "?", "no"]]


def test_one_that_is_live_has_its_row_though_nothing_of_it_is_found():
    absent = looked(Module(), client=None, configured=None, set_up="no")
    [_, row] = table(absent, live=[peer("a")])
    assert cells(row) == ["Emacs", "not found", "no", "1", "pull", "nothing yet"]


def test_live_sessions_are_counted_with_what_mail_comes_by_and_what_proved_it_last():
    live = [
        peer("a", carrier="hook", push=True, evidence_at=NOW - 7_200_000),
        peer("b", carrier="hook", push=True, evidence_at=NOW - 180_000),
        peer("c", push=True),
        peer("d"),
        peer("x", client="something else"),
    ]
    [_, row, others] = table(looked(Module()), live=live)
    assert cells(row) == ["Emacs", "1.2", "yes", "4", "hook, push, pull", "3 min ago"]
    assert cells(others) == ["other MCP clients", "-", "-", "1", "pull", "nothing yet"]


def test_sessions_go_by_the_names_that_the_module_says():
    live = [peer("a", client="emacs-mcp"), peer("b", client="emacs-old"), peer("c", client="emacs")]
    [_, row, others] = table(looked(Renaming()), live=live)
    assert (cells(row)[3], cells(others)[3]) == ("2", "1")


def test_two_hundred_sessions_are_one_row_and_it_stays_narrow():
    live = [peer(f"p{number}", carrier=f"carrier-{number % 3}") for number in range(200)]
    text = doctor_table.shown(Examined(assistants=[looked(Module())], live=live), NOW)
    assert "200" in text
    assert len(text.splitlines()) == 2
    assert max(map(len, text.splitlines())) < 100


def test_words_of_others_are_made_harmless():
    bad = looked(Module(), client=Client(path="/x", version="1\x1b[2J\n2"))
    text = doctor_table.shown(Examined(assistants=[bad], live=[peer("a", carrier="\x1b]0;x\x07")]), NOW)
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2


def test_as_json_all_that_are_known_are_there_with_the_same_fields():
    absent = looked(Module("vim"), client=None, configured=None, set_up="no")
    live = [peer("b", push=True, evidence_at=NOW), peer("a")]
    rows = list(doctor_table.fields(Examined(assistants=[looked(Module()), absent], live=live)))
    assert rows == [
        {
            "name": "emacs",
            "title": "Emacs",
            "found": True,
            "path": "/bin/x",
            "version": "1.2",
            "problem": "",
            "configured": "yes",
            "sessions": 2,
            "carriers": ["pull", "push"],
            "evidence_at": "2023-11-14T22:13:20.000Z",
        },
        {
            "name": "vim",
            "title": "Vim",
            "found": False,
            "path": "",
            "version": "",
            "problem": "",
            "configured": "no",
            "sessions": 0,
            "carriers": [],
            "evidence_at": "",
        },
    ]
    [row] = doctor_table.fields(Examined(assistants=[absent]))
    assert row["sessions"] is None
