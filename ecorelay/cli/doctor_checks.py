"""The checks of ``ecorelay doctor``, in their order. Each is in the module of what it looks at.

A check says what it saw and, unless all is well, what to do. None changes anything, but that a hub is started
where none runs: whether that works is what most people want to know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from ecorelay import wire
from ecorelay.cli import doctor_assistant, doctor_bridge, doctor_hub, doctor_setup, doctor_system
from ecorelay.cli.doctor_assistant import Looked
from ecorelay_adapters.clients import ASSISTANTS
from ecorelay_adapters.clients.assistant import Finding, Machine

Tell = Callable[[Finding], None]


class Examined(Struct, kw_only=True):
    """What the checks came upon, besides findings."""

    assistants: Sequence[Looked] = ()
    """All that ecorelay knows."""
    live: Sequence[wire.Peer] | None = None
    """Peers with a live session; None: no hub could be asked."""


async def examine(machine: Machine, tell: Tell) -> Examined:
    """Make all checks, in the order in which one trouble causes the next.

    Args:
        machine: this one.
        tell: called with each finding as soon as it is known.
    """
    examined = Examined()

    def heard(listed: wire.PeerList) -> None:
        examined.live = [peer for peer in listed.peers if peer.online]

    for each in doctor_setup.check_all(machine):
        tell(each)
    for each in doctor_bridge.check_settings(machine.paths):
        tell(each)
    async for each in doctor_hub.check_hub(machine, heard):
        tell(each)
    for each in doctor_system.check_all(machine):
        tell(each)
    assistants = []
    for looked in await doctor_assistant.look_at_all(ASSISTANTS, machine):
        found = []
        async for each in doctor_assistant.check_assistant(looked, machine):
            tell(each)
            found.append(each)
        assistants.append(looked.judged(found))
    examined.assistants = assistants
    if not any(looked.is_here for looked in examined.assistants):
        tell(
            Finding(
                check="assistants",
                level="warn",
                says="none that ecorelay can set up is found here",
                remedy="any MCP client can start `ecorelay mcp`; ecorelay install --help",
            )
        )
    return examined
