"""A land for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.links.land import Land


@pytest.fixture
def land(tmp_path: Path) -> Iterator[Land]:
    """No machine is in it yet."""
    made = Land(tmp_path)
    yield made
    made.close()
