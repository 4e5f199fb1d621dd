"""What several commands have in common: options, settings of typer, checks of what a person typed."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Final

import typer

from ecorelay.cli import complete
from ecorelay.errors import RelayError
from ecorelay.names import NAME_RULE, is_id, is_name, split_address

TYPER: Final[dict[str, Any]] = {
    # Plain help and plain errors: square brackets in a text are text, and a traceback is a bug report.
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for scripts.")]
As = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="NAME",
        help="Act as this peer. Default: the setting `me`, else your login name.",
        show_default=False,
        autocompletion=complete.peers,
    ),
]
To = Annotated[
    str,
    typer.Argument(
        metavar="TO", help="A peer's name, or NAME@HUB.", show_default=False, autocompletion=complete.peers
    ),
]
Text = Annotated[
    str, typer.Argument(metavar="TEXT", help="What to say; - reads it from stdin.", show_default=False)
]

SHORT_MAX: Final = 256
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_PERIOD: Final = re.compile(r"\A([0-9]{1,9})([smhdw])\Z")
PERIOD_RULE: Final = "a whole number and a unit (s, m, h, d or w), as in 12h or 30d"


def with_example(*lines: str) -> dict[str, Any]:
    """What typer is told about a command besides its function: the end of its help is these lines."""
    # The backspace keeps the help's formatter from joining the lines.
    return {
        "context_settings": {"help_option_names": ["-h", "--help"]},
        "epilog": "\b\nExample:\n" + "\n".join([f"  {line}" for line in lines]),
    }


def name(text: str, what: str) -> str:
    """`text`, if it is a name.

    Raises:
        RelayError: ``bad_args``; `what` says of which argument.
    """
    if not is_name(text):
        raise RelayError("bad_args", f"{what} is {text!r}: it must be {NAME_RULE}")
    return text


def address(text: str, what: str) -> str:
    """`text`, if it is ``name`` or ``name@hub_id``. Raises as :func:`name`."""
    if split_address(text, "") is None:
        raise RelayError("bad_args", f"{what} is {text!r}: it must be NAME or NAME@HUB, each {NAME_RULE}")
    return text


def message_id(text: str | None, what: str) -> str | None:
    """`text`, if it has the form of a message's id. Raises as :func:`name`."""
    if text is not None and not is_id(text):
        raise RelayError("bad_args", f"{what} is {text!r}: it must be a msg_id as `ecorelay inbox` shows it")
    return text


def period(text: str, what: str) -> int:
    """The seconds of ``45s``, ``30m``, ``12h``, ``30d`` or ``2w``. Raises as :func:`name`."""
    match = _PERIOD.match(text.strip())
    if match is None:
        raise RelayError("bad_args", f"{what} is {text!r}: it must be {PERIOD_RULE}")
    return int(match[1]) * _UNITS[match[2]]


def only_alone(context: typer.Context, **given: object) -> bool:
    """Whether a group of commands was called without one of them.

    Raises:
        RelayError: ``bad_args``, an option was given before the command, where it would mean nothing.
    """
    if context.invoked_subcommand is None:
        return True
    for option, value in given.items():
        if value:
            name = "--" + option.strip("_").replace("_", "-")
            raise RelayError(
                "bad_args",
                f"{name} belongs after {context.invoked_subcommand}: "
                f"{context.command_path} {context.invoked_subcommand} ... {name}",
            )
    return False


def short(text: str, what: str) -> str:
    """`text`, if it is UTF-8 and has at most 256 characters. Raises as :func:`name`."""
    try:
        text = os.fsencode(text).decode()
    except UnicodeError:
        raise RelayError("bad_args", f"{what} is not UTF-8") from None
    if len(text) > SHORT_MAX:
        raise RelayError("bad_args", f"{what} has {len(text)} characters: at most {SHORT_MAX}")
    return text
