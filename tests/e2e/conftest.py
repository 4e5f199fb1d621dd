"""Hubs for tests: a private one for each, or one that the tests of a module share."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

import pytest

from ecorelay.endpoint import read_endpoint
from ecorelay.paths import find_paths
from tests.e2e.stage import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ecorelay.paths import Paths


@pytest.fixture
def hub_home(tmp_path: Path) -> Iterator[tuple[Paths, Mapping[str, str]]]:
    """A data directory of its own, guards off; the hub is stopped at the end."""
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


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine of the test's own."""
    machine = Machine(tmp_path)
    yield machine
    machine.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine for all tests of a module: names on it come from `Machine.name`."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    yield machine
    machine.close()


@pytest.fixture(scope="module", params=["unix", "tcp"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """As `shared`, once with each way to reach a hub."""
    machine = Machine(tmp_path_factory.mktemp(request.param), ECORELAY_TRANSPORT=request.param)
    yield machine
    machine.close()
