"""What became of a group, as hubs tell each other: only the event crosses, and who it was about.

The sentence for readers is always that of the hub that shows it, so that nothing another hub writes can pass
for a notice of ecorelay. A hub keeps its own lines as text; `told_as` finds the event in them again.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from ecorelay.names import ADDRESS_PATTERN

if TYPE_CHECKING:
    from ecorelay.link_wire import GroupLine

REASON_MAX: Final = 256
"""Characters of the one free text: why somebody was removed."""
_SENTENCES: Final = {
    "created": "{by} created the group {whom}",
    "invited": "{by} invited {whom}",
    "removed": "{by} removed {whom}: {reason}",
    "left": "{by} left",
}
_ADDRESS: Final = ADDRESS_PATTERN.removeprefix(r"\A").removesuffix(r"\Z")
_FORMS: Final = {
    "created": re.compile(rf"created the group (?P<whom>{_ADDRESS})"),
    "invited": re.compile(rf"invited (?P<whom>{_ADDRESS})"),
    "removed": re.compile(rf"removed (?P<whom>{_ADDRESS}): (?P<reason>.*)", re.DOTALL),
    "left": re.compile(r"left(: .*)?", re.DOTALL),
}


def told_as(sender: str, text: str | None, *, event: bool) -> dict[str, Any]:
    """Fields of a `GroupLine` that say what a line of this hub's own says, of which `sender` was the author.

    None at all: nothing is left of it, or it is no sentence that this version makes.
    """
    if not event or text is None:
        return {"text": text}
    by, _, rest = text.partition(" ")
    if by == sender:
        for what, form in _FORMS.items():
            found = form.fullmatch(rest)
            if found is not None:
                said = found.groupdict()
                return {"event": what, "whom": said.get("whom"), "text": said.get("reason")}
    return {}


def sentence(line: GroupLine) -> str | None:
    """What a line with an event says here; None: this version does not know that event."""
    form = _SENTENCES.get(line.event or "")
    if form is None:
        return None
    by = line.author if line.author_hub is None else f"{line.author}@{line.author_hub}"
    return form.format(by=by, whom=line.whom or "somebody", reason=plain(line.text or ""))


def plain(reason: str) -> str:
    """A free text of another hub, fit to stand in a sentence: one line of what can be printed."""
    return "".join([c if c.isprintable() else " " for c in reason[:REASON_MAX]])
