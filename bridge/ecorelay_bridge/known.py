"""Which identity belongs to which hub_id: remembered at first contact, another one refused ever after.

:func:`judge` decides; a :class:`Trust` only keeps. :class:`FileTrust` keeps it in one small JSON file.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated, Final, Protocol

import msgspec
import trio
from msgspec import Meta, Struct

from ecorelay.errors import RelayError
from ecorelay.file_lock import held
from ecorelay.names import NAME_PATTERN, key
from ecorelay.paths import write_private
from ecorelay.settings_file import read_private
from ecorelay_bridge.identity import FINGERPRINT_PATTERN
from ecorelay_bridge.refusals import Reason, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

FILE_NAME: Final = "known-hubs.json"
KNOWN_MAX: Final = 10_000
"""Hubs one file remembers; each knew the secret once."""


class Known(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept of one hub."""

    identity: Annotated[str, Meta(pattern=FINGERPRINT_PATTERN)]
    distrusted: bool = False


class Trust(Protocol):
    """Keeps who is known. The hub may implement it over its database."""

    def known(self) -> Mapping[str, Known]:
        """hub_id → what is kept of it. Called for each handshake: from memory."""
        ...

    async def remember(self, hub_id: str, identity: str) -> None:
        """Keep a pair that proved itself, durably. Not called again for a pair that is known.

        Raises:
            RelayError: it cannot be kept; then there is no link.
        """
        ...


def judge(
    known: Mapping[str, Known], hub_id: str, identity: str, pinned: str = "", named: Collection[str] = ()
) -> bool:
    """Whether the pair is known (True) or new (False).

    Args:
        known: see `Trust.known`.
        hub_id: as the other side gives it, a valid name.
        identity: the fingerprint it shows.
        pinned: the fingerprint bridge.json demands of it; "" none.
        named: the hub_ids that bridge.json has, as it spells them: known, though perhaps not met yet.

    Raises:
        Refused: it is known otherwise, distrusted, or differs from a known one only by case.
    """
    if any(each.distrusted and each.identity == identity for each in known.values()):
        raise _distrusted(hub_id)
    found = known.get(hub_id)
    if found is None:
        for other in (*known, *named):
            if other != hub_id and key(other) == key(hub_id):
                raise Refused(
                    Reason.OTHER_CASE,
                    f"a hub calls itself {hub_id}; known is {other}, which differs only by case",
                    f"spell it {other} everywhere, in bridge.json too; `ecorelay hub forget {other}` if that "
                    "one is gone",
                )
    elif found.distrusted:
        raise _distrusted(hub_id)
    expected = pinned or (found.identity if found is not None else "")
    if expected and expected != identity:
        raise _changed(hub_id, identity, expected, pinned=bool(pinned))
    return bool(expected)


def _distrusted(hub_id: str) -> Refused:
    return Refused(
        Reason.DISTRUSTED,
        f"{hub_id} is distrusted here",
        f"`ecorelay trust {hub_id} SHA256:…` if that was a mistake",
    )


def _changed(hub_id: str, shown: str, expected: str, *, pinned: bool) -> Refused:
    # The fingerprint for the command is to be read on that machine, not copied from whoever shows one.
    remedy = (
        f"was {hub_id} set up anew? Then compare with `ecorelay identity show` on that machine and "
        + (
            "correct its identity in bridge.json"
            if pinned
            else f"run `ecorelay trust {hub_id} SHA256:…` here"
        )
        + "; if not, somebody else answers in its place"
    )
    return Refused(
        Reason.IDENTITY_CHANGED,
        f"{hub_id} shows the identity {shown}; {'pinned' if pinned else 'known'} is {expected}",
        remedy,
    )


class Reading:
    """A `Trust` that only reads, for checks."""

    def __init__(self, known: Mapping[str, Known]) -> None:
        self._known = known

    def known(self) -> Mapping[str, Known]:
        """See `Trust`."""
        return self._known

    async def remember(self, hub_id: str, identity: str) -> None:
        """Is never called."""
        raise AssertionError("a check remembers nothing")


def _demand(hubs: Mapping[str, Known], hub_id: str) -> None:
    if hub_id not in hubs:
        names = ", ".join(sorted(hubs)[:10]) or "none"
        raise RelayError("hub_not_found", f"no hub {hub_id} is known; known are: {names}")


