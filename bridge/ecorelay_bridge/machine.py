"""Which machine this is, so that a copied identity is noticed.

The system's own id is not for showing around (machine-id(5)); what leaves this module is a hash of it.
"""

from __future__ import annotations

import hashlib
import sys
from typing import Final

_LABEL: Final = b"ecorelay machine\0"
_LINUX_FILES: Final = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_SHOWN: Final = 32
"""Hexadecimal digits kept."""


def machine_mark() -> str:
    """32 hexadecimal digits that are the same at each start of this machine; "" where it cannot be told."""
    raw = _system_id().strip()
    if not raw:
        return ""
    return hashlib.sha256(_LABEL + raw.encode("utf-8", "surrogateescape")).hexdigest()[:_SHOWN]


def _system_id() -> str:
    if sys.platform == "darwin":
        return _darwin_id()
    if sys.platform == "win32":
        return _windows_id()
    return _first_text(_LINUX_FILES)


def _first_text(files: tuple[str, ...]) -> str:
    for name in files:
        try:
            with open(name, encoding="ascii", errors="surrogateescape") as file:
                text = file.read(256).strip()
        except OSError:
            continue
        # Images are delivered with this word in place of an id, see machine-id(5).
        if text and text != "uninitialized":
            return text
    return ""


def _darwin_id() -> str:
    import ctypes
    import uuid

    # gethostuuid(2): the hardware's id, without starting another program.
    buffer = ctypes.create_string_buffer(16)
    wait = (ctypes.c_long * 2)(5, 0)
    try:
        if ctypes.CDLL(None).gethostuuid(buffer, wait) != 0:
            return ""
    except (AttributeError, OSError):
        return ""
    return str(uuid.UUID(bytes=buffer.raw))


if sys.platform == "win32":

    def _windows_id() -> str:
        import winreg

        try:
            with winreg.OpenKey(
                winreg.HKEY_LOCAL_MACHINE,
                r"SOFTWARE\Microsoft\Cryptography",
                0,
                winreg.KEY_READ | winreg.KEY_WOW64_64KEY,
            ) as key:
                return str(winreg.QueryValueEx(key, "MachineGuid")[0])
        except OSError:
            return ""
