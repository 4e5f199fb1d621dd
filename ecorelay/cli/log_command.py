"""``ecorelay logs``: what the hub, or the adapters, wrote down, for people. It needs no hub."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, Final

import trio
import typer

from ecorelay.cli import screen, session, words

commands = typer.Typer(**words.TYPER)

LINES: Final = 50
ROTATED: Final = 9
"""Older files looked for, more than there ever are: hub.log.1, hub.log.2, ..."""
READ_MAX: Final = 4 * 1024 * 1024
"""Bytes of one file; it is rotated at 1 MiB."""
LOOK_S: Final = 0.25
_COLOURS: Final = {"warning": "yellow", "error": "red", "critical": "red"}


@commands.command(
    "logs", **words.with_example("ecorelay logs", "ecorelay logs -n 500", "ecorelay logs --adapter --follow")
)
def logs(
    number: Annotated[
        int, typer.Option("--lines", "-n", min=0, metavar="N", help="The last so many lines.")
    ] = LINES,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is added.")] = False,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="The log of the adapters beside the assistants instead.")
    ] = False,
    as_json: words.Json = False,
) -> None:
    """Show the hub's log, oldest line first. No text of a message is ever in it.

    --json prints one object a line.

    """
    paths = session.paths()
    path, why = (
        (paths.adapter_log, "no adapter had anything to say")
        if adapter
        else (paths.log, "no hub has run here")
    )
    show = _print_json if as_json else _print
    session.run(lambda: _logs(path, why, number, follow, show))


async def _logs(
    path: Path, why: str, number: int, follow: bool, show: Callable[[Sequence[bytes]], None]
) -> None:
    file = _opened(path)
    try:
        fresh = file.read(READ_MAX).split(b"\n") if file else [b""]
        rest = fresh.pop()
        lines = [*_older(path, number - len(fresh)), *fresh]
        if not follow and rest:
            lines.append(rest)
        lines = [line for line in lines if line.strip()]
        if number:
            show(lines[-number:])
        if not lines:
            screen.say(f"no log yet in {path.parent}: {why}")
        while follow:
            await trio.sleep(LOOK_S)
            data = file.read(READ_MAX) if file else b""
            if data:
                *whole, rest = (rest + data).split(b"\n")
                show([line for line in whole if line.strip()])
            elif _is_another(path, file):
                if file is not None:
                    file.close()
                file, rest = _opened(path), b""
    finally:
        if file is not None:
            file.close()


def _opened(path: Path) -> BufferedReader | None:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        return None


def _is_another(path: Path, file: BufferedReader | None) -> bool:
    """Whether the log at `path` is no longer the open one, or was cut."""
    try:
        now = os.stat(path)
    except FileNotFoundError:
        return False
    if file is None:
        return True
    ours = os.fstat(file.fileno())
    return not os.path.samestat(now, ours) or now.st_size < file.tell()


def _older(path: Path, number: int) -> list[bytes]:
    """At least the last `number` lines of the rotated files, if there are so many."""
    lines: list[bytes] = []
    for age in range(1, ROTATED + 1):
        if len(lines) >= number:
            break
        file = _opened(path.with_name(f"{path.name}.{age}"))
        if file is None:
            break
        with file:
            lines = file.read(READ_MAX).split(b"\n")[:-1] + lines
    return lines


# --- one line -------------------------------------------------------------------------------------------


def _read(line: bytes) -> dict[str, Any]:
    """The entry of a line; one that is no entry (a dying Python's words) has no time and no level."""
    text = line.decode("utf-8", "replace")
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        entry = None
    if isinstance(entry, dict):
        ts, level, event = (str(entry.pop(key, "")) for key in ("ts", "level", "event"))
        return {"ts": ts, "level": level, "event": event, "fields": entry}
    return {"ts": "", "level": "", "event": text.rstrip("\r"), "fields": {}}


def _print_json(lines: Sequence[bytes]) -> None:
    for line in lines:
        screen.out_json(**_read(line))


def _print(lines: Sequence[bytes]) -> None:
    if lines:
        screen.out("".join([_shown(**_read(line)) for line in lines]))


def _shown(ts: str, level: str, event: str, fields: dict[str, Any]) -> str:
    if not level:
        return f"{screen.line(event)}\n"
    colour = _COLOURS.get(level, "dim")
    words = f"{screen.styled(screen.line(ts), 'dim')}  {screen.styled(f'{screen.line(level):<7}', colour)}"
    words += f"  {screen.styled(screen.line(event), 'bold')}"
    below = ""
    for key, value in fields.items():
        if key == "stack" and isinstance(value, list):
            below = "".join([screen.lines(str(each), "      ") + "\n" for each in value])
        elif value not in ("", [], {}, None):
            words += f"  {screen.line(key)}={screen.line(_spelled(value))}"
    return f"{words}\n{below}"


def _spelled(value: Any) -> str:
    if isinstance(value, str):
        return value if value and not set(value) & set(' "=') else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)
