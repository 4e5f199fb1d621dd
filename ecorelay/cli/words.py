"""What several commands have in common: options, settings of typer, checks of what a person typed."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

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
    ),
]


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
