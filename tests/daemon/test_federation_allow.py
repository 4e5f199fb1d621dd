"""What bridge.json lets other hubs do, as the core hears it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ecorelay.daemon import federation
from ecorelay_bridge import read_settings


@pytest.mark.parametrize(
    ("allow", "waking"),
    [
        ({}, set()),
        ({"Laptop": ["mail", "broadcast"], "*": ["mail"]}, {"laptop"}),
        ({"laptop": [], "*": ["broadcast"]}, {"*"}),
    ],
)
def test_broadcasts_wake_where_they_are_allowed_in_words(tmp_path: Path, allow: object, waking: set[str]):
    path = tmp_path / "bridge.json"
    path.write_text(json.dumps({"hub_id": "desk", "listen": 9700, "secret": "s" * 20, "allow": allow}))
    settings = read_settings(path)
    assert settings is not None
    assert federation._waking(settings) == waking
    for hub in ("laptop", "other"):
        key = hub if hub in settings.allow else "*"
        assert settings.broadcast_wakes(hub) == (key in waking)
