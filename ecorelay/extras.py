"""Packages that not every installation has, and how a person gets them into this one."""

from __future__ import annotations

import shlex
import sys
from importlib.util import find_spec
from typing import Final

BRIDGE: Final = ("cryptography", "spake2")
"""What links to other hubs need besides (the extra ``bridge``)."""
RELAY: Final = ("cryptography",)
"""What the relay server needs besides (the extra ``relay``)."""


def missing(packages: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `packages` that are not installed here."""
    return tuple([name for name in packages if find_spec(name) is None])


def how_to_get(extra: str, packages: tuple[str, ...]) -> str:
    """The command that adds `packages`, those of `extra`, to the installation that runs.

    ecorelay is installed from a checkout and may be on no index, so the command names the packages, and this
    very Python where that has pip. An environment of uv's has none; there the checkout is installed again.
    """
    if find_spec("pip") is not None:
        return f"`{shlex.quote(sys.executable)} -m pip install {' '.join(packages)}`"
    return f"in the checkout of ecorelay `uv tool install '.[{extra}]'`"
