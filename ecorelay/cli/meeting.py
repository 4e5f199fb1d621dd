"""Inviting and joining at a relay server, as a person sees it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import trio

from ecorelay.cli import bridge, exits, invitation, screen
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecorelay.paths import Paths
    from ecorelay_bridge import Identity, Refused, Settings
    from ecorelay_bridge.relay_invitation import Given, Joined, Pass

WAIT_S: Final = 10 * 60
"""How long an invitation is good."""


async def invite(paths: Paths, settings: Settings, me: Identity) -> int:
    """Print the line, wait until one machine has joined by it, and say which; the exit code."""
    from ecorelay_bridge import Refused, invite as invite_over

    opened = False

    def on_open(found: Pass) -> None:
        nonlocal opened
        opened = True
        line = invitation.written(
            invitation.Meeting(
                url=found.url,
                hub_id=found.hub_id,
                invitation=found.invitation,
                token=found.token.reveal(),
                code=found.code.reveal(),
            )
        )
        shown = screen.is_terminal(sys.stdout)
        screen.out(f"{line}\n")
        # Whoever reads the line in a pipe reads to its end, and we go on.
        screen.quiet_stdout()
        if shown:
            screen.say(
                "paste that line on the other machine, where `ecorelay bridge-init --join` asks for it"
            )
        screen.say(
            f"it lets one machine in, within {WAIT_S // 60} minutes, while this command runs (Ctrl-C "
            "withdraws it). Who uses the line first is that machine: let no stranger see it before"
        )

    joined: Joined | None = None
    trust = bridge.trust(paths)
    with trio.move_on_after(WAIT_S) as waiting:
        for number, relay in enumerate(settings.relays, 1):
            try:
                joined = await invite_over(relay, settings, me, trust, on_open=on_open, on_failed=_failed)
                break
            except Refused as refused:
                _say(refused)
                if opened or number == len(settings.relays):
                    return exits.REFUSED
    if waiting.cancelled_caught or joined is None:
        raise RelayError(
            "timeout", "nobody came: the invitation has expired. `ecorelay bridge-invite` makes another"
        )
    screen.say(
        f"{joined.hub_id} has joined; its identity is {joined.identity}, as `ecorelay identity show` has it "
        "there"
    )
    if any(relay.ca for relay in settings.relays):
        screen.say(
            "note: a relay of yours has a certificate authority of its own (`ca`): that file did not go "
            "along. Bring it there, and name it in that bridge.json"
        )
    try:
        if not await bridge.reload():
            screen.say("no hub runs here: `ecorelay hub start`")
    except RelayError as error:
        screen.fail(error.message)  # it has joined all the same
    return exits.OK


def _failed(refused: Refused) -> None:
    screen.say(f"somebody came and did not get through: {refused.sentence}; the invitation is still good")


def _say(refused: Refused) -> None:
    screen.fail(refused.sentence)
    if refused.remedy:
        screen.say(refused.remedy)


async def join(
    paths: Paths, by: invitation.Meeting, hub_id: str, me: Identity, keep: Callable[[Given, Joined], None]
) -> None:
    """Go where the line leads, and `keep` what is handed over there.

    Raises:
        SystemExit: that was not to be; it has been said why.
        RelayError: of `keep`.
    """
    from ecorelay_bridge import Refused, join as join_over
    from ecorelay_bridge.relay_invitation import Pass
    from ecorelay_bridge.settings import Secret, is_relay_url

    if not is_relay_url(by.url):
        raise RelayError("bad_args", "this invitation leads to no relay server")
    found = Pass(
        url=by.url, hub_id=by.hub_id, invitation=by.invitation, token=Secret(by.token), code=Secret(by.code)
    )
    try:
        await join_over(found, hub_id, me, bridge.trust(paths), keep=keep)
    except Refused as refused:
        _say(refused)
        screen.say("nothing was changed")
        raise SystemExit(exits.REFUSED) from None


def relays_of(given: tuple[Any, ...]) -> dict[str, Any]:
    """What was handed over of relay servers, as a field of bridge.json; none where there are none."""
    relays = [{"url": each.url, "token": each.token} for each in given]
    return {"relay": relays if len(relays) > 1 else relays[0]} if relays else {}
