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
from ecorelay.cli import bridge, exits, invitation, screen, session, words
from ecorelay.errors import RelayError
from ecorelay.paths import Paths, make_private_dir, sync_dir, write_private

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecorelay_bridge import Identity, RelayFound, Settings, Step

commands = typer.Typer(**words.TYPER)

STDIN: Final = "-"
SECRET_BYTES: Final = 16
PORT_MAX: Final = 65535


# --- bridge-init ----------------------------------------------------------------------------------------


@commands.command(
    "bridge-init",
    **words.with_example(
        "ecorelay bridge-init                                         # on the first machine",
        "ecorelay bridge-invite | ssh desk ecorelay bridge-init --join  # and so on each other one",
        "ecorelay bridge-init --peer desk=192.168.1.20:9700 --secret-from secret.txt",
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
        int,
        typer.Option(
            "--listen", metavar="PORT", min=0, max=PORT_MAX, help="Where it listens; 0: it does not."
        ),
    ] = bridge.PORT,
    bind: Annotated[
        str, typer.Option("--bind", metavar="ADDRESS", help="At which address of this machine.")
    ] = "0.0.0.0",
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
    reload: Annotated[bool, typer.Option("--reload", help="Have the running hub read it at once.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before the hub gets another name.")
    ] = False,
    as_json: words.Json = False,
) -> None:
    """Let this hub link to those of other machines.

    Writes bridge.json, makes a secret of 128 bits and this hub's identity, and says what to do on the
    other machine. The secret stands in the file, which only you can read, and is never printed here.
    Overwrites nothing.

    """
    paths = session.paths()
    if os.path.lexists(paths.bridge):
        raise RelayError(
            "bad_args",
            f"{paths.bridge} is there already: change it with an editor, then `ecorelay bridge-check` and "
            "`ecorelay hub reload`; or move it away to begin anew",
        )
    if join and secret_from:
        raise RelayError(
            "bad_args", "--join and --secret-from do not go together: an invitation has the secret"
        )
    table: dict[str, Any] = {"hub_id": _own_name(hub_id, paths, yes), "listen": listen, "bind": bind}
    peers = [_peer(each) for each in peer or ()]
    table["secret"] = secrets.token_urlsafe(SECRET_BYTES)
    if join or secret_from:
        given = _secret_text(
            STDIN if join else secret_from, "the line of `ecorelay bridge-invite`" if join else "the secret"
        )
        if join or invitation.is_one(given):
            invited = invitation.taken(given)
            table["secret"] = invited.secret
            if names.key(invited.hub_id) == names.key(table["hub_id"]):
                raise RelayError(
                    "bad_args",
                    f"this machine is called {table['hub_id']}, as the one that invites: give it another "
                    "name with --hub-id NAME",
                )
            host = {"hub_id": invited.hub_id, "host": invited.host, "port": invited.port}
            peers.insert(0, {**host, "identity": invited.identity})
        else:
            table["secret"] = given
    table["peers"] = peers
    from ecorelay_bridge.settings import parse_settings

    settings = parse_settings(table, paths.bridge)
    make_private_dir(paths.home)
    me = bridge.identity(paths, make=True)
    _write_new(paths.bridge, (json.dumps(table, indent=2, ensure_ascii=False) + "\n").encode())
    session.run(
        lambda: _initialised(
            paths, settings, me, made=not (join or secret_from), reload=reload, as_json=as_json
        )
    )


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


def _secret_text(source: str, what: str) -> str:
    """A secret, or an invitation, out of a file or stdin; typed at a terminal it is not shown.

    Raises:
        RelayError: ``bad_args``; quotes nothing of it.
    """
    if source == STDIN and screen.is_terminal(sys.stdin):
        import getpass

        screen.say(f"paste {what} and press Enter; it is not shown")
        try:
            return _one_line(getpass.getpass("", stream=sys.stderr).encode(), "what was typed")
        except EOFError:
            raise RelayError("bad_args", "nothing was typed: nothing was changed") from None
    if source == STDIN:
        return _one_line(sys.stdin.buffer.read(invitation.LINE_MAX + 1), "stdin")
    try:
        with open(source, "rb") as file:
            return _one_line(file.read(invitation.LINE_MAX + 1), source)
    except OSError as error:
        raise RelayError("bad_args", f"--secret-from is {source!r}: {error.strerror or error}") from None


def _one_line(data: bytes, where: str) -> str:
    if len(data) > invitation.LINE_MAX:
        raise RelayError("bad_args", f"{where} has over {invitation.LINE_MAX:,} bytes: that is no secret")
    try:
        text = data.decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError:
        raise RelayError("bad_args", f"{where} is not UTF-8") from None
    if not text.strip():
        raise RelayError("bad_args", f"{where} is empty: nothing was changed")
    if not invitation.is_one(text) and "\n" in text:
        raise RelayError("bad_args", f"{where} has more than one line: the secret must be all there is")
    return text


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
    paths: Paths, settings: Settings, me: Identity, *, made: bool, reload: bool, as_json: bool
) -> None:
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
            reloaded=reloaded,
        )
    else:
        rows = [
            ("bridge.json", f"{screen.line(screen.home_relative(str(paths.bridge)))}, only you can read it"),
            ("hub", f"{settings.hub_id}, {_listens(settings)}"),
            ("identity", me.fingerprint),
        ]
        rows += [("dials" if n == 0 else "", _where(each)) for n, each in enumerate(settings.peers)]
        screen.out(screen.table(rows))
    for warning in settings.warnings:
        screen.say(f"note: {warning}")
    if made and settings.listen:
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
        return "listens at no port: it dials only"
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
) -> None:
    """Print the line with which another machine joins.

    It is for a pipe, or to be pasted, and holds the secret, where this hub listens and its fingerprint,
    which the other hub checks from the first moment on. Whoever has the line can join: treat it as a
    password.

    """
    paths = session.paths()
    settings = bridge.needed(paths)
    if settings.secret is None or not settings.listen:
        raise RelayError(
            "bad_args",
            f"this hub listens at no port, so no other can dial it: set listen in {paths.bridge}, or invite "
            "from the machine that does",
        )
    host = host or invitation.own_address(settings.bind)
    if len(host) > 253 or any(c.isspace() or not c.isprintable() for c in host) or "/" in host:
        raise RelayError("bad_args", f"--host is {host!r}: it must be a machine's name or IP address")
    me = bridge.identity(paths, make=True)
    line = invitation.written(
        invitation.Invitation(
            hub_id=settings.hub_id,
            host=host.strip("[]"),
            port=settings.listen,
            identity=me.fingerprint,
            secret=settings.secret.reveal(),
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
        screen.say("the running hub has not read this bridge.json: `ecorelay hub reload`")


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
