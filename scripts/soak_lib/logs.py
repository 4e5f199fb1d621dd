"""Reads what processes write: a crash that cost one connection only is seen nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES: Final = ("*/home/hub.log*", "*/home/adapter.log*", "*/*.out", "*/p*/stderr")
SIGNS: Final = (b'"event":"crash"', b"Traceback (most recent call last)")
QUOTED: Final = 400


class Logs:
    """The logs of all processes of one soak, each line read once.

    Args:
        root: of the soak.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._read: dict[int, int] = {}
        """Inode, which a rotated file keeps: bytes read."""

    def crashes(self) -> Iterator[str]:
        """Lines of bugs since the last call, with their file's name."""
        for pattern in FILES:
            for path in sorted(self._root.glob(pattern)):
                try:
                    with open(path, "rb") as file:
                        inode = path.stat().st_ino
                        file.seek(self._read.get(inode, 0))
                        lines = file.read()
                except FileNotFoundError:  # it was rotated just now, and is read as what it became
                    continue
                whole, end, _ = lines.rpartition(b"\n")
                self._read[inode] = self._read.get(inode, 0) + len(whole + end)
                for line in whole.split(b"\n"):
                    if any(sign in line for sign in SIGNS):
                        said = line[:QUOTED].decode(errors="replace")
                        yield f"{path.relative_to(self._root)}: {said}"
