"""``ecorelay bridge-init``, ``bridge-invite``, ``bridge-check``: this hub among those of other machines."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ecorelay import names, wire
from ecorelay.cli import bridge, exits, invitation, meeting, relay_entry, screen, session, words
from ecorelay.cli.secret_input import STDIN, secret_text
from ecorelay.errors import RelayError
from ecorelay.paths import Paths, make_private_dir, sync_dir, write_private
from ecorelay.settings_file import parse_json, read_private

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecorelay_bridge import Identity, RelayFound, Settings, Step
    from ecorelay_bridge.relay_invitation import Given, Joined

commands = typer.Typer(**words.TYPER)

SECRET_BYTES: Final = 16
PORT_MAX: Final = 65535
ALL_ADDRESSES: Final = "0.0.0.0"


# --- bridge-init ----------------------------------------------------------------------------------------


@commands.command(
    "bridge-init",
    **words.with_example(
        "ecorelay bridge-init                                         # on the first machine",
        "ecorelay bridge-invite | ssh desk ecorelay bridge-init --join  # and so on each other one",
        "ecorelay bridge-init --peer desk=192.168.1.20:9700 --secret-from secret.txt",
        "ecorelay bridge-init --relay wss://relay.example.org        # asks for the token; also later on",
    ),
)
def bridge_init(
    hub_id: Annotated[
        str,
        typer.Option(
            "--hub-id", metavar="NAME", help="This hub's name. Default: as it is now.", show_default=False
        ),
    ] = "",
    listen: Annotated[
        int | None,
        typer.Option(
            "--listen",
            metavar="PORT",
            min=0,
            max=PORT_MAX,
            help=f"Where it listens; 0: it does not. Default: {bridge.PORT}; over a relay 0.",
            show_default=False,
        ),
    ] = None,
    bind: Annotated[
        str, typer.Option("--bind", metavar="ADDRESS", help="At which address of this machine.")
    ] = ALL_ADDRESSES,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            "--peer", metavar="HUB_ID=HOST:PORT", help="A hub to dial; may be repeated.", show_default=False
        ),
    ] = None,
    join: Annotated[
        bool,
        typer.Option("--join", help="Read the line of `bridge-invite` from stdin, and link to that hub."),
    ] = False,
    secret_from: Annotated[
        str,
        typer.Option(
            "--secret-from",
            metavar="FILE",
            help="Take the secret from this file; - is stdin. Default: a new one.",
            show_default=False,
        ),
    ] = "",
    relay: Annotated[
        str,
        typer.Option(
            "--relay",
            metavar="URL",
            help="A relay server to meet other hubs at, wss://HOST. Asks for its token, or reads stdin.",
            show_default=False,
        ),
    ] = "",
    token_from: Annotated[
        str,
        typer.Option(
            "--token-from",
            metavar="FILE",
            help="Take the relay's token from this file, be it relay-config.json; - is stdin.",
            show_default=False,
        ),
    ] = "",
    reload: Annotated[bool, typer.Option("--reload", help="Have the running hub read it at once.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before the hub gets another name.")
    ] = False,
    as_json: words.Json = False,
) -> None:
    """Let this hub link to those of other machines.

    Writes bridge.json, makes a secret of 128 bits and this hub's identity, and says what to do on the
    other machine. The secret stands in the file, which only you can read, and is never printed here.
    Overwrites nothing; where there is a bridge.json, --relay adds a relay to it, or gives one it has another
    token.

    """
    paths = session.paths()
    _refuse_mixed(join=join, secret_from=secret_from, relay=relay, token_from=token_from)
    if os.path.lexists(paths.bridge):
        if not relay:
            raise RelayError(
                "bad_args",
                f"{paths.bridge} is there already: change it with an editor, then `ecorelay bridge-check` "
                "and `ecorelay hub reload`; or move it away to begin anew. --relay URL adds a relay to it",
            )
        if hub_id or listen is not None or bind != ALL_ADDRESSES or peer or secret_from:
            raise RelayError(
                "bad_args",
                f"{paths.bridge} is there already: only --relay and --token-from go with it, the rest is "
                "changed with an editor",
            )
        _add_relay(paths, relay, token_from, reload=reload, as_json=as_json)
        return
    table: dict[str, Any] = {"hub_id": _own_name(hub_id, paths, yes), "listen": listen, "bind": bind}
    peers = [_peer(each) for each in peer or ()]
    made = not (join or secret_from)
    if made:
        table["secret"] = secrets.token_urlsafe(SECRET_BYTES)
    else:
        given = secret_text(
            STDIN if join else secret_from,
            "the line of `ecorelay bridge-invite`" if join else "the secret",
            "--secret-from",
        )
        if join or invitation.is_one(given):
            invited = invitation.taken(given)
            _refuse_namesake(invited.hub_id, table["hub_id"])
            if isinstance(invited, invitation.Meeting):
                table["listen"] = listen or 0
                _join_at_relay(paths, table, peers, invited, reload=reload, as_json=as_json)
                return
            table["secret"] = invited.secret
            host = {"hub_id": invited.hub_id, "host": invited.host, "port": invited.port}
            peers.insert(0, {**host, "identity": invited.identity})
            table |= meeting.relays_of(invited.relays)
        else:
            table["secret"] = given
    table["peers"] = peers
    if relay:
        table["relay"] = relay_entry.entry(relay, token_from)
    if listen is None:
        table["listen"] = 0 if relay else bridge.PORT
    settings = _parsed(table, paths)
    notes = _tried(settings, relay)
    make_private_dir(paths.home)
    me = bridge.identity(paths, make=True)
    _write_new(paths.bridge, _as_file(table))
    session.run(
        lambda: _initialised(paths, settings, me, made=made, reload=reload, as_json=as_json, notes=notes)
    )


def _refuse_mixed(*, join: bool, secret_from: str, relay: str, token_from: str) -> None:
    for wrong, sentence in (
        (join and secret_from, "--join and --secret-from do not go together: an invitation has the secret"),
        (join and relay, "--join and --relay do not go together: an invitation has the relays"),
        (token_from and not relay, "--token-from goes with --relay URL"),
        (
            secret_from == STDIN and relay and token_from in ("", STDIN),
            "the secret and the token cannot both come from stdin: name a file with --token-from",
        ),
    ):
        if wrong:
            raise RelayError("bad_args", sentence)


def _refuse_namesake(theirs: str, ours: str) -> None:
    if names.key(theirs) == names.key(ours):
        raise RelayError(
            "bad_args",
            f"this machine is called {ours}, as the one that invites: give it another name with --hub-id "
            "NAME",
        )


def _parsed(table: Mapping[str, Any], paths: Paths) -> Settings:
    from ecorelay_bridge.settings import parse_settings

    return parse_settings(table, paths.bridge)


def _as_file(table: Mapping[str, Any]) -> bytes:
    return (json.dumps(table, indent=2, ensure_ascii=False) + "\n").encode()


def _tried(settings: Settings, relay: str) -> list[str]:
    """What came of trying the relay with that URL; nothing where there is none."""
    notes: list[str] = []

    async def at_relay() -> None:
        notes.extend(await relay_entry.tried(relay_entry.the_one(settings, relay), settings.hub_id))

    if relay:
        session.run(at_relay)
    return notes


def _add_relay(paths: Paths, relay: str, token_from: str, *, reload: bool, as_json: bool) -> None:
    """To the bridge.json that is there; everything else in it stays."""
    bridge.needed(paths)  # every mistake is said now
    found = read_private(paths.bridge)
    assert found is not None
    table = relay_entry.with_entry(parse_json(found[0], paths.bridge), relay_entry.entry(relay, token_from))
    table.setdefault("secret", secrets.token_urlsafe(SECRET_BYTES))
    settings = _parsed(table, paths)
    notes = _tried(settings, relay)
    me = bridge.identity(paths, make=True)
    # A link stays one, and what it leads to is changed.
    write_private(paths.bridge.resolve(), _as_file(table), durable=True)
    session.run(
        lambda: _initialised(paths, settings, me, made=False, reload=reload, as_json=as_json, notes=notes)
    )


def _join_at_relay(
    paths: Paths,
    table: dict[str, Any],
    peers: list[dict[str, Any]],
    by: invitation.Meeting,
    *,
    reload: bool,
    as_json: bool,
) -> None:
    make_private_dir(paths.home)
    me = bridge.identity(paths, make=True)
    written: list[tuple[Settings, Joined]] = []

    def keep(given: Given, host: Joined) -> None:
        whole = {**table, "secret": given.secret, "peers": peers, **meeting.relays_of(given.relays)}
        settings = _parsed(whole, paths)
        _write_new(paths.bridge, _as_file(whole))
        written.append((settings, host))

    async def go() -> None:
        await meeting.join(paths, by, table["hub_id"], me, keep)
        settings, host = written[0]
        notes = [f"{host.hub_id} let this machine in; its identity is {host.identity}"]
        await _initialised(paths, settings, me, made=False, reload=reload, as_json=as_json, notes=notes)

    session.run(go)


def _own_name(given: str, paths: Paths, yes: bool) -> str:
    now = session.config().hub_id
    if not given:
        return now
    words.name(given, "--hub-id")
    if given != now and paths.database.exists() and not yes:
        screen.refuse_unasked("another name for this hub", "--yes")
        screen.say(
            f"this hub has been called {now}: groups made under that name, and mail that waits for other "
            "hubs, stay with it"
        )
        if not screen.agreed(f"Call it {given}?"):
            screen.say("nothing was changed")
            raise SystemExit(exits.REFUSED)
    return given


def _peer(given: str) -> dict[str, Any]:
    """``HUB_ID=HOST:PORT`` as an entry of `peers`; the reader of bridge.json checks the rest."""
    hub_id, equals, where = given.partition("=")
    host, colon, port = where.rpartition(":")
    if not colon or where.endswith("]"):
        host, port = where, str(bridge.PORT)
    if not equals or not host or (":" in host and not host.startswith("[")) or not _is_port(port):
        raise RelayError(
            "bad_args",
            f"--peer is {given!r}: it must be HUB_ID=HOST:PORT, as in desk=192.168.1.20:{bridge.PORT} (IPv6 "
            "in brackets)",
        )
    return {"hub_id": words.name(hub_id, "--peer's HUB_ID"), "host": host.strip("[]"), "port": int(port)}


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= PORT_MAX


def _write_new(path: Path, data: bytes) -> None:
    """Write a private file where none is. Another process may do the same: the first wins."""
    staged = path.with_name(f"{path.name}.{os.getpid()}.made")
    write_private(staged, data, durable=True)
    try:
        # A link, because unlike a rename it never replaces what another process just put there.
        os.link(staged, path)
    except FileExistsError:
        raise RelayError("bad_args", f"{path} was just made by another process: see what is in it") from None
    except OSError:
        staged.replace(path)  # this file system knows no links
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)
    sync_dir(path.parent)


async def _initialised(
    paths: Paths,
    settings: Settings,
    me: Identity,
    *,
    made: bool,
    reload: bool,
    as_json: bool,
    notes: Sequence[str],
) -> None:
    from ecorelay_bridge.relay_road import Where

    relays = [Where(relay.url).name for relay in settings.relays]
    running = await bridge.status()
    renamed = running is not None and running.hub_id.lower() != settings.hub_id.lower()
    reloaded = reload and running is not None and not renamed and await bridge.reload()
    if as_json:
        screen.out_json(
            path=str(paths.bridge),
            hub_id=settings.hub_id,
            listen=settings.listen,
            bind=settings.bind,
            identity=me.fingerprint,
            peers=[{"hub_id": each.hub_id, "host": each.host, "port": each.port} for each in settings.peers],
            relays=relays,
            reloaded=reloaded,
        )
    else:
        rows = [
            ("bridge.json", f"{screen.line(screen.home_relative(str(paths.bridge)))}, only you can read it"),
            ("hub", f"{settings.hub_id}, {_listens(settings)}"),
            ("identity", me.fingerprint),
        ]
        rows += [("dials" if n == 0 else "", _where(each)) for n, each in enumerate(settings.peers)]
        rows += [("meets at" if n == 0 else "", screen.line(each)) for n, each in enumerate(relays)]
        screen.out(screen.table(rows))
    for note in (*notes, *[f"note: {warning}" for warning in settings.warnings]):
        screen.say(note)
    if made and (settings.listen or relays):
        screen.say("on each other machine, either, without the secret being seen anywhere:")
        screen.say("    ecorelay bridge-invite | ssh OTHER_MACHINE ecorelay bridge-init --join")
        screen.say(
            "or call `ecorelay bridge-init --join` there, and paste the line that `ecorelay bridge-invite` "
            "prints here"
        )
    if reloaded:
        screen.say("the running hub has read it; `ecorelay hub status` shows its links")
    elif running is None:
        screen.say("then, here and there: `ecorelay hub start`; `ecorelay bridge-check` tries every step")
    else:
        how = "restart" if renamed else "reload"
        screen.say(
            f"the running hub reads it with `ecorelay hub {how}`; `ecorelay bridge-check` tries every step"
        )


def _listens(settings: Settings) -> str:
    if not settings.listen:
        return "listens at no port: it dials only" if not settings.relays else "listens at no port"
    return f"listens at {settings.bind}, port {settings.listen}"


def _where(peer: Any) -> str:
    pinned = ", identity pinned" if peer.identity else ""
    return f"{screen.line(peer.hub_id)} at {screen.line(peer.host)}, port {peer.port}{pinned}"


# --- bridge-invite --------------------------------------------------------------------------------------


@commands.command(
    "bridge-invite",
    **words.with_example(
        "ecorelay bridge-invite | ssh desk ecorelay bridge-init --join",
        "ecorelay bridge-invite --host laptop.local | ssh desk ecorelay bridge-init --join",
        "ecorelay bridge-invite --relay     # at a relay server, for a machine this one cannot reach",
    ),
)
def bridge_invite(
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="HOST",
            help="How the other machine reaches this one. Default: this machine's address.",
            show_default=False,
        ),
    ] = "",
    at_relay: Annotated[
        bool,
        typer.Option("--relay", help="Meet it at the relay server, even if this hub listens at a port."),
    ] = False,
) -> None:
    """Print the line with which another machine joins.

    It is for a pipe, or to be pasted. Where this hub listens at a port, the line holds the secret, where this
    hub is, its fingerprint, which the other hub checks from the first moment on, and its relays. Whoever has
    it can join: treat it as a password.

    Else the two machines meet at the relay server. That line is good once, for ten minutes at most, while
    this command runs, and holds neither the secret nor the relay's token.

    """
    paths = session.paths()
    settings = bridge.needed(paths)
    if settings.secret is None or not (settings.listen or settings.relays):
        raise RelayError(
            "bad_args",
            "this hub listens at no port and is at no relay, so no other can reach it: set listen in "
            f"{paths.bridge}, or `ecorelay bridge-init --relay URL`, or invite from another machine",
        )
    if at_relay and not settings.relays:
        raise RelayError("bad_args", "this hub is at no relay: `ecorelay bridge-init --relay URL` adds one")
    if at_relay and host:
        raise RelayError("bad_args", "--relay and --host do not go together: at a relay nobody is dialed")
    if host and not settings.listen:
        raise RelayError(
            "bad_args", f"this hub listens at no port, so --host leads nowhere: set listen in {paths.bridge}"
        )
    me = bridge.identity(paths, make=True)
    if at_relay or not settings.listen:
        session.run(lambda: meeting.invite(paths, settings, me))
        return
    host = host or invitation.own_address(settings.bind)
    if len(host) > 253 or any(c.isspace() or not c.isprintable() for c in host) or "/" in host:
        raise RelayError("bad_args", f"--host is {host!r}: it must be a machine's name or IP address")
    relays = [invitation.RelayEntry(url=each.url, token=each.token.reveal()) for each in settings.relays]
    line = invitation.written(
        invitation.Invitation(
            hub_id=settings.hub_id,
            host=host.strip("[]"),
            port=settings.listen,
            identity=me.fingerprint,
            secret=settings.secret.reveal(),
            relays=tuple(relays),
        )
    )
    screen.out(f"{line}\n")
    screen.say(f"invites to {settings.hub_id} at {host}, port {settings.listen} (another address: --host)")
    if invitation.is_loopback(host):
        screen.say(
            f"note: {host} is reached from this machine only. For others set bind in {paths.bridge} to an "
            "address of its network (or 0.0.0.0, all of them), or name one with --host"
        )
    if screen.is_terminal(sys.stdout):
        screen.say("the line holds the secret: clear this screen when it is copied")


# --- bridge-check ---------------------------------------------------------------------------------------


@commands.command(
    "bridge-check", **words.with_example("ecorelay bridge-check", "ecorelay bridge-check --json")
)
def bridge_check(as_json: words.Json = False) -> None:
    """Try the way to every other hub; say where and why it ends.

    Looks for mistakes in bridge.json, whether the port is ours, and for each hub: its name's address, the
    connection, TLS, the secret, who it is, its clock. For each relay server: the way there, its token, and
    the same for each hub that is there. Disturbs no link. Exits with 0 only if all is well, with 2 where
    bridge.json has mistakes.

    """
    paths = session.paths()
    try:
        settings = bridge.needed(paths)
    except RelayError as error:
        if error.code != "bad_args" or not as_json:
            raise
        screen.out_json(
            ok=False,
            mistakes=error.message.splitlines(),
            warnings=[],
            identity="",
            steps=[],
            hubs=[],
            relays=[],
        )
        raise SystemExit(exits.USAGE) from None
    me = bridge.identity(paths, make=True)
    session.run(lambda: _check(paths, settings, me, as_json))


async def _check(paths: Paths, settings: Settings, me: Identity, as_json: bool) -> int:
    from ecorelay_bridge import check_listening, check_peers, check_relays

    running = await bridge.status()
    at = () if running is None else running.listening
    held = any(each.rpartition(":")[2] == str(settings.listen) for each in at)
    steps = [await check_listening(settings, held_by_our_hub=held)]
    known = bridge.trust(paths).known()
    found = await check_peers(settings, me, known)
    relays = await check_relays(settings, me, known)
    well = all(step.ok for each in (steps, *found.values()) for step in each) and all(
        each.ok for each in relays
    )
    if as_json:
        screen.out_json(
            ok=well,
            mistakes=[],
            warnings=list(settings.warnings),
            identity=me.fingerprint,
            steps=[_fields(step) for step in steps],
            hubs=[_hub_fields(running, hub_id, each) for hub_id, each in found.items()]
            + [_hub_fields(running, link.hub_id, ()) for link in _others(settings, running)],
            relays=[_relay_fields(running, each) for each in relays],
        )
        return exits.OK if well else exits.REFUSED
    screen.out(
        f"{_mark(True)} bridge.json  {screen.line(settings.hub_id)}, "
        f"{screen.many(len(settings.peers), 'hub')} to dial"
        f"{', ' * bool(relays)}{screen.many(len(relays), 'relay') if relays else ''}\n"
    )
    screen.out(f"{_mark(True)} identity     {me.fingerprint}\n")
    screen.out(_shown(steps, ""))
    where = {each.hub_id: f"{each.host}, port {each.port}" for each in settings.peers}
    for hub_id, each in found.items():
        screen.out(f"\n{screen.styled(screen.line(hub_id), 'bold')} ({screen.line(where[hub_id])})\n")
        screen.out(_shown(each, "  "))
        screen.out(f"  {_running_says(running, hub_id)}\n")
    for relay in relays:
        screen.out(f"\n{screen.styled(screen.line(relay.name), 'bold')} (relay)\n{_shown(relay.steps, '  ')}")
        screen.out(f"  {_running_at(running, relay)}\n")
        for hub_id, each in relay.hubs.items():
            screen.out(f"  {screen.styled(screen.line(hub_id), 'bold')}\n{_shown(each, '    ')}")
    at_relays = {hub_id for relay in relays for hub_id in relay.hubs}
    for link in _others(settings, running):
        says = _running_says(running, link.hub_id)
        how = "at a relay" if link.hub_id in at_relays else "dials this hub"
        screen.out(f"\n{screen.styled(screen.line(link.hub_id), 'bold')} ({how})\n  {says}\n")
    for warning in settings.warnings:
        screen.say(f"note: {warning}")
    hubs = found | {f"{name}@{each.name}": steps for each in relays for name, steps in each.hubs.items()}
    _sum_up(settings, hubs, [each.name for each in relays if not each.ok], running, held, well)
    return exits.OK if well else exits.REFUSED


def _others(settings: Settings, running: wire.HubDetails | None) -> list[wire.LinkDetails]:
    """Hubs that the running hub knows and bridge.json does not name."""
    named = {names.key(peer.hub_id) for peer in settings.peers}
    return [] if running is None else [each for each in running.links if names.key(each.hub_id) not in named]


def _sum_up(
    settings: Settings,
    found: Mapping[str, Sequence[Step]],
    bad_relays: Sequence[str],
    running: wire.HubDetails | None,
    held: bool,
    well: bool,
) -> None:
    if not well:
        bad = sum(not all(step.ok for step in each) for each in found.values())
        relays = f"; see {', '.join(bad_relays)}" if bad_relays else ""
        screen.say(
            f"not all is well: {bad} of {screen.many(len(found), 'hub')} not reached as it should be{relays}"
        )
    elif not found and not settings.relays:
        screen.say("no hub is to be dialed from here: whether others reach this one is checked from there")
    else:
        screen.say("all is well")
    if running is None:
        screen.say("no hub runs here: `ecorelay hub start`")
    elif settings.listen and not held:
        same = names.key(running.hub_id) == names.key(settings.hub_id)
        how = "reload" if same else "restart"  # a reload is refused where it would be another hub afterwards
        screen.say(f"the running hub has not read this bridge.json: `ecorelay hub {how}`")


def _mark(ok: bool) -> str:
    mark = screen.symbol("✓", "ok  ") if ok else screen.symbol("✗", "FAIL")
    return screen.styled(mark, "green" if ok else "red")


def _shown(steps: Sequence[Step], indent: str) -> str:
    arrow = screen.symbol("→", "->")
    text = ""
    for step in steps:
        says = step.detail if step.ok else step.cause
        text += (
            f"{indent}{_mark(step.ok)} {step.step.ljust(12 - len(indent))} {screen.line(says)}".rstrip()
            + "\n"
        )
        if step.remedy:
            text += f"{indent}    {arrow} {screen.line(step.remedy)}\n"
    return text


def _running_says(running: wire.HubDetails | None, hub_id: str) -> str:
    if running is None:
        return "no hub runs here, so there is no link to it"
    link = bridge.link(running, hub_id)
    if link is None:
        return "the running hub does not know of it: `ecorelay hub reload`"
    peers = f"{screen.many(link.peers, 'peer')} known, {link.online} online"
    if link.up:
        return f"the running hub is linked to it: {peers}"
    return f"the running hub has no link to it now: {peers}" + (
        f"; {screen.line(link.trouble)}" if link.trouble else ""
    )


def _running_at(running: wire.HubDetails | None, found: RelayFound) -> str:
    """What the running hub says of a relay: it may go there otherwise than this shell does."""
    if running is None:
        return "no hub runs here, so none is there"
    at = next((each for each in running.relays if each.name == found.name), None)
    if at is None:
        return "the running hub does not know of it: `ecorelay hub reload`"
    if at.up:
        return f"the running hub is there: {screen.many(at.hubs, 'other hub')}"
    says = f"the running hub is not there now; {screen.line(at.trouble) or 'it is connecting'}"
    if any(step.step == "proxy" and step.ok for step in found.steps):
        says += "; this shell goes through a proxy: `ecorelay hub restart` from here gives it to the hub too"
    return says


def _fields(step: Step) -> dict[str, Any]:
    fields: dict[str, Any] = {"step": step.step, "ok": step.ok}
    for name in ("detail", "cause", "reason", "remedy"):
        if value := getattr(step, name):
            fields[name] = value
    return fields


def _relay_fields(running: wire.HubDetails | None, found: RelayFound) -> dict[str, Any]:
    return {
        "name": found.name,
        "ok": found.ok,
        "running": running is not None
        and any(each.up and each.name == found.name for each in running.relays),
        "steps": [_fields(step) for step in found.steps],
        "hubs": [_hub_fields(running, hub_id, each) for hub_id, each in found.hubs.items()],
    }


def _hub_fields(running: wire.HubDetails | None, hub_id: str, steps: Sequence[Step]) -> dict[str, Any]:
    link = bridge.link(running, hub_id)
    return {
        "hub_id": hub_id,
        "ok": all(step.ok for step in steps),
        "steps": [_fields(step) for step in steps],
        "linked": link is not None and link.up,
        "peers": 0 if link is None else link.peers,
        "online": 0 if link is None else link.online,
    }
