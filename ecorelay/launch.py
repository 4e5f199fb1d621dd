"""Starting a hub as a process of its own, which outlives whoever started it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final, cast

import msgspec
import trio
from msgspec import Struct

from ecorelay.errors import CODES, RelayError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ecorelay.errors import Code
    from ecorelay.paths import Paths

READY_S: Final = 10.0
"""How long a hub may take from its start until it listens."""
READY_MAX: Final = 64 * 1024

_KEPT: set[str] = {"HOME", "USER", "LOGNAME", "PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR"}
# What finds the interpreter's libraries and our packages again.
_KEPT |= {"PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONNOUSERSITE", "PYTHONUTF8"}
_KEPT |= {"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"}
_KEPT |= {"LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"}
# Windows cannot start a program without some of these.
_KEPT |= {"SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "TEMP", "TMP"}
_KEPT |= {"APPDATA", "LOCALAPPDATA", "USERPROFILE", "USERNAME"}
# The way to a relay server: proxies, which may hold a password, and whom TLS trusts.
_KEPT |= {"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
_KEPT |= {"SSL_CERT_FILE", "SSL_CERT_DIR"}
# COVERAGE_: hubs that tests start are measured too.
_KEPT_PREFIXES: Final = ("ECORELAY_", "XDG_", "LC_", "COVERAGE_")


class Ready(Struct, frozen=True):
    """The one line a started hub writes to ``--ready-fd``: it listens now, or why it does not."""

    ok: bool
    code: str = ""
    message: str = ""


def scrubbed(environ: Mapping[str, str]) -> dict[str, str]:
    """What of `environ` a hub gets: it lives long and must not keep anybody's API keys."""
    kept = {
        name: value
        for name, value in environ.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIXES) or (os.name == "nt" and name.upper() in _KEPT)
    }
    if path := kept.get("PYTHONPATH"):
        # The hub has another working directory.
        kept["PYTHONPATH"] = os.pathsep.join(os.path.abspath(part) for part in path.split(os.pathsep) if part)
    return kept


def hub_command(*words: str) -> list[str]:
    """The absolute command line that runs a hub with this interpreter and these packages."""
    if not sys.executable:
        raise RelayError(
            "unexpected", "this Python does not know its own path: start `ecorelay hub run` by hand"
        )
    # -P: nothing in the working directory may stand in for a module.
    return [sys.executable, "-P", "-m", "ecorelay", "hub", "run", *words]


async def start_hub(paths: Paths, environ: Mapping[str, str]) -> None:
    """Start a hub and wait until it listens. If this is cancelled it starts all the same.

    Args:
        paths: of its data directory, which exists.
        environ: what it inherits of this is in :func:`scrubbed`.

    Raises:
        RelayError: the hub's refusal, or it ended without one (``unexpected``), or took longer than
            10 s (``timeout``).
    """
    try:
        if sys.platform == "win32":
            # No pipe can be handed on by number here: the caller sees hub.json appear.
            await trio.to_thread.run_sync(_launch_windows, paths, scrubbed(environ))
            await trio.sleep(READY_S)
            raise _not_ready(paths)
        else:
            await _launch_and_wait(paths, scrubbed(environ))
    except (OSError, RuntimeError) as error:  # no program, descriptor or (RuntimeError) thread is to be had
        raise RelayError(
            "unexpected", f"the hub cannot be started: {error}; try `ecorelay hub run`"
        ) from error


def _not_ready(paths: Paths) -> RelayError:
    return RelayError(
        "timeout", f"the hub did not get ready within {READY_S:.0f} s: look into {paths.log}, or try again"
    )


def _refuse_unready(line: bytes, log: Path) -> None:
    try:
        ready = msgspec.json.decode(line, type=Ready)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise RelayError(
            "unexpected",
            f"the hub ended before it was ready{_last_words(log)}: see {log}, or try `ecorelay hub run`",
        ) from None
    if not ready.ok:
        code = cast("Code", ready.code) if ready.code in CODES else "unexpected"
        raise RelayError(code, ready.message or "the hub refused to start")


def _last_words(log: Path) -> str:
    """The last line of the log, where a Python that fails early puts its error."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f" ({last[:200]})" if last else ""


if sys.platform == "win32":

    def _launch_windows(paths: Paths, environ: dict[str, str]) -> None:
        with open(paths.log, "ab") as log:
            subprocess.Popen(
                hub_command(),
                cwd=paths.home,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                creationflags=subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP,
            )

else:

    async def _launch_and_wait(paths: Paths, environ: dict[str, str]) -> None:
        reading, writing = os.pipe()
        async with trio.lowlevel.FdStream(reading) as pipe:
            try:
                # In a thread: starting a process waits for it.
                await trio.to_thread.run_sync(_launch, paths, environ, writing)
            finally:
                os.close(writing)
            line = b""
            with trio.move_on_after(READY_S):
                while b"\n" not in line and len(line) < READY_MAX and (data := await pipe.receive_some()):
                    line += data
                _refuse_unready(line, paths.log)
                return
        raise _not_ready(paths)

    def _launch(paths: Paths, environ: dict[str, str], writing: int) -> None:
        command = hub_command("--ready-fd", str(writing))
        log = os.open(paths.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            # The shell ends at once, so the hub is nobody's child: it leaves no zombie in an assistant's
            # adapter, and it does not die with a tree of processes somebody ends.
            shell = subprocess.Popen(
                ["/bin/sh", "-c", '"$@" &', "sh", *command],
                cwd=paths.home,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(writing,),
                start_new_session=True,
            )
            shell.wait()
        finally:
            os.close(log)
