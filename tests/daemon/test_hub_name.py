"""What a hub is called: as bridge.json says, and as it was last where that cannot be used just now."""

from __future__ import annotations

import json

import pytest

from ecorelay.daemon import federation
from ecorelay.daemon.federation import own_hub_id
from ecorelay.paths import Paths


@pytest.fixture
def paths(tmp_path):
    return Paths(tmp_path)


def write(paths: Paths, **fields: object) -> None:
    table = {"hub_id": "desk", "listen": 9700, "secret": "a secret of these hubs, long"} | fields
    paths.bridge.write_text(json.dumps(table))
    paths.bridge.chmod(0o600)


def test_without_bridge_json_it_is_called_as_its_host(paths) -> None:
    assert own_hub_id(paths, "host") == "host"
    assert list(paths.home.iterdir()) == []


@pytest.mark.parametrize("broken", ["{", '{"hub_id": "other", "listne": 9}', ""])
def test_a_bridge_json_with_a_mistake_renames_nobody(paths, broken) -> None:
    write(paths)
    assert own_hub_id(paths, "host") == "desk"
    paths.bridge.write_text(broken)
    assert own_hub_id(paths, "host") == "desk"
    write(paths, hub_id="tower")
    assert own_hub_id(paths, "host") == "tower"
    paths.bridge.write_text(broken)
    assert own_hub_id(paths, "host") == "tower"


def test_an_extra_that_is_missing_renames_nobody(paths, monkeypatch) -> None:
    write(paths)
    assert own_hub_id(paths, "host") == "desk"

    def missing(paths: Paths) -> None:
        raise ImportError

    monkeypatch.setattr(federation, "_read", missing)
    assert own_hub_id(paths, "host") == "desk"


def test_a_link_that_leads_nowhere_renames_nobody(paths) -> None:
    write(paths)
    assert own_hub_id(paths, "host") == "desk"
    paths.bridge.unlink()
    paths.bridge.symlink_to(paths.bridge)
    assert own_hub_id(paths, "host") == "desk"


def test_an_address_the_machine_does_not_have_yet_is_no_reason_either(paths) -> None:
    write(paths, bind="192.0.2.55")
    assert own_hub_id(paths, "host") == "desk"


def test_who_takes_bridge_json_away_gets_the_hosts_name_for_good(paths) -> None:
    write(paths)
    own_hub_id(paths, "host")
    paths.bridge.unlink()
    assert own_hub_id(paths, "host") == "host"
    paths.bridge.write_text("{")
    assert own_hub_id(paths, "host") == "host"


@pytest.mark.parametrize("kept", [b"two words\n", b"\xff", b""])
def test_a_damaged_memory_of_it_is_none(paths, kept) -> None:
    paths.bridge.write_text("{")
    (paths.home / federation.NAME_FILE).write_bytes(kept)
    assert own_hub_id(paths, "host") == "host"
