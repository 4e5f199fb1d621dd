"""``ecorelay hub``: the daemon, started, stopped and looked at."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import trio
import typer

from ecorelay import __version__, spawn, wire
from ecorelay.cli import bridge, hub_links, screen, service, service_commands, session, words
from ecorelay.cli.counters import in_words
from ecorelay.endpoint import Endpoint, read_endpoint
from ecorelay.errors import RelayError
from ecorelay.paths import Paths
from ecorelay.process import is_alive
from ecorelay.upgrade import is_older

app = typer.Typer(**words.TYPER, **words.with_example("ecorelay hub status"), no_args_is_help=True)
app.add_typer(service_commands.app, name="service")

STOPPED_WITHIN_S = 15.0
ENDS_WITHIN_S = 5.0
"""For a hub that does not answer, until it is killed."""
_DURABILITY = {"power": "a power failure", "process": "the end of any process"}


@app.callback()
def hub() -> None:
    """Look after the hub.

    It is the one daemon of this user on this machine: it starts by itself when something needs it, and
    leaves when nothing does.

    """


@app.command("run", **words.with_example("ecorelay hub run"))
def run() -> None:
    """Run the hub here, in the foreground, until it is stopped.

    For service managers and for looking on; everything else starts one by itself.

    """
    raise AssertionError("served by ecorelay.cli.main")  # pragma: no cover


# --- start, stop ----------------------------------------------------------------------------------------


@app.command("start", **words.with_example("ecorelay hub start"))
def start() -> None:
    """Start the hub in the background, and let it stay.

    It stays also when nobody needs it. One that was started on demand is replaced; no mail is lost.

    """
    session.run(_start)


@app.command("stop", **words.with_example("ecorelay hub stop"))
def stop() -> None:
    """Stop the running hub. Mail stays in its mailboxes.

    Live sessions start a hub again as soon as they need one.

    """
    session.run(_stop)


@app.command("restart", **words.with_example("ecorelay hub restart"))
def restart() -> None:
    """Stop the hub, if one runs, and start one that stays.

    Live sessions come back by themselves, and no mail is lost. A hub that is a service stays one.

    """
    session.run(_restart)


app.command("reload", **words.with_example("ecorelay hub reload"))(hub_links.reload)
app.command("forget", **words.with_example("ecorelay hub forget old-laptop"))(hub_links.forget)


async def _start() -> None:
    paths = session.paths()
    session.config()
    async with session.no_other_start(paths):
        endpoint = read_endpoint(paths.endpoint)
        found = await bridge.status()
        if found is not None and endpoint is not None and endpoint.kept:
            screen.say(f"a hub is already running: {_known(found)}")
            return
        if found is not None:
            screen.say("the hub that runs was started on demand: one that stays takes its place")
            await stop_hub("ecorelay hub start")
        await _launch(paths)
    await _say_started()


async def _launch(paths: Paths) -> None:
    refusal = await spawn.start(paths, {**os.environ, session.KEEP_ALIVE: "true"})
    if refusal is not None:
        raise refusal


async def _say_started() -> None:
    found = await bridge.status()
    if found is not None:
        screen.say(f"started: {_known(found)}")
        # Read here too, because the hub may only be about to: a person who just wrote it is told at once.
        try:
            bridge.read(session.paths())
        except RelayError as error:
            screen.fail(f"no links to other hubs: {error.message}")


async def _stop() -> None:
    stopped = await stop_hub()
    if stopped.sessions:
        screen.say(f"{screen.many(stopped.sessions, 'live session')} will start one when it is needed")


async def stop_hub(reason: str = "ecorelay hub stop") -> wire.HubDetails:
    """Stop the hub that runs, and wait until it is gone.

    Args:
        reason: goes into its log and its goodbyes.

    Returns:
        What it was.

    Raises:
        RelayError: none runs, or it does not end.
    """
    # The beginning of a process tells it apart from a later one with the same number.
    endpoint = read_endpoint(session.paths().endpoint)
    try:
        return await _ask_to_stop(endpoint, reason)
    except RelayError as error:
        if error.code != "hub_unreachable" or (hung := session.unanswering()) is None:
            raise
    return await _end_process(hung)


async def _end_process(hung: Endpoint) -> wire.HubDetails:
    """End a hub that does not answer: it was stopped, hangs, or can take no connection."""
    screen.say(f"the hub does not answer: its process {hung.pid} is ended")
    # A stopped process hears the first once it goes on. What a killed one acknowledged is on disk.
    for wave in (("SIGTERM", "SIGCONT"), ("SIGKILL",)):
        with suppress(ProcessLookupError):
            for name in wave:
                if (number := getattr(signal, name, None)) is not None:
                    os.kill(hung.pid, number)
        with trio.move_on_after(ENDS_WITHIN_S):
            await session.until_gone(hung.pid, hung.pid_start)
            break
    if is_alive(hung.pid, hung.pid_start):
        raise RelayError("timeout", f"the hub (pid {hung.pid}) cannot be ended: it waits for its disk")
    found = wire.HubDetails(req_id=0, pid=hung.pid, hub_id=hung.hub_id, version=hung.version, sessions=0)
    screen.say(f"stopped: {_known(found)}")
    return found


async def _ask_to_stop(endpoint: Endpoint | None, reason: str) -> wire.HubDetails:
    async with session.at_running_hub() as hub:
        found = await hub.request(wire.HubStatus(req_id=0))
        await hub.request(wire.HubStop(req_id=0, reason=reason))
        began = endpoint.pid_start if endpoint is not None and endpoint.pid == found.pid else 0
        with trio.move_on_after(STOPPED_WITHIN_S):
            await hub.wait_over()
            await session.until_gone(found.pid, began)
    if is_alive(found.pid, began):
        raise RelayError("timeout", f"the hub (pid {found.pid}) did not end within {STOPPED_WITHIN_S:.0f} s")
    screen.say(f"stopped: {_known(found)}")
    return found


async def _restart() -> None:
    paths = session.paths()
    session.config()  # a setting that is wrong must not cost the hub that runs
    from ecorelay.cli import install_commands  # which needs this module

    if not await service.restart(install_commands.machine_of()):
        async with session.no_other_start(paths):
            try:
                await stop_hub("ecorelay hub restart")
            except RelayError as error:
                if error.code != "hub_unreachable":
                    raise
            await _launch(paths)
    await _say_started()


def _known(found: wire.HubDetails) -> str:
    return f"{screen.line(found.hub_id)} (pid {found.pid}, ecorelay {screen.line(found.version)})"


# --- status ---------------------------------------------------------------------------------------------


@app.command("status", **words.with_example("ecorelay hub status", "ecorelay hub status --json"))
def status(as_json: words.Json = False) -> None:
    """Show the running hub; exits with 3 when none is running. Never starts one."""
    session.run(lambda: _status(as_json))


async def _status(as_json: bool) -> None:
    async with session.at_running_hub() as hub:
        found = await hub.request(wire.HubStatus(req_id=0))
    if as_json:
        screen.out_json(
            pid=found.pid,
            hub_id=found.hub_id,
            version=found.version,
            uptime_s=round(found.uptime_s, 3),
            sessions=found.sessions,
            connections=found.connections,
            peers=found.peers,
            groups=found.groups,
            rooms=found.rooms,
            durability=found.durability,
            data_dir=found.data_dir,
            db_bytes=found.db_bytes,
            mailboxes=found.mailboxes,
            mail_messages=found.mail_messages,
            mail_unread=found.mail_unread,
            mail_bytes=found.mail_bytes,
            largest=[_mailbox_fields(each) for each in found.largest],
            links=[hub_links.fields(each) for each in found.links],
            relays=[hub_links.relay_fields(each) for each in found.relays],
            listening=list(found.listening),
            problems=found.problems,
            counters=found.counters,
        )
        return
    screen.out(screen.table(_rows(found)))
    if found.problems:
        screen.say("what to do about a problem stands in it; the hub's log has more: ecorelay logs")


def _rows(found: wire.HubDetails) -> list[tuple[str, str]]:
    survives = _DURABILITY.get(found.durability, found.durability)
    directory = screen.line(screen.home_relative(found.data_dir))
    rows = [
        ("hub", _known(found)),
        ("up", screen.duration(found.uptime_s)),
        (
            "now",
            f"{screen.many(found.sessions, 'session')}, {screen.many(found.connections, 'connection')}, "
            f"{screen.many(found.rooms, 'room')}",
        ),
        ("knows", f"{screen.many(found.peers, 'peer')}, {screen.many(found.groups, 'group')}"),
        ("data", f"{directory}, hub.db {screen.size(found.db_bytes)}"),
        ("mail", f"acknowledged mail survives {screen.line(survives)}"),
    ]
    if is_older(found.version):
        rows.append(("older", f"than this ecorelay ({__version__}): ecorelay hub restart"))
    if found.mailboxes or not is_older(found.version):
        kept = (
            f"{_mail(found.mail_messages, found.mail_unread)}, in {screen.many(found.mailboxes, 'mailbox')}"
        )
        rows.append(("", f"{kept} ({screen.size(found.mail_bytes)})"))
    rows += [
        (
            "largest" if number == 0 else "",
            f"{screen.line(each.name)}: {_mail(each.messages, each.unread)} ({screen.size(each.bytes)})",
        )
        for number, each in enumerate(found.largest)
    ]
    rows += hub_links.rows(found)
    rows += [("problem", screen.line(problem)) for problem in found.problems]
    rows += [
        ("since start" if number == 0 else "", f"{screen.line(what)}: {count}")
        for number, (what, count) in enumerate(in_words(found.counters))
    ]
    return rows


def _mail(messages: int, unread: int) -> str:
    return f"{screen.many(messages, 'message')}, {unread} unread"


def _mailbox_fields(each: wire.MailboxSize) -> dict[str, str | int]:
    return {"name": each.name, "messages": each.messages, "unread": each.unread, "bytes": each.bytes}
