"""What the doctor makes of what a hub says."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

import pytest

from ecorelay import __version__, wire
from ecorelay.cli import doctor_hub as checks
from ecorelay.paths import Paths
from ecorelay_adapters.clients.assistant import Machine


def details(**fields: Any) -> wire.HubDetails:
    known: dict[str, Any] = {
        **{"req_id": 1, "pid": 1, "hub_id": "h", "version": __version__, "uptime_s": 1.0},
        **{"durability": "power", "data_dir": "/x", "db_bytes": 0, "sessions": 0, "connections": 0},
        **{"peers": 0, "groups": 0, "rooms": 0},
    }
    return wire.HubDetails(**{**known, **fields})


@pytest.mark.parametrize(
    ("version", "remedy"),
    [(__version__, None), ("0.0.1", "ecorelay hub restart"), ("99.0", "upgrade this one"), ("?", None)],
)
def test_a_hub_of_another_version_is_noticed(version: str, remedy: str | None):
    found = list(checks.check_version(details(version=version)))
    assert [finding.level for finding in found] == ([] if remedy is None else ["warn"])
    assert remedy is None or remedy in found[0].remedy


def test_what_the_hub_complains_of_is_told():
    (finding,) = checks.check_problems(details(problems=("hub.db was damaged",)))
    assert finding.says == "hub.db was damaged"


def test_each_live_session_is_told_with_its_carrier_and_what_proved_it():
    now = time.time_ns() // 1_000_000
    listed = wire.PeerList(
        req_id=1,
        me="",
        hub_id="h",
        peers=(
            wire.Peer(name="pulls", online=True),
            wire.Peer(name="hooked", online=True, carrier="hook", evidence_at=now - 120_000),
            wire.Peer(name="unproved", online=True, carrier="channel"),
            wire.Peer(name="away", carrier="hook"),
        ),
    )
    says = {finding.check: finding.says for finding in checks.check_sessions(listed)}
    assert says.keys() == {"session pulls", "session hooked", "session unproved"}
    assert "relay_inbox" in says["session pulls"]
    assert "by hook, proved 2 min ago" in says["session hooked"]
    assert "nothing has proved" in says["session unproved"]


def test_a_list_of_many_sessions_is_cut():
    peers = tuple(wire.Peer(name=f"p{number}", online=True) for number in range(30))
    found = list(checks.check_sessions(wire.PeerList(req_id=1, me="", hub_id="h", peers=peers)))
    assert len(found) == 21
    assert "10 more" in found[-1].says


async def test_an_endpoint_we_may_not_read_fails_and_does_not_end_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(checks, "read_endpoint", refused)
    machine = Machine(environ={}, paths=Paths(tmp_path), program=("ecorelay",), version=__version__)
    (finding,) = [each async for each in checks.check_hub(machine, lambda listed: None)]
    assert finding.level == "fail"
    assert finding.says == f"cannot be reached or started: {tmp_path / 'hub.json'}: Permission denied"
