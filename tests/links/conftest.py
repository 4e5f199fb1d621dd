"""A land for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.links.land import Land


@pytest.fixture(autouse=True)
def expires_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Days pass here in one leap, which a hub would take for a clock that is wrong, and wait for an hour."""
    monkeypatch.setattr("ecorelay.daemon.store_upkeep.CALM_MS", 0)


@pytest.fixture
def land(tmp_path: Path) -> Iterator[Land]:
    """No machine is in it yet."""
    made = Land(tmp_path)
    yield made
    made.close()
