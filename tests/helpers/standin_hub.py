"""A program in the hub's place, as small and quick as can be: listens, says so, greets, and no more.

Started as ``python standin_hub.py MODE run --ready-fd N`` with ``ECORELAY_HOME``. It notes each start in
``starts`` there and ends when there is a file ``end``. What it is asked to end for it notes in ``stops``, and
ends, unless ``ECORELAY_STANDIN_STAYS``. It has the version ``ECORELAY_STANDIN_VERSION``.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

WELCOME = {
    "type": "welcome",
    "version": 1,
    "hub_id": "standin",
    "app_version": "0",
    "name": "x",
    "peer_id": "p",
}


def main(mode: str, ready: int) -> None:
    home = Path(os.environ["ECORELAY_HOME"])
    if (home / "end").exists():
        return
    files = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    start = {"pid": os.getpid(), "cwd": os.getcwd(), "env": dict(os.environ), "files": files}
    with open(home / "starts", "a") as starts:
        starts.write(f"{json.dumps(start)}\n")
    if mode == "die":
        print("something went wrong", file=sys.stderr)
        sys.exit(1)
    if mode == "silent":
        wait_for_end(home)
    if mode == "garbage":
        os.write(ready, b"garbage\n")
        wait_for_end(home)
    if mode == "patient":
        threading.Thread(target=wait_for_end, args=(home, os._exit), daemon=True).start()
    lock = open(home / "hub.lock", "w")  # noqa: SIM115 - held to the end
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if mode == "patient" else fcntl.LOCK_NB))
    except BlockingIOError:
        say(ready, {"ok": False, "code": "already_registered", "message": "held"})
        return
    if mode.startswith("refuse"):
        code = "bad_args" if mode == "refuse" else "no_such_code"
        say(ready, {"ok": False, "code": code, "message": "spawn is a text"})
        return
    if mode == "slow":
        time.sleep(0.5)
    path = home / "hub.sock"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(128)
    endpoint = {
        "pid": os.getpid(),
        "version": os.environ.get("ECORELAY_STANDIN_VERSION", "of no release"),
        "kept": "ECORELAY_KEEP_ALIVE" in os.environ,
        "protocol": [1, 1],
        "hub_id": "standin",
        "transport": "unix",
        "path": str(path),
        "started_at": 0,
    }
    (home / "hub.json.new").write_text(json.dumps(endpoint))
    (home / "hub.json.new").rename(home / "hub.json")
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    say(ready, {"ok": True})
    wait_for_end(home)


def say(ready: int, words: dict[str, object]) -> None:
    if ready >= 0:
        with suppress(BrokenPipeError):
            os.write(ready, json.dumps(words).encode() + b"\n")
        os.close(ready)


def serve(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=greet, args=(connection,), daemon=True).start()


def greet(connection: socket.socket) -> None:
    with connection, connection.makefile("rwb") as lines:
        if lines.readline():
            lines.write(json.dumps(WELCOME).encode() + b"\n")
            lines.flush()
            for line in lines:
                if b'"hub_stop"' in line:
                    stop(json.loads(line).get("reason", ""))


def stop(reason: str) -> None:
    home = Path(os.environ["ECORELAY_HOME"])
    with open(home / "stops", "a") as stops:
        stops.write(f"{reason}\n")
    if "ECORELAY_STANDIN_STAYS" not in os.environ:
        (home / "hub.json").unlink(missing_ok=True)
        os._exit(0)


def wait_for_end(home: Path, leave: Callable[[int], object] = sys.exit) -> None:
    until = time.monotonic() + 60
    while not (home / "end").exists() and time.monotonic() < until:
        time.sleep(0.05)
    leave(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[4]) if len(sys.argv) > 4 else -1)
