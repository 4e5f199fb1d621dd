"""The door of the command ``ecorelay``: decides by the first words what has to be imported at all.

Three of its commands are started by programs, often, and must be quick: they are told apart here, before
typer is imported.
"""

from __future__ import annotations

import sys

_HELP = ("--help", "-h")


def main() -> int:
    """Run the command of this process's arguments.

    Returns:
        The exit code, see `ecorelay.cli.exits`.
    """
    return _main(sys.argv[1:])


def relay_server() -> int:
    """The command ``ecorelay-relay-server``: the same as ``ecorelay relay-server``, for service managers."""
    return _main(["relay-server", *sys.argv[1:]])


def _main(arguments: list[str]) -> int:
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        from ecorelay.cli import exits

        return exits.INTERRUPTED
    except BrokenPipeError:
        from ecorelay.cli import screen

        return int(screen.pipe_closed().code or 0)
    except Exception as error:
        code = _explain(error)
        if code is None:
            raise
        return code


def _run(arguments: list[str]) -> int:
    asks_for_help = any(word in _HELP for word in arguments)
    match arguments:
        case ["--version" | "-V"]:
            from ecorelay import __version__

            print(f"ecorelay {__version__}", flush=True)
            return 0
        case ["mcp", *rest]:
            from ecorelay_adapters.main import main as mcp

            return mcp(rest)
        case ["hook", *rest]:
            from ecorelay_adapters.hook import main as hook

            return hook(rest)
        case ["hub", "run", *rest] if not asks_for_help:
            from ecorelay.daemon.main import main as hub

            return hub(rest)
        case ["relay-server", config] if not config.startswith("-"):
            from ecorelay.cli.relay_start import serve

            return serve(config)
        case _:
            from ecorelay.cli.app import app

            app(args=arguments, prog_name="ecorelay")
            return 0


def _explain(error: Exception) -> int | None:
    """Say in one line what a person can do something about; None for a bug of ours."""
    from ecorelay.cli import exits, screen
    from ecorelay.cli.tool_words import for_person
    from ecorelay.errors import RelayError

    match error:
        case RelayError(code=code, message=message):
            screen.fail(for_person(message))
            return exits.exit_code(code)
        case OSError():
            screen.fail(screen.trouble(error))
            screen.quiet_stdout()  # it may be the one that is full
            return exits.BROKEN
        case _:
            return None
