"""Small programs for tests, written as shell scripts."""

from pathlib import Path


def shell_script(path: Path, text: str) -> Path:
    """Make `path` a program that runs `text`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path
