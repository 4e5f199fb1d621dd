"""The checks of ``ecorelay doctor``, in their order. Each is in the module of what it looks at.

A check says what it saw and, unless all is well, what to do. None changes anything, but that a hub is started
where none runs: whether that works is what most people want to know.
"""

from __future__ import annotations

from collections.abc import Callable

from ecorelay.cli import doctor_assistant, doctor_bridge, doctor_hub, doctor_setup, doctor_system
from ecorelay_adapters.clients import ASSISTANTS
from ecorelay_adapters.clients.assistant import Finding, Machine

Tell = Callable[[Finding], None]


async def examine(machine: Machine, tell: Tell) -> None:
    """Make all checks, in the order in which one trouble causes the next.

    Args:
        machine: this one.
        tell: called with each finding as soon as it is known.
    """
    for each in doctor_setup.check_all(machine):
        tell(each)
    for each in doctor_bridge.check_settings(machine.paths):
        tell(each)
    async for each in doctor_hub.check_hub(machine):
        tell(each)
    for each in doctor_system.check_all(machine):
        tell(each)
    known = 0
    for assistant in ASSISTANTS:
        async for each in doctor_assistant.check_assistant(assistant, machine):
            known += 1
            tell(each)
    if not known:
        tell(
            Finding(
                check="assistants",
                level="warn",
                says="none that ecorelay can set up is found here",
                remedy="any MCP client can start `ecorelay mcp`; ecorelay install --help",
            )
        )
