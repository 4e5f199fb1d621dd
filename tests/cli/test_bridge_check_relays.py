"""What `bridge-check` says of the running hub and a relay: it may go there otherwise than a shell does."""

from __future__ import annotations

import pytest

from ecorelay import wire
from ecorelay.cli.bridge_commands import _running_at
from ecorelay_bridge.check import Step
from ecorelay_bridge.relay_check import RelayFound


def found(*steps: str) -> RelayFound:
    return RelayFound(name="relay.test", steps=[Step(step=each, ok=True) for each in steps], hubs={})  # type: ignore[arg-type]


def running(**at: object) -> wire.HubDetails:
    relay = wire.RelayDetails(name="relay.test", **at)  # type: ignore[arg-type]
    return wire.HubDetails(req_id=1, unread=0, hub_id="here", version="1", sessions=0, relays=(relay,))


@pytest.mark.parametrize(
    ("hub", "steps", "says"),
    [
        (None, ["connect"], "no hub runs here, so none is there"),
        (running(up=True, hubs=3), ["connect"], "the running hub is there: 3 other hubs"),
        (running(), ["connect"], "the running hub is not there now; it is connecting"),
        (
            running(trouble="nothing answers"),
            ["connect"],
            "the running hub is not there now; nothing answers",
        ),
        (
            running(trouble="nothing answers"),
            ["proxy", "token"],
            "the running hub is not there now; nothing answers; this shell goes through a proxy: `ecorelay "
            "hub restart` from here gives it to the hub too",
        ),
    ],
)
def test_the_running_hub_is_compared_with_what_was_found(hub, steps, says) -> None:
    assert _running_at(hub, found(*steps)) == says


def test_a_relay_that_the_running_hub_has_not_read_of() -> None:
    other = RelayFound(name="other.test", steps=[], hubs={})
    assert _running_at(running(), other) == "the running hub does not know of it: `ecorelay hub reload`"
