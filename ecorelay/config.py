"""The settings of one user's hub and clients, and where each value came from.

The environment wins over ``config.toml`` in the data directory, and that over the defaults. A setting
`x` is ``ECORELAY_X`` in the environment, `limits.x` is ``ECORELAY_LIMITS_X``; an empty variable is none.
"""

from __future__ import annotations

import math
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_type_hints

import msgspec
from msgspec import Meta, Struct

from ecorelay.errors import RelayError
from ecorelay.limits import Limits
from ecorelay.names import Name, slug

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecorelay.paths import Paths

PREFIX: Final = "ECORELAY_"
DEFAULT: Final = "default"
"""The origin of a value nobody set."""
FILE_MAX: Final = 1024 * 1024
NUMBER_MAX: Final = 2**53 - 1
"""What every reader of a settings file keeps exact."""


class Config(Struct, frozen=True, kw_only=True):
    """All settings, checked. Immutable: read again to see a change."""

    hub_id: Name
    """This hub's name in the federation. Default: the host's name up to its first dot."""
    me: Name
    """The name of the person at the command line. Default: the login name."""
    transport: Literal["auto", "unix", "tcp"] = "auto"
    """How clients reach the hub: ``auto`` is a Unix socket where there are such."""
    durability: Literal["power", "process"] = "power"
    """What an acknowledged message survives: a power failure, or only the end of a process."""
    keep_alive: bool = False
    """Whether the hub stays when nobody needs it."""
    idle_exit_s: Annotated[float, Meta(ge=0)] = 10.0
    """Seconds the hub stays after the last session, when nothing keeps it."""
    spawn: bool = True
    """Whether a client that finds no hub may start one."""
    limits: Limits = Limits()
    origins: dict[str, str] = {}
    """Setting (``limits.x`` for a limit) → ``default``, the path of config.toml, or the variable's name."""


class ConfigError(RelayError):
    """Settings that cannot be used; `mistakes` has one sentence for each."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("bad_args", "\n".join(mistakes))
        self.mistakes = tuple(mistakes)


def load(paths: Paths, environ: Mapping[str, str]) -> Config:
    """Read the settings that hold for this data directory and environment.

    Raises:
        ConfigError: at least one setting is wrong; all that are get named.
    """
    found, mistakes = survey(paths, environ)
    if mistakes:
        raise ConfigError(mistakes)
    return found


def survey(paths: Paths, environ: Mapping[str, str]) -> tuple[Config, list[str]]:
    """As :func:`load`, with what is wrong left out: what would hold without it, and a sentence on each."""
    kinds = _kinds()
    mistakes: list[str] = []
    found: dict[str, tuple[Any, str]] = {}
    found.update(_from_file(paths, kinds, mistakes))
    found.update(_from_environment(environ, kinds, mistakes))
    values: dict[str, Any] = {}
    for key, (raw, origin) in found.items():
        try:
            values[key] = _checked(raw, kinds[key], text=not origin.endswith(".toml"))
        except (msgspec.ValidationError, ValueError, OverflowError):
            from ecorelay.config_words import wrong_value

            mistakes.append(wrong_value(key, raw, kinds[key], origin))
    origins = {key: found[key][1] if key in values else DEFAULT for key in kinds}
    limits = {key.partition(".")[2]: value for key, value in values.items() if "." in key}
    own = {key: value for key, value in values.items() if "." not in key}
    whole = Config(
        **{"hub_id": _host_slug(), "me": _login_slug(environ), **own},
        limits=Limits(**limits),
        origins=origins,
    )
    return whole, mistakes


def variable(key: str) -> str:
    """The environment's name for the setting `key`."""
    return PREFIX + key.replace(".", "_").upper()


def _kinds() -> dict[str, Any]:
    """Every setting's type, limits as ``limits.x``."""
    kinds = get_type_hints(Config, include_extras=True)
    del kinds["origins"], kinds["limits"]
    limits = get_type_hints(Limits, include_extras=True)
    return kinds | {f"limits.{key}": kind for key, kind in limits.items()}


def _checked(raw: object, kind: Any, *, text: bool) -> Any:
    if text and isinstance(raw, str):
        raw = _BOOLEANS.get(raw.strip().lower(), raw.strip()) if kind is bool else raw.strip()
    value = msgspec.convert(raw, kind, strict=not text)
    if isinstance(value, int | float) and not (math.isfinite(value) and value <= NUMBER_MAX):
        raise ValueError
    return value


_BOOLEANS: Final = {"yes": True, "on": True, "no": False, "off": False}


def _from_file(paths: Paths, kinds: Mapping[str, Any], mistakes: list[str]) -> dict[str, tuple[Any, str]]:
    origin = str(paths.config)
    try:
        with open(paths.config, "rb") as file:
            data = file.read(FILE_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        mistakes.append(f"{origin} cannot be read: {error.strerror or error}")
        return {}
    if len(data) > FILE_MAX:
        mistakes.append(f"{origin} is longer than {FILE_MAX:,} bytes: is it really a settings file?")
        return {}
    import tomllib

    try:
        # Editors on Windows put a byte order mark first.
        table = tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        mistakes.append(f"{origin} is not UTF-8 (line {line}): save it again as UTF-8")
        return {}
    except tomllib.TOMLDecodeError as error:
        mistakes.append(f"{origin} is no valid TOML: {error}")
        return {}
    except RecursionError:
        mistakes.append(f"{origin} is no valid TOML: nested too deeply")
        return {}
    except ValueError:
        # Python's own bound on the digits of one number.
        mistakes.append(f"{origin} is no valid TOML: it holds a number that is far too long")
        return {}
    limits = table.pop("limits", {})
    if not isinstance(limits, dict):
        from ecorelay.config_words import shown

        mistakes.append(f"limits in {origin} is {shown(limits)}: it must be a table, [limits]")
        limits = {}
    flat = table | {f"limits.{key}": value for key, value in limits.items()}
    for key in flat:
        if key not in kinds:
            from ecorelay.config_words import unknown_key

            mistakes.append(unknown_key(key, kinds, origin))
    return {key: (value, origin) for key, value in flat.items() if key in kinds}


def _from_environment(
    environ: Mapping[str, str], kinds: Mapping[str, Any], mistakes: list[str]
) -> dict[str, tuple[Any, str]]:
    keys = {variable(key): key for key in kinds}
    found = {}
    for name, value in environ.items():
        # Windows keeps names in upper case; elsewhere only that spelling counts.
        if not name.startswith(PREFIX) or not value.strip():
            continue
        if name in keys:
            found[keys[name]] = (value, name)
        else:
            from ecorelay.config_words import unknown_variable

            mistakes.extend(unknown_variable(name, keys))
    return found


def _host_slug() -> str:
    if sys.platform == "win32":
        import platform

        host = platform.node()
    else:
        host = os.uname().nodename
    # The rest of it changes with the network a laptop is in.
    return slug(host.partition(".")[0], "hub")


def _login_slug(environ: Mapping[str, str]) -> str:
    name = environ.get("USER") or environ.get("LOGNAME") or environ.get("USERNAME") or ""
    if not name and sys.platform != "win32":
        import pwd

        try:
            name = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            name = ""
    return slug(name, "me")
