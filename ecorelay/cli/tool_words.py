"""The hub names the tools of assistants, whoever it speaks to: for a person they become commands."""

from __future__ import annotations

import re
from typing import Final

_SPOKEN: Final = {
    "relay_peers": "`ecorelay peers`",
    "relay_inbox": "`ecorelay inbox`",
    "relay_group_list": "`ecorelay groups`",
    "relay_group_info": "`ecorelay groups info`",
    "relay_group_history": "`ecorelay groups history`",
    "since_id": "--since",
}
# Not within quotes or a longer word: that is somebody's name or text.
_WORD: Final = re.compile(rf"(?<!['`\w.-])({'|'.join(_SPOKEN)})(?!['`\w]|[.-]\w)")


def for_person(message: str) -> str:
    """`message`, with the tools and arguments in it as a person types them."""
    return _WORD.sub(lambda match: _SPOKEN[match[0]], message)
