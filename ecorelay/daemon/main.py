"""The hub, put together: lock, store, core, door. What is taken here is given back in the opposite order."""

from __future__ import annotations

import os
import secrets
import signal
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from ecorelay import __version__, names
from ecorelay.config import load
from ecorelay.core.hub import Hub
from ecorelay.daemon.federation import own_hub_id
from ecorelay.daemon.guard import log_crash
from ecorelay.daemon.lock import HubLock
from ecorelay.daemon.log import log, log_to, warn
from ecorelay.daemon.perform import Facts
from ecorelay.daemon.place import Place
from ecorelay.daemon.process import freeze, settle
from ecorelay.daemon.ready import Starter, parse
from ecorelay.daemon.run import SIGNALS, run_hub
from ecorelay.daemon.store import Store
from ecorelay.errors import RelayError
from ecorelay.paths import find_paths, make_private_dir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ecorelay.config import Config
    from ecorelay.paths import Paths


def main(arguments: Sequence[str]) -> int:
    """``ecorelay hub run``: be the hub of this environment's data directory until something ends it.

    Args:
        arguments: none for a person who looks on; ``--ready-fd N`` from `ecorelay.launch`.

    Returns:
        The exit code, 0.

    Raises:
        RelayError: the hub cannot start, or crashed (``unexpected``, and the log has the details).
        KeyboardInterrupt: before it listened.
    """
    starter = Starter(parse(arguments))
    try:
        paths = find_paths(os.environ)
        config = load(paths, os.environ)
        config = msgspec.structs.replace(config, hub_id=own_hub_id(paths, config.hub_id))
        make_private_dir(paths.home)
        settle(paths.home, config.limits.sessions)
        # The log too is the holder's alone: two could not rotate it.
        with HubLock(paths.hub_lock) as lock, log_to(paths.log, echo=starter.watching):
            _serve_logged(paths, config, lock, starter)
    except RelayError as error:
        starter.tell_refused(error)
        raise
    return 0


def _serve_logged(paths: Paths, config: Config, lock: HubLock, starter: Starter) -> None:
    try:
        _serve(paths, config, lock, starter)
    except RelayError as error:
        warn("refused to start", code=error.code, reason=error.message)
        raise
    except Exception as error:
        log_crash("hub", error)
        raise RelayError(
            "unexpected", f"the hub ended by a bug of ours ({type(error).__name__}): see {paths.log}"
        ) from None


def _serve(paths: Paths, config: Config, lock: HubLock, starter: Starter) -> None:
    with ExitStack() as stack:
        for number in SIGNALS:
            stack.callback(signal.signal, number, signal.getsignal(number))
        # Given back in the opposite order: who finds no hub.json any more finds everything on disk.
        # Until hub.json is there the kernel keeps who finds the socket by itself.
        place = Place(paths, config, os.environ, lock)
        stack.callback(place.withdraw)
        store = Store.open(paths.home, config.limits, config.durability, time.time_ns() // 1_000_000)
        stack.callback(store.close)
        hub = Hub(
            hub_id=config.hub_id,
            version=__version__,
            new_id=lambda now_ms: names.new_id(now_ms, secrets.randbits),
            limits=config.limits,
            snapshot=store.snapshot(),
        )
        facts = partial(Facts, pid=os.getpid(), data_dir=str(paths.home), durability=config.durability)
        log("started", version=__version__, pid=os.getpid(), hub=str(place), problems=list(store.problems))
        freeze()
        reason = trio.run(
            partial(
                run_hub,
                core=hub,
                store=store,
                place=place,
                paths=paths,
                config=config,
                facts=facts,
                listening=lambda: starter.tell_listening(str(place)),
            )
        )
        # It is ending: who is impatient must not cut it off while it writes its last.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        log("ended", reason=reason)
