"""``ecorelay config``: which settings hold, and where each comes from."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer

from ecorelay import config
from ecorelay.cli import exits, screen, session, words

app = typer.Typer(
    **words.TYPER,
    **words.with_example("ecorelay config show", "ecorelay config path"),
    no_args_is_help=True,
)


@app.callback()
def config_() -> None:
    """Show the settings. They are changed in config.toml, or for one command in the environment."""


@app.command("path", **words.with_example("ecorelay config path", '$EDITOR "$(ecorelay config path)"'))
def path(as_json: words.Json = False) -> None:
    """Print where the settings file is, or would be."""
    found = session.paths()
    exists = found.config.exists()
    if as_json:
        screen.out_json(path=str(found.config), exists=exists, data_dir=str(found.home))
        return
    screen.out(f"{screen.line(str(found.config))}\n")
    if not exists and screen.is_terminal(sys.stderr):
        screen.say("there is none yet, and none is needed; `ecorelay config show` lists what can stand in it")


@app.command("show", **words.with_example("ecorelay config show", "ecorelay config show --json"))
def show(as_json: words.Json = False) -> None:
    """Show every setting, its value, and its origin.

    The environment wins over the file, the file over the default.
    What is wrong in them is explained, and exits with 2: no hub starts before it is mended.

    """
    found, mistakes = config.survey(session.paths(), os.environ)
    settings = _settings(found)
    if as_json:
        screen.out_json(
            path=str(session.paths().config),
            settings={key: {"value": value, "origin": origin} for key, value, origin in settings},
            mistakes=mistakes,
        )
    else:
        rows = [
            (key, screen.line(_spelled(value)), screen.line(screen.home_relative(origin)))
            for key, value, origin in settings
        ]
        if screen.is_terminal(sys.stdout):
            rows.insert(0, ("SETTING", "VALUE", "ORIGIN"))
        screen.out(screen.table(rows))
    if mistakes:
        screen.fail(
            "\n".join(
                [
                    *mistakes,
                    "no hub starts before that is mended; what is wrong is shown above as if it were not set",
                ]
            )
        )
        raise SystemExit(exits.USAGE)


def _settings(found: config.Config) -> list[tuple[str, Any, str]]:
    """Name, value and origin of each."""
    settings = []
    for key, origin in found.origins.items():
        table, _, limit = key.rpartition(".")
        settings.append((key, getattr(found.limits if table else found, limit), origin))
    return settings


def _spelled(value: Any) -> str:
    """As it would stand in config.toml."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
