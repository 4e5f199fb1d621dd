"""What the doctor sees of each assistant: its own module's word, and what it runs, run exactly so."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import BinaryIO, Final, Literal

import trio
from msgspec import Struct, structs

from ecorelay.cli import screen
from ecorelay.cli.demo_mcp import Assistant as McpClient, AssistantError
from ecorelay.errors import RelayError
from ecorelay.home import HOME_VARIABLE
from ecorelay_adapters.clients.assistant import (
    Assistant,
    Client,
    Command,
    Configured,
    Finding,
    Hook,
    Machine,
)
from ecorelay_adapters.clients.together import side_by_side
from ecorelay_adapters.tools import TOOLS

SERVER_S: Final = 20.0
"""How long a server may take until it has told its tools."""
HOOK_S: Final = 10.0
"""How long a hook may take: longer, and the assistant ends it."""
HOOK_SLOW_S: Final = 0.5
HOOK_RUNS: Final = 3
_BARE: Final = ("HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "SYSTEMROOT")
"""What an assistant that was started from a desktop has for sure. Nothing that a terminal has set up."""


SetUp = Literal["yes", "no", "outdated"]


class Looked(Struct, frozen=True, kw_only=True):
    """What an assistant's own module sees of it. Nothing is checked where nothing is here."""

    assistant: Assistant
    client: Client | None = None
    configured: Configured | None = None
    set_up: SetUp = "no"
    findings: Sequence[Finding] = ()

    @property
    def is_here(self) -> bool:
        """Whether the assistant, or anything of ours for it, is."""
        return self.client is not None or self.configured is not None or bool(self.findings)

    def judged(self, findings: Sequence[Finding]) -> Looked:
        """The same, once all this was found: what fails is not set up."""
        failed = any(each.level == "fail" for each in findings)
        return structs.replace(self, set_up="no") if failed and self.set_up == "yes" else self


async def look_at_all(assistants: Sequence[Assistant], machine: Machine) -> list[Looked]:
    """Ask each assistant's module, side by side."""
    ask = partial(look, machine=machine)
    return await trio.to_thread.run_sync(side_by_side, ask, assistants, say_looking)


def say_looking() -> None:
    """Tell a person at a terminal what takes so long."""
    if screen.is_terminal(sys.stderr):
        screen.say("looking for assistants…")


def look(assistant: Assistant, machine: Machine) -> Looked:
    """Ask one assistant's module."""
    client, configured = None, None
    try:
        client = assistant.find(machine)
        configured = assistant.configured(machine)
        set_up: SetUp = "no"
        findings: Sequence[Finding] = ()
        if configured is not None:
            plan = assistant.plan_install(machine)
            set_up = "outdated" if plan.steps else "no" if plan.problem else "yes"
        if client is not None or configured is not None:
            findings = assistant.check(machine)
    except (RelayError, OSError) as error:
        remedy = f"mend that, then `ecorelay install {assistant.name}`"
        says = screen.trouble(error)
        trouble = Finding(check=assistant.title, level="fail", says=says, remedy=remedy)
        return Looked(assistant=assistant, client=client, configured=configured, findings=(trouble,))
    looked = Looked(assistant=assistant, client=client, configured=configured, set_up=set_up)
    return structs.replace(looked.judged(findings), findings=findings)


async def check_assistant(looked: Looked, machine: Machine) -> AsyncIterator[Finding]:
    """What was seen, then what the assistant was told to run, run exactly so: one after another, timed."""
    for each in looked.findings:
        yield each
    if looked.configured is None:
        return
    title = looked.assistant.title
    if looked.configured.server is not None:
        yield await check_server(f"{title} tools", looked.configured.server, machine.environ)
    for hook in looked.configured.hooks:
        yield await check_hook(f"{title} hook", hook, machine.environ)


async def check_server(check: str, command: Command, environ: Mapping[str, str]) -> Finding:
    """Run the server's command line as the assistant does, and ask it for its tools.

    It has a data directory of its own for that time: no hub hears of a session that is none.
    """
    remedy = "ecorelay install, or reinstall ecorelay"
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ecorelay-doctor-") as folder:
        alone = {HOME_VARIABLE: os.path.join(folder, "home"), "ECORELAY_SPAWN": "no"}
        client, why = None, f"it did not tell its tools within {SERVER_S:.0f} s"
        try:
            with trio.move_on_after(SERVER_S):
                client = await _introduced(command, {**_bare(environ), **command.variables, **alone}, folder)
        except (AssistantError, OSError) as error:
            why = str(error)
    seconds = time.perf_counter() - began
    if client is None:
        return Finding(check=check, level="fail", says=f"`{command}` fails: {why}", remedy=remedy)
    if len(client.tools) != len(TOOLS):
        says = f"`{command}` has {len(client.tools)} tools, not {len(TOOLS)}"
        return Finding(check=check, level="fail", says=says, remedy=remedy)
    return Finding(
        check=check, level="ok", says=f"{len(client.tools)} tools after {seconds:.1f} s ({command})"
    )


async def _introduced(command: Command, environ: Mapping[str, str], folder: str) -> McpClient:
    with _file_in(folder) as talk:
        process = await trio.lowlevel.open_process(
            command.words,
            cwd=folder,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=talk,
        )
        client = McpClient("the server", process)
        failed: AssistantError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.read)
                try:
                    await client.introduce()
                    await client.leave()
                except AssistantError as error:
                    failed = error
                nursery.cancel_scope.cancel()
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        if failed is not None:
            talk.seek(0)
            raise AssistantError(_with_last_words(str(failed), talk.read()))
    return client


def _file_in(folder: str) -> BinaryIO:
    return open(os.path.join(folder, "stderr"), "w+b")


async def check_hook(check: str, hook: Hook, environ: Mapping[str, str]) -> Finding:
    """Run a hook's command line with an event that does nothing, and see how long it takes."""
    words = ["/bin/sh", "-c", hook.command.shell] if hook.command.shell else list(hook.command.words)
    times = []
    for _ in range(HOOK_RUNS):
        began = time.perf_counter()
        ended = None
        with trio.move_on_after(HOOK_S):
            ended = await trio.run_process(
                words,
                stdin=hook.event,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env={**_bare(environ), **hook.command.variables},
            )
        times.append(time.perf_counter() - began)
        if ended is None or ended.returncode not in hook.exits:
            why = f"not done within {HOOK_S:.0f} s"
            if ended is not None:
                why = _with_last_words(f"it ended with {ended.returncode}", ended.stderr)
            return Finding(
                check=check,
                level="fail",
                says=f"`{hook.command}` fails: {why}",
                remedy="ecorelay install, or reinstall ecorelay",
            )
    best = min(times)
    says = f"{best * 1000:.0f} ms ({hook.command})"
    if best > HOOK_SLOW_S:
        remedy = "it runs at every prompt and tool: is the machine busy, the disk slow, a virus scanner on?"
        return Finding(check=check, level="warn", says=says, remedy=remedy)
    return Finding(check=check, level="ok", says=says)


def _bare(environ: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in environ.items() if name in _BARE or name.startswith("COVERAGE_")}
    return {**kept, "PATH": os.defpath}


def _with_last_words(why: str, stderr: bytes) -> str:
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return f"{why} ({lines[-1][:300]})" if lines else why
