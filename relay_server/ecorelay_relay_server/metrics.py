"""What Prometheus reads: numbers of this server, in its text format 0.0.4."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from ecorelay import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ecorelay_relay_server.switch import Switch

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_DROPPED: Final = "dropped_"


class Counts:
    """What the connections add up to since the start."""

    def __init__(self) -> None:
        self.connections = 0
        """TCP connections that came in."""
        self.proven = 0
        """Hubs that proved themselves."""
        self.closed: Counter[int] = Counter()
        """Close code → hubs closed with it."""
        self.refused: Counter[str] = Counter()
        """Word → connections that came to nothing."""


def render(switch: Switch, counts: Counts, half_open: int, uptime_s: float) -> str:
    """All metrics."""
    return "".join(_lines(switch, counts, half_open, uptime_s))


def _lines(switch: Switch, counts: Counts, half_open: int, uptime_s: float) -> Iterator[str]:
    yield from _metric("info", "gauge", "Always 1.", [(f'{{version="{__version__}"}}', 1)])
    yield from _metric("uptime_seconds", "gauge", "Since the start.", [("", round(uptime_s, 3))])
    hubs = [(f'{{realm="{name}"}}', len(realm.hubs)) for name, realm in switch.realms.items()]
    yield from _metric("hubs", "gauge", "Hubs that are here.", hubs)
    yield from _metric("meetings", "gauge", "Invitations that are open.", [("", len(switch.meetings))])
    yield from _metric("streams", "gauge", "Streams that are open.", [("", switch.streams)])
    yield from _metric("queued_bytes", "gauge", "Data that waits for hubs.", [("", switch.queued)])
    yield from _metric("half_open", "gauge", "Connections without a proof yet.", [("", half_open)])
    yield from _metric(
        "connections_total", "counter", "Connections that came in.", [("", counts.connections)]
    )
    yield from _metric("hubs_total", "counter", "Hubs that proved themselves.", [("", counts.proven)])
    yield from _metric(
        "refused_total", "counter", "Connections that came to nothing.", _by("why", counts.refused)
    )
    yield from _metric("closed_total", "counter", "Hubs that were closed.", _by("code", counts.closed))
    found = switch.counts
    yield from _metric("messages_total", "counter", "Data messages switched.", [("", found["messages"])])
    yield from _metric("bytes_total", "counter", "Bytes of their payloads.", [("", found["bytes"])])
    yield from _metric("opened_total", "counter", "Streams opened.", [("", found["opened"])])
    congested = [("", found["congested"])]
    yield from _metric("congested_total", "counter", "Streams closed as congested.", congested)
    dropped = {
        name.removeprefix(_DROPPED): count for name, count in found.items() if name.startswith(_DROPPED)
    }
    yield from _metric("dropped_total", "counter", "Messages dropped.", _by("why", dropped))


def _by(label: str, found: dict[str, int] | Counter[str] | Counter[int]) -> list[tuple[str, float]]:
    return [(f'{{{label}="{key}"}}', count) for key, count in found.items()]


def _metric(name: str, kind: str, words: str, values: Iterable[tuple[str, float]]) -> Iterator[str]:
    whole = f"ecorelay_relay_{name}"
    yield f"# HELP {whole} {words}\n# TYPE {whole} {kind}\n"
    for labels, value in values:
        yield f"{whole}{labels} {value}\n"
