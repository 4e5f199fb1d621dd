"""A relay server on its way into bridge.json: its URL, its token, and whether that lets us in."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from ecorelay.cli import screen
from ecorelay.cli.secret_input import STDIN, one_line, secret_bytes, secret_text
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecorelay_bridge import Settings
    from ecorelay_bridge.settings import RelayServer


def entry(url: str, token_from: str) -> dict[str, str]:
    """The entry for the relay at `url`, its token read from `token_from`: a file; ``-`` or "" is stdin.

    A relay server's own configuration will do for the token: it has it as `secret`.

    Raises:
        RelayError: ``bad_args``, no URL of a relay, or no token. Quotes nothing of the token.
    """
    from ecorelay_bridge.settings import is_relay_url

    if not is_relay_url(url):
        raise RelayError(
            "bad_args", f"--relay is {url!r}: it must begin with wss:// (or ws://) and name a host"
        )
    return {"url": url, "token": _token(url, token_from or STDIN)}


def _token(url: str, source: str) -> str:
    if source == STDIN and screen.is_terminal(sys.stdin):
        return secret_text(source, f"the token of {screen.line(url)}", "--token-from")
    where = "stdin" if source == STDIN else source
    data = secret_bytes(source, "--token-from")
    if data.lstrip().startswith(b"{"):
        try:
            found = json.loads(data).get("secret")
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, str) or not found:
            raise RelayError(
                "bad_args", f"{where} is no token, and no relay-config.json with a secret at its top"
            )
        return found
    return one_line(data, where)


def with_entry(table: Mapping[str, Any], new: Mapping[str, str]) -> dict[str, Any]:
    """The object of a valid bridge.json with that relay in it too; one with the same URL gets the token."""
    now = table.get("relay")
    relays = [dict(each) for each in (now if isinstance(now, list) else [] if now is None else [now])]
    for each in relays:
        if each["url"].rstrip("/") == new["url"].rstrip("/"):
            each["token"] = new["token"]
            break
    else:
        relays.append(dict(new))
    return {**table, "relay": relays if isinstance(now, list) or len(relays) > 1 else relays[0]}


def the_one(settings: Settings, url: str) -> RelayServer:
    """The relay with that URL."""
    return next(each for each in settings.relays if each.url.rstrip("/") == url.rstrip("/"))


async def tried(relay: RelayServer, hub_id: str) -> list[str]:
    """Go there once, without taking anybody's place; what a person should hear, a sentence each.

    Raises:
        RelayError: ``bad_args``, that token does not open it.
    """
    from ecorelay_bridge import Reason, Refused
    from ecorelay_bridge.relay_probe import looking
    from ecorelay_bridge.relay_road import Where

    name = Where(relay.url).name
    try:
        async with looking(relay, hub_id):
            return [f"{name} was tried: it is there, and takes the token"]
    except Refused as refused:
        if refused.reason is Reason.RELAY_TOKEN:
            raise RelayError(
                "bad_args",
                f"the relay {name} refuses this token: it is `secret` in the relay-config.json there. "
                "Nothing was changed",
            ) from None
        if refused.reason is Reason.WEAK_TOKEN:
            raise RelayError(
                "bad_args", f"{refused.sentence}: {refused.remedy}. Nothing was changed"
            ) from None
        return [
            f"note: it was tried, and {refused.sentence}",
            *([f"      {refused.remedy}"] if refused.remedy else []),
        ]
