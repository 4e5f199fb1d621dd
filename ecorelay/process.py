"""Whether a process still lives, told apart from a later one that got its number again.

A process is known by its id and by when it began. The unit of the beginning is the system's own
(ticks since boot, microseconds, ...): compare it, do not read it. 0 means unknown.
"""

from __future__ import annotations

import os
import sys


def start_time(pid: int) -> int:
    """When process `pid` began; 0 where it does not live or cannot be found out."""
    if pid <= 0:
        return 0
    if sys.platform == "linux":
        return _proc_stat(pid)[1]
    if sys.platform == "darwin":
        return _darwin_start(pid)
    if sys.platform == "win32":
        return _windows_start(pid)
    return 0


def is_alive(pid: int, start: int = 0) -> bool:
    """Whether the process `pid` that began at `start` lives. True where it cannot be found out.

    Args:
        pid: its id; 0 or less: unknown.
        start: what :func:`start_time` said of it while it surely lived; 0: unknown.
    """
    if pid <= 0:
        return True
    if sys.platform == "win32":
        # os.kill ends processes there, whatever the signal.
        found = _windows_start(pid)
        return found != 0 and start in (0, found)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # it lives, and is not ours
    if sys.platform == "linux" and _proc_stat(pid)[0] in ("Z", "X"):
        return False  # ended; only its parent has not looked yet
    found = start_time(pid)
    return start == 0 or found in (0, start)


def is_stopped(pid: int) -> bool:
    """Whether the process lives and was stopped (SIGSTOP, a debugger). False where it cannot be found out."""
    return sys.platform == "linux" and _proc_stat(pid)[0] in ("T", "t")


def parent_and_name(pid: int) -> tuple[int, str]:
    """The id of the process that `pid` is a child of, and the name of `pid`'s program, cut at 15 bytes.

    (0, "") where it does not live or cannot be found out.
    """
    if sys.platform == "linux":
        text = _proc_text(pid)
        name = text.partition(b"(")[2].rpartition(b")")[0]
        fields = text.rpartition(b")")[2].split()
        if len(fields) > 1 and fields[1].isdigit():
            return int(fields[1]), name.decode("utf-8", "replace")
    if sys.platform == "darwin" and (info := _darwin_info(pid)):
        # pbi_ppid at 16, pbi_comm (16 bytes) at 48.
        name = info[48:64].split(b"\0")[0]
        return int.from_bytes(info[16:20], sys.byteorder), name.decode("utf-8", "replace")
    return 0, ""


def _proc_text(pid: int) -> bytes:
    """What procfs says in one line of a process; empty where it tells nothing."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read(4096)
    except OSError:
        return b""


def _proc_stat(pid: int) -> tuple[str, int]:
    """State letter and start of a process; ("", 0) where the system tells nothing."""
    # The second field is the program's name in brackets and may hold spaces and brackets.
    fields = _proc_text(pid).rpartition(b")")[2].split()
    try:
        return fields[0].decode("ascii", "replace"), int(fields[19])
    except (IndexError, ValueError):
        return "", 0


def _darwin_info(pid: int) -> bytes:
    """Struct proc_bsdinfo of <sys/proc_info.h>, 136 bytes; empty where the system tells nothing."""
    import ctypes

    buffer = ctypes.create_string_buffer(136)
    try:
        size = ctypes.CDLL(None).proc_pidinfo(pid, 3, ctypes.c_uint64(0), buffer, 136)
    except (AttributeError, OSError):
        return b""
    return buffer.raw if size == 136 else b""


def _darwin_start(pid: int) -> int:
    info = _darwin_info(pid)
    if not info:
        return 0
    # The start's seconds at 120, microseconds at 128.
    seconds = int.from_bytes(info[120:128], sys.byteorder)
    return seconds * 1_000_000 + int.from_bytes(info[128:136], sys.byteorder)


if sys.platform == "win32":

    def _windows_start(pid: int) -> int:
        import ctypes
        from ctypes import wintypes

        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.OpenProcess.restype = wintypes.HANDLE
        handle = kernel.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        if not handle:
            return 0
        try:
            times = [wintypes.FILETIME() for _ in range(4)]
            code = wintypes.DWORD()
            kernel.GetExitCodeProcess(wintypes.HANDLE(handle), ctypes.byref(code))
            if code.value != 259:  # STILL_ACTIVE
                return 0
            if not kernel.GetProcessTimes(wintypes.HANDLE(handle), *map(ctypes.byref, times)):
                return 0
            return (times[0].dwHighDateTime << 32 | times[0].dwLowDateTime) // 10
        finally:
            kernel.CloseHandle(wintypes.HANDLE(handle))
