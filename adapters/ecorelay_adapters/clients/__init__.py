"""The assistants that ecorelay knows how to set up: one row of this table, and one module, for each.

What the command line needs of them is in `ecorelay_adapters.clients.assistant`; it goes through this table
and knows none by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ecorelay_adapters.clients.antigravity import Antigravity
from ecorelay_adapters.clients.claude_code import ClaudeCode
from ecorelay_adapters.clients.cline import Cline
from ecorelay_adapters.clients.codex import Codex
from ecorelay_adapters.clients.copilot import Copilot
from ecorelay_adapters.clients.cursor import Cursor
from ecorelay_adapters.clients.gemini import Gemini
from ecorelay_adapters.clients.opencode import OpenCode
from ecorelay_adapters.clients.qwen import Qwen

if TYPE_CHECKING:
    from ecorelay_adapters.clients.assistant import Assistant

ASSISTANTS: Final[tuple[Assistant, ...]] = (
    ClaudeCode(),
    Codex(),
    OpenCode(),
    Copilot(),
    Antigravity(),
    Cursor(),
    Gemini(),
    Qwen(),
    Cline(),
)
"""In the order in which they are shown and set up."""
