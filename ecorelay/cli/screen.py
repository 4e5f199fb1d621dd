r"""Everything that reaches a terminal: data on stdout, talk on stderr, other people's words made harmless.

What peers wrote, and the names of directories, branches and programs, may hold escape sequences that move
the cursor, fake a prompt or reorder what is shown. None of that gets through: such characters are shown as
``\x1b`` or ``\u202e``, on terminals and in pipes alike. `--json` keeps every character, spelled so that a
terminal does nothing with it.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Any, Final, TextIO

import msgspec

from ecorelay.cli import exits
from ecorelay.errors import RelayError

JSON_VERSION: Final = 1
"""The ``v`` of every object `--json` prints; objects only grow under one version."""
STDOUT: Final = "stdout"
"""What stands for a file's name in an error of it."""

# Controls but tab and newline, separators that are none for a terminal, marks that reorder or hide text.
_UNSAFE_TEXT: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_UNSAFE_LINE: Final = re.compile(f"[\t\n]|{_UNSAFE_TEXT.pattern}")

_NO_CALENDAR_MS: Final = 253_402_300_800_000
"""The year 10000."""
_STYLES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


# --- other people's words -----------------------------------------------------------------------------


def _escaped(match: re.Match[str]) -> str:
    number = ord(match[0])
    if number < 0x100:
        return {9: "\\t", 10: "\\n", 13: "\\r"}.get(number, f"\\x{number:02x}")
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def line(words: str) -> str:
    """`words` for one line: a name, a directory, a branch. Line breaks and tabs are escaped too."""
    return _UNSAFE_LINE.sub(_escaped, words)


def lines(words: str, indent: str = "    ") -> str:
    """A text of one or more lines, each after `indent`, so that none can pass for a line of ours."""
    safe = _UNSAFE_TEXT.sub(_escaped, words.replace("\r\n", "\n"))
    return "\n".join([(indent + each).rstrip() for each in safe.split("\n")])


def _json_escaped(match: re.Match[str]) -> str:
    number = ord(match[0])
    if number < 0x10000:
        return f"\\u{number:04x}"
    high, low = divmod(number - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


# --- where it goes ------------------------------------------------------------------------------------


def out(text: str) -> None:
    """Write data, flushed: on return whoever reads stdout can have it.

    Raises:
        BrokenPipeError: the reader is gone.
        OSError: it could not be written (a full disk, a closed descriptor).
    """
    if sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed", STDOUT)
    try:
        _write(sys.stdout, text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, STDOUT) from error  # a BrokenPipeError stays one


def say(text: str) -> None:
    """Talk to the person: one line on stderr, made harmless. Nobody listening there is no error."""
    _talk(line(text))


def _talk(text: str) -> None:
    try:
        _write(sys.stderr, text + "\n")
    except (OSError, ValueError):
        return


def trouble(error: Exception) -> str:
    """What an error says to a person; one of the system's names its file first."""
    if not isinstance(error, OSError):
        return getattr(error, "message", str(error))
    return (f"{error.filename}: " if error.filename else "") + (error.strerror or str(error))


def fail(message: str) -> None:
    """Say what went wrong. `message` is made harmless: it may quote a peer's words."""
    first, *rest = message.splitlines() or [""]
    _talk(styled("error:", "red", stream=sys.stderr) + " " + line(first))
    for each in rest:
        _talk("       " + line(each))


def refuse_unasked(what: str, yes: str) -> None:
    """Raise where there is nobody to be asked.

    Args:
        what: cannot be undone.
        yes: the option that says yes beforehand.

    Raises:
        RelayError: ``bad_args``, stdin is no terminal.
    """
    if not is_terminal(sys.stdin):
        raise RelayError(
            "bad_args",
            f"{what} cannot be undone, and stdin is no terminal to ask at: say {yes} if you mean it",
        )


def agreed(question: str) -> bool:
    """Ask at the terminal; whether the answer is yes."""
    try:
        _write(sys.stderr, line(question) + " [y/N] ")
    except (OSError, ValueError):
        return False
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def out_json(**fields: Any) -> None:
    """Write one JSON object with ``"v":1`` first, on one line. Raises as :func:`out`."""
    encoded = msgspec.json.encode({"v": JSON_VERSION, **fields}).decode()
    out(_UNSAFE_TEXT.sub(_json_escaped, encoded) + "\n")


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:  # started with a closed descriptor
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def quiet_stdout() -> None:
    """After a broken pipe: keep the interpreter from complaining about it once more at its end."""
    if sys.stdout is None:
        return
    try:
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, sys.stdout.fileno())
        os.close(handle)
    except (OSError, ValueError):
        return


