"""This hub among others, as bridge.json wants it: read at the start, and again whenever a person says so.

A bridge.json that is missing is no federation, one with a mistake a problem that `hub status` tells: messages
between the sessions of this machine go on in any case.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from ecorelay import names
from ecorelay.core.events import HubsConfigured
from ecorelay.daemon.guard import log_crash
from ecorelay.daemon.links import Links
from ecorelay.daemon.log import log, warn
from ecorelay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ecorelay.daemon.perform import Shell
    from ecorelay.paths import Paths
    from ecorelay_bridge import Proven, RoadReport, Settings

EXTRA: Final = "federation needs a part that is not installed: pip install 'ecorelay[bridge]'"
WHATS: Final = ("mail", "groups", "rooms", "broadcast")
"""What another hub may be denied, see `Settings.allows`."""
PROOFS: Final = frozenset(
    {"wrong_secret", "bad_signature", "identity_changed", "distrusted", "other_case", "version"}
    | {"not_me", "same_hub", "own_hub_id", "own_identity"}
)
"""Reasons for which a hub, and not just anything on the network, was refused: its person wonders why."""
TURNED_AWAY_S: Final = 3_600.0
"""How long that is told."""
CRASHED_S: Final = 60.0
"""Pause after a bug of ours in there."""


def own_hub_id(paths: Paths, otherwise: str) -> str:
    """The name of this hub: that of bridge.json, where there is one that can be read."""
    try:
        settings = _read(paths)
    except (RelayError, ImportError):
        return otherwise
    return otherwise if settings is None else settings.hub_id


def _read(paths: Paths) -> Settings | None:
    if not paths.bridge.exists():  # nothing of the bridge is imported then
        return None
    from ecorelay_bridge import read_settings

    return read_settings(paths.bridge)


class Federation:
    """Keeps the links of a hub.

    Args:
        paths: of the data directory.
        hub_id: under which this hub runs.
        shell: takes what other hubs say.
        room: waits while too much waits for the store.
    """

    def __init__(
        self, paths: Paths, hub_id: str, shell: Shell, *, room: Callable[[], Awaitable[None]]
    ) -> None:
        self._paths = paths
        self._hub_id = hub_id
        self._shell = shell
        self._roads: Any = None
        self._links = Links(
            shell, hub_id, seek=partial(self._road, "seek"), rest=partial(self._road, "rest"), room=room
        )
        self._scope = trio.CancelScope()
        self._again = trio.Event()
        self.active = False
        """Other hubs may come, or are to be reached: it keeps this hub running."""
        self.problem = ""
        self._listening: tuple[str, ...] = ()
        self._deaf = ""
        """Why it does not listen, though it should."""
        self._turned_away: tuple[float, str, str] | None = None
        """The last hub that came and was refused: mono time, address, and why."""
        shell.notes = self._notes
        shell.listening = lambda: self._listening
        shell.reload = self.reload

    def _notes(self) -> tuple[str, ...]:
        notes = [note for note in (self.problem, self._deaf) if note]
        if self._turned_away is not None:
            when, address, says = self._turned_away
            if (ago := trio.current_time() - when) < TURNED_AWAY_S:
                since = f"{ago / 60:.0f} min ago" if ago >= 60 else "just now"
                notes.append(f"a hub at {address} was refused {since}: {says}")
        return tuple(notes)

    def _road(self, what: str, hub_id: str) -> None:
        if self._roads is not None:
            getattr(self._roads, what)(hub_id)

    def reload(self) -> None:
        """Read bridge.json again. Links are made anew; no session and no mail is lost."""
        self._again.set()
        self._scope.cancel()

    async def run(self) -> None:
        """Until cancelled. Whatever goes wrong in here is told and costs nobody else anything."""
        while True:
            self._again = trio.Event()
            self.active, self.problem = False, ""
            self._listening, self._deaf, self._turned_away = (), "", None
            with trio.CancelScope() as self._scope:
                try:
                    await self._federate()
                except RelayError as error:
                    self.problem = f"no links to other hubs: {error.message}"
                except ImportError:
                    self.problem = f"no links to other hubs: {EXTRA}"
                except Exception as error:
                    log_crash("federation", error)
                    self.problem = "no links to other hubs for a minute: a bug of ours, see the log"
                    with trio.move_on_after(CRASHED_S):
                        await self._again.wait()
                    continue
                if self.problem:
                    warn("no federation", reason=self.problem)
                await self._again.wait()

    async def _federate(self) -> None:
        settings = await trio.to_thread.run_sync(_read, self._paths)
        if settings is None:
            return
        if names.key(settings.hub_id) != names.key(self._hub_id):
            raise RelayError(
                "bad_args",
                f"bridge.json calls this hub {settings.hub_id}, it runs as {self._hub_id}: `ecorelay hub "
                "restart` makes it so; groups made under the old name, and mail that waits, stay with it",
            )
        if not settings.federates:
            return
        from ecorelay_bridge import FileTrust, Roads, federate, machine_mark, open_identity

        home = self._paths.home
        identity = await trio.to_thread.run_sync(lambda: open_identity(home / "identity.pem", machine_mark()))
        trust = await trio.to_thread.run_sync(FileTrust, home / "known-hubs.json")
        self._roads = Roads()
        self.active = True
        self._shell.feed((HubsConfigured(_ids(settings), _restricted(settings)),))
        await federate(
            settings,
            identity,
            trust,
            on_link=self._serve,
            report=self._told,
            roads=self._roads,
        )

    async def _serve(self, proven: Proven) -> None:
        await self._links.serve(proven)

    def _told(self, report: RoadReport) -> None:
        """Something happened on a road."""
        troubles = self._links.troubles
        key = names.key(report.hub_id)
        if report.event == "up":
            troubles.pop(key, None)
        elif report.event in ("failed", "not_listening") and report.sentence:
            says = f"{report.sentence}; {report.remedy}" if report.remedy else report.sentence
            if key:
                troubles[key] = says
            elif report.reason in PROOFS:
                self._turned_away = trio.current_time(), report.address, says
            elif report.event == "not_listening":
                self._listening, self._deaf = (), f"other hubs cannot reach this one: {says}"
        elif report.event == "listening":
            self._listening, self._deaf = (report.address,), ""
        if report.error is not None:
            log_crash("bridge", report.error)
        log(
            f"road {report.event}",
            side=report.side,
            hub=report.hub_id,
            address=report.address,
            reason=report.reason or "",
            says=report.sentence,
        )


def _ids(settings: Settings) -> tuple[str, ...]:
    return tuple([peer.hub_id for peer in settings.peers])


def _restricted(settings: Settings) -> dict[str, frozenset[str]]:
    """See `HubsConfigured`."""
    return {hub: frozenset({*WHATS} - may) for hub, may in settings.allow.items()}
