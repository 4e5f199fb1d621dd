"""Where the data directory is, as text: what even a hook that must start in no time has to know.

``ECORELAY_HOME``, else ``ecorelay`` in the user's data directory. Nothing else in the environment moves it:
``XDG_DATA_HOME`` differs between terminals (snaps set it, even anew for each of their revisions), and two
assistants that look in two places would never meet.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # as a type checker sees it, without the import: see above
    from collections.abc import Mapping

HOME_VARIABLE = "ECORELAY_HOME"


def data_directory(environ: Mapping[str, str]) -> str:
    """The absolute path this environment asks for. It may not exist yet.

    Raises:
        ValueError: there is none, with what to do about it: a relative one would be another in each project.
    """
    given = environ.get(HOME_VARIABLE, "")
    if not given:
        return _default(environ)
    home = os.path.expanduser(given)
    if not os.path.isabs(home):
        raise ValueError(f"{HOME_VARIABLE} is {given!r}: it must be an absolute path")
    return os.path.normpath(home)


def _default(environ: Mapping[str, str]) -> str:
    if sys.platform == "win32":
        import platformdirs

        return platformdirs.user_data_dir("ecorelay", appauthor=False)
    # Where platformdirs puts it, without its import (and without XDG_DATA_HOME, see above).
    user = environ.get("HOME") or os.path.expanduser("~")
    if not os.path.isabs(user):  # or "~" itself: a user the system does not know, as in a container
        raise ValueError(f"your home directory is not known: set HOME or {HOME_VARIABLE}")
    if sys.platform == "darwin":
        return os.path.join(user, "Library", "Application Support", "ecorelay")
    return os.path.join(user, ".local", "share", "ecorelay")
