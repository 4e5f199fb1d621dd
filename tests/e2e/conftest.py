"""A private hub for each test: its own data directory, guards off, stopped at the end."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

import pytest

from ecorelay.endpoint import read_endpoint
from ecorelay.paths import find_paths

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ecorelay.paths import Paths


@pytest.fixture
def hub_home(tmp_path: Path) -> Iterator[tuple[Paths, Mapping[str, str]]]:
    environ = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("ECORELAY_", "RELAY_"))},
        "ECORELAY_HOME": str(tmp_path / "home"),
        "ECORELAY_LIMITS_SENDS_PER_MINUTE": "0",
        "ECORELAY_LIMITS_BROADCASTS_PER_HOUR": "0",
        "ECORELAY_LIMITS_MAILBOX_MESSAGES": "100000",
    }
    paths = find_paths(environ)
    yield paths, environ
    endpoint = read_endpoint(paths.endpoint)
    if endpoint is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(endpoint.pid, signal.SIGTERM)
