"""What the commands about other hubs share: bridge.json, our identity, who is known, and telling the hub."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from ecorelay import names, wire
from ecorelay.cli import session
from ecorelay.errors import RelayError
from ecorelay.paths import Paths, make_private_dir

if TYPE_CHECKING:
    from ecorelay_bridge import FileTrust, Identity, Settings

PORT: Final = 9700
"""Where hubs listen unless a person says otherwise."""


def read(paths: Paths) -> Settings | None:
    """What bridge.json says; None where there is none.

    Raises:
        RelayError: ``bad_args``, with a sentence for each mistake.
    """
    if not os.path.lexists(paths.bridge):
        return None
    from ecorelay_bridge import read_settings

    return read_settings(paths.bridge)


def needed(paths: Paths) -> Settings:
    """What bridge.json says. Raises as :func:`read`, and where there is none."""
    found = read(paths)
    if found is None:
        raise RelayError("bad_args", f"there is no {paths.bridge}: `ecorelay bridge-init` writes one")
    return found


def identity(paths: Paths, *, make: bool) -> Identity:
    """Who this hub is.

    Args:
        paths: of the data directory.
        make: whether one is made where there is none.

    Raises:
        RelayError: it cannot be used; or there is none and none is to be made.
    """
    from ecorelay_bridge import machine_mark, open_identity, read_identity

    path = paths.home / "identity.pem"
    if make:
        make_private_dir(paths.home)
        return open_identity(path, machine_mark())
    if not path.exists():
        raise RelayError("bad_args", "this hub has no identity yet: `ecorelay bridge-init` makes one")
    return read_identity(path)


def trust(paths: Paths) -> FileTrust:
    """Who is known to this hub."""
    from ecorelay_bridge import FileTrust

    make_private_dir(paths.home)
    return FileTrust(paths.home / "known-hubs.json")


def spelled(known: FileTrust, hub_id: str) -> str:
    """A known hub's name as it spells it, whatever a person typed; `hub_id` itself where none is meant."""
    return next((each for each in known.known() if names.key(each) == names.key(hub_id)), hub_id)


# --- the hub that runs -----------------------------------------------------------------------------------


async def status() -> wire.HubDetails | None:
    """What the running hub says of itself; None where none runs."""
    try:
        async with session.at_running_hub() as hub:
            return await hub.request(wire.HubStatus(req_id=0))
    except RelayError as error:
        if error.code != "hub_unreachable":
            raise
        return None


async def reload() -> bool:
    """Have the running hub read bridge.json, and who is known, again; whether one runs.

    Raises:
        RelayError: ``bad_args``, bridge.json has mistakes: its links are as before.
    """
    try:
        async with session.at_running_hub() as hub:
            await hub.request(wire.HubReload(req_id=0))
    except RelayError as error:
        if error.code != "hub_unreachable":
            raise
        return False
    return True


def link(found: wire.HubDetails | None, hub_id: str) -> wire.LinkDetails | None:
    """What the running hub says of another one."""
    links = () if found is None else found.links
    return next((each for each in links if names.key(each.hub_id) == names.key(hub_id)), None)


def refuse_renamed(settings: Settings, found: wire.HubDetails) -> None:
    """Raise where the running hub has another name than bridge.json gives it.

    Raises:
        RelayError: ``bad_args``, with what to do.
    """
    if names.key(settings.hub_id) != names.key(found.hub_id):
        raise RelayError(
            "bad_args",
            f"bridge.json calls this hub {settings.hub_id}, it runs as {found.hub_id}: `ecorelay hub "
            "restart` makes it so. For other hubs it is a new one then: groups made under the old name, and "
            "mail that waits for others, stay with that name",
        )