# --- how it looks -------------------------------------------------------------------------------------


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at `stream`."""
    return stream is not None and not stream.closed and stream.isatty()


def colourful(stream: TextIO | None) -> bool:
    """Whether `stream` may be styled: a terminal that knows how, of a person who does not mind."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, *styles: str, stream: TextIO | None = None) -> str:
    """`text` in some of `bold dim red green yellow cyan` where `stream` (default stdout) shows it."""
    if not text or not colourful(sys.stdout if stream is None else stream):
        return text
    codes = ";".join(_STYLES[style] for style in styles)
    return f"\x1b[{codes}m{text}\x1b[0m"


def symbol(nice: str, plain: str) -> str:
    """`nice` where stdout can show it, else `plain`."""
    try:
        nice.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError, AttributeError):
        return plain
    return nice


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns two blanks apart, the last one as long as it is. Cells hold no line breaks."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    text = ""
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        text += "  ".join(cells).rstrip() + "\n"
    return text


def many(count: int, noun: str) -> str:
    """``1 message``, ``2 messages``, ``2 mailboxes``."""
    ending = "" if count == 1 else "es" if noun.endswith("x") else "s"
    return f"{count} {noun}{ending}"


def age(since_ms: int, now_ms: int) -> str:
    """How long ago: ``just now``, ``3 min ago``, ``2 d ago``. Another machine's clock may be ahead."""
    seconds = (now_ms - since_ms) // 1000
    if seconds < 5:
        return "just now"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 5 min``, ``2 d 4 h``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def size(count: int) -> str:
    """Bytes for a person: ``512 B``, ``4.0 KiB``, ``1.2 MiB``."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024 or unit == "GiB":
            return f"{value:.1f} {unit}"
    raise AssertionError(count)


def clock(ms: int) -> str:
    """The local time of the day, ``14:05:09.123``; of another day with its date before it."""
    if not 0 < ms < _NO_CALENDAR_MS:
        return "-"
    then = time.localtime(ms // 1000)
    day = "" if then[:3] == time.localtime()[:3] else time.strftime("%Y-%m-%d ", then)
    return f"{day}{time.strftime('%H:%M:%S', then)}.{ms % 1000:03d}"


def between(ms: int) -> str:
    """A span for a person: ``+8 ms``, ``+1.4 s``, ``+12 min``; from 1 min on as :func:`duration`."""
    if ms < 1000:
        return f"+{max(ms, 0)} ms"
    return f"+{ms / 1000:.1f} s" if ms < 60_000 else f"+{duration(ms / 1000)}"


def timestamp(ms: int) -> str:
    """RFC 3339 UTC with milliseconds; empty for 0 and for what no calendar holds."""
    if not 0 < ms < _NO_CALENDAR_MS:
        return ""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000))
    return f"{stamp}.{ms % 1000:03d}Z"


def home_relative(path: str) -> str:
    """A directory with the person's home as ``~``."""
    home = os.path.expanduser("~").rstrip(os.sep)
    if home and (path == home or path.startswith(home + os.sep)):
        return "~" + path[len(home) :]
    return path


def pipe_closed() -> SystemExit:
    """To raise when stdout's reader is gone."""
    quiet_stdout()
    return SystemExit(exits.PIPE_CLOSED)
