"""Stands for ``agy``: takes exactly ``agy agentapi send-message CONVERSATION TEXT``, with its variables.

It writes what it was given, one JSON line a call, beside itself into ``calls``; the file ``code`` there says
how it ends, the file ``slow`` that it takes long. It refuses with 1 what the real one is said to refuse.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

SECRET = "4f1c7d5e-not-to-be-seen"
ADDRESS = "localhost:61727"
CONVERSATION = "ec33ebf9-0cba-4100-8142-c61503f6c587"
ENVIRON = {
    "ANTIGRAVITY_LS_ADDRESS": ADDRESS,
    "ANTIGRAVITY_CSRF_TOKEN": SECRET,
    "ANTIGRAVITY_CONVERSATION_ID": CONVERSATION,
}


class Agy:
    """The program, in a directory of its own.

    Args:
        folder: where it is to be; put it on the path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        program = folder / "agy"
        program.write_text(f"#!{sys.executable}\n{Path(__file__).read_text()}")
        program.chmod(0o755)
        self.environ = {**ENVIRON, "PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder)}

    @property
    def calls(self) -> list[list[str]]:
        """The words of each call, the program's name left out."""
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def texts(self) -> list[str]:
        """What was sent."""
        return [call[-1] for call in self.calls]

    def fails(self, code: int) -> None:
        """From now on it ends so."""
        (self.folder / "code").write_text(str(code))

    def is_slow(self) -> None:
        """From now on it does not get done."""
        (self.folder / "slow").touch()


def main() -> int:
    """Be `agy`."""
    folder = Path(sys.argv[0]).resolve().parent
    if (folder / "slow").exists():
        time.sleep(60)
    words = sys.argv[1:]
    with open(folder / "calls", "a", encoding="utf-8") as file:
        file.write(json.dumps(words) + "\n")
    if words[:2] != ["agentapi", "send-message"] or len(words) != 4:
        print("usage: agy agentapi send-message <recipient_id> <content>", file=sys.stderr)
        return 1
    if os.environ.get("ANTIGRAVITY_LS_ADDRESS") != ADDRESS:
        print("ANTIGRAVITY_LS_ADDRESS is not set", file=sys.stderr)
        return 1
    if os.environ.get("ANTIGRAVITY_CSRF_TOKEN") != SECRET:
        print("rpc error: code = Unauthenticated desc = missing CSRF token", file=sys.stderr)
        return 1
    if words[2] != CONVERSATION:
        print("trajectory not found", file=sys.stderr)
        return 1
    code = folder / "code"
    return int(code.read_text()) if code.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