class _File(Struct, frozen=True, kw_only=True):
    v: int
    hubs: dict[Annotated[str, Meta(pattern=NAME_PATTERN)], Known] = {}


class FileTrust:
    """Who is known, in one JSON file, mode 0600.

    Several processes may change it: each reads before it writes, and holds a lock meanwhile.

    Args:
        path: in a private directory that exists; the file may be missing: then nobody is known.

    Raises:
        RelayError: ``bad_args``, the file is damaged or unsafe. Nobody is forgotten silently.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._hubs = self._read()

    def known(self) -> Mapping[str, Known]:
        """See `Trust`."""
        return self._hubs

    def read_again(self) -> None:
        """Another process may have changed the file.

        Raises:
            RelayError: see the class; what was known before still is.
        """
        with self._lock:
            self._hubs = self._read()

    async def remember(self, hub_id: str, identity: str) -> None:
        """See `Trust`."""
        await trio.to_thread.run_sync(self._keep, hub_id, identity)

    def _keep(self, hub_id: str, identity: str) -> None:
        def change(hubs: dict[str, Known]) -> dict[str, Known]:
            # A person may have said so since the handshake began, in another process.
            if any(
                each.distrusted and (name == hub_id or each.identity == identity)
                for name, each in hubs.items()
            ):
                raise RelayError("bad_args", f"{hub_id} is distrusted here")
            return {**hubs, hub_id: Known(identity=identity)}

        self._change(change)

    def trust(self, hub_id: str, identity: str) -> list[str]:
        """From now on `hub_id` is whoever has `identity`. Durable on return.

        Returns:
            Other hub_ids under which that identity was distrusted. It is not any more: else it would be
            refused under this one too.

        Raises:
            RelayError: ``mailbox_error``, it cannot be written.
        """
        others: list[str] = []

        def change(hubs: dict[str, Known]) -> dict[str, Known]:
            others.extend(
                name for name, each in hubs.items() if each.distrusted and each.identity == identity
            )
            return {
                **hubs,
                **dict.fromkeys(others, Known(identity=identity)),
                hub_id: Known(identity=identity),
            }

        self._change(change)
        return [name for name in others if name != hub_id]

    def distrust(self, hub_id: str) -> None:
        """Refuse a hub, under its hub_id and under its identity whatever it calls itself.

        Raises:
            RelayError: ``hub_not_found``, it is not known; else see :meth:`trust`.
        """

        def change(hubs: dict[str, Known]) -> dict[str, Known]:
            _demand(hubs, hub_id)
            return {**hubs, hub_id: Known(identity=hubs[hub_id].identity, distrusted=True)}

        self._change(change)

    def forget(self, hub_id: str) -> None:
        """Know nothing of a hub: the next one with that name is new.

        Raises:
            RelayError: see :meth:`distrust`.
        """

        def change(hubs: dict[str, Known]) -> dict[str, Known]:
            _demand(hubs, hub_id)
            return {name: known for name, known in hubs.items() if name != hub_id}

        self._change(change)

    def _change(self, change: Callable[[dict[str, Known]], dict[str, Known]]) -> None:
        with self._lock, held(self._path.with_name(self._path.name + ".lock")):
            hubs = change(self._read())
            if len(hubs) > KNOWN_MAX:
                raise RelayError("limit_reached", f"{KNOWN_MAX:,} hubs are known: forget some")
            try:
                write_private(
                    self._path, msgspec.json.format(msgspec.json.encode(_File(v=1, hubs=hubs))), durable=True
                )
            except OSError as error:
                raise RelayError(
                    "mailbox_error", f"cannot write {self._path}: {error.strerror or error}"
                ) from error
            self._hubs = hubs

    def _read(self) -> dict[str, Known]:
        found = read_private(self._path)
        if found is None:
            return {}
        try:
            file = msgspec.json.decode(found[0], type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            file = None
        if file is None or file.v != 1:
            why = "is damaged" if file is None else "was written by a newer version"
            raise RelayError(
                "bad_args",
                f"{self._path} {why}: put a backup of it back, or move it away (then each hub is new once)",
            )
        return file.hubs
