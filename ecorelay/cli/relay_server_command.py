"""``ecorelay relay-server``: where hubs meet that cannot reach each other."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ecorelay.cli import exits, screen, words
from ecorelay.cli.relay_start import demand_extra, serve
from ecorelay.errors import RelayError
from ecorelay.paths import sync_dir

if TYPE_CHECKING:
    from ecorelay_relay_server.settings import Settings

commands = typer.Typer(**words.TYPER)

PORT: Final = 9800
FILE: Final = "relay-config.json"
TOKEN_BYTES: Final = 20


@commands.command(
    "relay-server",
    **words.with_example(
        "ecorelay relay-server --init relay-config.json    # once: makes the token",
        "ecorelay relay-server relay-config.json --check   # what it would do",
        "ecorelay relay-server relay-config.json           # until Ctrl-C or SIGTERM",
    ),
)
def relay_server(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="Path of relay-config.json.", show_default=False)
    ] = "",
    check: Annotated[
        bool, typer.Option("--check", help="Only read CONFIG, and say what it would do.")
    ] = False,
    init: Annotated[
        bool, typer.Option("--init", help="Write a new CONFIG with a token nobody guesses.")
    ] = False,
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=1, max=65535, help="For --init: where hubs connect.")
    ] = PORT,
    as_json: words.Json = False,
) -> None:
    """Be the place where hubs meet that cannot reach each other.

    It passes on what it cannot read: links are encrypted and proved from hub to hub.

    It runs on a machine that all hubs can reach, in the foreground, and writes its log as JSON lines on
    stderr. SIGHUP reads CONFIG again, SIGTERM ends it. The secret may also come from the environment, as
    ECORELAY_RELAY_SECRET. How to run it for good: docs/relay.md.

    """
    if init and check:
        raise RelayError("bad_args", "--init and --check do not go together: first one, then the other")
    if init:
        _init(Path(config or FILE), port, as_json)
        return
    if not config:
        raise RelayError("bad_args", f"CONFIG is missing: `ecorelay relay-server --init {FILE}` writes one")
    if check:
        _check(Path(config), as_json)
        return
    raise SystemExit(serve(config))


# --- --init ----------------------------------------------------------------------------------------------


def _init(path: Path, port: int, as_json: bool) -> None:
    token = secrets.token_urlsafe(TOKEN_BYTES)
    data = (json.dumps({"port": port, "secret": token}, indent=2) + "\n").encode()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    except FileExistsError:
        raise RelayError(
            "bad_args", f"{path} is there already: change it with an editor, or move it away to begin anew"
        ) from None
    with open(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_dir(path.absolute().parent)
    if as_json:
        screen.out_json(path=str(path.absolute()), port=port)
        return
    screen.say(f"{path} is written, only you can read it; start it with: ecorelay relay-server {path}")
    screen.say("on the first machine: ecorelay bridge-init --relay wss://HOST, which asks for the token")
    screen.say(
        "(ws://HOST:PORT only if TLS ends nowhere). Others are invited from there. It writes this line; "
        "that holds the token, so do not send it where others read:"
    )
    screen.out(f'"relay": {{"url": "wss://HOST", "token": "{token}"}}\n')


# --- --check ---------------------------------------------------------------------------------------------


def _check(path: Path, as_json: bool) -> None:
    demand_extra()
    from ecorelay_relay_server.server import tls_context
    from ecorelay_relay_server.settings import read_settings

    try:
        settings = read_settings(path, os.environ)
        tls_context(settings)
    except RelayError as error:
        if not as_json:
            raise
        screen.out_json(ok=False, mistakes=error.message.split("\n"), warnings=[])
        raise SystemExit(exits.USAGE) from None
    if as_json:
        screen.out_json(ok=True, mistakes=[], warnings=list(settings.warnings), **_fields(settings))
        return
    screen.out(screen.table(_rows(settings)))
    for warning in settings.warnings:
        screen.say(f"note: {warning}")
    screen.say("all is well")


def _fields(settings: Settings) -> dict[str, Any]:
    return {
        "port": settings.port,
        "bind": settings.bind,
        "tls": bool(settings.tls_cert),
        "max_hubs": settings.max_hubs,
        "realms": [
            {"name": realm.name, "max_hubs": realm.max_hubs, "tokens": len(realm.tokens)}
            for realm in settings.realms
        ],
        "metrics_port": settings.metrics_port,
        "metrics_bind": settings.metrics_bind,
        "urls": list(settings.urls),
        "proxies": [str(network) for network in settings.proxies],
    }


def _rows(settings: Settings) -> list[tuple[str, str]]:
    where = {"0.0.0.0": "every IPv4 address", "::": "every address"}.get(settings.bind, settings.bind)
    scheme = "wss:// with its own certificate" if settings.tls_cert else "plain ws://, for a proxy to end TLS"
    metrics = (
        f"http://{settings.metrics_bind}:{settings.metrics_port}/metrics" if settings.metrics_port else "none"
    )
    rows = [
        ("listens", f"port {settings.port} of {where}, {scheme}"),
        ("hubs", f"at most {settings.max_hubs:,}"),
    ]
    for number, realm in enumerate(settings.realms):
        tokens = "a token and the one before it" if len(realm.tokens) > 1 else "one token"
        rows.append(("realms" if number == 0 else "", f"{realm.name}: {tokens}, {realm.max_hubs:,} hubs"))
    rows.append(("urls", ", ".join([screen.line(url) for url in settings.urls]) or "any"))
    rows.append(("metrics", metrics))
    return rows
