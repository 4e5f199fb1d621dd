"""What an adapter answers to a canary: what carrier or bell can show without a turn of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from ecorelay import wire
from ecorelay_adapters.carriers import Canary

if TYPE_CHECKING:
    from ecorelay_adapters.bell import Bell
    from ecorelay_adapters.carriers import Carrier

PATIENCE_S: Final = 4.0
"""How long the carrier may take; the hub waits a second longer."""
SAYS_MAX: Final = 256


async def answer(canary: wire.Canary, carrier: Carrier | None, bell: Bell | None) -> wire.CanaryAnswer:
    """The answer, in time.

    Args:
        canary: the hub's.
        carrier: of this session, if it has one.
        bell: by which its assistant is woken, if it runs hooks.
    """
    began = trio.current_time()
    if bell is not None:
        found = _of_bell(canary, bell)
    elif carrier is not None:
        found = await _of_carrier(carrier)
    else:
        says = "it has no carrier: mail waits until its model calls relay_inbox"
        found = Canary(None, "adapter", says)
    return wire.CanaryAnswer(
        id=canary.id,
        ok=found.ok,
        stage=found.stage,
        says=found.says[:SAYS_MAX],
        took_ms=round((trio.current_time() - began) * 1000),
    )


def _of_bell(canary: wire.Canary, bell: Bell) -> Canary:
    if not canary.ring:
        says = "mail waits for its hooks already; no more can be seen without a turn of the model"
        return Canary(None, "adapter", says)
    if not bell.ring():
        return Canary(False, "adapter", "the bell cannot be rung: see the adapter's log")
    says = "the bell was rung, and no hook heard it: the assistant is busy, or watches no bell"
    return Canary(None, "adapter", says)


async def _of_carrier(carrier: Carrier) -> Canary:
    try:
        with trio.move_on_after(PATIENCE_S):
            return await carrier.canary()
    except Exception as error:  # a carrier of whatever making: its fault is the answer
        return Canary(False, "adapter", f"its carrier {carrier.name} failed: {type(error).__name__}")
    return Canary(False, "adapter", f"its carrier {carrier.name} did not answer within {PATIENCE_S:.0f} s")
