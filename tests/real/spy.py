"""Stands before a hook: passes everything on, both ways, and keeps it. ``spy.py LOG COMMAND``."""

import json
import os
import subprocess
import sys
import time


def main(log: str, command: str) -> int:
    event = sys.stdin.buffer.read()
    began = time.monotonic()
    ended = subprocess.run(["/bin/sh", "-c", command], input=event, capture_output=True, check=False)
    took = time.monotonic() - began
    sys.stdout.buffer.write(ended.stdout)
    sys.stderr.buffer.write(ended.stderr)
    line = json.dumps(
        {
            "input": json.loads(event),
            "output": ended.stdout.decode("utf-8", "replace"),
            "errors": ended.stderr.decode("utf-8", "replace"),
            "code": ended.returncode,
            "seconds": round(took, 4),
            "at": time.time(),
        }
    )
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as file:
        file.write(line + "\n")
    return ended.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
