"""Whether a directory lies on a file system that keeps what SQLite's log is promised."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from ecorelay.daemon.store_failure import StoreUnusable
from ecorelay.home import HOME_VARIABLE

if TYPE_CHECKING:
    from pathlib import Path

MOUNTS: Final = "/proc/self/mountinfo"

# Between machines, or between a machine and its guests: locks and syncs there mean little, and the log
# needs both.
_REMOTE: Final = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "drvfs", "gfs", "gfs2", "glusterfs"),
        *("gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "prl_fs", "smb2", "smb3", "smbfs"),
        *("vboxsf", "vmhgfs", "fuse.cephfs", "fuse.davfs", "fuse.davfs2", "fuse.gcsfuse", "fuse.glusterfs"),
        *("fuse.rclone", "fuse.s3fs", "fuse.sshfs", "fuse.vmhgfs-fuse"),
    }
)
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def refuse_remote_place(directory: Path, mounts: str = MOUNTS) -> None:
    """Raise where `directory` is on a network or 9p file system, as far as this system tells.

    Args:
        directory: must exist.
        mounts: the kernel's list of mounts; where it cannot be read nothing is checked.

    Raises:
        StoreUnusable: with the remedy.
    """
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            listed = file.read()
    except OSError:
        return
    kind = _kind_of(os.path.realpath(directory), listed)
    if kind in _REMOTE:
        raise StoreUnusable(
            f"{directory} is on a {kind} file system, where the database could be damaged: "
            f"name a directory on a local disk with {HOME_VARIABLE}"
        )


def _kind_of(path: str, mounts: str) -> str:
    """File system type of an absolute path without links; the later of two mounts covers the earlier."""
    longest, kind = -1, ""
    for line in mounts.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split(" ")
        if not dash or len(fields) < 5:
            continue
        point = _OCTAL.sub(lambda found: chr(int(found[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:
            longest, kind = len(point), after.split(" ", 1)[0]
    return kind
