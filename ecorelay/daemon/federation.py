"""This hub among others, as bridge.json wants it: read at the start, and again whenever a person says so.

A bridge.json that is missing is no federation, one with a mistake a problem that `hub status` tells: messages
between the sessions of this machine go on in any case.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from ecorelay import extras, names, wire
from ecorelay.core.events import HubsConfigured
from ecorelay.daemon.guard import log_crash
from ecorelay.daemon.links import Links
from ecorelay.daemon.log import log, warn
from ecorelay.errors import RelayError
from ecorelay.paths import write_private

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from ecorelay.daemon.perform import Shell
    from ecorelay.paths import Paths
    from ecorelay_bridge import Proven, RoadReport, Settings

WHATS: Final = ("mail", "groups", "rooms", "broadcast")
"""What another hub may be denied, see `Settings.allows`."""
PROOFS: Final = frozenset(
    {"wrong_secret", "bad_signature", "identity_changed", "distrusted", "other_case", "version"}
    | {"not_me", "same_hub", "own_hub_id", "own_identity"}
)
"""Reasons for which a hub, and not just anything on the network, was refused: its person wonders why."""
TURNED_AWAY_S: Final = 3_600.0
"""How long that is told."""
STRANGERS_S: Final = 2 * 3_600.0
"""The same for hubs at relays that we dialed: the next proof may be an hour away."""
STRANGERS_MAX: Final = 3
"""Of those, so many are told of: at a relay, new names cost nothing."""
TWINS_S: Final = 600.0
"""How long it is told that two machines are one hub."""
TROUBLES_MAX: Final = 2_000
"""Hubs of which it is remembered why they are not reached: at a relay, new names cost nothing."""
CRASHED_S: Final = 60.0
"""Pause after a bug of ours in there."""
NAME_FILE: Final = "hub.name"
"""Keeps the hub_id that bridge.json gave last, for starts at which it cannot be read."""


def own_hub_id(paths: Paths, otherwise: str) -> str:
    """The name of this hub: that of bridge.json.

    A bridge.json that is there and cannot be used renames nobody: groups and mail that waits would stay with
    the old name. The hub is called as it was last then.

    Args:
        paths: of the data directory.
        otherwise: its name where there is no bridge.json.
    """
    kept = paths.home / NAME_FILE
    try:
        settings = _read(paths)
    except (RelayError, ImportError):
        return _kept_name(kept) or otherwise
    if settings is None:
        with suppress(OSError):
            kept.unlink(missing_ok=True)
        return otherwise
    if _kept_name(kept) != settings.hub_id:
        # Without it the hub runs all the same.
        with suppress(OSError):
            write_private(kept, f"{settings.hub_id}\n".encode(), durable=True)
    return settings.hub_id


def _kept_name(kept: Path) -> str:
    try:
        name = kept.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return name if names.is_name(name) else ""


def _read(paths: Paths) -> Settings | None:
    if not os.path.lexists(paths.bridge):  # nothing of the bridge is imported then
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
        self._links = Links(shell, hub_id, seek=self._seek, rest=self._rest, room=room)
        self._scope = trio.CancelScope()
        self._again = trio.Event()
        self._reloading: list[Callable[[RelayError | None], object]] = []
        """Called when that has been done."""
        self._begun = trio.Event()
        """What bridge.json says has been begun, or could not be."""
        self.active = False
        """Other hubs may come, or are to be reached: it keeps this hub running."""
        self.problem = ""
        self._listening: tuple[str, ...] = ()
        self._deaf = ""
        """Why it does not listen, though it should."""
        self._works = False
        """Links are made and taken."""
        self._said: dict[tuple[str, str], tuple[str, str]] = {}
        """What the log says last of a hub or address: it is not said again and again."""
        self._turned_away: tuple[float, str, str] | None = None
        """The last hub that came and was refused: mono time, address, and why."""
        self._strangers: dict[str, tuple[float, str]] = {}
        """Hubs at relays that refused us or were refused, by hub_id in lower case: mono time, and why. Before
        they were linked once they have no line of their own in `hub status`."""
        self._twins: tuple[float, str] | None = None
        """Two machines are one hub: mono time, and which."""
        self._door: Any = None
        """Who is familiar stays so when it is begun anew."""
        self._trust: Any = None
        self._refused: Callable[[str, str], bool] = lambda hub_id, identity: False
        """Whether that hub, with that identity, is no longer to be linked."""
        self._streams: dict[trio.CancelScope, Proven] = {}
        shell.notes = self._notes
        shell.listening = lambda: self._listening
        shell.relays = self._relays
        shell.reload = self.reload

    def _notes(self) -> tuple[str, ...]:
        notes = [note for note in (self.problem, self._deaf) if note]
        if self._turned_away is not None:
            when, address, says = self._turned_away
            if (ago := trio.current_time() - when) < TURNED_AWAY_S:
                since = f"{ago / 60:.0f} min ago" if ago >= 60 else "just now"
                notes.append(f"a hub at {address} was refused {since}: {says}")
        notes += [
            says
            for key, (when, says) in self._strangers.items()
            if trio.current_time() - when < STRANGERS_S and not self._shell.core.knows_hub(key)
        ]
        if self._twins is not None and trio.current_time() - self._twins[0] < TWINS_S:
            notes.append(self._twins[1])
        return tuple(notes)

    def _seek(self, hub_id: str) -> None:
        if self._roads is not None:
            self._roads.seek(hub_id)

    def _rest(self, hub_id: str, relayed: bool) -> None:
        if self._roads is not None:
            self._roads.rest(hub_id, relayed=relayed)

    def _relays(self) -> tuple[wire.RelayDetails, ...]:
        """How it stands with each relay server."""
        if self._roads is None or not self._works:
            return ()
        now, wall = trio.current_time(), self._shell.clock.now().wall
        return tuple(
            [
                wire.RelayDetails(
                    name=name,
                    up=each.up,
                    since=wall - round((now - each.since) * 1000) if each.since else 0,
                    hubs=each.hubs,
                    trouble=each.trouble,
                )
                for name, each in self._roads.relays.items()
            ]
        )

    def reload(self, then: Callable[[RelayError | None], object] = lambda error: None) -> None:
        """Read bridge.json again. Links are made anew; no session and no mail is lost.

        One with a mistake is a problem, and the links stay as they were. `then` is called when it was read,
        with what is wrong, and what was linked before is not any more.
        """
        self._reloading.append(then)
        self._again.set()

    async def run(self) -> None:
        """Until cancelled. Whatever goes wrong in here is told and costs nobody else anything."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._heed_reloads)
            await self._keep()

    async def _heed_reloads(self) -> None:
        while True:
            await self._again.wait()
            self._again = trio.Event()
            waiting, self._reloading = self._reloading, []
            wrong: RelayError | None = None
            try:
                settings = await trio.to_thread.run_sync(_read, self._paths, abandon_on_cancel=True)
                if settings is not None:
                    self._refuse_renamed(settings)
            except RelayError as error:
                wrong = error
                if self._works:
                    self.problem = (
                        f"the links are as before, for the new bridge.json is no good: {error.message}"
                    )
                    warn("bridge.json not taken", reason=error.message)
                    await self._heed_trust()
            except ImportError:
                pass  # said when it is begun anew
            except Exception as error:  # it is met again then, if it lasts
                log_crash("federation", error)
            if wrong is None or not self._works:
                self._begun = trio.Event()
                self._scope.cancel()
                await self._begun.wait()
            for then in waiting:
                then(wrong)

    async def _heed_trust(self) -> None:
        """Whom a person trusts no more is refused and let go of, also while bridge.json is no good."""
        try:
            await trio.to_thread.run_sync(self._trust.read_again)
        except RelayError as error:
            warn("known-hubs.json not taken", reason=error.message)
            return
        for scope, proven in list(self._streams.items()):
            if self._refused(proven.hub_id, proven.identity):
                log("link let go", hub=proven.hub_id, reason="it is trusted no more", address=proven.address)
                scope.cancel()

    async def _keep(self) -> None:
        while True:
            self.active, self.problem = False, ""
            self._listening, self._deaf, self._turned_away = (), "", None
            self._said, self._twins, self._strangers = {}, None, {}
            self._links.troubles.clear()
            with trio.CancelScope() as self._scope:
                try:
                    await self._federate()
                except RelayError as error:
                    self.problem = f"no links to other hubs: {error.message}"
                except ImportError:
                    how = extras.how_to_get("bridge", extras.BRIDGE)
                    self.problem = f"no links to other hubs, they need what is not installed: {how}"
                except Exception as error:
                    log_crash("federation", error)
                    self.problem = "no links to other hubs for a minute: a bug of ours, see the log"
                    self._begun.set()
                    await trio.sleep(CRASHED_S)
                    continue
                finally:
                    self._works = False
                if self.problem:
                    warn("no federation", reason=self.problem)
                self._begun.set()
                await trio.sleep_forever()

    async def _federate(self) -> None:
        settings = await trio.to_thread.run_sync(_read, self._paths, abandon_on_cancel=True)
        if settings is None:
            return
        self._refuse_renamed(settings)
        if not settings.federates:
            return
        from ecorelay_bridge import Door, FileTrust, Refused, Roads, federate, machine_mark, open_identity
        from ecorelay_bridge.known import judge

        def refused(hub_id: str, fingerprint: str) -> bool:
            try:
                judge(trust.known(), hub_id, fingerprint, settings.pinned(hub_id), _ids(settings))
            except Refused:
                return True
            return False

        home = self._paths.home
        identity = await trio.to_thread.run_sync(lambda: open_identity(home / "identity.pem", machine_mark()))
        trust = self._trust = await trio.to_thread.run_sync(FileTrust, home / "known-hubs.json")
        self._refused = refused
        self._roads = Roads()
        self._door = self._door or Door(trio.current_time)
        self.active = self._works = True
        self._shell.feed((HubsConfigured(_ids(settings), _restricted(settings), _waking(settings)),))
        self._begun.set()
        await federate(
            settings,
            identity,
            trust,
            on_link=self._serve,
            report=self._told,
            roads=self._roads,
            door=self._door,
        )

    def _refuse_renamed(self, settings: Settings) -> None:
        if names.key(settings.hub_id) != names.key(self._hub_id):
            raise RelayError(
                "bad_args",
                f"bridge.json calls this hub {settings.hub_id}, it runs as {self._hub_id}: `ecorelay hub "
                "restart` makes it so; groups made under the old name, and mail that waits, stay with it",
            )

    async def _serve(self, proven: Proven) -> None:
        with trio.CancelScope() as scope:
            self._streams[scope] = proven
            try:
                await self._links.serve(proven)
            finally:
                del self._streams[scope]

    def _told(self, report: RoadReport) -> None:
        """Something happened on a road."""
        troubles = self._links.troubles
        key = names.key(report.hub_id)
        if report.event == "up":
            troubles.pop(key, None)
            self._strangers.pop(key, None)
            if self._turned_away is not None and _is_from(self._turned_away[1], report):
                self._turned_away = None  # it was mended
        elif report.event in ("failed", "not_listening") and report.sentence:
            says = f"{report.sentence}; {report.remedy}" if report.remedy else report.sentence
            if report.reason == "twins":
                self._twins = trio.current_time(), f"{report.hub_id}: {says}" if report.told else says
            if key and report.reason in PROOFS and report.address.startswith("relay "):
                self._strangers.pop(key, None)
                self._strangers[key] = trio.current_time(), f"{report.hub_id} at {report.address}: {says}"
                if len(self._strangers) > STRANGERS_MAX:
                    del self._strangers[next(iter(self._strangers))]
            if key and (key in troubles or len(troubles) < TROUBLES_MAX):
                troubles[key] = says
            elif report.reason in PROOFS:
                self._turned_away = trio.current_time(), report.address, says
            elif report.event == "not_listening":
                self._listening, self._deaf = (), f"other hubs cannot reach this one: {says}"
        elif report.event == "listening":
            self._listening, self._deaf = (report.address,), ""
        if report.error is not None:
            log_crash("bridge", report.error)
        if not self._is_news(report):
            return
        log(
            f"road {report.event}",
            side=report.side,
            hub=report.hub_id,
            address=report.address,
            reason=report.reason or "",
            says=report.sentence,
        )

    def _is_news(self, report: RoadReport) -> bool:
        """Whether it belongs into the log. A hub that is away is dialed every second or so, for days."""
        if report.event == "dialing":
            return False
        relayed = report.event in ("at_relay", "relay_failed")
        of = (report.side, report.hub_id or (report.address if relayed else ""))
        says = (report.event, report.sentence)
        if report.event in ("failed", "relay_failed") and of[1] and self._said.get(of) == says:
            return False
        if len(self._said) >= TROUBLES_MAX:
            self._said.clear()
        self._said[of] = says
        return True


def _is_from(address: str, report: RoadReport) -> bool:
    """Whether a hub that came up is the one that was refused at this address."""
    if report.address.startswith("relay "):
        return address == f"{report.address} ({report.hub_id})"
    return address.rpartition(":")[0] == report.address.rpartition(":")[0]


def _ids(settings: Settings) -> tuple[str, ...]:
    return tuple([peer.hub_id for peer in settings.peers])


def _waking(settings: Settings) -> frozenset[str]:
    """See `HubsConfigured`; the same as `Settings.broadcast_wakes`."""
    return frozenset([hub for hub, may in settings.allow.items() if "broadcast" in may])


def _restricted(settings: Settings) -> dict[str, frozenset[str]]:
    """See `HubsConfigured`."""
    return {hub: frozenset({*WHATS} - may) for hub, may in settings.allow.items()}
