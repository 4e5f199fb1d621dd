"""What the hub counted, in words a person understands: first what was lost, last what is everyday."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_WORDS: Final = {
    # Lost, or nearly so.
    "evicted_unread": "messages left a full mailbox unread (their senders were told)",
    "forgotten_unread": "unread messages went with a peer that was forgotten (their senders were told)",
    "outbox expired": "messages waited too long for another hub (their senders were told)",
    "outbox full": "broadcasts did not go to another hub, for which too much waits",
    "link frames that the other hub gave up": "messages of another hub waited there too long and never came",
    "room_messages_missed": "room messages were dropped: a session did not read them in time",
    "damaged": "messages could not be read back from the disk (their senders were told)",
    "crash": "the hub met a bug of its own (the traceback: ecorelay logs)",
    "store_failed mailbox_error": "requests failed because the disk could not (full, read-only, damaged)",
    # Refused, or tried in vain.
    "guard_refused": "messages were refused: too many from one sender (limits.sends_per_minute and others)",
    "blocked_refused": "messages of blocked peers were refused",
    "denied_refused": "messages of other hubs were refused, which bridge.json does not allow",
    "link busy": "times another hub's disk took nothing (what it did not take is sent again)",
    "link frames our disk did not take": "times our disk did not take another hub's mail (it comes again)",
    "push_failed": "pushes a carrier could not take (that mail waits for relay_inbox)",
    "backlog_failed": "waiting mail could not be read for pushing (it is tried again)",
    "leases_lapsed": "pages were handed out and never confirmed (that mail is unread again)",
    "bad_msg": "lines were no frames this hub knows (another version, or a bug of a client)",
    "accept_failed": "a connection could not be taken (too many files open?)",
    "second_adapter_refused": "second adapters beside one assistant were refused (it is configured twice)",
    "sessions_taken_over": "sessions were replaced by a newer one of the same peer",
    # Why connections ended.
    "closed slow_reader": "connections ended: they did not read what was sent to them",
    "closed stalled": "connections ended: what they had begun did not go on in time",
    "closed line_too_long": "connections ended: a line over the limit",
    "closed garbage": "connections ended: nothing but lines that are no frames",
    "closed crash": "connections ended by a bug of the hub (the traceback: ecorelay logs)",
    "closed hello_timeout": "connections ended: no hello in time",
    "closed bad_hello": "connections ended: their first line was no hello",
    "closed auth_failed": "connections ended: they did not know the token",
    "closed foreign_user": "connections ended: a process of another user",
    "closed protocol_mismatch": "connections ended: no protocol version in common (upgrade the older side)",
    "closed too_many_sessions": "connections ended: more than limits.sessions",
    "closed crowded_out": "connections ended: too many that said no hello",
    "closed broken": "connections broke",
    "closed eof": "connections were closed by the other side without a goodbye",
    "link lost": "links to other hubs ended",
    "hubs forgotten": "other hubs were forgotten",
    "backups": "backups were made",
    "closed bye": "connections ended in good order",
    "closed stopped": "connections ended because the hub stopped",
}


def in_words(counters: Mapping[str, int]) -> list[tuple[str, int]]:
    """(what, how often) for each counter that is not 0; one without words here under its own name."""
    known = [(_WORDS[name], counters[name]) for name in _WORDS if counters.get(name)]
    others = [(_unknown(name), count) for name, count in sorted(counters.items()) if name not in _WORDS]
    return [each for each in others if each[1]] + known


def _unknown(name: str) -> str:
    kind, _, rest = name.partition(" ")
    match kind:
        case "store_failed":
            return f"requests the store refused ({rest})"
        case "link" if rest.startswith("rejected "):
            return f"messages of other hubs were rejected ({rest.removeprefix('rejected ')})"
        case "closed":
            return f"connections ended: {rest.replace('_', ' ')}"
        case _:
            return name.replace("_", " ")
