"""The one place where an unexpected exception stops: it costs one connection or one event, never the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ecorelay.daemon.log import logger, stack_of
from ecorelay.daemon.reasons import Ended, Reason
from ecorelay.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def guard(serve: Callable[[], Awaitable[str]]) -> str:
    """Serve one connection until it ends.

    Args:
        serve: returns why the connection ended, or raises it: Ended, WireError, a broken stream, an
            OSError, a time-out.

    Returns:
        Why it ended. An exception that is a bug of ours is logged, with its traceback, as `CRASH`.
    """
    try:
        return await serve()
    except Ended as ended:
        return ended.reason
    except WireError:
        return Reason.GARBAGE
    except trio.TooSlowError:
        return Reason.STALLED
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        return Reason.BROKEN
    except Exception as error:
        log_crash("connection", error)
        return Reason.CRASH
    except BaseExceptionGroup as group:
        # A crash that coincides with a cancellation from outside comes wrapped together with it.
        crash, rest = group.split(Exception)
        if crash is not None:
            log_crash("connection", crash)
        if rest is not None:
            raise rest from None
        return Reason.CRASH


def contain(act: Callable[[], object], where: str) -> bool:
    """Call `act`; log what it raises.

    Returns:
        Whether it raised nothing.
    """
    try:
        act()
    except Exception as error:
        log_crash(where, error)
        return False
    return True


def log_crash(where: str, error: BaseException) -> None:
    """Log a bug of ours, without the texts its message might quote."""
    logger.error("crash", extra={"fields": {"where": where, "stack": stack_of(error)}})
