"""Hubs to be attacked: one that the tests of a module share, and the same over loopback TCP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.stage import Machine

# The guard against agents that talk too much would end the talk of the neighbours.
UNGUARDED = {"ECORELAY_LIMITS_SENDS_PER_MINUTE": "0"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine for all tests of a module: names on it come from `Machine.name`."""
    machine = Machine(tmp_path_factory.mktemp("machine"), **UNGUARDED)
    yield machine
    machine.close()


@pytest.fixture(scope="module", params=["unix", "tcp"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """As `shared`, once with each way to reach a hub."""
    machine = Machine(tmp_path_factory.mktemp(request.param), ECORELAY_TRANSPORT=request.param, **UNGUARDED)
    yield machine
    machine.close()


@pytest.fixture(scope="module")
def over_tcp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """As `shared`, over loopback TCP."""
    machine = Machine(tmp_path_factory.mktemp("tcp"), ECORELAY_TRANSPORT="tcp", **UNGUARDED)
    yield machine
    machine.close()
