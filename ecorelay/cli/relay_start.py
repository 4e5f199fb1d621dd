"""Starts the relay server, without anything it can do without: not even typer is imported."""

from __future__ import annotations

import os
from pathlib import Path

from ecorelay import extras
from ecorelay.errors import RelayError


def serve(path: str) -> int:
    """Be the relay server of that configuration until a signal ends it; the exit code.

    Raises:
        RelayError: ``bad_args``, it cannot start; the sentence says why.
    """
    demand_extra()
    from ecorelay_relay_server.main import run

    return run(Path(path), os.environ)


def demand_extra() -> None:
    """Raise where a package is missing that only the relay server needs.

    Raises:
        RelayError: ``bad_args``, with what to install.
    """
    missing = extras.missing(extras.RELAY)
    if missing:
        raise RelayError(
            "bad_args",
            f"the relay server needs {' and '.join(missing)}: {extras.how_to_get('relay', missing)}",
        )
