"""What a peer may write to move the cursor, fake a prompt or reorder what is shown."""

HOSTILE = "\x1b]0;owned\x07\x1b[2J \u202egnp\u2066 \x9b31m\r\nover\u200b\ufeff\U000e0041"


def harmless(text: str) -> bool:
    """Whether a terminal shows `text` and does nothing else with it."""
    return all(character.isprintable() or character == "\n" for character in text)
